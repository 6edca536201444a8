"""Pose tables of Oxford RobotCar: ins.csv, rtk.csv, vo.csv and gps.csv."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.robotcar.sensors import T_BASE_VEHICLE, se3_of
from vloc_ros.datasets.sequence import GnssTrack
from vloc_ros.datasets.tables import Row, read_rows, stamp_of, track_of
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.geometry.rotations import euler_to_matrix
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.types import Array

__all__ = [
    "UnitOptions",
    "gnss_track",
    "grid_convergence",
    "heading_off",
    "map_ned",
    "unit_track",
    "visual_odometry",
]

_log = logging.getLogger(__name__)

#: Beyond this from the datum, a place is a mistake (or the drive is of another city): metres.
FAR_M = 100_000.0
#: From here on, a heading that is off the direction of travel is worth a warning: rad.
HEADING_WARNING = math.radians(0.8)
_ZONES = frozenset(f"{zone:0{width}d}" for zone in range(1, 61) for width in (1, 2))


@dataclass(frozen=True)
class UnitOptions:
    """How to read ins.csv and rtk.csv; see :mod:`vloc_ros.datasets.robotcar`."""

    datum: Datum
    max_gap_s: float
    ins_status: tuple[str, ...]
    north: Literal["true", "grid"]


def unit_track(path: Path, options: UnitOptions, T_base_unit: Array, problems: Problems) -> PoseTrack:
    """``T_map_base`` from ins.csv or rtk.csv.

    :param T_base_unit: the mounting of the inertial unit (axes x forward, y right, z down).
    :raises DatasetError: with file and line.
    """
    wanted = ["timestamp", "latitude", "longitude", "altitude", "roll", "pitch", "yaw"]
    extra = ["utm_zone"] if options.north == "grid" else []
    rows: list[Row] = []
    stamps: list[int] = []
    values: list[Array] = []
    zones: list[float] = []
    refused: dict[str, list[Row]] = {}
    for row, status in _table(path, [*wanted, *extra], problems, "ins_status"):
        if status is not None and options.ins_status and status not in options.ins_status:
            refused.setdefault(status, []).append(row)
            continue
        numbers = row.numbers(problems, 1, 7)
        stamp = stamp_of(row, problems, "us")
        if numbers is None or stamp is None or not _plausible(numbers, row.where, options.datum, problems):
            continue
        if extra:
            zone = _zone(row.fields[7], row.where, problems)
            if zone is None:
                continue
            zones.append(zone)
        rows.append(row)
        stamps.append(stamp)
        values.append(numbers)
    for status, found in refused.items():
        problems.skip(
            f"row of the INS that says {status}",
            f"{found[0].where}: {len(found)} rows of status {status} left out; ins_status names what is used",
            len(found),
        )
    if not values:
        raise DatasetError(f"{path}: expected rows with poses, found none that can be used")
    table = np.stack(values)
    rpy = table[:, 3:6].copy()
    if extra:
        rpy[:, 2] += grid_convergence(table[:, 0], table[:, 1], np.array(zones))
    R = map_ned(options.datum, table[:, 0], table[:, 1]) @ euler_to_matrix(rpy)
    T_map_unit = make_transform(R, options.datum.to_enu(table[:, 0], table[:, 1], table[:, 2]))
    off = heading_off(T_map_unit)
    if off is not None and abs(off) > HEADING_WARNING:
        _log.warning(
            "%s: yaw lies %.2f deg left of the direction of travel (median); about %.2f deg would mean that it counts "
            "from the north of the UTM grid: north=grid, else north=true (taken: %s)",
            path,
            np.degrees(off),
            np.degrees(grid_convergence(table[:1, 0], table[:1, 1], np.array([30.0]))[0]),
            options.north,
        )
    T = T_map_unit @ inverse(T_base_unit)
    samples = [(stamp, T[i], rows[i].where) for i, stamp in enumerate(stamps)]
    return track_of(samples, str(path), problems, options.max_gap_s)


def map_ned(datum: Datum, latitude_deg: Array, longitude_deg: Array) -> Array:
    """Rotations (N, 3, 3) from the north-east-down axes at (N,) places into the map's axes."""
    lat, lon = np.radians(latitude_deg), np.radians(longitude_deg)
    sl, cl, so, co = np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)
    north = np.stack([-sl * co, -sl * so, cl], axis=-1)
    east = np.stack([-so, co, np.zeros_like(so)], axis=-1)
    down = -np.stack([cl * co, cl * so, sl], axis=-1)
    out: Array = datum.R_enu_ecef @ np.stack([north, east, down], axis=-1)
    return out


def grid_convergence(latitude_deg: Array, longitude_deg: Array, zone: Array) -> Array:
    """How far the north of UTM ``zone`` lies east of true north, rad (on the sphere: good to 1e-5 rad in a zone)."""
    from_centre = np.radians(longitude_deg - (6.0 * zone - 183.0))
    return np.asarray(np.arctan(np.tan(from_centre) * np.sin(np.radians(latitude_deg))))


def heading_off(T_map_unit: Array, step_m: float = 1.0, enough: int = 100) -> float | None:
    """The median angle from the direction of travel to a unit's x axis, seen from above, rad, left positive.

    None where it has moved fewer than ``enough`` steps. Bends and drifting positions cancel in the median.
    """
    place = T_map_unit[:, :2, 3]
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(place, axis=0), axis=1))])
    _, rows = np.unique(np.floor(way / step_m), return_index=True)  # the first row of each step of the way
    if len(rows) <= enough:
        return None
    travel, ahead = np.diff(place[rows], axis=0), T_map_unit[rows, :2, 0]
    ahead = ahead[:-1] + ahead[1:]
    cross = travel[:, 0] * ahead[:, 1] - travel[:, 1] * ahead[:, 0]
    return float(np.median(np.arctan2(cross, (travel * ahead).sum(axis=1))))


def visual_odometry(path: Path, problems: Problems, max_gap_s: float) -> PoseTrack:
    """``T_odom_base`` from vo.csv: the base at the first frame is the origin.

    Where a step is missing, the chain ends: the longest unbroken one is taken (with ``keep_going``; else a fault).

    :raises DatasetError: with file and line.
    """
    wanted = ["source_timestamp", "destination_timestamp", "x", "y", "z", "roll", "pitch", "yaw"]
    runs: list[list[tuple[int, Array, str]]] = []
    for row, _ in _table(path, wanted, problems):
        numbers = row.numbers(problems, 2)
        ends = [stamp_of(row, problems, "us", column) for column in (0, 1)]
        if numbers is None or ends[0] is None or ends[1] is None:
            continue
        start, end = min(ends[0], ends[1]), max(ends[0], ends[1])
        if start == end or bool((np.abs(numbers[3:]) > 2 * np.pi).any()):
            problems.fault(
                "step of odometry that is none",
                f"{row.where}: expected two different stamps, and angles in radians, found {' '.join(row.fields)!r}",
            )
            continue
        step = T_BASE_VEHICLE @ se3_of(numbers) @ T_BASE_VEHICLE
        if not runs or runs[-1][-1][0] != start:
            if runs:
                problems.fault(
                    "break in the visual odometry",
                    f"{row.where}: expected a step from {runs[-1][-1][0] // 1000} us, where the one before ended, "
                    f"found one from {start // 1000} us",
                )
            runs.append([(start, np.eye(4), row.where)])
        runs[-1].append((end, runs[-1][-1][1] @ step, row.where))
    if not runs:
        raise DatasetError(f"{path}: expected steps of odometry, found none that can be used")
    longest = max(runs, key=len)
    left = sum(len(run) - 1 for run in runs if run is not longest)
    if left:
        problems.skip("step of odometry beyond a break", f"{path}: {left} steps before or after breaks left out", left)
    return track_of(longest, str(path), problems, max_gap_s)


def gnss_track(path: Path, problems: Problems, frame_id: str) -> GnssTrack | None:
    """What the receiver said, from gps.csv; None where not one row can be used."""
    wanted = ["timestamp", "latitude", "longitude", "altitude"]
    sigmas = ["longitude_sigma", "latitude_sigma", "altitude_sigma"]
    named = _header(path)
    with_sigma = all(name in named for name in sigmas)
    found: dict[int, Array] = {}
    last = -1
    for row, _ in _table(path, [*wanted, *(sigmas if with_sigma else [])], problems):
        stamp = stamp_of(row, problems, "us")
        numbers = row.numbers(problems, 1)
        if stamp is None or numbers is None:
            continue
        if abs(numbers[0]) > 90 or abs(numbers[1]) > 180:
            problems.fault(
                "place that is none",
                f"{row.where}: expected latitude and longitude in degrees, found {numbers[0]:g} and {numbers[1]:g}",
            )
            continue
        if stamp <= last:
            problems.fault("stamp out of order", f"{row.where}: expected increasing stamps, found {stamp} after {last}")
            continue
        last = stamp
        found[stamp] = numbers
    if not found:
        return None
    table = np.stack(list(found.values()))
    variance = table[:, 3:6] ** 2 if with_sigma else None
    stamps = np.array(list(found), dtype=np.int64)
    return GnssTrack(stamps, table[:, 0], table[:, 1], table[:, 2], variance, frame_id)


def _table(
    path: Path, wanted: Sequence[str], problems: Problems, optional: str | None = None
) -> Iterator[tuple[Row, str | None]]:
    """Rows with the fields ``wanted``, in that order, and the field ``optional`` where the table has it."""
    names = _header(path)
    absent = [name for name in wanted if name not in names]
    if absent:
        raise DatasetError(
            f"{path}:1: expected a first line that names the columns {', '.join(wanted)}, "
            f"found no {', '.join(absent)} in {','.join(names)[:80]!r}"
        )
    places = [names.index(name) for name in wanted]
    extra = names.index(optional) if optional in names else None
    for row in read_rows(path, problems, len(names), ",", header_lines=1, comment=""):
        kept = Row(path, row.number, tuple(row.fields[i] for i in places))
        yield kept, None if extra is None else row.fields[extra]


def _header(path: Path) -> list[str]:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return [name.strip() for name in file.readline().split(",")]


def _plausible(numbers: Array, where: str, datum: Datum, problems: Problems) -> bool:
    """Whether a row's latitude, longitude and angles can be such (else a fault)."""
    latitude, longitude = float(numbers[0]), float(numbers[1])
    if abs(latitude) > 90 or abs(longitude) > 180:
        problems.fault(
            "place that is none",
            f"{where}: expected latitude and longitude in degrees, found {latitude:g} and {longitude:g}",
        )
        return False
    # Near enough for telling a mistake; the exact way is for the whole table at once.
    north = (latitude - datum.latitude_deg) * 111e3
    east = (longitude - datum.longitude_deg) * 111e3 * math.cos(math.radians(latitude))
    if math.hypot(north, east) > FAR_M:
        problems.fault(
            "place far from the datum",
            f"{where}: expected a place within {FAR_M / 1000:g} km of the datum ({datum.latitude_deg:g}, "
            f"{datum.longitude_deg:g}), found {latitude:g}, {longitude:g}; a drive elsewhere needs datum=[lat,lon,alt]",
        )
        return False
    if max(abs(float(angle)) for angle in numbers[3:6]) > 2 * math.pi:
        problems.fault(
            "angles that are not in radians",
            f"{where}: expected roll, pitch, yaw in radians, found {' '.join(f'{v:g}' for v in numbers[3:6])}",
        )
        return False
    return True


def _zone(text: str, where: str, problems: Problems) -> float | None:
    digits = text.strip().rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    if digits not in _ZONES:
        problems.fault("UTM zone that is none", f"{where}: expected a UTM zone such as 30U, found {text!r}")
        return None
    return float(digits)
