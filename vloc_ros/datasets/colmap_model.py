"""COLMAP's sparse models as they lie on disk, text and binary, read without COLMAP.

COLMAP's conventions end here: poses are world to camera with w-first quaternions, pixel centres lie at one half. Where
a model has ``rigs`` and ``frames`` (COLMAP 3.12 and later), an image's pose is that of its frame and its place on the
rig, and what ``images`` says of it does not count, as in COLMAP itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.colmap_files import read_cameras, read_frames, read_images, read_points, read_rigs
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import natural_key, transform_from_quaternion
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, CameraModel

__all__ = [
    "FILES",
    "HALF",
    "ColmapImage",
    "ColmapModel",
    "camera_of_parameters",
    "find_model",
    "model_suffix",
    "read_model",
]

Ints = npt.NDArray[np.int64]
#: COLMAP's pixel centres lie at one half.
HALF = 0.5
FILES = ("cameras", "images", "points3D")
#: Where a project keeps its model.
FOLDERS = ("", "sparse/0", "sparse", "sfm")
#: COLMAP's camera model: how its parameters read (f for both focal lengths) and what distortion that is here.
_MODELS: dict[str, tuple[str, str, int]] = {
    "SIMPLE_PINHOLE": ("f cx cy", "none", 0),
    "PINHOLE": ("fx fy cx cy", "none", 0),
    "SIMPLE_RADIAL": ("f cx cy k", "plumb_bob", 4),
    "RADIAL": ("f cx cy k k", "plumb_bob", 4),
    "OPENCV": ("fx fy cx cy k k k k", "plumb_bob", 4),
    "FULL_OPENCV": ("fx fy cx cy k k k k k k k k", "rational_polynomial", 8),
    "OPENCV_FISHEYE": ("fx fy cx cy k k k k", "equidistant", 4),
    "SIMPLE_RADIAL_FISHEYE": ("f cx cy k", "equidistant", 4),
    "RADIAL_FISHEYE": ("f cx cy k k", "equidistant", 4),
}


@dataclass(frozen=True)
class ColmapImage:
    """One image of a model: ``pixels`` (K, 2) of the points (K,) that it observes, centres at integers.

    ``where`` is the file and line, or byte, for messages.
    """

    name: str
    camera_id: int
    T_map_cam: Array
    pixels: Array
    point_ids: Ints
    where: str = ""


@dataclass(frozen=True)
class ColmapModel:
    """A model as COLMAP wrote it, in the conventions of this package.

    :ivar cameras: by COLMAP's id. :ivar images: those with a pose, by name.
    :ivar points: (P, 3). :ivar point_ids: (P,) COLMAP's ids, rising.
    """

    cameras: dict[int, CameraModel]
    images: tuple[ColmapImage, ...]
    points: Array
    point_ids: Ints


def model_suffix(folder: Path, points: bool = True) -> str | None:
    """``.bin`` or ``.txt`` if a folder holds a model in that form (binary first), else None.

    :param points: its points have to be there.
    """
    needed = FILES if points else FILES[:2]
    kinds = [e for e in (".bin", ".txt") if all((folder / f"{n}{e}").is_file() for n in needed)]
    return kinds[0] if kinds else None


def find_model(folder: Path, points: bool = True) -> Path:
    """The model in a folder: there, or in ``sparse/0``, ``sparse`` or ``sfm`` below. :raises DatasetError: none."""
    for below in FOLDERS:
        if model_suffix(folder / below, points):
            return folder / below
    raise DatasetError(
        f"{folder}: expected a COLMAP model ({', '.join(FILES if points else FILES[:2])} as .bin or .txt) there, in "
        "sparse/0, sparse or sfm, found none"
    )


def read_model(folder: Path, problems: Problems | None = None, points: bool = True) -> ColmapModel:
    """Read a COLMAP or hloc model (``cameras``, ``images``, ``points3D``; ``.bin`` or ``.txt``).

    :param points: also the points and what the images observe of them; drives need neither.
    :raises DatasetError: no model, or a damaged one (names the file and the line or byte).
    :raises CameraError: a camera model that is not supported.
    """
    problems = problems or Problems()
    suffix = model_suffix(folder, points)
    if suffix is None:
        wanted = ", ".join(FILES if points else FILES[:2])
        raise DatasetError(f"{folder}: expected a COLMAP model ({wanted} as .bin or .txt), found none")
    cameras = _cameras(folder / f"cameras{suffix}", problems)
    T_cam_world = _frame_poses(folder, suffix, problems)
    images: dict[str, ColmapImage] = {}
    for row in read_images(folder / f"images{suffix}", problems, points):
        name, where = row.name, row.where
        if row.camera_id not in cameras:
            problems.fault(
                "image of no camera", f"{where}: expected camera {row.camera_id} of {name}, found none: damaged"
            )
            continue
        T = _transform(row.pose, f"{where}: {name}", problems) if T_cam_world is None else T_cam_world.get(row.number)
        if T_cam_world is not None and T is None:
            problems.fault(
                "image of no frame", f"{where}: expected a frame with the image {name} in frames{suffix}, found none"
            )
        if T is None:
            continue
        if name in images:
            problems.fault("repeated image", f"{where}: expected one image {name}, found a second: damaged")
            continue
        images[name] = ColmapImage(name, row.camera_id, inverse(T), row.pixels - HALF, row.point_ids, where)
    xyz, point_ids = np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
    if points:
        xyz, point_ids = read_points(folder / f"points3D{suffix}", problems)
        order = np.argsort(point_ids, kind="stable")
        xyz, point_ids = xyz[order], point_ids[order]
        images = {name: _observing(image, point_ids, problems) for name, image in images.items()}
    return ColmapModel(cameras, tuple(images[name] for name in sorted(images, key=natural_key)), xyz, point_ids)


def _cameras(path: Path, problems: Problems) -> dict[int, CameraModel]:
    cameras: dict[int, CameraModel] = {}
    for row in read_cameras(path, problems):
        known = row.model in _MODELS
        if known and len(row.parameters) != len(_MODELS[row.model][0].split()):
            problems.fault(
                "camera that cannot be read",
                f"{row.where}: expected {len(_MODELS[row.model][0].split())} parameters of {row.model}, found "
                f"{len(row.parameters)}: damaged",
            )
            continue
        try:
            camera = camera_of_parameters(row.model, *row.size, row.parameters, f"{row.where}: camera {row.number}")
        except CameraError as problem:
            if not problems.keep_going:
                raise
            problems.skip("camera that is not supported", str(problem))
            continue
        if row.number in cameras:
            problems.fault("repeated camera", f"{row.where}: expected one camera {row.number}, found a second: damaged")
            continue
        cameras[row.number] = camera
    return cameras


def _frame_poses(folder: Path, suffix: str, problems: Problems) -> Mapping[int, Array] | None:
    """``T_cam_world`` by image id from rigs and frames; None where the model has neither.

    :raises DatasetError: one of the two is missing, or they do not fit together.
    """
    files = [folder / f"{name}{suffix}" for name in ("rigs", "frames")]
    there = [file.is_file() for file in files]
    if not any(there):
        return None
    if not all(there):
        absent, present = files if there[1] else files[::-1]
        raise DatasetError(
            f"{absent}: expected it beside {present.name}, found no file: the poses of the images follow from both; "
            "copy the whole model"
        )
    mounted: dict[tuple[int, tuple[int, int]], Array | None] = {}
    for rig in read_rigs(files[0], problems):
        mounted[rig.number, rig.reference] = np.eye(4)
        for sensor, pose in rig.others.items():
            where = f"{rig.where}: sensor {sensor[1]}"
            mounted[rig.number, sensor] = None if pose is None else _transform(pose, where, problems)
    out: dict[int, Array] = {}
    for frame in read_frames(files[1], problems):
        T_rig_world = _transform(frame.pose, f"{frame.where}: frame {frame.number}", problems)
        for sensor, image in frame.data:
            if sensor[0] != 0:  # of another kind than a camera
                continue
            T_cam_rig = mounted.get((frame.rig_id, sensor))
            if T_cam_rig is None:
                problems.fault(
                    "frame of no rig",
                    f"{frame.where}: expected rig {frame.rig_id} with a pose of camera {sensor[1]}, found none",
                )
            elif T_rig_world is not None:
                out[image] = T_cam_rig @ T_rig_world
    return out


def _transform(pose: Array, where: str, problems: Problems) -> Array | None:
    """``T`` (4, 4) of COLMAP's qw qx qy qz tx ty tz; None (a fault) where it is none."""
    if not np.isfinite(pose).all():
        problems.fault("pose with NaN or infinity", f"{where}: expected a pose, found NaN or infinity")
        return None
    return transform_from_quaternion(pose[4:], pose[[1, 2, 3, 0]], where, problems)


def _observing(image: ColmapImage, known: Ints, problems: Problems) -> ColmapImage:
    """An image without observations of points that the model lacks, which are a fault."""
    there = np.isin(image.point_ids, known)
    if there.all():
        return image
    problems.fault(
        "image that observes points which are not there",
        f"{image.where}: expected the point {int(image.point_ids[~there][0])} that {image.name} observes, found none "
        "in points3D: damaged",
    )
    return replace(image, pixels=image.pixels[there], point_ids=image.point_ids[there])


def camera_of_parameters(
    name: str, width: int, height: int, parameters: Sequence[float], where: str = "COLMAP"
) -> CameraModel:
    """The camera of a model's name and parameters.

    :raises CameraError: the model is not supported, has another number of parameters, or its values are no lens.
    """
    if name not in _MODELS:
        raise CameraError(
            f"{where}: expected a camera model out of {', '.join(_MODELS)}, found {name}; undistort the images "
            "(colmap image_undistorter) and use the model that this writes"
        )
    layout, distortion, count = _MODELS[name]
    keys = layout.split()
    if len(parameters) != len(keys):
        raise CameraError(f"{where}: expected {len(keys)} parameters of {name}, found {len(parameters)}")
    named: dict[str, float] = {}
    k: list[float] = []
    for key, value in zip(keys, parameters, strict=True):
        if key == "k":
            k.append(float(value))
        else:
            named[key] = float(value)
    try:
        return CameraModel(
            width,
            height,
            named.get("fx", named.get("f", 0.0)),
            named.get("fy", named.get("f", 0.0)),
            named["cx"] - HALF,
            named["cy"] - HALF,
            distortion,
            tuple(k + [0.0] * (count - len(k))),
        )
    except CameraError as problem:
        raise CameraError(f"{where}: {problem}") from problem
