"""The camera's topics: store the newest image and camera info, count them, and say why when nothing comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vloc_ros.nodes.qos import image_qos, no_frames_hint

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
        self._last = time.monotonic()
        base = node.resolve_topic_name("image")
        self.image_topic = base if transport == "raw" else f"{base}/compressed"
        # An explicit remap of camera_info wins; otherwise it is the image's sibling.
        info = node.resolve_topic_name("camera_info")
        remapped = info != node.resolve_topic_name("camera_info", only_expand=True)
        self.info_topic = info if remapped else sibling_topic(base)
        kind = Image if transport == "raw" else CompressedImage
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

    def why_silent(self) -> str:
        """One sentence for the user."""
        hint = no_frames_hint(self._node, self.image_topic, self._qos)
        return f"no image on {self.image_topic} for {self.silent_for():.0f} s: {hint}"

    def restart_silence(self) -> None:
        """Count the silence from now on."""
        self._last = time.monotonic()

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_image(self, message: Any) -> None:
        self.received += 1
        self._last = time.monotonic()
        self._on_frame(ReceivedFrame(message, lambda: self._info))
