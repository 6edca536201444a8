"""Oxford RobotCar as downloaded: raw Bayer images, their stamps, and poses of the INS, of RTK or of visual odometry.

``<YYYY-MM-DD-HH-MM-SS>/`` holds ``stereo/{left,centre,right}``, ``mono_left``, ``mono_right`` and ``mono_rear`` with
``<stamp_us>.png``; ``<sensor>.timestamps`` one or two levels above the images; ``gps/{gps,ins}.csv``, ``vo/vo.csv``;
``gps/rtk.csv``, or ``rtk/<drive>/rtk.csv`` beside the drives. SRC is a drive or a folder of drives. The data set's
tools hold ``models`` (needed) and ``extrinsics`` (else the published numbers are taken).

Images are demosaiced, then freed of distortion by the camera's lookup table. The map frame is east-north-up at one
datum for all drives (:data:`DATUM` in Oxford), so that drives of the same streets share it; with ``poses=vo`` it is the
vehicle's first pose. ``base_link`` is at the left eye of the stereo camera;
the rig holds the other cameras (optical axes) and the other sensors (x forward, y right, z down). The antenna's place
is not published: the GNSS track's frame is that of the INS.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import first_usable
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.robotcar.poses import UnitOptions, gnss_track, unit_track, visual_odometry
from vloc_ros.datasets.robotcar.sensors import (
    MODELS,
    BayerImages,
    Intrinsics,
    Pattern,
    lut_path,
    lut_pixels,
    read_bayer,
    read_model,
    sensor_mountings,
)
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.datasets.tables import covered_frames, read_rows, stamp_of
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = ["DATUM", "Options", "matches", "open_drives"]

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
    try:
        camera = CameraModel(width, height, *intrinsics.values)
    except CameraError as problem:
        raise DatasetError(f"{_models(drive, options)}: {problem}") from problem
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
