"""Play a rosbag2 with rclpy, stamps untouched, with /clock: python play_bag.py BAG [RATE]."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.highlevel import AnyReader
from rosgraph_msgs.msg import Clock
from rosidl_runtime_py.utilities import get_message


def main(bag: str, rate: float) -> None:
    rclpy.init()
    node = rclpy.create_node("bag_player")
    clock = node.create_publisher(Clock, "/clock", 10)
    with AnyReader([Path(bag)]) as reader:
        publishers = {}
        for connection in reader.connections:
            static = connection.topic == "/tf_static"
            qos = QoSProfile(
                depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL if static else DurabilityPolicy.VOLATILE
            )
            publishers[connection.topic] = node.create_publisher(get_message(connection.msgtype), connection.topic, qos)
        deadline = time.monotonic() + 20
        while not any(p.get_subscription_count() for t, p in publishers.items() if "image" in t):
            if time.monotonic() > deadline:
                raise SystemExit("nobody subscribes to the image")
            time.sleep(0.05)
        time.sleep(0.5)
        started, first = time.monotonic(), None
        for connection, stamp, data in reader.messages():
            first = stamp if first is None else first
            wait = (stamp - first) * 1e-9 / rate - (time.monotonic() - started)
            if wait > 0:
                time.sleep(wait)
            now = Clock()
            now.clock.sec, now.clock.nanosec = divmod(stamp, 10**9)
            clock.publish(now)
            publishers[connection.topic].publish(bytes(data))
        time.sleep(0.5)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
