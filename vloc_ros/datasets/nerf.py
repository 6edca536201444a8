"""NeRF captures: a folder with ``transforms.json`` and its images, as instant-ngp, nerfstudio and the tools of 3D
Gaussian splatting write and read them.

``frames`` lists images with their pose, camera to world with OpenGL axes (x right, y up, z backward; some tools write
OpenCV's: ``axes``); a capture that is split has ``transforms_train.json``, ``_val`` and ``_test``, each a drive.
Intrinsics stand above, or with each frame: ``fl_x``, ``fl_y``, ``cx``, ``cy`` (pixel centres at one half), ``k1`` ...
of OpenCV's models, or ``camera_angle_x`` alone. Files are found by the path that is said, with or without suffix, else
by their name. The world has z up, in units of nobody knows what: most tools centre and scale it. Nothing is said of
time: stamps count the images in the order of their names. ``base_link`` is at the camera, with body axes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vloc_ros.datasets.colmap_model import HALF
from vloc_ros.datasets.image_files import IMAGE_SUFFIXES, is_file, stored_size
from vloc_ros.datasets.posed_images import (
    Shot,
    World,
    counted_stamp,
    folder_named,
    in_map,
    joined_by_size,
    one_lens,
    stamps_of,
    usable_shots,
)
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.datasets.tables import in_order, transform_from_matrix
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.settings import ranged
from vloc_ros.types import Array, CameraModel

__all__ = ["Options", "matches", "open_drives"]

WHOLE = "transforms.json"
PARTS = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
#: Optical axes (x right, y down, z forward) in those of an OpenGL camera.
_T_GL_OPTICAL: Array = np.diag([1.0, -1.0, -1.0, 1.0])
_LARGEST = 1 << 28
_PERSPECTIVE = ("", "OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")


@dataclass(frozen=True)
class Options:
    """How to read a capture.

    :param images: the folder with its images, by their bare names; None: as the file says, else ``images`` beside it.
    :param axes: of the cameras in the poses: ``opengl`` (y up, z backward), or ``opencv`` (y down, z forward).
    :param world: how the capture's frame stands: with z up, y up, or as its first camera (x right, y down).
    :param scale: metres for each unit of the capture.
    :param rate_hz: of the images, whose names say their order.
    """

    images: str | None = None
    axes: Literal["opengl", "opencv"] = "opengl"
    world: World = "z_up"
    scale: float = ranged(1.0, minimum=1e-9)
    rate_hz: float = ranged(10.0, minimum=1e-3)


def matches(path: Path) -> bool:
    """Whether a folder holds a capture and no poses of another layout."""
    return any((Path(path) / name).is_file() for name in (WHOLE, *PARTS))


def open_drives(path: Path, options: Options, problems: Problems) -> list[PosedSequence]:
    """The one drive of a capture, or one for each part of a capture that is split, and for each lens.

    :raises DatasetError: something is missing or malformed. :raises CameraError: an unsupported camera model.
    """
    path = Path(os.path.abspath(path))
    files = [path / WHOLE] if (path / WHOLE).is_file() else [path / name for name in PARTS if (path / name).is_file()]
    if not files:
        raise DatasetError(f"{path}: expected {WHOLE}, or {PARTS[0]}, found neither")
    out: list[PosedSequence] = []
    taken: set[Path] = set()
    for file in files:
        title = path.name if len(files) == 1 else f"{path.name}-{file.stem.removeprefix('transforms_')}"
        out += _drives_of(file, title, options, problems, taken)
    return out


def _drives_of(file: Path, title: str, options: Options, problems: Problems, taken: set[Path]) -> list[PosedSequence]:
    """The drives of a file, without the images that are ``taken``, to which it adds its own."""
    before = dict(problems.counts)
    content = _read(file)
    shots, lenses = _shots(file, content, options, problems)
    shots = usable_shots(shots, problems)
    again = [shot for shot in shots if shot.path in taken]
    if again:  # tools write the test part as the val part, too; a map of the one would know the other by heart
        problems.skip(
            "image of another part", f"{again[0].where}: {again[0].path} is of another part, too; left out", len(again)
        )
        shots = [shot for shot in shots if shot.path not in taken]
        if not shots:
            return []
    taken |= {shot.path for shot in shots}
    groups: dict[CameraModel, list[Shot]] = {}
    for shot in shots:
        camera = _camera(lenses[shot.where], content, shot)
        groups.setdefault(camera, []).append(shot)
    cameras = {shot.where: camera for camera, group in groups.items() for shot in group}
    out: list[PosedSequence] = []
    for number, group in enumerate(joined_by_size(list(groups.values()), lambda shot: cameras[shot.where])):
        kept, camera, source = one_lens(group, lambda shot: cameras[shot.where], problems)
        name = title + (f"_{number}" if number else "")
        T_map_cam = in_map(kept, options.world, str(file))
        drive = PosedSequence(name, stamps_of(kept), T_map_cam, T_BODY_OPTICAL.copy(), camera, source)
        out.append(replace(drive, dropped=problems.since(before)))
        before = dict(problems.counts)
    if not out:
        raise DatasetError(
            f"{file}: expected its images, found none of {len(content['frames'])}; name their folder: "
            f"nerf:{file.parent},images=FOLDER"
        )
    return out


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LARGEST:
            raise DatasetError(f"{file}: expected a list of images and poses, found {file.stat().st_size} bytes")
        content: Any = json.loads(file.read_text(encoding="utf-8-sig", errors="replace"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: expected JSON, found {' '.join(str(error).split())[:100]}") from error
    if isinstance(content, dict) and isinstance(content.get("frames"), list) and content["frames"]:
        return content
    raise DatasetError(f"{file}: expected a list 'frames' of images and poses, found none")


def _shots(
    file: Path, content: Mapping[str, Any], options: Options, problems: Problems
) -> tuple[list[Shot], dict[str, Mapping[str, Any]]]:
    """The frames by the order of their names, and what is said of each one's lens, by ``Shot.where``."""
    said: list[tuple[str, Array, str, Mapping[str, Any]]] = []
    for number, frame in enumerate(content["frames"]):
        where = f"{file}: frame {number}"
        name = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(name, str) or not name.strip():
            problems.fault("frame without an image", f"{where}: expected 'file_path', found {str(name)[:40]!r}")
            continue
        try:
            T = transform_from_matrix(_matrix(frame.get("transform_matrix"), where), where)
        except DatasetError as problem:
            problems.fault("pose that is no transform", f"{problem}; correct it, or --keep-going")
            continue
        if options.axes == "opengl":
            T = T @ _T_GL_OPTICAL
        T[:3, 3] *= options.scale
        said.append((name.replace("\\", "/"), T, where, frame))  # as a tool on Windows writes it
    rank = {name: row for row, name in enumerate(in_order([name for name, *_ in said], str(file)))}
    shots = [
        Shot(counted_stamp(rank[name], options.rate_hz), _file_of(name, file.parent, options.images), T, where)
        for name, T, where, _ in said
    ]
    return shots, {where: frame for _, _, where, frame in said}


def _matrix(values: Any, where: str) -> Array:
    """Three rows or four of four numbers, (4, 4)."""
    try:
        T = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        T = np.zeros(0)
    if T.shape not in ((3, 4), (4, 4)):
        raise DatasetError(f"{where}: expected 'transform_matrix' of four rows of four numbers, found {T.shape}")
    return np.vstack([T[:3], [0.0, 0.0, 0.0, 1.0]])


def _file_of(name: str, folder: Path, images: str | None) -> Path:
    """Where the image lies, or should."""
    said = folder / name
    bare = said.name
    places = [said, folder / "images" / bare, folder / bare]
    if images is not None:
        places = [folder_named(images, folder) / bare]
    for place in places:
        for suffix in ("", *IMAGE_SUFFIXES):
            found = place.with_name(place.name + suffix)
            if is_file(found):
                return found
    return places[0]


def _camera(frame: Mapping[str, Any], content: Mapping[str, Any], shot: Shot) -> CameraModel:
    """The lens of a frame, at the size that the intrinsics are said for."""

    def number(key: str, default: float | None = None) -> float:
        value = frame.get(key, content.get(key, default))
        if value is None:
            raise DatasetError(f"{shot.where}: expected {key!r} of the frame or of the capture, found none")
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            raise DatasetError(f"{shot.where}: expected {key!r} to be a number, found {str(value)[:40]!r}")
        return float(value)

    def known(key: str) -> bool:
        return frame.get(key, content.get(key)) is not None

    kind = str(frame.get("camera_model", content.get("camera_model")) or "").upper()
    fisheye = kind == "OPENCV_FISHEYE" or bool(frame.get("is_fisheye", content.get("is_fisheye")))
    if not fisheye and kind not in _PERSPECTIVE:
        raise CameraError(
            f"{shot.where}: expected a camera model out of {', '.join(_PERSPECTIVE[1:])}, OPENCV_FISHEYE, found "
            f"{kind[:40]}; undistort the images"
        )
    if known("w") and known("h"):
        width, height = round(number("w")), round(number("h"))
    else:
        size = stored_size(shot.path)
        if size is None:
            raise DatasetError(f"{shot.path}: expected an image, whose size {shot.where} does not say, found none")
        width, height = size
    if known("fl_x"):
        fx = number("fl_x")
    else:
        angle = number("camera_angle_x")
        if not 0.0 < angle < math.pi:
            raise DatasetError(f"{shot.where}: expected 'camera_angle_x' between 0 and pi, found {angle:g}")
        fx = width / (2.0 * math.tan(angle / 2.0))
    k1, k2, k3, k4, p1, p2 = (number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if fisheye:
        lens: tuple[str, tuple[float, ...]] = ("equidistant", (k1, k2, k3, k4))
    elif k4:
        raise CameraError(f"{shot.where}: expected no 'k4' of a lens that is no fisheye, found {k4:g}; undistort")
    else:
        lens = ("plumb_bob", (k1, k2, p1, p2, k3)) if any((k1, k2, k3, p1, p2)) else ("none", ())
    cx, cy = number("cx", width / 2.0) - HALF, number("cy", height / 2.0) - HALF
    try:
        return CameraModel(width, height, fx, number("fl_y", fx), cx, cy, *lens)
    except CameraError as problem:
        raise CameraError(f"{shot.where}: {problem}") from problem
