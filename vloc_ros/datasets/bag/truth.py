"""Where the vehicle of a bag really was: which topics can say so, on which clock, and where that is on the Earth.

A satellite receiver says where its antenna is, not how the vehicle is turned. The heading comes from an IMU or another
topic with an orientation, or from the course of motion, which assumes that the vehicle drives forwards.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros import messages as msgs
from vloc_ros.datasets.bag.metadata import FILE_NAME, custom_data
from vloc_ros.datasets.bag.reader import BagReader
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, GnssTrack, PosedSequence
from vloc_ros.errors import BagError, ConfigError, GeometryError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.geometry.rotations import euler_to_matrix, quaternion_to_matrix
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.types import Array, check_transform

__all__ = [
    "COURSE",
    "DATUM_TOPIC",
    "GNSS_TOPIC",
    "HEADING_TYPES",
    "POSE_TYPES",
    "TRUTH_TYPES",
    "ClockGap",
    "FixTrack",
    "candidates",
    "check_quaternion",
    "course_of",
    "mounting_of",
    "read_datum",
    "read_places",
    "read_world",
    "stated_covariance",
    "world_as_text",
]


_log = logging.getLogger(__name__)

DATUM_TOPIC, GNSS_TOPIC = "/map/datum", "/gnss/fix"
_ORIGIN, _WORLD = "vloc_origin_m", "vloc_T_world_map"
_KNOWN_DIAGONAL, _KNOWN = 2, 3
#: ``heading`` that means the course of motion.
COURSE = "course"
#: The course is taken from positions this far before and behind (s).
COURSE_HALF_WINDOW_S = 0.5
#: Message types of a reference; the first two may be taken without being named.
POSE_TYPES = ("PoseStamped", "PoseWithCovarianceStamped", "TransformStamped", "Odometry")
#: A receiver says where it is; a heading comes from elsewhere.
TRUTH_TYPES = (*POSE_TYPES, "NavSatFix")
#: Message types that a heading can come from.
HEADING_TYPES = ("Imu", "QuaternionStamped", "PoseStamped", "PoseWithCovarianceStamped", "Odometry", "TransformStamped")

#: Square metres that no publisher means: the Earth's radius, squared.
_LARGEST_VARIANCE = 1e14
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


def _orientation(message: Any) -> Array:
    """The quaternion (4,) xyzw in any message that has one; NaN where it has none."""
    inner = message
    for name in ("transform", "pose", "pose", "rotation", "orientation", "quaternion"):
        inner = getattr(inner, name, inner)
    return np.array([getattr(inner, axis, np.nan) for axis in "xyzw"], dtype=np.float64)


def check_quaternion(message: Any) -> None:
    """:raises GeometryError: the orientation in a pose message is no unit quaternion."""
    q = _orientation(message)
    length = math.hypot(*q)  # numbers of a damaged message may be too large to square
    if not abs(length - 1.0) <= _UNIT_TOLERANCE:
        raise GeometryError(
            f"expected a unit quaternion, found xyzw {[round(float(v), 6) for v in q]} of length {length:.6g}; "
            "is the orientation set, and in the order x, y, z, w?"
        )


def stated_covariance(message: Any) -> Array | None:
    """The 6x6 covariance that a pose message states; None where that is none: zeros, -1 for "unknown", absurd numbers.

    A pose is not worse for a covariance that nobody filled in.
    """
    try:
        covariance = msgs.pose_covariance(message)
    except (GeometryError, ValueError, np.linalg.LinAlgError):
        return None
    return None if covariance is None or float(np.abs(covariance).max()) > _LARGEST_VARIANCE else covariance


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
    hour in every message. Stamps of zero are no clock, and counted apart.
    """

    def __init__(self) -> None:
        self._stamps: dict[str, list[int]] = {}
        self._late: dict[str, list[int]] = {}
        self._zero: Counter[str] = Counter()

    def add(self, name: str, stamp_ns: int, time_ns: int) -> None:
        """One message: its own stamp and the time when it was recorded."""
        if stamp_ns <= 0:
            self._zero[name] += 1
            return
        self._stamps.setdefault(name, []).append(stamp_ns)
        self._late.setdefault(name, []).append(stamp_ns - time_ns)

    def has(self, name: str | None) -> bool:
        """Whether a topic has a message with a stamp."""
        return name in self._stamps

    def offset_s(self, images: str, poses: str) -> float | None:
        """Seconds to add to the stamps of the poses; None where either has no message."""
        if images not in self._late or poses not in self._late:
            return None
        # Python integers: nanoseconds since 1970 do not fit into float64, nor a damaged stamp's gap into int64.
        middle = [statistics.median_low(self._late[n]) for n in (images, poses)]
        return (middle[0] - middle[1]) * 1e-9

    def in_words(self, images: str, poses: str, given_s: float = 0.0, max_gap_s: float = 0.5) -> str:
        """Why no image has a pose, and what would help.

        :param given_s: the offset that is in the stamps of the poses already.
        :param max_gap_s: poses further apart are not interpolated between.
        """
        for name in (images, poses):
            if name not in self._stamps:
                if self._zero[name]:
                    return (
                        f"all {self._zero[name]} messages of {name} have the stamp 0; let its publisher stamp them "
                        "(header.stamp), and record again"
                    )
                return f"there is not one usable message of {name}"
        (a, b), (c, d) = ((min(self._stamps[n]), max(self._stamps[n])) for n in (images, poses))
        text = f"images are from {a} to {b} ns, {poses} from {c} to {d} ns"
        offset = self.offset_s(images, poses)
        if offset is not None and abs(offset) > 0.05 + max_gap_s:
            return (
                f"{text}; by the times of recording the clock of {poses} is {abs(offset):.3f} s "
                f"{'behind' if offset > 0 else 'ahead'}: --time-offset {given_s + offset:.3f}"
            )
        if d < a or b < c:
            return f"{text}; if they are of the same drive: --time-offset {given_s + (a - c) * 1e-9:.3f}"
        apart = float(np.median(np.diff(np.unique(np.asarray(self._stamps[poses], dtype=np.int64))))) * 1e-9
        if apart > max_gap_s:
            return (
                f"{text}; the poses are {apart:.3g} s apart, expected at most {max_gap_s:g} s to interpolate between "
                f"them: a larger max_gap_s ({1.5 * apart:.2g}) does, if the vehicle moves evenly"
            )
        if offset is not None and abs(offset) > 0.05:
            return f"{text}; their clocks are {abs(offset):.3f} s apart: --time-offset {given_s + offset:.3f}"
        return text


def read_datum(reader: BagReader) -> Datum | None:
    """The place of the map frame on the Earth, where the bag says so on ``/map/datum``."""
    return _read(reader, [DATUM_TOPIC] if DATUM_TOPIC in reader.of_type("NavSatFix") else [])[0]


def read_places(
    reader: BagReader, receiver: str | None = None, offset_ns: int = 0
) -> tuple[Datum | None, GnssTrack | None]:
    """The datum and the fixes of a bag, each None where there are none.

    Fixes are those of ``receiver``, moved by ``offset_ns`` to the clock of the images; without one those of
    ``/gnss/fix``, or of the only other NavSatFix topic. Messages that say "no fix", or hold no finite place, are left
    out.
    """
    topics = reader.of_type("NavSatFix")
    others = [topic for topic in topics if topic != DATUM_TOPIC]
    usual = GNSS_TOPIC if GNSS_TOPIC in others else others[0] if len(others) == 1 else None
    chosen = receiver or usual
    datum, track = _read(reader, [t for t in (DATUM_TOPIC, chosen) if t in topics and t is not None])
    if receiver and track is not None:
        track = replace(track, stamps_ns=track.stamps_ns + offset_ns)
    return datum, track


def world_as_text(sequence: PosedSequence) -> dict[str, str]:
    """``origin_m`` and ``T_world_map`` of a drive for ``custom_data``, where they say anything."""
    out = {}
    if any(sequence.origin_m):
        out[_ORIGIN] = " ".join(repr(float(v)) for v in sequence.origin_m)
    if sequence.T_world_map is not None:
        out[_WORLD] = " ".join(repr(float(v)) for v in np.asarray(sequence.T_world_map).reshape(-1))
    return out


def read_world(path: str | Path) -> dict[str, Any]:
    """What :func:`world_as_text` wrote of a bag, as fields of a sequence; empty for bags that say nothing.

    :raises BagError: it is not as many finite numbers as it should be.
    """
    found = custom_data(Path(path))
    out: dict[str, Any] = {}
    for key, name, count in ((_ORIGIN, "origin_m", 3), (_WORLD, "T_world_map", 16)):
        text = found.get(key)
        if text is None:
            continue
        try:
            values = np.array([float(v) for v in str(text).split()])
        except ValueError:
            values = np.empty(0)
        if len(values) != count or not np.isfinite(values).all():
            raise BagError(
                f"{Path(path) / FILE_NAME}: {key}: expected {count} numbers, found {text!r}; delete the line, or "
                "convert again"
            )
        out[name] = tuple(values.tolist()) if count == 3 else values.reshape(4, 4)
    return out


def _read(reader: BagReader, topics: list[str]) -> tuple[Datum | None, GnssTrack | None]:
    datum: Datum | None = None
    rows: dict[int, tuple[float, ...]] = {}
    frame_id, known = "gnss", True
    for item in reader.messages(topics) if topics else ():
        fix = item.message
        place = (float(fix.latitude), float(fix.longitude), float(fix.altitude))
        if not np.isfinite(place).all() or abs(place[0]) > 90 or abs(place[1]) > 360:
            continue
        if item.topic == DATUM_TOPIC:
            datum = datum or Datum(*place)
        elif int(fix.status.status) >= 0:
            frame_id = msgs.frame_id(fix) or frame_id
            known &= int(fix.position_covariance_type) in (_KNOWN_DIAGONAL, _KNOWN)
            variance = np.asarray(fix.position_covariance, dtype=np.float64)[[0, 4, 8]]
            rows[msgs.stamp_ns(fix)] = (*place, *(float(v) for v in variance))
    if not rows:
        return datum, None
    stamps = sorted(rows)
    table = np.array([rows[stamp] for stamp in stamps], dtype=np.float64)
    variance_m2 = table[:, 3:] if known else None
    track = GnssTrack(np.array(stamps, dtype=np.int64), table[:, 0], table[:, 1], table[:, 2], variance_m2, frame_id)
    return datum, track


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
        self._headings[stamp_ns] = make_transform(quaternion_to_matrix(_orientation(message)), np.zeros(3))

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
        out = make_transform(R, enu - R @ t_base_antenna)
        return [(int(s), T) for s, T, good in zip(stamps, out, known, strict=True) if good]

    def _count(self, kind: str, count: int = 1) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + count
