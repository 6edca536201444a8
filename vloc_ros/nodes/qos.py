"""Quality of service: what the node offers and asks for, and what to tell a user when the two sides disagree."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

__all__ = ["image_qos", "latched", "no_frames_hint"]

RELIABILITY = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}


def image_qos(reliability: str) -> QoSProfile:
    """For images and camera infos: the newest only. Best effort reads from every publisher, reliable does not."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=RELIABILITY[reliability],
        durability=DurabilityPolicy.VOLATILE,
    )


def latched() -> QoSProfile:
    """For a state that late joiners must see: reliable, transient local, the last value."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def no_frames_hint(node: Node, topic: str, qos: QoSProfile) -> str:
    """Why ``topic`` brings nothing: nobody publishes, the wrong type, or incompatible quality of service."""
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return (
            "nobody publishes it; check the topic's name (ros2 topic list), image_transport (a compressed image "
            "is on <image>/compressed) and ROS_DOMAIN_ID"
        )
    for publisher in publishers:
        name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
        if (
            qos.reliability == ReliabilityPolicy.RELIABLE
            and publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        ):
            return f"{name} publishes best effort and image_qos asks for reliable: set image_qos to best_effort"
    types = sorted({publisher.topic_type for publisher in publishers})
    return (
        f"{len(publishers)} publisher(s) of type {', '.join(types)} with compatible quality of service send nothing; "
        "check the driver, and that image_transport (raw or compressed) fits the type"
    )
