"""The node ``vloc_evaluator``: the live pose against a reference while driving, and a report at the end.

It listens to ``pose`` and ``state`` of a localizer, to ``camera_info`` (which frames there were), and to a reference;
it publishes each frame's errors and, on ``/diagnostics``, the figures so far. Figures are counted as everywhere in the
package (:mod:`vloc_ros.evaluation.metrics`).
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import tf2_ros
from diagnostic_msgs.msg import DiagnosticArray
from diagnostic_updater import DiagnosticStatusWrapper
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, NavSatFix
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger

import vloc_ros
from vloc_ros.errors import ConfigError, VlocError
from vloc_ros.evaluation.document import write_json
from vloc_ros.evaluation.report import latency, write_report
from vloc_ros.evaluation.running import RunningComparison
from vloc_ros.evaluation.trajectory import write_tum
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.messages import pose_covariance, satellite_fix, stamp_ns, transform
from vloc_ros.nodes.evaluator_parameters import EVALUATOR_PARAMETERS
from vloc_ros.nodes.parameters import coerce
from vloc_ros.nodes.qos import image_qos, latched
from vloc_ros.nodes.ros_parameters import describe
from vloc_ros.nodes.running import run_node
from vloc_ros.types import LocalizationState

__all__ = ["VlocEvaluator", "main"]

KINDS = {"pose": PoseStamped, "pose_covariance": PoseWithCovarianceStamped, "odometry": Odometry,
         "transform": TransformStamped, "fix": NavSatFix}  # fmt: skip


class VlocEvaluator(Node):
    """See the module's text, and docs/ros.md.

    :raises ConfigError: a parameter that is not allowed, or a reference of fixes without a datum.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("vloc_evaluator", **options)
        self._value: dict[str, Any] = {}
        for spec in EVALUATOR_PARAMETERS:
            given = self.declare_parameter(spec.name, spec.default, describe(spec)).value
            self._value[spec.name] = coerce(spec, list(given) if isinstance(spec.default, list) else given)
        value = self._value
        self._kind = value["reference_type"]
        self._datum = Datum(*value["datum"]) if value["datum"] else None
        if self._kind == "fix" and self._datum is None:
            raise ConfigError("datum: expected the map's origin (latitude, longitude, height) for fixes, found none")
        self._antenna = np.asarray(value["antenna"] or (0.0, 0.0, 0.0), dtype=np.float64)
        self.comparison = RunningComparison(value["max_gap"], self._kind != "fix", value["align"])
        self._out = {
            name: self.create_publisher(Float64, f"~/{name}", 10)
            for name in ("translation_error", "rotation_error", "nees")
        }
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_subscription(PoseWithCovarianceStamped, "pose", self._on_pose, 50)
        self.create_subscription(String, "state", self._on_state, latched())
        if value["count_frames"]:
            self.create_subscription(CameraInfo, "camera_info", self._on_frame, image_qos("best_effort", 50))
        self._buffer: Any = None
        if self._kind == "tf":
            self._buffer = tf2_ros.Buffer(cache_time=Duration(seconds=30.0))
            self._listener = tf2_ros.TransformListener(self._buffer, self)
            self._looked_up: list[int] = []
        else:
            self.create_subscription(KINDS[self._kind], "reference", self._on_reference, image_qos("best_effort", 50))
        self.create_service(Trigger, "~/write_report", self._on_write_report)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.1, self._judge, clock=steady)
        self.create_timer(value["period"], self._tell, clock=steady)
        self._refused = 0
        self._last_pose = (0, np.eye(3))

    def _on_pose(self, message: PoseWithCovarianceStamped) -> None:
        try:
            T, stamp = transform(message), stamp_ns(message)
            self.comparison.add_pose(stamp, T, pose_covariance(message))
        except VlocError as problem:
            self._refuse("pose", problem)
            return
        self._last_pose = stamp, T[:3, :3]
        if self._buffer is not None:
            self._looked_up.append(stamp)

    def _on_state(self, message: String) -> None:
        self.comparison.add_state(LocalizationState(message.data))

    def _on_frame(self, message: CameraInfo) -> None:
        self.comparison.add_frame(stamp_ns(message))
        if self._buffer is not None:
            self._looked_up.append(stamp_ns(message))

    def _on_reference(self, message: Any) -> None:
        try:
            if self._kind == "fix":
                found = satellite_fix(message)
                if found is None:
                    return
                assert self._datum is not None
                T = np.eye(4)
                T[:3, 3] = self._datum.to_enu(*found[0]) - self._last_pose[1] @ self._antenna
            else:
                T = transform(message)
            self.comparison.add_reference(stamp_ns(message), T)
        except VlocError as problem:
            self._refuse("reference", problem)

    def _refuse(self, what: str, problem: VlocError) -> None:
        self._refused += 1
        self.get_logger().warning(f"{what} refused: {problem}", throttle_duration_sec=5.0)

    def _judge(self) -> None:
        if self._buffer is not None:
            self._look_up()
        for record in self.comparison.judge(round(self._value["patience"] * 1e9)):
            for name, error in zip(self._out, self.comparison.errors(record), strict=True):
                if np.isfinite(error):
                    self._out[name].publish(Float64(data=error))

    def _look_up(self) -> None:
        """The reference in TF at the stamps that wait for it."""
        later = []
        for stamp in self._looked_up:
            try:
                found = self._buffer.lookup_transform(
                    self._value["map_frame"], self._value["reference_frame"], Time(nanoseconds=stamp)
                )
                self.comparison.add_reference(stamp, transform(found))
            except tf2_ros.ExtrapolationException:
                later.append(stamp)
            except (tf2_ros.TransformException, VlocError):
                later.append(stamp)
        self._looked_up = later[-1000:]

    def _tell(self) -> None:
        status = DiagnosticStatusWrapper(name=f"{self.get_fully_qualified_name()}: comparison")
        records = self.comparison.records
        status.hardware_id = self._kind
        if records:
            figures = self.comparison.figures()
            status.summary(b"\0", f"{len(records)} frames, median {figures['median_translation_m']:.3f} m")
            for name in ("frames", "published", "median_translation_m", "median_rotation_deg", "mean_translation_m",
                         "nees_mean", "nees_share_in_95", "max_translation_localized_m"):  # fmt: skip
                number = figures[name]
                status.add(name, "unknown" if number is None else f"{number:.4g}")
            for row in figures["recall"] or ():
                status.add(f"recall_{row['translation_m']:g}m_{row['rotation_deg']:g}deg", f"{row['share']:.4f}")
        else:
            what = "poses" if not self._last_pose[0] else "reference at the poses' stamps"
            status.summary(b"\1", f"nothing to compare yet: no {what}")
        status.add("refused", str(self._refused))
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _on_write_report(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.success, response.message = True, self.write_report()
        except (VlocError, OSError) as problem:
            response.success, response.message = False, str(problem)
        return response

    def write_report(self) -> str:
        """Write ``report.*`` and both trajectories to the folder of the parameter; what was done, in words.

        :raises ConfigError: no folder is named, or nothing has been compared.
        """
        folder = self.get_parameter("report").value
        if not folder:
            raise ConfigError("report: expected the name of a folder, found none; set the parameter report")
        self._judge()
        records, out = self.comparison.records, Path(folder).expanduser()
        if not records:
            raise ConfigError("expected poses with a reference, found none: nothing to report")
        figures = self.comparison.figures()
        notes = [] if self.comparison.oriented else ["the reference has no orientations: rotations are not judged"]
        report = {
            **figures, "bag": "a live drive", "backend": "live", "map": "-", "device": "-", "problem": "",
            "truth": f"{self._kind} on {self.resolve_topic_name('reference')}", "notes": notes, "settings": {},
            "map_bytes": 0, "version": vloc_ros.__version__, "latency_ms": latency(records),
        }  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
        write_tum(out / "trajectory.tum", ((r.stamp_ns, r.T_map_base) for r in records if r.T_map_base is not None))
        write_tum(out / "reference.tum", ((r.stamp_ns, r.T_reference) for r in records if r.T_reference is not None))
        if self.comparison.oriented:
            write_report(report, out)
        else:
            write_json(out / "report.json", report)
        return f"{len(records)} frames in {out}"


def _finish(node: VlocEvaluator) -> int:
    """Write the report, where one is asked for; exit code 1 where that fails."""
    if not node.get_parameter("report").value:
        return 0
    try:
        print(f"vloc_evaluator: {node.write_report()}", flush=True)
    except (VlocError, OSError) as problem:
        print(f"vloc_evaluator: {problem}", file=sys.stderr)
        return 1
    return 0


def main(args: list[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM, then write the report. Exit code 2 for a parameter that is not allowed."""

    def failed(node: VlocEvaluator, error: Exception) -> None:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        node.get_logger().error(f"a callback failed: {error}\n{trace}")

    return run_node("vloc_evaluator", VlocEvaluator, failed, _finish, args)


if __name__ == "__main__":
    sys.exit(main())
