"""Oxford RobotCar as downloaded: raw Bayer images, their stamps, and poses of the INS, of RTK or of visual odometry.

``<YYYY-MM-DD-HH-MM-SS>/`` holds ``stereo/{left,centre,right}``, ``mono_left``, ``mono_right`` and ``mono_rear`` with
``<stamp_us>.png``; ``<sensor>.timestamps`` one or two levels above the images; ``gps/{gps,ins}.csv``, ``vo/vo.csv``;
``gps/rtk.csv``, or ``rtk/<drive>/rtk.csv`` beside the drives. SRC is a drive or a folder of drives. The data set's
tools hold ``models`` (needed) and ``extrinsics`` (else the published numbers are taken).

Images are demosaiced, then freed of distortion by the camera's lookup table. The map frame is east-north-up at one
datum for all drives (:data:`DATUM` in Oxford), so that drives of the same streets share it; with ``poses=vo`` it is the
vehicle's first pose. ``base_link`` is at the left eye of the stereo camera (:mod:`vloc_ros.datasets.robotcar`);
the rig holds the other cameras (optical axes) and the other sensors (x forward, y right, z down). The antenna's place
is not published: the GNSS track's frame is that of the INS.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import decoded, first_usable
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import GnssTrack, PosedSequence
from vloc_ros.datasets.tables import Row, covered_frames, read_rows, stamp_of, track_of, transform_from_matrix
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.geometry.rotations import euler_to_matrix
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = [
    "DATUM",
    "INVERTED",
    "MODELS",
    "PUBLISHED",
    "T_BASE_VEHICLE",
    "BayerImages",
    "Intrinsics",
    "Options",
    "UnitOptions",
    "demosaic",
    "gnss_track",
    "grid_convergence",
    "heading_off",
    "lut_path",
    "lut_pixels",
    "map_ned",
    "matches",
    "open_drives",
    "read_bayer",
    "read_model",
    "se3_of",
    "sensor_mountings",
    "unit_track",
    "visual_odometry",
]


# Pose tables of Oxford RobotCar: ins.csv, rtk.csv, vo.csv and gps.csv.


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


def heading_off(T_map_unit: Array, step_m: float = 1.0, enough: int = 100) -> float | None:
    """The median angle from the direction of travel to a unit's x axis, seen from above, rad, left positive.

    None where it has moved fewer than ``enough`` steps. Bends and drifting positions cancel in the median.
    """
    place = T_map_unit[:, :2, 3]
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(place, axis=0), axis=1))])
    rows = np.unique(np.searchsorted(way, np.arange(0.0, way[-1], step_m)))
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


def _header(path: Path) -> list[str]:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    with path.open(encoding="utf-8", errors="replace") as file:
        return [name.strip() for name in file.readline().lstrip("\ufeff").split(",")]


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


# Where the sensors of Oxford RobotCar sit, and which way round each file says so.


_log = logging.getLogger(__name__)

#: From x forward, y right, z down to x forward, y left, z up; its own inverse.
T_BASE_VEHICLE: Array = np.diag([1.0, -1.0, -1.0, 1.0])
#: The numbers as the data set publishes them, for where its files are not at hand.
PUBLISHED: dict[str, tuple[float, ...]] = {
    "stereo": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "mono_left": (-0.0905, 1.6375, 0.2803, 0.2079, -0.2339, 1.2321),
    "mono_right": (-0.2587, -1.6810, 0.3226, -0.1961, -0.2469, -1.2675),
    "mono_rear": (-2.0582, 0.0894, 0.3675, -0.0119, -0.2498, 3.1283),
    "ins": (-1.7132, 0.1181, 1.1948, -0.0125, 0.0400, 0.0050),
}
#: Sensors whose file holds the vehicle in the sensor's axes; all others hold the sensor in the vehicle's.
INVERTED = frozenset({"stereo", "mono_left", "mono_right", "mono_rear"})
#: Read where a file is there; no numbers are built in.
_OTHERS = ("lms_front", "lms_rear", "ldmrs", "radar", "velodyne_left", "velodyne_right")


def se3_of(xyzrpy: Array) -> Array:
    """[..., 6] x, y, z (m), roll, pitch, yaw (rad) -> [..., 4, 4]."""
    values = np.asarray(xyzrpy, dtype=np.float64)
    return make_transform(euler_to_matrix(values[..., 3:]), values[..., :3])


def sensor_mountings(folder: Path | None) -> dict[str, Array]:
    """``T_base_sensor`` (4, 4) by sensor, each in the sensor's own axes (x forward, y right, z down).

    :param folder: with ``<sensor>.txt``; None, or where a file is absent: the published numbers.
    :raises DatasetError: a malformed file, with file and line.
    """
    out: dict[str, Array] = {}
    for name in (*PUBLISHED, *_OTHERS):
        path = None if folder is None else folder / f"{name}.txt"
        if path is not None and path.is_file():
            values = _read(path)
        elif name in PUBLISHED:
            values = np.array(PUBLISHED[name])
            _log.info("%s: no file with its mounting; taken: the published %s", name, PUBLISHED[name])
        else:
            continue
        T = se3_of(values)
        out[name] = T_BASE_VEHICLE @ (inverse(T) if name in INVERTED else T)
    return out


def _read(path: Path) -> Array:
    strict = Problems()
    rows = [(row, row.numbers(strict)) for row in read_rows(path, strict, 6)]
    if len(rows) != 1:
        raise DatasetError(f"{path}: expected one line x y z roll pitch yaw, found {len(rows)}")
    row, values = rows[0]
    if values is None or bool((np.abs(values[3:]) > 2 * np.pi).any()):
        raise DatasetError(f"{row.where}: expected roll, pitch and yaw in radians, found angles beyond a full turn")
    return values


# Cameras of Oxford RobotCar: intrinsics, lookup tables against distortion, and raw Bayer images.


#: Which model belongs to which image folder.
MODELS = {
    "stereo/left": "stereo_wide_left",
    "stereo/centre": "stereo_narrow_left",
    "stereo/right": "stereo_wide_right",
    "mono_left": "mono_left",
    "mono_right": "mono_right",
    "mono_rear": "mono_rear",
}
#: The colours of a mosaic's first two rows, and OpenCV's name for it. Its older two-letter names are those of the
#: second row and column ("BG" is RGGB), which is how red and blue get exchanged.
_CODES = {"GBRG": cv2.COLOR_BayerGBRG2RGB, "RGGB": cv2.COLOR_BayerRGGB2RGB}

Pattern = Literal["GBRG", "RGGB"]


@dataclass(frozen=True)
class Intrinsics:
    """``fx fy cx cy`` in pixels of the image without distortion, and the camera in its sensor's axes, (4, 4)."""

    values: tuple[float, float, float, float]
    T_sensor_optical: Array


def read_model(path: Path) -> Intrinsics:
    """A camera's model file. :raises DatasetError: with file and line."""
    strict = Problems()
    rows = [(row, row.numbers(strict)) for row in read_rows(path, strict, 4)]
    if len(rows) != 5:
        raise DatasetError(f"{path}: expected a line fx fy cx cy and the 4 lines of a 4x4 matrix, found {len(rows)}")
    fx, fy, cx, cy = np.asarray(rows[0][1])
    if not (fx > 0 and fy > 0):
        raise DatasetError(f"{rows[0][0].where}: expected positive focal lengths, found {fx:g} and {fy:g}")
    T = transform_from_matrix(np.stack([np.asarray(values) for _, values in rows[1:]]), rows[1][0].where)
    return Intrinsics((float(fx), float(fy), float(cx), float(cy)), T)


def lut_path(models: Path, model: str) -> Path:
    """Where a camera's lookup table lies."""
    return models / f"{model}_distortion_lut.bin"


def lut_pixels(path: Path) -> int:
    """The number of pixels of a lookup table. :raises DatasetError: it is missing, or no table."""
    if not path.is_file():
        raise DatasetError(
            f"{path}: expected the table that takes the distortion away, found no file; it belongs to the tools of "
            "the data set (Git LFS), or undistort=false"
        )
    size = path.stat().st_size
    if size == 0 or size % 16:
        found = "a Git LFS pointer, not the file itself" if size < 1000 and _is_pointer(path) else f"{size} bytes"
        raise DatasetError(f"{path}: expected float64 [2, height * width], found {found}")
    return size // 16


def _is_pointer(path: Path) -> bool:
    return path.read_bytes().startswith(b"version https://git-lfs")


def read_bayer(path: Path) -> npt.NDArray[np.uint8]:
    """A raw image, (H, W) uint8. :raises DatasetError: missing, cut short, or of colours already."""
    image = decoded(path, cv2.IMREAD_UNCHANGED)
    if image.ndim != 2 or image.dtype != np.uint8:
        raise DatasetError(
            f"{path}: expected a raw 8-bit Bayer image of one channel, found shape {image.shape}, {image.dtype}; "
            "use the images as they were downloaded"
        )
    return np.asarray(image, dtype=np.uint8)


def demosaic(raw: npt.NDArray[np.uint8], pattern: Pattern) -> RgbImage:
    """(H, W) of a Bayer mosaic -> (H, W, 3) RGB, bilinear."""
    return np.asarray(cv2.cvtColor(raw, _CODES[pattern]), dtype=np.uint8)


@lru_cache(maxsize=8)
def _maps(path: Path, width: int, height: int) -> tuple[Any, Any]:
    """What ``cv2.remap`` wants, once for each process and camera: 6 bytes a pixel."""
    if lut_pixels(path) != width * height:
        raise DatasetError(
            f"{path}: expected a table of {width}x{height} = {width * height} pixels, found {lut_pixels(path)}; "
            "models and images are of different cameras"
        )
    table = np.memmap(path, dtype="<f8", mode="r", shape=(2, height, width))
    x, y = table[0].astype(np.float32), table[1].astype(np.float32)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DatasetError(f"{path}: expected finite pixels, found NaN or infinity")
    limit = float(2**14)  # cv2 counts pixels in 16 bits; what is so far outside is black either way
    return cv2.convertMaps(x.clip(-limit, limit), y.clip(-limit, limit), cv2.CV_16SC2)


@dataclass(frozen=True)
class BayerImages:
    """Raw image files as RGB images: demosaiced, then (with a ``lut``) freed of distortion, bilinear.

    Pixels from outside the raw image are black. It pickles as its file names; tables are loaded where it is used.
    There is no ``encoded``: the files do not hold the images as they are used.
    """

    paths: tuple[Path, ...]
    pattern: Pattern
    width: int
    height: int
    lut: Path | None = None

    def image(self, index: int) -> RgbImage:
        """:raises DatasetError: the file cannot be decoded, or has another size than the first image."""
        raw = read_bayer(self.paths[index])
        if raw.shape != (self.height, self.width):
            raise DatasetError(
                f"{self.paths[index]}: expected {self.width}x{self.height} as the first image, "
                f"found {raw.shape[1]}x{raw.shape[0]}"
            )
        image = demosaic(raw, self.pattern)
        if self.lut is None:
            return image
        x, y = _maps(self.lut, self.width, self.height)
        out = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return np.asarray(out, dtype=np.uint8)

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        for index in range(len(self.paths)):
            yield index, self.image(index)


_log = logging.getLogger(__name__)

#: The origin of the map frame: a round place in Oxford, at about the height of its streets above the ellipsoid.
DATUM = (51.76, -1.26, 110.0)
_DRIVE = re.compile(r"\d{4}(-\d\d){5}")
_SENSORS = ("stereo", "mono_left", "mono_right", "mono_rear")


@dataclass(frozen=True)
class Options:
    """How to read a drive.

    :param camera: whose images.
    :param poses: ins = gps/ins.csv, rtk = the ground truth (a download of its own), vo = chained visual odometry.
    :param rtk: the file rtk.csv; None looks for gps/rtk.csv and rtk/DRIVE/rtk.csv.
    :param models: the folder with intrinsics and lookup tables; None looks for models in the drive and above it.
    :param extrinsics: the folder with the sensors' mountings; None looks likewise, else takes the published numbers.
    :param undistort: by lookup table; false gives demosaiced images that the intrinsics do not fit.
    :param max_gap_s: between the two poses that a frame's own is interpolated from.
    :param datum: latitude, longitude (deg) and height (m) of the map's origin; None is 51.76, -1.26, 110, in Oxford.
    :param ins_status: which rows of ins.csv count; empty takes all.
    :param north: what the yaw of ins.csv and rtk.csv counts from, true north or that of the UTM grid.
    """

    camera: Literal["stereo/left", "stereo/centre", "stereo/right", "mono_left", "mono_right", "mono_rear"] = (
        "stereo/centre"
    )
    poses: Literal["ins", "rtk", "vo"] = "ins"
    rtk: str | None = None
    models: str | None = None
    extrinsics: str | None = None
    undistort: bool = True
    max_gap_s: float = ranged(0.5, minimum=0.0)
    datum: tuple[float, float, float] | None = None
    ins_status: tuple[str, ...] = ("INS_SOLUTION_GOOD",)
    north: Literal["true", "grid"] = "true"


def matches(path: Path) -> bool:
    """Whether a folder looks like a drive, or like a folder of drives."""
    return bool(_drives(Path(path)))


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The drive, or the drives, of a folder. :raises DatasetError: something is missing or malformed."""
    drives = _drives(Path(path))
    if not drives:
        raise DatasetError(
            f"{path}: expected a drive (a folder with {' or '.join(MODELS)} and its .timestamps) or a folder of "
            "drives, found none"
        )
    return [_open(drive, options, problems) for drive in drives]


def _is_drive(path: Path) -> bool:
    stamped = any((folder / f"{s}.timestamps").is_file() for s in _SENSORS for folder in (path, path / s))
    return stamped or (bool(_DRIVE.match(path.name)) and any((path / name).is_dir() for name in (*MODELS, "gps", "vo")))


def _drives(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    if _is_drive(path):
        return [path]
    return sorted(p for p in path.iterdir() if p.is_dir() and _DRIVE.match(p.name) and _is_drive(p))


def _open(drive: Path, options: Options, problems: Problems) -> PosedSequence:
    before = dict(problems.counts)
    paths, stamps = _images(drive, options.camera, problems)
    intrinsics, mountings = _calibration(drive, options)
    begin, size = first_usable(paths, problems, read=read_bayer)
    paths, stamps = paths[begin:], stamps[begin:]
    camera, lut = _camera(drive, options, intrinsics[options.camera], paths[0], size)
    datum = Datum(*(options.datum or DATUM))
    vo = drive / "vo" / "vo.csv"
    odometry = visual_odometry(vo, problems, options.max_gap_s) if vo.is_file() or options.poses == "vo" else None
    if options.poses == "vo" and odometry is not None:
        track = odometry
    else:
        table = _rtk(drive, options) if options.poses == "rtk" else drive / "gps" / "ins.csv"
        if not table.is_file():
            raise DatasetError(f"{table}: expected the poses, found no file; download them, or choose poses=rtk|vo")
        how = UnitOptions(datum, options.max_gap_s, options.ins_status, options.north)
        track = unit_track(table, how, mountings["ins"], problems)
    kept, T_map_base = covered_frames(stamps, track, str(drive), problems)
    T_odom_base = None
    if odometry is not None and options.poses != "vo":
        T_odom_base, valid = odometry.many(stamps[kept])
        T_odom_base[~valid] = np.nan
    cameras = {name: mountings[name.split("/")[0]] @ model.T_sensor_optical for name, model in intrinsics.items()}
    T_base_cam = cameras.pop(options.camera)
    rig = {name: T for name, T in mountings.items() if name not in _SENSORS}
    rig |= {name.replace("/", "_"): T for name, T in cameras.items()}
    gps = drive / "gps" / "gps.csv"
    fixes = gnss_track(gps, problems, "ins") if gps.is_file() and options.poses != "vo" else None
    pattern: Pattern = "GBRG" if options.camera.startswith("stereo") else "RGGB"
    chosen = tuple(paths[i] for i in kept)
    return PosedSequence(
        drive.name,
        stamps[kept],
        T_map_base @ T_base_cam,
        T_base_cam,
        camera,
        BayerImages(chosen, pattern, camera.width, camera.height, lut),
        T_odom_base,
        datum=None if options.poses == "vo" else datum,
        gnss=fixes,
        rig=rig,
        dropped=problems.since(before),
    )


def _timestamps(drive: Path, camera: str) -> Path:
    """The list of a camera's stamps, one or two levels above the images."""
    sensor, folder = camera.split("/")[0], drive / camera
    places = [folder.parent / f"{sensor}.timestamps", folder.parent.parent / f"{sensor}.timestamps"]
    for place in places:
        if place.is_file():
            return place
    raise DatasetError(
        f"{folder}: expected the stamps of the images in {' or '.join(map(str, places))}, found neither; "
        "every chunk of a download holds it"
    )


def _images(drive: Path, camera: str, problems: Problems) -> tuple[list[Path], npt.NDArray[np.int64]]:
    """The images that the list of stamps names and that are there, in the order of time."""
    folder, listed = drive / camera, _timestamps(drive, camera)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: expected the images of {camera}, found no folder; download it, or name another")
    there = {p.name for p in folder.iterdir()}
    found: dict[int, Path] = {}
    named: set[str] = set()
    missing: dict[str, list[str]] = {}
    in_chunk: dict[str, int] = {}
    last = -1
    for row in read_rows(listed, problems, 2):
        text, chunk = row.fields
        stamp = stamp_of(row, problems, "us")
        if stamp is None:
            continue
        if stamp in found or f"{text}.png" in named:
            problems.fault("repeated stamp", f"{row.where}: expected one line a stamp, found {text} twice")
            continue
        if stamp < last:
            problems.fault(
                "stamp out of order", f"{row.where}: expected increasing stamps, found {text}; sort the file"
            )
        last = max(last, stamp)
        named.add(f"{text}.png")
        in_chunk[chunk] = in_chunk.get(chunk, 0) + 1
        if f"{text}.png" in there:
            found[stamp] = folder / f"{text}.png"
        else:
            missing.setdefault(chunk, []).append(row.where)
    for chunk, lines in missing.items():
        _told(
            problems,
            f"image of chunk {chunk} that is not there",
            f"{lines[0]}: expected the images of chunk {chunk} in {folder}, found {len(lines)} of {in_chunk[chunk]} "
            f"missing; download chunk {chunk} of {camera}, or --keep-going",
            len(lines),
        )
    extra = sorted(name for name in there - named if name.endswith(".png"))
    if extra:
        problems.skip(
            "image without a stamp",
            f"{folder / extra[0]}: {len(extra)} images are not in {listed} and are left out",
            len(extra),
        )
    if not found:
        raise DatasetError(f"{folder}: expected images named in {listed}, found none of {len(named)}")
    stamps = sorted(found)
    return [found[s] for s in stamps], np.array(stamps, dtype=np.int64)


def _told(problems: Problems, kind: str, message: str, count: int) -> None:
    """A fault of ``count`` things at once."""
    if not problems.keep_going:
        raise DatasetError(message)
    problems.skip(kind, message, count)


def _folder(drive: Path, given: str | None, name: str) -> Path | None:
    """Of the calibration: as given, else in the drive or the two folders above it."""
    if given is not None:
        if not Path(given).is_dir():
            raise DatasetError(f"{given}: expected the folder {name}, found none")
        return Path(given)
    here = drive.resolve()
    places: Iterable[Path] = (here, here.parent, here.parent.parent)
    for place in places:
        for folder in (place / name, place / "robotcar-dataset-sdk" / name):
            if folder.is_dir():
                return folder
    return None


def _models(drive: Path, options: Options) -> Path:
    folder = _folder(drive, options.models, "models")
    if folder is None:
        raise DatasetError(
            f"{drive}: expected the cameras' models in a folder models here or above, found none; it belongs to the "
            "tools of the data set: models=FOLDER"
        )
    return folder


def _calibration(drive: Path, options: Options) -> tuple[dict[str, Intrinsics], dict[str, Array]]:
    """Models by camera (the chosen one, and what else is there), and the sensors' mountings."""
    models = _models(drive, options)
    out: dict[str, Intrinsics] = {}
    for camera, model in MODELS.items():
        path = models / f"{model}.txt"
        if camera == options.camera and not path.is_file():
            raise DatasetError(f"{path}: expected the intrinsics of {camera}, found no file")
        if path.is_file():
            out[camera] = read_model(path)
    return out, sensor_mountings(_folder(drive, options.extrinsics, "extrinsics"))


def _camera(
    drive: Path, options: Options, intrinsics: Intrinsics, first: Path, size: tuple[int, int]
) -> tuple[CameraModel, Path | None]:
    """The camera of the images as they are given out, and the lookup table."""
    width, height = size
    camera = CameraModel(width, height, *intrinsics.values)
    if not options.undistort:
        _log.warning(
            "%s: undistort=false: the images keep the distortion of the lens, which no file describes but as a table; "
            "the intrinsics do not fit them",
            drive,
        )
        return camera, None
    lut = lut_path(_models(drive, options), MODELS[options.camera])
    if lut_pixels(lut) != width * height:
        raise DatasetError(
            f"{first}: expected {lut_pixels(lut)} pixels as {lut} has, found {width}x{height} = {width * height}; "
            "use the images in the size they were downloaded in"
        )
    return camera, lut


def _rtk(drive: Path, options: Options) -> Path:
    if options.rtk is not None:
        if not Path(options.rtk).is_file():
            raise DatasetError(f"{options.rtk}: expected rtk.csv, found no file")
        return Path(options.rtk)
    name = drive.resolve().name
    places = [drive / "gps" / "rtk.csv", drive / "rtk.csv", drive / "rtk" / name / "rtk.csv"]
    for above in (drive.resolve().parent, drive.resolve().parent.parent):
        places += [above / "rtk" / name / "rtk.csv"]
    for place in places:
        if place.is_file():
            return place
    raise DatasetError(
        f"{drive}: expected the ground truth in {' or '.join(map(str, places))}, found none; it is a download of its "
        "own, not there for every drive: rtk=FILE, or poses=ins"
    )
