"""The camera's topics: store the newest image and camera info, count them, and say what is wrong with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vloc_ros.nodes.qos import image_qos
from vloc_ros.nodes.silence import publishers_of, why_nothing

__all__ = ["CameraInput", "ReceivedFrame", "sibling_topic"]


@dataclass(frozen=True)
class ReceivedFrame:
    """An image message, and where the newest camera info is to be had: on a start it may come after its image."""

    image: Any
    info: Callable[[], CameraInfo | None]


def sibling_topic(image_topic: str) -> str:
    """Where drivers publish the camera info of an image topic: ``camera_info`` beside it."""
    return image_topic.rsplit("/", 1)[0] + "/camera_info"


class CameraInput:
    """Subscribes to one camera.

    :param transport: ``raw`` or ``compressed``.
    :param on_frame: called on the executor with each frame; it must only store it.
    """

    def __init__(self, node: Node, transport: str, reliability: str, on_frame: Callable[[ReceivedFrame], None]) -> None:
        self._node = node
        self._on_frame = on_frame
        self._info: CameraInfo | None = None
        self._qos = image_qos(reliability)
        #: Images received so far.
        self.received = 0
        self._last = self._since = time.monotonic()
        base = node.resolve_topic_name("image")
        self.image_topic = base if transport == "raw" else f"{base}/compressed"
        # An explicit remap of camera_info wins; otherwise it is the image's sibling.
        info = node.resolve_topic_name("camera_info")
        remapped = info != node.resolve_topic_name("camera_info", only_expand=True)
        self.info_topic = info if remapped else sibling_topic(base)
        kind = Image if transport == "raw" else CompressedImage
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
        self._on_frame(ReceivedFrame(message, lambda: self._info))
