"""The side of a bond that a lifecycle manager watches: it hears when this process dies, or the node is deactivated.

The messages are those of bond (``bond/msg/Status``). The Python package bondpy is not used: what it destroys is still
waited for by rclpy's executor, and its time-out declares a parameter twice.
"""

from __future__ import annotations

import uuid
from typing import Any

from bond.msg import Status
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

__all__ = ["Bond"]

#: Seconds between heartbeats, and after how many the other side gives up: bond's own.
PERIOD_S, TIMEOUT_S = 1.0, 4.0


class Bond:
    """Heartbeats on ``bond`` from now on. :param name: the id, which is the node's name for Nav2's manager."""

    def __init__(self, node: Node, name: str) -> None:
        self._node, self._name, self._instance = node, name, str(uuid.uuid4())
        self._publisher: Any = node.create_publisher(Status, "bond", 10)
        # By a steady clock: under simulated time the process lives on while that stands.
        self._timer = node.create_timer(0.5 * PERIOD_S, self._beat, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._beat()

    def end(self) -> None:
        """Say that this side ends on purpose."""
        self._node.destroy_timer(self._timer)
        self._publish(active=False)
        self._node.destroy_publisher(self._publisher)

    def _beat(self) -> None:
        self._publish(active=True)

    def _publish(self, active: bool) -> None:
        message = Status(id=self._name, instance_id=self._instance, active=active)
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.heartbeat_timeout, message.heartbeat_period = TIMEOUT_S, PERIOD_S
        self._publisher.publish(message)
