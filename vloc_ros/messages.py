"""Accessors for ROS messages, whoever made them: rclpy, rospy, or the ``rosbags`` library.

Everything here reads attributes and imports no ROS, so that the rest of the package never learns where a
message came from. What differs between the worlds is hidden here: ROS 1 spells CameraInfo ``D K R P`` and
stamps ``secs/nsecs``, ROS 2 ``d k r p`` and ``sec/nanosec``; payloads come as numpy arrays, ``bytes`` or
``array.array``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vloc_ros.errors import CameraError, GeometryError
from vloc_ros.geometry.cameras import from_camera_info
from vloc_ros.geometry.rotations import quaternion_to_matrix
from vloc_ros.images.decode import CompressedImage, RawImage
from vloc_ros.types import Array, CameraModel, check_covariance, check_transform

__all__ = [
    "camera_model",
    "compressed_image",
    "frame_id",
    "message_image",
    "pose_covariance",
    "raw_image",
    "satellite_fix",
    "stamp_ns",
    "transform",
]

NS = 1_000_000_000


def _first(message: Any, *names: str) -> Any:
    """The first attribute of ``names`` that the message has."""
    for name in names:
        if hasattr(message, name):
            return getattr(message, name)
    raise AttributeError(f"expected a message with one of {', '.join(names)}, found {type(message).__name__}")


def stamp_ns(message: Any) -> int:
    """The stamp of a header, of a message with a header, or of a bare Time, in nanoseconds."""
    header = getattr(message, "header", message)
    time = getattr(header, "stamp", header)
    return int(_first(time, "sec", "secs")) * NS + int(_first(time, "nanosec", "nsec", "nsecs"))


def frame_id(message: Any) -> str:
    """The frame of a message's header without the leading slash that ROS 1 tools still write."""
    return str(getattr(message, "header", message).frame_id).lstrip("/")


def _buffer(data: Any) -> Any:
    """The payload without a copy where the source allows it (numpy, bytes and ``array.array`` do; lists do not)."""
    if isinstance(data, (bytes, bytearray, memoryview, np.ndarray)):
        return data
    try:
        return memoryview(data)
    except TypeError:
        return bytes(data)


def raw_image(message: Any) -> RawImage:
    """``sensor_msgs/Image`` as the package's own type; nothing is decoded yet."""
    return RawImage(
        encoding=str(message.encoding),
        width=int(message.width),
        height=int(message.height),
        step=int(message.step),
        is_bigendian=bool(message.is_bigendian),
        data=_buffer(message.data),
    )


def compressed_image(message: Any) -> CompressedImage:
    """``sensor_msgs/CompressedImage`` as the package's own type; nothing is decoded yet."""
    return CompressedImage(format=str(message.format), data=_buffer(message.data))


def message_image(message: Any) -> RawImage | CompressedImage:
    """Either kind of image message: an ``Image`` has an encoding, a ``CompressedImage`` a format."""
    return raw_image(message) if hasattr(message, "encoding") else compressed_image(message)


def camera_model(message: Any, rectified: bool = False, image_size: tuple[int, int] | None = None) -> CameraModel:
    """The camera that a ``sensor_msgs/CameraInfo`` describes, its region of interest and binning applied.

    :param rectified: the images are already rectified (``image_rect``): P is used, K and D are not.
    :param image_size: width and height of the images in pixels. Some drivers state a binning and intrinsics that are
        those of the binned image already: then the binning is not applied again.
    :raises CameraError: zero, non-finite or unsupported intrinsics.
    """
    try:
        values = [np.asarray(_first(message, lower, lower.upper()), dtype=np.float64) for lower in "dkrp"]
    except AttributeError as error:
        raise CameraError(f"camera_info: {error}") from error
    d, k, r, p = values
    width, height = int(message.width), int(message.height)
    binning = int(getattr(message, "binning_x", 0)), int(getattr(message, "binning_y", 0))
    roi = getattr(message, "roi", None)
    window = None if roi is None else (int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height))
    if image_size == (width, height):
        binning, window = (0, 0), None
    return from_camera_info(
        width, height, str(message.distortion_model), d, k, r, p, rectified=rectified, binning=binning, roi=window
    )


def transform(message: Any) -> Array:
    """The 4x4 matrix of a Transform, Pose, or anything stamped or with covariance around one.

    A ``TransformStamped`` maps points of its child frame into its header's frame; a pose maps points of the
    body into the header's frame. The quaternion is normalised, as float32 publishers need.

    :raises GeometryError: the quaternion is zero or a value is not finite.
    """
    inner = message
    for _ in range(3):  # Odometry.pose.pose, PoseStamped.pose, TransformStamped.transform
        if hasattr(inner, "transform"):
            inner = inner.transform
        elif hasattr(inner, "pose"):
            inner = inner.pose
        else:
            break
    translation = _first(inner, "translation", "position")
    rotation = _first(inner, "rotation", "orientation")
    q = np.array([rotation.x, rotation.y, rotation.z, rotation.w], dtype=np.float64)
    norm = math.hypot(*q)  # numbers of a damaged message may be too large to square
    if not np.isfinite(norm) or norm < 1e-6:
        raise GeometryError(f"pose: expected a unit quaternion, found xyzw {q.tolist()}; the publisher left it unset")
    T = np.eye(4)
    T[:3, :3] = quaternion_to_matrix(q / norm)
    T[:3, 3] = translation.x, translation.y, translation.z
    return check_transform(T, "pose")


def pose_covariance(message: Any) -> Array | None:
    """The 6x6 covariance of a pose message that has one (x, y, z, rotation about fixed axes); None for all zeros.

    ROS writes zeros for "unknown", which is not the same as "exact".
    """
    inner = message
    while hasattr(inner, "pose") and not hasattr(inner, "covariance"):
        inner = inner.pose
    values = getattr(inner, "covariance", None)
    if values is None:
        return None
    covariance = np.asarray(values, dtype=np.float64).reshape(6, 6)
    return None if not covariance.any() else check_covariance(covariance, "pose covariance")


def satellite_fix(message: Any) -> tuple[tuple[float, float, float], Array | None] | None:
    """Latitude, longitude (deg) and height (m) of a NavSatFix, and its covariance (3, 3) m^2, east, north, up.

    :returns: None where the receiver has no fix; a covariance of None where it states none.
    """
    if int(message.status.status) < 0:
        return None
    place = float(message.latitude), float(message.longitude), float(message.altitude)
    if int(message.position_covariance_type) == 0:
        return place, None
    return place, np.asarray(message.position_covariance, dtype=np.float64).reshape(3, 3)
