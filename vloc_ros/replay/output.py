"""What a replay writes while it runs: the result bag, with the topics that the live node would have published."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from vloc_ros.convert.sequence import TRUTH_TOPIC
from vloc_ros.convert.writer import BagWriter, Storage
from vloc_ros.diagnostics import Diagnostic
from vloc_ros.pipeline import FrameResult
from vloc_ros.types import Array

__all__ = ["ResultBag"]

POSE_TOPIC, STATE_TOPIC = "/vloc/pose", "/vloc/state"


class ResultBag:
    """Writes ``/vloc/pose``, ``/vloc/state``, ``/tf``, ``/diagnostics`` and the reference; a context manager.

    With odometry, TF carries map -> odom beside the recorded odom -> base; without, map -> base. When the state
    does not allow a pose, neither pose nor TF is written.
    """

    def __init__(
        self, path: Path, storage: Storage, frames: tuple[str, str, str, str], with_odometry: bool, hardware_id: str
    ) -> None:
        self.path = path
        self._bag = BagWriter(path, storage, overwrite=True)
        self._map, self._odom, self._base, self._camera = frames
        self._with_odometry = with_odometry
        self._hardware_id = hardware_id

    def start(self, stamp_ns: int, T_base_cam: Array) -> None:
        """The camera's mounting, latched."""
        if self._camera != self._base:
            self._bag.transforms("/tf_static", stamp_ns, [(self._base, self._camera, stamp_ns, T_base_cam)])

    def frame(
        self, result: FrameResult, diagnostic: Diagnostic, T_odom_base: Array | None, T_reference: Array | None
    ) -> None:
        """Everything of one frame that reached the localizer."""
        stamp = result.stamp_ns
        transforms = []
        if self._with_odometry and T_odom_base is not None:
            transforms.append((self._odom, self._base, stamp, T_odom_base))
        if result.publish and result.T_map_base is not None:
            if self._with_odometry and result.T_map_odom is not None:
                transforms.insert(0, (self._map, self._odom, stamp, result.T_map_odom))
            elif not self._with_odometry:
                transforms.insert(0, (self._map, self._base, stamp, result.T_map_base))
            assert result.covariance_base is not None
            self._bag.pose_with_covariance(POSE_TOPIC, stamp, self._map, result.T_map_base, result.covariance_base)
        if transforms:
            self._bag.transforms("/tf", stamp, transforms)
        if T_reference is not None:
            self._bag.pose(TRUTH_TOPIC, stamp, self._map, T_reference)
        self._bag.string(STATE_TOPIC, stamp, result.state.value)
        self.diagnostics(stamp, diagnostic)

    def diagnostics(self, stamp_ns: int, diagnostic: Diagnostic) -> None:
        """The state of things; all that is written for a refused frame."""
        self._bag.diagnostics(
            "/diagnostics",
            stamp_ns,
            "vloc: localization",
            int(diagnostic.level),
            diagnostic.message,
            diagnostic.values,
            self._hardware_id,
        )

    def __enter__(self) -> ResultBag:
        self._bag.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bag.__exit__(kind, value, trace)
