"""Poses from a satellite receiver and a heading: NavSatFix to east-north-up at a datum, the antenna to the base.

A receiver says where its antenna is, not how the vehicle is turned. The heading comes from an IMU or another topic
with an orientation, or from the course of motion, which assumes that the vehicle drives forwards.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros import messages as msgs
from vloc_ros.datasets.pose_topics import check_quaternion
from vloc_ros.errors import BagError, GeometryError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.geometry.rotations import euler_to_matrix, quaternion_to_matrix
from vloc_ros.types import Array

__all__ = ["COURSE", "FixTrack", "course_of"]

#: ``heading`` that means the course of motion.
COURSE = "course"
#: The course is taken from positions this far before and behind (s).
COURSE_HALF_WINDOW_S = 0.5

_log = logging.getLogger(__name__)


def course_of(
    stamps_ns: npt.NDArray[np.int64], enu: Array, minimum_speed: float, half_window_s: float = COURSE_HALF_WINDOW_S
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Yaw (rad, from east to north) of the motion at each of N positions (N, 3), and where it is known.

    It is known where the speed over the window reaches ``minimum_speed`` (m/s); rolling slower, noise would steer.
    """
    t = (stamps_ns - stamps_ns[0]) * 1e-9
    # At 1 Hz the window is the neighbours.
    spacing = float(np.median(np.diff(t))) if len(t) > 1 else half_window_s
    half = max(half_window_s, 1.01 * spacing)
    before = np.searchsorted(t, t - half, side="left")
    behind = np.searchsorted(t, t + half, side="right") - 1
    seconds = t[behind] - t[before]
    moved = enu[behind, :2] - enu[before, :2]
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = np.where(seconds > 0, np.linalg.norm(moved, axis=1) / seconds, 0.0)
    return np.arctan2(moved[:, 1], moved[:, 0]), np.asarray(speed >= minimum_speed)


class FixTrack:
    """Collects fixes and headings while a bag is read, then makes poses of the base.

    :param datum: origin of the map; None: the first fix.
    :param minimum_speed: of the course of motion, m/s.
    :ivar counts: what was left out, by kind.
    """

    def __init__(self, datum: Datum | None, minimum_speed: float, max_gap_s: float) -> None:
        self.datum = datum
        self.frame = ""
        self.heading_frame = ""
        self.counts: dict[str, int] = {}
        self.total = 0
        self._minimum_speed, self._max_gap_ns = minimum_speed, round(max_gap_s * 1e9)
        self._fixes: dict[int, tuple[float, float, float]] = {}
        self._headings: dict[int, Array] = {}

    def add_fix(self, message: Any, stamp_ns: int) -> None:
        """One NavSatFix; those without a position are counted."""
        self.total += 1
        self.frame = self.frame or msgs.frame_id(message)
        values = (float(message.latitude), float(message.longitude), float(message.altitude))
        if int(message.status.status) < 0:
            self._count("receiver had no fix")
        elif not np.isfinite(values).all():
            self._count("fix with NaN for a position")
        elif abs(values[0]) > 90 or abs(values[1]) > 360:
            self._count("fix outside the range of latitude and longitude")
        else:
            self._fixes[stamp_ns] = values

    def add_heading(self, message: Any, stamp_ns: int) -> None:
        """One message with an orientation (from east-north-up axes, REP-145).

        :raises GeometryError: it has none, or no unit quaternion.
        """
        self.heading_frame = str(getattr(message, "child_frame_id", "")) or (
            msgs.frame_id(message) if hasattr(message, "orientation_covariance") else ""
        )
        covariance = getattr(message, "orientation_covariance", None)
        if covariance is not None and float(covariance[0]) == -1.0:
            raise GeometryError(
                "the Imu says that it has no orientation (orientation_covariance[0] = -1); name another --heading"
            )
        check_quaternion(message)
        inner = message
        for name in ("transform", "pose", "pose", "rotation", "orientation", "quaternion"):
            inner = getattr(inner, name, inner)
        q = np.array([inner.x, inner.y, inner.z, inner.w], dtype=np.float64)
        T = np.eye(4)
        T[:3, :3] = quaternion_to_matrix(q / np.linalg.norm(q))
        self._headings[stamp_ns] = T

    def poses(self, topic: str, heading: str, t_base_antenna: Array, R_base_heading: Array) -> list[tuple[int, Array]]:
        """``(stamp_ns, T_map_base)`` of every fix that has a heading.

        :param t_base_antenna: (3,) the antenna in the base, m.
        :param R_base_heading: (3, 3) the sensor of the heading in the base; identity for the course.
        :raises BagError: not one fix, or no heading.
        """
        if not self._fixes:
            why = ", ".join(f"{n} x {kind}" for kind, n in self.counts.items())
            raise BagError(f"{topic}: expected fixes with a position, found none of {self.total} ({why})")
        stamps = np.array(sorted(self._fixes), dtype=np.int64)
        geodetic = np.array([self._fixes[int(s)] for s in stamps])
        if self.datum is None:
            self.datum = Datum(*map(float, geodetic[0]))
            _log.info("datum: the first fix, %s", ",".join(repr(float(v)) for v in geodetic[0]))
        enu = self.datum.to_enu(*geodetic.T)
        if heading == COURSE:
            yaw, known = course_of(stamps, enu, self._minimum_speed)
            R = euler_to_matrix(np.stack([np.zeros_like(yaw), np.zeros_like(yaw), yaw], axis=1))
            why = f"slower than {self._minimum_speed:g} m/s: no course"
        elif not self._headings:
            raise BagError(f"{heading}: expected orientations for the positions of {topic}, found none")
        else:
            at = np.array(sorted(self._headings), dtype=np.int64)
            track = PoseTrack(at, np.stack([self._headings[int(s)] for s in at]), self._max_gap_ns)
            T, known = track.many(stamps)
            R = T[:, :3, :3] @ R_base_heading.T
            why = f"fix without a heading on {heading}"
        if not known.all():
            self._count(why, int((~known).sum()))
        if not known.any():
            raise BagError(f"{topic}: expected a heading for the fixes, found none ({why}); name another --heading")
        out = np.tile(np.eye(4), (len(stamps), 1, 1))
        out[:, :3, :3] = R
        out[:, :3, 3] = enu - R @ t_base_antenna
        return [(int(s), T) for s, T, good in zip(stamps, out, known, strict=True) if good]

    def _count(self, kind: str, count: int = 1) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + count
