"""Why nothing arrives: what the graph, the clock and the machine say about an input that is silent.

DDS tells a subscriber nothing about messages that it could not match or put together, so everything that can be looked
up is: who publishes, which type, with which quality of service, on which other topics images are to be had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

__all__ = ["publishers_of", "why_no_clock", "why_nothing"]

_IMAGE_TYPES = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}
#: The limit of the kernel's socket buffers, in bytes; 212992 where nobody raised it, less than one raw image.
_RMEM_MAX = Path("/proc/sys/net/core/rmem_max")


def publishers_of(node: Node, topic: str) -> list[str]:
    """The full names of the nodes that publish a topic; one that does so twice is there twice."""
    return sorted(_name(info) for info in node.get_publishers_info_by_topic(topic))


def why_nothing(node: Node, topic: str, type_name: str, qos: QoSProfile) -> str:
    """Why a subscription hears nothing, and what to do about it, in one sentence without the topic's name.

    :param type_name: of the subscription, ``sensor_msgs/msg/Image``.
    :param qos: of the subscription.
    """
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f"nobody publishes it; {_elsewhere(node, topic, type_name)}"
    fitting = [info for info in publishers if info.topic_type == type_name]
    if not fitting:
        types = ", ".join(sorted({info.topic_type for info in publishers}))
        advice = _transport_advice({info.topic_type for info in publishers}, type_name)
        return f"{_name(publishers[0])} publishes {types} on it, expected {type_name}{advice}"
    for info in fitting:
        offered = info.qos_profile
        if qos.reliability == ReliabilityPolicy.RELIABLE and offered.reliability == ReliabilityPolicy.BEST_EFFORT:
            return f"{_name(info)} publishes best effort and image_qos asks for reliable: set image_qos to best_effort"
        if (
            qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
            and offered.durability != DurabilityPolicy.TRANSIENT_LOCAL
        ):
            return f"{_name(info)} does not keep its messages for late joiners (transient local), as is asked for"
    names = ", ".join(sorted({_name(info) for info in fitting}))
    return f"{names} fits and sends nothing that arrives; check the driver{_buffers(type_name)}"


def why_no_clock(node: Node) -> str:
    """Why the time is 0 under ``use_sim_time``; empty where it is not."""
    if not node.get_parameter("use_sim_time").value or node.get_clock().now().nanoseconds > 0:
        return ""
    names = publishers_of(node, "/clock")
    who = f"{', '.join(names)} sends nothing on it" if names else "nobody publishes it"
    return (
        f"use_sim_time is true and no /clock arrives: {who}; start the simulation or ros2 bag play --clock, or set "
        "use_sim_time to false"
    )


def _name(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _transport_advice(there: set[str], wanted: str) -> str:
    other = next((kind for kind in sorted(there) if kind in _IMAGE_TYPES and kind != wanted), None)
    return f"; set image_transport to {_IMAGE_TYPES[other]} and the image topic without /compressed" if other else ""


def _by_others(node: Node, topic: str) -> bool:
    """Whether any other node publishes a topic: this node's own pictures are no advice."""
    own = (node.get_name(), node.get_namespace())
    return any((info.node_name, info.node_namespace) != own for info in node.get_publishers_info_by_topic(topic))


def _elsewhere(node: Node, topic: str, type_name: str) -> str:
    """Where such messages, or images of the other transport, are to be had."""
    published = {
        name: set(types) for name, types in node.get_topic_names_and_types() if name != topic and _by_others(node, name)
    }
    base = topic.removesuffix("/compressed")
    other = base if topic != base else f"{topic}/compressed"
    for kind in sorted(published.get(other, ())):
        if kind in _IMAGE_TYPES and type_name in _IMAGE_TYPES and kind != type_name:
            return f"{other} is published: set image_transport to {_IMAGE_TYPES[kind]}"
    same = sorted(name for name, types in published.items() if type_name in types)[:4]
    if same:
        return f"{type_name} is on {', '.join(same)}: remap the topic"
    return "check the topic's name (ros2 topic list), that its node runs, and ROS_DOMAIN_ID"


def _buffers(type_name: str) -> str:
    if type_name != "sensor_msgs/msg/Image":
        return ""
    try:
        limit = f", here {int(_RMEM_MAX.read_text())} bytes"
    except (OSError, ValueError):
        limit = ""
    return (
        f"; raw images from another machine are lost where the sockets' buffers are small (net.core.rmem_max{limit}): "
        'see docs/ros.md, "Large images"'
    )
