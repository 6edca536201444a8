"""RobotCar Seasons: one reference drive with a model of the place, and images of nine other conditions.

``images/<condition>/{left,rear,right}/<stamp_us>.jpg`` (1024x1024, without distortion), ``intrinsics/<camera>_
intrinsics.txt`` with lines ``fx v`` to ``cy v``, ``extrinsics/<camera>_extrinsics.txt`` (4x4 with commas, camera to
car), ``3D-models/**/all.nvm`` with the reference poses, and ``robotcar_v2_train.txt``: lines of a name and 16 values,
camera to world, for rear images of the other conditions. Models and lists name ``.png`` where the files are ``.jpg``.

The world of the models has its z axis *down*, as the INS from which it was made; no file of the data set states it, and
the reader assumes it. The map frame is that world, half a turn about x: x stays, y and z change sign.
The car's axes in the extrinsics are x right, y down, z forward, at the left eye of the stereo camera; ``base_link`` is
there, too, with the axes of REP-103. The models were not built with the rig held fixed: poses of ``left`` and ``right``
for the other conditions, which are made from ``rear`` by the extrinsics, are less exact than those of ``rear``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import FolderImages, read_image
from vloc_ros.datasets.nvm import read_nvm
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.datasets.tables import (
    Row,
    read_rows,
    stamp_in_ns,
    stamp_of,
    transform_from_matrix,
    transform_from_quaternion,
)
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, CameraModel

__all__ = ["CAMERAS", "CONDITIONS", "T_MAP_WORLD", "Options", "Queries", "matches", "open_drives", "queries"]

CAMERAS = ("left", "rear", "right")
REFERENCE = "overcast-reference"
CONDITIONS = (
    REFERENCE, "dawn", "dusk", "night", "night-rain", "overcast-summer", "overcast-winter", "rain", "snow", "sun",
)  # fmt: skip
TRAIN = "robotcar_v2_train.txt"
TEST = "robotcar_v2_test.txt"
#: From the models' world, z down, to the map, z up.
T_MAP_WORLD: Array = np.diag([1.0, -1.0, -1.0, 1.0])
_NAME = re.compile(r"(?:\./)?(?:images/)?([\w-]+)/(left|rear|right)/(\d+)\.(?:png|jpe?g)$")


@dataclass(frozen=True)
class Options:
    """How to read the data set.

    :param camera: whose images.
    :param condition: of which drive; all takes every condition that has poses, one drive each.
    :param poses: a file with poses in place of the published ones, for every condition: a model (.nvm), lines of a
        name and 16 values (camera to world), or lines ``name qw qx qy qz tx ty tz`` (world to camera).
    """

    camera: Literal["left", "rear", "right"] = "rear"
    condition: str = REFERENCE
    poses: str | None = None


@dataclass(frozen=True)
class _Image:
    """An image by what its name says; ``T_world_cam`` (4, 4)."""

    condition: str
    camera: str
    stamp: str
    T_world_cam: Array
    where: str


@dataclass(frozen=True)
class Queries:
    """Images without poses, in the order of their list: ``names`` as a submission spells them."""

    names: tuple[str, ...]
    stamps_ns: npt.NDArray[np.int64]
    camera: CameraModel
    T_base_cam: Array
    source: FolderImages


def matches(path: Path) -> bool:
    """Whether a folder has ``images`` by condition and camera, and intrinsics by camera."""
    path = Path(path)
    here = any((path / "images" / c / camera).is_dir() for c in CONDITIONS for camera in CAMERAS)
    return here and any((path / "intrinsics" / f"{camera}_intrinsics.txt").is_file() for camera in CAMERAS)


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """One drive for each condition asked for. :raises DatasetError: something is missing or malformed."""
    path = Path(path)
    wanted = CONDITIONS if options.condition == "all" else (options.condition,)
    if options.condition not in (*CONDITIONS, "all"):
        raise DatasetError(f"condition: expected {', '.join(CONDITIONS)} or all, found {options.condition!r}")
    mountings = {c: _mounting(path, c) for c in CAMERAS if c == options.camera or _extrinsics(path, c).is_file()}
    drives = []
    for condition in wanted:
        before = dict(problems.counts)
        images = _posed(path, options, condition, mountings, problems)
        if not images and options.condition == "all":
            continue
        drive = _drive(path, options.camera, condition, images, mountings, problems)
        dropped = problems.since(before)
        drives.append(replace(drive, dropped=dropped))
    return drives


def queries(path: Path, condition: str, camera: str, problems: Problems, listed: Path | None = None) -> Queries:
    """The images of a condition that ``robotcar_v2_test.txt`` (or another list of names) asks for.

    :raises DatasetError: no such list, or not one of its images is there.
    """
    path = Path(path)
    listed = listed or _found(path, TEST)
    names, stamps, files = [], [], []
    for row in read_rows(listed, problems, 1):
        match = _NAME.match(row.fields[0])
        if match is None:
            problems.fault("name that is none", f"{row.where}: {_EXPECTED}, found {row.fields[0][:60]!r}")
            continue
        if match[1] != condition or match[2] != camera:
            continue
        file = _file(path, match[1], match[2], match[3])
        if file is None:
            _no_file(path, match[1], match[2], match[3], row.where, problems)
            continue
        stamp = stamp_of(Row(listed, row.number, (match[3],)), problems, "us")
        if stamp is None:
            continue
        names.append(f"{match[1]}/{match[2]}/{match[3]}.jpg")
        stamps.append(stamp)
        files.append(file)
    if not files:
        raise DatasetError(f"{listed}: expected images of {condition}/{camera}, found none")
    model = _camera(path, camera, files[0])
    where = _mounting(path, camera)
    return Queries(tuple(names), np.array(stamps, dtype=np.int64), model, where, FolderImages(tuple(files)))


_EXPECTED = "expected a name CONDITION/left|rear|right/STAMP.jpg (or .png)"


def _found(path: Path, name: str) -> Path:
    """A list at the top of the data set, or in one of the folders where releases put it."""
    for place in (path / name, path / "metadata" / name, path / "3D-models" / name):
        if place.is_file():
            return place
    raise DatasetError(f"{path / name}: no such file; it belongs to the second version of the data set")


def _posed(
    path: Path, options: Options, condition: str, mountings: Mapping[str, Array], problems: Problems
) -> list[_Image]:
    """The images of one condition and camera that have poses."""
    if options.poses is not None:
        file = Path(options.poses)
        found = _from_model(file, problems) if file.suffix == ".nvm" else _from_list(file, problems)
    elif condition == REFERENCE:
        found = _from_model(_model(path), problems)
    else:
        found = _from_list(_found(path, TRAIN), problems)
    chosen = [image for image in found if image.condition == condition]
    mine = [image for image in chosen if image.camera == options.camera]
    if mine or not chosen or condition == REFERENCE:
        return mine
    # Only rear has poses of the other conditions; the trio is exposed together.
    if "rear" not in mountings:
        raise DatasetError(f"{_extrinsics(path, 'rear')}: no such file; the poses of {options.camera} follow from it")
    step = inverse(mountings["rear"]) @ mountings[options.camera]
    return [
        _Image(condition, options.camera, image.stamp, image.T_world_cam @ step, image.where)
        for image in chosen
        if image.camera == "rear"
    ]


def _model(path: Path) -> Path:
    for place in (path / "3D-models" / "all-merged" / "all.nvm", path / "3D-models" / "all.nvm"):
        if place.is_file():
            return place
    raise DatasetError(
        f"{path / '3D-models' / 'all-merged' / 'all.nvm'}: no such file; the reference poses are in it: download "
        "3D-models, or poses=FILE"
    )


def _from_model(path: Path, problems: Problems) -> list[_Image]:
    out = []
    for camera in read_nvm(path, problems):
        match = _NAME.match(camera.name)
        if match is None:
            problems.fault("name that is none", f"{camera.where}: {_EXPECTED}, found {camera.name[:60]!r}")
            continue
        out.append(_Image(match[1], match[2], match[3], camera.T_world_cam, camera.where))
    return out


def _from_list(path: Path, problems: Problems) -> list[_Image]:
    out = []
    for row in read_rows(path, problems, (17, 8)):
        match = _NAME.match(row.fields[0])
        if match is None:
            problems.fault("name that is none", f"{row.where}: {_EXPECTED}, found {row.fields[0][:60]!r}")
            continue
        T = _pose(row, problems)
        if T is not None:
            out.append(_Image(match[1], match[2], match[3], T, row.where))
    return out


def _pose(row: Row, problems: Problems) -> Array | None:
    values = row.numbers(problems, 1)
    if values is None:
        return None
    if len(values) == 7:
        w, x, y, z = values[:4]
        T = transform_from_quaternion(values[4:], np.array([x, y, z, w]), row.where, problems)
        return None if T is None else inverse(T)
    try:
        return transform_from_matrix(values.reshape(4, 4), row.where)
    except DatasetError as error:
        problems.fault("pose that is no rigid transform", str(error))
        return None


def _drive(
    path: Path,
    camera: str,
    condition: str,
    images: list[_Image],
    mountings: Mapping[str, Array],
    problems: Problems,
) -> PosedSequence:
    found: dict[int, tuple[Path, Array]] = {}
    for image in images:
        try:
            stamp = stamp_in_ns(image.stamp, "us", image.where)
        except DatasetError as error:
            problems.fault("stamp that cannot be read", str(error))
            continue
        if stamp in found:
            problems.fault(
                "repeated stamp", f"{image.where}: expected one pose an image, found {condition}/{image.stamp} twice"
            )
            continue
        file = _file(path, condition, camera, image.stamp)
        if file is None:
            _no_file(path, condition, camera, image.stamp, image.where, problems)
            continue
        found[stamp] = (file, image.T_world_cam)
    if not found:
        raise DatasetError(
            f"{path / 'images' / condition / camera}: expected images with poses, found none of {len(images)}; of the "
            f"other conditions than {REFERENCE}, only some have published poses"
        )
    stamps = sorted(found)
    files = tuple(found[s][0] for s in stamps)
    T_map_cam = T_MAP_WORLD @ np.stack([found[s][1] for s in stamps])
    others = {name: T for name, T in mountings.items() if name != camera}
    model = _camera(path, camera, files[0])
    name = f"{condition}_{camera}"
    all_ns = np.array(stamps, dtype=np.int64)
    return PosedSequence(name, all_ns, T_map_cam, mountings[camera], model, FolderImages(files), rig=others)


def _file(path: Path, condition: str, camera: str, stamp: str) -> Path | None:
    """The image, whichever suffix its file has."""
    for suffix in (".jpg", ".png", ".jpeg"):
        file = path / "images" / condition / camera / f"{stamp}{suffix}"
        if file.is_file():
            return file
    return None


def _no_file(path: Path, condition: str, camera: str, stamp: str, where: str, problems: Problems) -> None:
    wanted = path / "images" / condition / camera / f"{stamp}.jpg"
    problems.fault(
        "image that is not there",
        f"{where}: expected {wanted}, found no file; download the images of {condition}, or --keep-going",
    )


def _extrinsics(path: Path, camera: str) -> Path:
    return path / "extrinsics" / f"{camera}_extrinsics.txt"


def _mounting(path: Path, camera: str) -> Array:
    """``T_base_cam`` (4, 4)."""
    file, strict = _extrinsics(path, camera), Problems()
    rows = [(row, row.numbers(strict)) for row in read_rows(file, strict, 4, ",")]
    if len(rows) != 4:
        raise DatasetError(f"{file}: expected the 4 lines of a 4x4 matrix, found {len(rows)}")
    T_car_cam = transform_from_matrix(np.stack([np.asarray(values) for _, values in rows]), rows[0][0].where)
    out: Array = T_BODY_OPTICAL @ T_car_cam
    return out


def _camera(path: Path, camera: str, first: Path) -> CameraModel:
    file, strict = path / "intrinsics" / f"{camera}_intrinsics.txt", Problems()
    values: dict[str, float] = {}
    last = f"{file}:1"
    for row in read_rows(file, strict, 2):
        last = row.where
        number = row.numbers(strict, 1)
        if number is not None:
            values[row.fields[0].rstrip(":")] = float(number[0])
    absent = [name for name in ("fx", "fy", "cx", "cy") if name not in values]
    if absent:
        raise DatasetError(f"{last}: expected lines fx, fy, cx, cy with a value each, found no {', '.join(absent)}")
    height, width = read_image(first).shape[:2]
    if not (0 < values["cx"] < width and 0 < values["cy"] < height):
        raise DatasetError(
            f"{file}: expected a principal point inside the {width}x{height} image {first}, found "
            f"({values['cx']:g}, {values['cy']:g}); use the images in the size they were downloaded in"
        )
    try:
        return CameraModel(width, height, values["fx"], values["fy"], values["cx"], values["cy"])
    except CameraError as problem:
        raise DatasetError(f"{file}: {problem}") from problem
