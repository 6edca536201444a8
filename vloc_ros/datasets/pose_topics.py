"""Which topics of a bag can say where the vehicle was, and whether their clock is that of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vloc_ros.datasets.bag_places import DATUM_TOPIC
from vloc_ros.datasets.bag_reader import BagReader
from vloc_ros.datasets.sequence import T_BODY_OPTICAL
from vloc_ros.errors import ConfigError, GeometryError
from vloc_ros.geometry.rotations import euler_to_matrix
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.types import Array, check_transform

__all__ = ["HEADING_TYPES", "POSE_TYPES", "TRUTH_TYPES", "ClockGap", "candidates", "check_quaternion", "mounting_of"]

#: Message types of a reference; the first two may be taken without being named.
POSE_TYPES = ("PoseStamped", "PoseWithCovarianceStamped", "TransformStamped", "Odometry")
#: A receiver says where it is; a heading comes from elsewhere.
TRUTH_TYPES = (*POSE_TYPES, "NavSatFix")
#: Message types that a heading can come from.
HEADING_TYPES = ("Imu", "QuaternionStamped", "PoseStamped", "PoseWithCovarianceStamped", "Odometry", "TransformStamped")

#: A quaternion further from length 1 than this was not meant as one (float32 publishers stay below 1e-6).
_UNIT_TOLERANCE = 1e-2


def candidates(reader: BagReader) -> str:
    """The topics of a bag that a reference can come from, for messages."""
    found = [f"{t} ({reader.topics[t].split('/')[-1]})" for t in reader.of_type(*TRUTH_TYPES) if t != DATUM_TOPIC]
    if {"/tf", "/tf_static"} & set(reader.topics):
        found.append("a transform as /tf:PARENT.CHILD, for example /tf:map.base_link")
    if not found:
        return f"none; all its topics: {', '.join(sorted(reader.topics))}"
    return ", ".join(found)


def check_quaternion(message: Any) -> None:
    """:raises GeometryError: the orientation in a pose message is no unit quaternion."""
    inner = message
    for name in ("transform", "pose", "pose", "rotation", "orientation", "quaternion"):
        inner = getattr(inner, name, inner)
    q = np.array([getattr(inner, axis, np.nan) for axis in "xyzw"], dtype=np.float64)
    length = math.hypot(*q)  # numbers of a damaged message may be too large to square
    if not abs(length - 1.0) <= _UNIT_TOLERANCE:
        raise GeometryError(
            f"expected a unit quaternion, found xyzw {[round(float(v), 6) for v in q]} of length {length:.6g}; "
            "is the orientation set, and in the order x, y, z, w?"
        )


def mounting_of(values: Sequence[float]) -> Array:
    """``T_base_cam`` (4, 4) of the optical camera frame from six, twelve or sixteen numbers.

    Six: x, y, z (m) of the camera in the base, and roll, pitch, yaw (rad, about the fixed axes X, Y, Z) of its *body*
    axes (x forward, y left, z up): zeros look ahead. Twelve or sixteen: the rows of the matrix that maps points of the
    optical frame (x right, y down, z forward) into the base.

    :raises ConfigError: another number of values, angles that look like degrees, or no rotation.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 6:
        if np.abs(numbers[3:]).max() > 2 * np.pi:
            raise ConfigError(f"extrinsics: expected roll, pitch, yaw in radians, found {numbers[3:].tolist()}")
        return np.asarray(make_transform(euler_to_matrix(numbers[3:]), numbers[:3]) @ T_BODY_OPTICAL)
    if numbers.size not in (12, 16):
        raise ConfigError(
            f"extrinsics: expected x,y,z,roll,pitch,yaw, or the 12 or 16 numbers of a matrix, found {numbers.size}"
        )
    T = np.eye(4)
    T[: numbers.size // 4] = numbers.reshape(-1, 4)
    try:
        return check_transform(T, "extrinsics")
    except GeometryError as problem:
        raise ConfigError(str(problem)) from problem


class ClockGap:
    """How far two topics' clocks are apart, judged by when their messages were recorded.

    A message is recorded within a fraction of a second of what it stamps; a clock that is an hour off is off by an
    hour in every message.
    """

    def __init__(self) -> None:
        self._late: dict[str, list[int]] = {}
        self._span: dict[str, tuple[int, int]] = {}

    def add(self, name: str, stamp_ns: int, time_ns: int) -> None:
        """One message: its own stamp and the time when it was recorded."""
        self._late.setdefault(name, []).append(stamp_ns - time_ns)
        low, high = self._span.get(name, (stamp_ns, stamp_ns))
        self._span[name] = min(low, stamp_ns), max(high, stamp_ns)

    def offset_s(self, images: str, poses: str) -> float | None:
        """Seconds to add to the stamps of the poses; None where either has no message."""
        if images not in self._late or poses not in self._late:
            return None
        # In integers until the difference: nanoseconds since 1970 do not fit into float64.
        middle = [int(np.median(np.asarray(self._late[n], dtype=np.int64))) for n in (images, poses)]
        return (middle[0] - middle[1]) * 1e-9

    def in_words(self, images: str, poses: str, given_s: float = 0.0) -> str:
        """Why no image has a pose: the two spans, and which offset would bring them together.

        :param given_s: the offset that is in the stamps of the poses already.
        """
        if images not in self._span or poses not in self._span:
            return f"there is not one usable message of {poses if images in self._span else images}"
        (a, b), (c, d) = self._span[images], self._span[poses]
        text = f"images are from {a} to {b} ns, {poses} from {c} to {d} ns"
        offset = self.offset_s(images, poses)
        if offset is not None and abs(offset) > 0.05:
            return (
                f"{text}; by the times of recording the clock of {poses} is {abs(offset):.3f} s "
                f"{'behind' if offset > 0 else 'ahead'}: --time-offset {given_s + offset:.3f}"
            )
        if d < a or b < c:
            return f"{text}; if they are of the same drive: --time-offset {given_s + (a - c) * 1e-9:.3f}"
        return text
