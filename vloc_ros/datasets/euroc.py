"""The layout of EuRoC MAV (ASL): ``mav0`` with a folder for each sensor, ``data.csv`` and ``sensor.yaml`` in it.

``cam0/data.csv`` has lines ``stamp_ns,file`` with the files in ``cam0/data``; ``state_groundtruth_estimate0/data.csv``
has lines ``stamp_ns, p_RS_R xyz, q_RS wxyz, ...``: the sensor S in a world R with z up, which is the map frame here.
``T_BS`` of a ``sensor.yaml`` maps from the sensor to the body B, the IMU: of the truth it is the identity where the
truth is the body's own, but not for the markers of ``vicon0``. Stamps are nanoseconds.

The body has x up and z forward and is no base: ``base_link`` is at the body, turned by quarter turns to x forward, y
left, z up as cam0 sees them (:mod:`vloc_ros.datasets.mounting`). The same base serves for all cameras.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.datasets.image_files import FolderImages, first_usable
from vloc_ros.datasets.mounting import upright_base
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.datasets.tables import (
    covered_frames,
    listed_frames,
    pose_samples,
    read_rows,
    read_yaml,
    track_of,
    transform_from_matrix,
)
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = ["Options", "matches", "open_drives"]

_DISTORTIONS = {"radial-tangential": "plumb_bob", "radtan": "plumb_bob", "equidistant": "equidistant", "none": "none"}


@dataclass(frozen=True)
class Options:
    """How to read a drive of this layout.

    :param camera: the folder of the camera.
    :param truth: the folder of the poses; leica0 is none, for it knows positions alone.
    :param max_gap_s: poses further apart are not interpolated between.
    """

    camera: str = "cam0"
    truth: str = "state_groundtruth_estimate0"
    max_gap_s: float = ranged(0.1, minimum=0.0)


def matches(path: Path) -> bool:
    """Whether a folder is, or holds, a ``mav0`` with a camera's list of images."""
    root = _root(Path(path))
    return root.is_dir() and any((root / name / "data.csv").is_file() for name in ("cam0", "cam1"))


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The one drive of a folder. :raises DatasetError: something is missing or malformed."""
    before = dict(problems.counts)
    path = Path(path)
    root = _root(path)
    folder = root / options.camera
    if not (folder / "data.csv").is_file():
        found = ", ".join(sorted(p.parent.name for p in root.glob("cam*/data.csv")))
        raise DatasetError(f"{folder / 'data.csv'}: no such file; cameras with images: {found or 'none'}")
    sensor = read_yaml(folder / "sensor.yaml")
    camera = _camera(sensor, folder / "sensor.yaml")
    T_body_cam = _body_from(sensor, folder / "sensor.yaml")
    stamps, paths = listed_frames(read_rows(folder / "data.csv", problems, 2, ","), folder / "data", problems, "ns")
    begin, _ = first_usable(paths, problems, camera.size, str(folder / "sensor.yaml"))
    stamps, paths = stamps[begin:], paths[begin:]
    truth = root / options.truth / "data.csv"
    if not truth.is_file():
        raise DatasetError(
            f"{truth}: no such file; it holds the poses, which a map needs: name another folder of them "
            "(truth=FOLDER), or docs/own_drive.md, Without poses"
        )
    # 17 columns: speed and biases after the pose; motion capture has the pose alone.
    samples = pose_samples(read_rows(truth, problems, (8, 17), ","), problems, "ns", "wxyz")
    track = track_of(samples, str(truth), problems, options.max_gap_s)
    kept, T_world_sensor = covered_frames(stamps, track, str(folder), problems)
    described = truth.with_name("sensor.yaml")
    T_body_truth = _body_from(read_yaml(described), described) if described.is_file() else np.eye(4)
    T_base_body = _base(root, T_body_cam)
    return [
        PosedSequence(
            path.resolve().name if root != path else path.resolve().parent.name,
            stamps[kept],
            T_world_sensor @ inverse(T_body_truth) @ T_body_cam,
            T_base_body @ T_body_cam,
            camera,
            FolderImages(tuple(paths[i] for i in kept)),
            rig=_rig(root, options.camera, T_base_body, problems),
            dropped=problems.since(before),
        )
    ]


def _root(path: Path) -> Path:
    return path / "mav0" if (path / "mav0").is_dir() else path


def _numbers(content: Mapping[str, Any], key: str, count: int, path: Path) -> list[float]:
    values = content.get(key)
    if isinstance(values, (list, tuple)) and len(values) == count:
        try:
            numbers = [float(v) for v in values]
        except (TypeError, ValueError, OverflowError):
            numbers = []
        if numbers and np.isfinite(numbers).all():
            return numbers
    raise DatasetError(f"{path}: {key}: expected {count} numbers, found {values!r:.60}")


def _camera(sensor: Mapping[str, Any], path: Path) -> CameraModel:
    model = str(sensor.get("camera_model", "pinhole"))
    if model != "pinhole":
        raise DatasetError(f"{path}: camera_model: expected pinhole, found {model!r}")
    name = str(sensor.get("distortion_model", "none"))
    if name not in _DISTORTIONS:
        raise DatasetError(f"{path}: distortion_model: expected {', '.join(_DISTORTIONS)}, found {name!r}")
    width, height = _numbers(sensor, "resolution", 2, path)
    fx, fy, cx, cy = _numbers(sensor, "intrinsics", 4, path)
    distortion = () if name == "none" else tuple(_numbers(sensor, "distortion_coefficients", 4, path))
    try:
        return CameraModel(int(width), int(height), fx, fy, cx, cy, _DISTORTIONS[name], distortion)
    except CameraError as error:
        raise DatasetError(f"{path}: {error}") from error


def _body_from(sensor: Mapping[str, Any], path: Path) -> Array:
    """``T_BS``: from the sensor to the body; its rotation, of 12 digits in the files, made exactly one."""
    entry = sensor.get("T_BS")
    if not isinstance(entry, dict):
        raise DatasetError(f"{path}: T_BS: expected rows, cols and 16 values in data, found {entry!r:.60}")
    return transform_from_matrix(np.reshape(_numbers(entry, "data", 16, path), (4, 4)), f"{path}: T_BS")


def _base(root: Path, T_body_cam: Array) -> Array:
    """``T_base_body`` by cam0, or by the camera at hand where cam0 has not been downloaded."""
    first = root / "cam0" / "sensor.yaml"
    return upright_base(_body_from(read_yaml(first), first) if first.is_file() else T_body_cam)


def _rig(root: Path, camera: str, T_base_body: Array, problems: Problems) -> dict[str, Array]:
    rig = {}
    for path in sorted(root.glob("*/sensor.yaml")):
        name = path.parent.name
        if name == camera or not name.startswith(("cam", "imu")):
            continue
        try:
            rig[f"{name}_optical_frame" if name.startswith("cam") else name] = T_base_body @ _body_from(
                read_yaml(path), path
            )
        except DatasetError as error:
            problems.fault("sensor with a faulty calibration", f"{error}; correct it, or --keep-going without it")
    return rig
