"""The packages of ROS that turn arrays into messages and back: cv_bridge, sensor_msgs_py, tf_transformations.

They are used where they stand at the edge of ROS: images that nobody else decodes, point clouds, angles and
quaternions. cv_bridge and tf_transformations are compiled against, or written for, other releases of numpy and OpenCV
than a virtual environment may hold; where one fails, the core's own function is used, and :func:`missing` says so.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image, PointCloud2, PointField
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Header

from vloc_ros.errors import ImageError
from vloc_ros.geometry.rotations import euler_to_matrix, matrix_to_quaternion
from vloc_ros.types import Array, RgbImage

__all__ = ["cloud", "decode_rare", "image_content", "missing", "quaternion_of", "quaternion_of_angles"]

#: Why a package is not used, by its name.
_MISSING: dict[str, str] = {}
_FIELD_TYPES = {"f4": PointField.FLOAT32, "f8": PointField.FLOAT64, "u1": PointField.UINT8, "u4": PointField.UINT32}
#: The darkest and brightest percent of a picture whose numbers have no range of their own.
_PERCENT = (1.0, 99.0)


def missing() -> dict[str, str]:
    """The packages that were to be used and failed, and how; what they do is done by the core then."""
    return dict(_MISSING)


@functools.cache
def _module(name: str) -> Any:
    """A package, or None where it cannot be imported; also one of the wrong numpy, which fails in many ways."""
    try:
        return __import__(name)
    except Exception as problem:
        _MISSING[name] = f"{type(problem).__name__}: {problem}"
        return None


def _tried(package: str, work: Callable[[Any], Any]) -> Any:
    """What a package makes of it; None where it cannot, which is remembered: it is not asked again."""
    module = None if package in _MISSING else _module(package)
    if module is None:
        return None
    try:
        return work(module)
    except Exception as problem:
        _MISSING[package] = f"{type(problem).__name__}: {problem}"
        return None


@functools.cache
def _bridge() -> Any:
    """A CvBridge, whose tables take a while; None without cv_bridge."""
    module = _module("cv_bridge")
    return None if module is None else module.CvBridge()


def quaternion_of(T: Array) -> tuple[float, float, float, float]:
    """(x, y, z, w) of a transform's rotation."""
    found = _tried("tf_transformations", lambda tf: tf.quaternion_from_matrix(T))
    x, y, z, w = matrix_to_quaternion(T[:3, :3]) if found is None else found
    return float(x), float(y), float(z), float(w)


def quaternion_of_angles(roll: float, pitch: float, yaw: float) -> tuple[float, float, float, float]:
    """(x, y, z, w) of rotations (rad) about the fixed axes x, y, z in this order, as URDF has them."""
    found = _tried("tf_transformations", lambda tf: tf.quaternion_from_euler(roll, pitch, yaw, axes="sxyz"))
    if found is None:
        found = matrix_to_quaternion(euler_to_matrix(np.array([roll, pitch, yaw])))
    x, y, z, w = found
    return float(x), float(y), float(z), float(w)


def image_content(image_rgb: RgbImage) -> Image:
    """(H, W, 3) uint8 as an rgb8 image without a header."""
    image_rgb = np.ascontiguousarray(image_rgb)
    made = _tried("cv_bridge", lambda _: _bridge().cv2_to_imgmsg(image_rgb, "rgb8"))
    if made is not None:
        return made
    message = Image(height=image_rgb.shape[0], width=image_rgb.shape[1], encoding="rgb8", step=3 * image_rgb.shape[1])
    message.data = array("B")  # rclpy copies a list element by element
    message.data.frombytes(image_rgb.tobytes())
    return message


def decode_rare(message: Image) -> RgbImage:
    """An image in an encoding that the core does not know, by cv_bridge.

    What has no colours of its own (floating-point brightness, 32-bit words) is scaled to its middle 98 %.

    :raises ImageError: cv_bridge is not there, or does not know it either.
    """
    where = f"image {message.encoding!r} {message.width}x{message.height}"
    bridge = _bridge()
    if bridge is None:
        raise ImageError(f"{where}: expected an encoding of the core, or cv_bridge, found {_MISSING['cv_bridge']}")
    try:
        pixels = np.asarray(bridge.imgmsg_to_cv2(message, "passthrough"))
    except Exception as problem:  # its errors are of many types
        raise ImageError(f"{where}: neither the core nor cv_bridge decodes it: {problem}") from problem
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):  # of two channels the first is brightness
        pixels = pixels[:, :, :3] if pixels.shape[2] == 4 else pixels[:, :, :1]
    numbers = pixels.astype(np.float64)
    known = numbers[np.isfinite(numbers)]
    if not known.size:
        raise ImageError(f"{where}: expected finite pixels, found none")
    low, high = np.percentile(known, _PERCENT)
    scaled = np.clip((np.nan_to_num(numbers, nan=low) - low) / max(high - low, 1e-12), 0.0, 1.0) * 255.0
    grey = scaled.round().astype(np.uint8)
    if grey.ndim == 2 or grey.shape[2] == 1:
        return np.repeat(grey.reshape(*grey.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(grey[:, :, ::-1])  # OpenCV's order


def cloud(header: Header, columns: Mapping[str, npt.NDArray[Any]]) -> PointCloud2:
    """Points with fields by name; each column (N,), of float32, float64, uint8 or uint32."""
    fields, kinds, offset = [], [], 0
    for name, values in columns.items():
        code = values.dtype.str[1:]
        fields.append(PointField(name=name, offset=offset, datatype=_FIELD_TYPES[code], count=1))
        kinds.append((name, values.dtype))
        offset += values.dtype.itemsize
    points = np.zeros(len(next(iter(columns.values()))), dtype=kinds)
    for name, values in columns.items():
        points[name] = values
    return point_cloud2.create_cloud(header, fields, points)
