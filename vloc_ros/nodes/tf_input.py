"""What the node reads from TF: the camera's place on the base, odometry at a stamp, and who else publishes.

Look-ups run in the worker's thread, never in the executor that fills the buffer, and use the image's stamp. The
listener is our own because it watches for two mistakes that tf2 only shows as flicker: another node that sends
map -> odom, and somebody who gives the base a parent that is not ours.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import tf2_ros
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from vloc_ros.errors import VlocError
from vloc_ros.messages import frame_id, stamp_ns, transform
from vloc_ros.types import Array

__all__ = ["TfInput"]

POLL_S = 0.005
#: What has not moved in TF for so long before a stamp is not waited for.
SILENT_NS = 1_000_000_000
#: A transform this much older than the last one of its edge comes from a clock that went back.
BACKWARDS_NS = 1_000_000_000


class TfInput:
    """A tf2 buffer with its listener.

    :param node: subscribes to /tf and /tf_static on this node's executor.
    :param base_frame: the frame whose foreign parents are remembered.
    :param cancelled: asked while waiting; True ends the wait.
    """

    def __init__(self, node: Node, base_frame: str, cancelled: Callable[[], bool]) -> None:
        self.buffer = tf2_ros.Buffer(cache_time=Duration(seconds=30.0))
        self._node = node
        self._base = base_frame
        self.cancelled = cancelled
        self._own: dict[tuple[str, str], deque[tuple[int, float, float]]] = {}
        #: The parent that another node gives the base, or "".
        self.foreign_base_parent = ""
        #: (parent, child) pairs that this node sends too, with how often somebody else sent them.
        self.foreign: dict[tuple[str, str], int] = {}
        self._newest: dict[tuple[str, str], int] = {}
        static = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", self._on_tf, QoSProfile(depth=100)),
            node.create_subscription(TFMessage, "/tf_static", self._on_static, static),
        ]

    def destroy(self) -> None:
        """Give up the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def clear(self) -> None:
        """Forget everything but static transforms, after the clock went back."""
        self._newest.clear()
        self.buffer.clear()

    def sent(self, message: TransformStamped) -> None:
        """Take a transform of our own into the buffer, and remember it: its echo is not another node's."""
        edge = (message.header.frame_id, message.child_frame_id)
        self._own.setdefault(edge, deque(maxlen=500)).append(_mark(message))
        self.buffer.set_transform(message, "vloc_ros")

    def static(self, target: str, source: str, timeout_s: float) -> Array | None:
        """T_target_source from the latest data, waiting up to ``timeout_s``; None when there is none."""
        return self._wait(target, source, Time(), timeout_s)

    def mounting(self, base: str, camera: str, stamp: int, timeout_s: float) -> Array | None:
        """T_base_camera at ``stamp`` (nanoseconds; 0: latest), waiting up to ``timeout_s``; None when there is none.

        A static transform holds at any time; one that moves is interpolated and never carried on.
        """
        return self._wait(base, camera, Time(nanoseconds=max(0, stamp)), timeout_s)

    def at(self, target: str, source: str, stamp: int, timeout_s: float) -> Array | None:
        """T_target_source at ``stamp`` (nanoseconds). Does not wait when the frames were never connected."""
        if not self.buffer.can_transform(target, source, Time()):
            return None
        return self._wait(target, source, Time(nanoseconds=stamp), timeout_s)

    def _wait(self, target: str, source: str, when: Time, timeout_s: float) -> Array | None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return transform(self.buffer.lookup_transform(target, source, when))
            except tf2_ros.TransformException:
                if self.cancelled() or time.monotonic() >= deadline or self._silent(target, source, when.nanoseconds):
                    return None
                time.sleep(POLL_S)
            except VlocError:  # a publisher's zero quaternion: as good as no transform
                return None

    def _silent(self, target: str, source: str, stamp: int) -> bool:
        """Whether what moves between two frames has said nothing for long before a stamp: who waits for that waits at
        every frame, in vain, and most of a camera's frames are dropped."""
        try:
            newest = int(self.buffer.get_latest_common_time(target, source).nanoseconds)  # 0: nothing moves
        except tf2_ros.TransformException:  # not connected yet
            return False
        return 0 < newest < stamp - SILENT_NS

    def _on_tf(self, message: TFMessage) -> None:
        for item in message.transforms:
            if self._is_own(item):
                continue
            edge = (frame_id(item), item.child_frame_id.lstrip("/"))
            self._watch(edge)
            # tf2 refuses old data until its cache has run out. A message that was under way while the clock went
            # back fills the cache again after it was cleared, so the data itself must tell.
            stamp = stamp_ns(item)
            if edge not in self._own:
                if stamp < self._newest.get(edge, stamp) - BACKWARDS_NS:
                    self.clear()
                self._newest[edge] = stamp
            self.buffer.set_transform(item, "vloc_ros")

    def _on_static(self, message: TFMessage) -> None:
        for item in message.transforms:
            self._watch((frame_id(item), item.child_frame_id.lstrip("/")))
            self.buffer.set_transform_static(item, "vloc_ros")

    def _is_own(self, item: TransformStamped) -> bool:
        own = self._own.get((item.header.frame_id, item.child_frame_id))
        return own is not None and _mark(item) in own

    def _watch(self, edge: tuple[str, str]) -> None:
        if edge[1] == self._base:
            self.foreign_base_parent = edge[0]
        if edge in self._own:
            self.foreign[edge] = self.foreign.get(edge, 0) + 1


def _mark(message: TransformStamped) -> tuple[int, float, float]:
    """What tells our own transform from a rival's that may have the same stamp."""
    translation = message.transform.translation
    return stamp_ns(message), translation.x, translation.y
