"""``/diagnostics``: what the core says about the localization, with what only the node knows."""

from __future__ import annotations

import re
import time
from typing import Any, Protocol

from diagnostic_msgs.msg import DiagnosticArray
from diagnostic_updater import DiagnosticStatusWrapper

from vloc_ros.diagnostics import Diagnostic, DiagnosticSettings, Level, Snapshot, diagnose
from vloc_ros.nodes.bridges import missing
from vloc_ros.nodes.engine import Engine
from vloc_ros.nodes.inputs import ReceivedFrame, RigInput
from vloc_ros.nodes.ros_parameters import NodeParameters
from vloc_ros.nodes.silence import why_no_clock
from vloc_ros.nodes.tf_broadcast import TfBroadcast
from vloc_ros.nodes.worker import Worker
from vloc_ros.pipeline import Pipeline
from vloc_ros.settings import settings_from_mapping

__all__ = ["TICK_S", "Health", "Watched"]

#: How often the node looks whether there is something that cannot wait for the next message.
TICK_S = 0.1


class Watched(Protocol):
    """The node, as far as it is reported on; an rclpy lifecycle node besides."""

    parameters: NodeParameters
    engine: Engine | None
    camera: RigInput | None
    broadcast: TfBroadcast | None
    worker: Worker[list[ReceivedFrame]]
    problem: str

    @property
    def is_active(self) -> bool: ...

    @property
    def lifecycle_label(self) -> str: ...

    def create_publisher(self, *arguments: Any) -> Any: ...

    def get_fully_qualified_name(self) -> str: ...

    def get_clock(self) -> Any: ...

    def get_logger(self) -> Any: ...


class Health:
    """Publishes the diagnostics of a node, in every lifecycle state."""

    def __init__(self, node: Watched) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._told: set[str] = set()
        self._sent_at = 0.0
        self._stuck = False
        self._absent: dict[str, str] = {}

    def tick(self) -> None:
        """Called by a timer on the executor, often: a camera that hangs is told at once, the rest once a period."""
        node = self._node
        pipeline = node.engine.pipeline if node.engine is not None else None
        stuck = pipeline is not None and pipeline.stuck
        due = time.monotonic() - self._sent_at >= node.parameters["diagnostics_period"] - 0.5 * TICK_S
        if due or stuck != self._stuck:
            self._sent_at, self._stuck = time.monotonic(), stuck
            self.publish()

    def publish(self) -> None:
        """Look, and send what there is to say."""
        node = self._node
        if node.is_active and node.engine is not None:
            node.worker.submit(node.engine.expire)
        diagnostic = self._diagnostic()
        # The updater itself would take the period and parameters of its own; what happens is told at once here.
        status = DiagnosticStatusWrapper(name=f"{node.get_fully_qualified_name()}: localization")
        status.hardware_id = node.camera.image_topic if node.camera is not None else ""
        status.summary(bytes([int(diagnostic.level)]), diagnostic.message)
        for key, value in diagnostic.values.items():
            status.add(key, value)
        message = DiagnosticArray(status=[status])
        message.header.stamp = node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _diagnostic(self) -> Diagnostic:
        node, extra = self._node, self._extra()
        engine = node.engine
        if not node.is_active or engine is None or engine.pipeline is None:
            level = Level.ERROR if node.problem else Level.WARN
            text = f"{node.lifecycle_label}: {node.problem}" if node.problem else node.lifecycle_label
            return Diagnostic(level, text, extra)
        limits = settings_from_mapping(DiagnosticSettings, node.parameters.group("diagnostics."), "diagnostics")
        found = diagnose(_snapshot(engine.pipeline), limits, engine.now_in_stamps(), extra)
        findings = self._inputs()
        if engine.tf_conflict or engine.internal_errors:
            findings.insert(0, (Level.ERROR, engine.tf_conflict or node.problem))
        level = max([found.level, *(level for level, _ in findings)])
        message = "; ".join(text for text in (*(text for _, text in findings), found.message) if text)
        return Diagnostic(level, message, found.values)

    def _extra(self) -> dict[str, str]:
        node = self._node
        extra = {"lifecycle": node.lifecycle_label, "problem": node.problem}
        if node.camera is not None:
            extra["images_received"] = str(node.camera.received)
            extra["frames_dropped"] = str(node.worker.dropped)
            self._absent = node.camera.absent()
            extra.update({f"camera_{name}": why for name, why in self._absent.items()})
        if node.engine is not None and node.broadcast is not None:
            extra["odometry_missing"] = str(node.engine.odometry_missing)
            extra["internal_errors"] = str(node.engine.internal_errors)
            extra["tf_sent"] = str(node.broadcast.count)
            extra["tf_conflict"] = node.engine.tf_conflict
        extra.update({f"without_{package}": why for package, why in missing().items()})
        return extra

    def _inputs(self) -> list[tuple[Level, str]]:
        """What is wrong with clock and camera; each new sentence goes to the log, too."""
        node = self._node
        found = [(Level.ERROR, text) for text in (why_no_clock(node),) if text]
        if node.camera is not None:
            problems = node.camera.problems(node.parameters["no_image_warning"])
            # Of a rig one camera that works is enough to go on.
            level = Level.ERROR if all(problems.values()) else Level.WARN
            found += [(level, text) for texts in problems.values() for text in texts]
            found += [(Level.WARN, text) for text in node.camera.rivals()]
            found += [(Level.WARN, f"camera {name} is left out: {why}") for name, why in self._absent.items()]
        told = {re.sub(r"\d+\.\d+ s", "some time", text) for _, text in found}
        for text in sorted(told - self._told):
            node.get_logger().warning(text)
        self._told = told
        return found


def _snapshot(pipeline: Pipeline) -> Snapshot:
    """The worker may add a counter while we copy them: then copy again."""
    for _ in range(10):
        try:
            return pipeline.snapshot()
        except RuntimeError:
            continue
    return pipeline.snapshot()
