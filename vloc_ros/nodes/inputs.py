"""The cameras' topics: store the newest image and camera info, count them, and say what is wrong with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vloc_ros.messages import stamp_ns
from vloc_ros.nodes.qos import image_qos
from vloc_ros.nodes.rig import CameraSpec, Moments, Turns
from vloc_ros.nodes.silence import publishers_of, why_nothing

__all__ = ["CameraInput", "ReceivedFrame", "RigInput", "RigPolicy", "sibling_topic"]


#: The camera of a vehicle that has one: its topics are remapped.
ONLY = CameraSpec("", "image", "camera_info", "raw", "", None)


@dataclass(frozen=True)
class ReceivedFrame:
    """An image message, and where the newest camera info is to be had: on a start it may come after its image."""

    image: Any
    info: Callable[[], CameraInfo | None]
    camera: CameraSpec = ONLY


def sibling_topic(image_topic: str) -> str:
    """Where drivers publish the camera info of an image topic: ``camera_info`` beside it."""
    return image_topic.rsplit("/", 1)[0] + "/camera_info"


class CameraInput:
    """Subscribes to one camera.

    :param camera: its topics and transport.
    :param on_frame: called on the executor with each frame; it must only store it.
    """

    def __init__(
        self, node: Node, camera: CameraSpec, reliability: str, on_frame: Callable[[ReceivedFrame], None]
    ) -> None:
        self._node, self._camera = node, camera
        self._on_frame = on_frame
        self._info: CameraInfo | None = None
        self._qos = image_qos(reliability)
        #: Images received so far.
        self.received = 0
        self._last = self._since = time.monotonic()
        base = node.resolve_topic_name(camera.image)
        self.image_topic = base if camera.transport == "raw" else f"{base}/compressed"
        # An explicit remap of camera_info wins; otherwise it is the image's sibling.
        info = node.resolve_topic_name(camera.camera_info) if camera.camera_info else ""
        remapped = bool(info) and info != node.resolve_topic_name(camera.camera_info, only_expand=True)
        self.info_topic = info if remapped or (info and camera.name) else sibling_topic(base)
        kind = Image if camera.transport == "raw" else CompressedImage
        self._type_name = f"sensor_msgs/msg/{kind.__name__}"
        # rclpy's default event callback already warns about publishers of incompatible quality of service.
        self._subscriptions = [
            node.create_subscription(kind, self.image_topic, self._on_image, self._qos),
            node.create_subscription(CameraInfo, self.info_topic, self._on_info, self._qos),
        ]

    def destroy(self) -> None:
        """Give up the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def silent_for(self) -> float:
        """Seconds without an image."""
        return time.monotonic() - self._last

    def problems(self, patience_s: float) -> list[str]:
        """What keeps frames from coming, a sentence each, without numbers that change.

        :param patience_s: silence that needs no explanation.
        """
        if self.silent_for() > patience_s:
            why = why_nothing(self._node, self.image_topic, self._type_name, self._qos)
            return [f"no image on {self.image_topic}: {why}"]
        if self.received and self._info is None and time.monotonic() - self._since > patience_s:
            why = why_nothing(self._node, self.info_topic, "sensor_msgs/msg/CameraInfo", self._qos)
            return [f"no camera_info on {self.info_topic}: {why}"]
        return []

    def rivals(self) -> str:
        """Who sends images on one topic together, in words; empty where one does."""
        names = publishers_of(self._node, self.image_topic)
        if len(names) < 2:
            return ""
        who = ", ".join(names)
        return f"{len(names)} publishers on {self.image_topic} ({who}): their frames are mixed; stop all but one"

    def restart_silence(self) -> None:
        """Count the silence from now on."""
        self._last = self._since = time.monotonic()

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_image(self, message: Any) -> None:
        self.received += 1
        self._last = time.monotonic()
        self._on_frame(ReceivedFrame(message, lambda: self._info, self._camera))


@dataclass(frozen=True)
class RigPolicy:
    """How images of several cameras become frames: ``mode``, and seconds, as the parameters have them."""

    mode: str = "together"
    tolerance_s: float = 0.02
    timeout_s: float = 0.5


class RigInput:
    """All cameras of a vehicle, one as a rule.

    :param on_frames: called on the executor with the images of one moment, the most important camera first; or, in
        turn, with none: :meth:`next_turn` has them then.
    """

    def __init__(
        self,
        node: Node,
        cameras: Sequence[CameraSpec],
        policy: RigPolicy,
        reliability: str,
        on_frames: Callable[[list[ReceivedFrame]], None],
    ) -> None:
        self._node, self._on_frames, self._policy = node, on_frames, policy
        names = [camera.name for camera in cameras]
        self._moments: Moments[ReceivedFrame] | None = None
        self._turns: Turns[ReceivedFrame] | None = None
        if len(cameras) > 1 and policy.mode == "together":
            self._moments = Moments(names, policy.tolerance_s, policy.timeout_s, on_frames)
        elif len(cameras) > 1:
            self._turns = Turns(names)
        self.cameras = {c.name: CameraInput(node, c, reliability, self._on_frame) for c in cameras}

    @property
    def image_topic(self) -> str:
        """The image topics, in one line."""
        return ", ".join(camera.image_topic for camera in self.cameras.values())

    @property
    def info_topic(self) -> str:
        """The camera info topics, in one line."""
        return ", ".join(camera.info_topic for camera in self.cameras.values())

    @property
    def received(self) -> int:
        """Images received so far, of all cameras."""
        return sum(camera.received for camera in self.cameras.values())

    def next_turn(self, after_ns: int) -> ReceivedFrame | None:
        """The image of the camera whose turn it is; None where there is none, or the cameras are not in turn."""
        return None if self._turns is None else self._turns.take(after_ns)

    def absent(self) -> dict[str, str]:
        """The cameras of a rig that take no part now, and why."""
        if self._moments is not None:
            return self._moments.absent()
        return {} if self._turns is None else self._turns.absent(self._policy.timeout_s)

    def problems(self, patience_s: float) -> dict[str, list[str]]:
        """What keeps frames from coming, by camera; see :meth:`CameraInput.problems`."""
        return {name: camera.problems(patience_s) for name, camera in self.cameras.items()}

    def rivals(self) -> list[str]:
        """Who sends images on one topic together, a sentence for each camera."""
        told = [camera.rivals() for camera in self.cameras.values()]
        topics = [camera.image_topic for camera in self.cameras.values()]
        for topic in sorted({t for t in topics if topics.count(t) > 1}):
            told.append(f"several cameras of the rig read {topic}: give each its own (camera.<name>.image)")
        return [text for text in told if text]

    def restart_silence(self) -> None:
        """Count the silence from now on."""
        for camera in self.cameras.values():
            camera.restart_silence()

    def clear(self) -> None:
        """Forget images that wait: the clock went back."""
        for waiting in (self._moments, self._turns):
            if waiting is not None:
                waiting.clear()

    def destroy(self) -> None:
        """Give up the subscriptions."""
        for camera in self.cameras.values():
            camera.destroy()

    def _on_frame(self, frame: ReceivedFrame) -> None:
        name, stamp = frame.camera.name, stamp_ns(frame.image)
        if self._moments is not None:
            self._moments.add(name, stamp, frame)
        elif self._turns is not None:
            self._turns.add(name, stamp, frame)
            self._on_frames([])
        else:
            self._on_frames([frame])
