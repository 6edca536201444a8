"""From the core's arrays to ROS messages. The way in is :mod:`vloc_ros.messages`, which bags share."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseArray, PoseWithCovarianceStamped, Transform, TransformStamped
from sensor_msgs.msg import Image, NavSatFix, NavSatStatus, PointCloud2
from std_msgs.msg import Header

from vloc_ros.geometry.geodesy import Datum
from vloc_ros.nodes.bridges import cloud, image_content, quaternion_of
from vloc_ros.types import Array, Matches, RgbImage

__all__ = [
    "fix_message",
    "image_message",
    "matches_cloud",
    "points_cloud",
    "pose_array",
    "pose_message",
    "time_message",
    "transform_message",
]

NS = 1_000_000_000


def time_message(stamp_ns: int) -> Time:
    """A stamp in nanoseconds as builtin_interfaces/Time."""
    return Time(sec=stamp_ns // NS, nanosec=stamp_ns % NS)


def _fill(translation: object, rotation: object, T: Array) -> None:
    translation.x, translation.y, translation.z = (float(v) for v in T[:3, 3])  # type: ignore[attr-defined]
    rotation.x, rotation.y, rotation.z, rotation.w = quaternion_of(T)  # type: ignore[attr-defined]


def pose_message(T_map_base: Array, covariance: Array, stamp_ns: int, frame: str) -> PoseWithCovarianceStamped:
    """The base in the map; the covariance (x, y, z, rotation about fixed X, Y, Z) has the package's own order."""
    message = PoseWithCovarianceStamped()
    message.header.frame_id = frame
    message.header.stamp = time_message(stamp_ns)
    _fill(message.pose.pose.position, message.pose.pose.orientation, T_map_base)
    message.pose.covariance = np.ascontiguousarray(covariance, dtype=np.float64).reshape(36)
    return message


def fix_message(datum: Datum, T_map_base: Array, covariance: Array, stamp_ns: int, frame: str) -> NavSatFix:
    """The base on the Earth: WGS-84 by the map's datum, the covariance (m^2) of east, north, up."""
    latitude, longitude, altitude = (float(v) for v in datum.to_geodetic(T_map_base[:3, 3]))
    # The map's axes are east, north and up at its origin; a kilometre away they have turned by some millidegrees.
    message = NavSatFix(latitude=latitude, longitude=longitude, altitude=altitude)
    message.header.frame_id, message.header.stamp = frame, time_message(stamp_ns)
    message.status.status = NavSatStatus.STATUS_FIX
    message.position_covariance = np.ascontiguousarray(covariance[:3, :3], dtype=np.float64).reshape(9)
    message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_KNOWN
    return message


def transform_message(T_parent_child: Array, parent: str, child: str, stamp_ns: int) -> TransformStamped:
    """``T_parent_child`` maps points of ``child`` into ``parent``, as tf2 has it."""
    message = TransformStamped()
    message.header.frame_id = parent
    message.header.stamp = time_message(stamp_ns)
    message.child_frame_id = child
    message.transform = Transform()
    _fill(message.transform.translation, message.transform.rotation, T_parent_child)
    return message


def pose_array(T_map_base: Array, stamp_ns: int, frame: str) -> PoseArray:
    """(N, 4, 4) poses of the base in the map."""
    message = PoseArray()
    message.header.frame_id = frame
    message.header.stamp = time_message(stamp_ns)
    for T in T_map_base:
        pose = Pose()
        _fill(pose.position, pose.orientation, T)
        message.poses.append(pose)
    return message


def image_message(image_rgb: RgbImage, stamp_ns: int, frame: str) -> Image:
    """(H, W, 3) uint8 as an rgb8 image."""
    message = image_content(image_rgb)
    message.header.frame_id = frame
    message.header.stamp = time_message(stamp_ns)
    return message


def points_cloud(points: Array, stamp_ns: int, frame: str) -> PointCloud2:
    """(N, 3) points, m: fields x, y, z."""
    xyz = points.astype(np.float32)
    return cloud(Header(stamp=time_message(stamp_ns), frame_id=frame), dict(zip("xyz", xyz.T, strict=True)))


def matches_cloud(matches: Matches, stamp_ns: int, frame: str) -> PointCloud2:
    """Matched map points: x, y, z (m, map frame), the pixel u, v that shows each, and the camera of the rig."""
    kept = matches.inliers
    views = np.zeros(len(kept), np.uint8) if matches.views is None else matches.views.astype(np.uint8)
    columns = dict(zip("xyz", matches.points[kept].astype(np.float32).T, strict=True))
    columns |= dict(zip("uv", matches.pixels[kept].astype(np.float32).T, strict=True))
    return cloud(Header(stamp=time_message(stamp_ns), frame_id=frame), {**columns, "camera": views[kept]})
