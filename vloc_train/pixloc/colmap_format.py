"""COLMAP's models on disk without pycolmap: what they become here, their cameras, and the text form of one."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, CameraModel

__all__ = [
    "FILES",
    "HALF",
    "ColmapImage",
    "ColmapModel",
    "camera_of_colmap",
    "check_binary",
    "model_suffix",
    "write_text_model",
]

Ints = npt.NDArray[np.int64]

#: COLMAP's pixel centres lie at one half.
HALF = 0.5
FILES = ("cameras", "images", "points3D")


def model_suffix(folder: Path) -> str | None:
    """``.bin`` or ``.txt`` if a folder holds a model in that form (binary first), else None."""
    kinds = [e for e in (".bin", ".txt") if all((folder / f"{n}{e}").is_file() for n in FILES)]
    return kinds[0] if kinds else None


@dataclass(frozen=True)
class ColmapImage:
    """One image of a model: ``pixels`` (K, 2) of the points (K,) that it observes, centres at integers."""

    name: str
    camera_id: int
    T_map_cam: Array
    pixels: Array
    point_ids: Ints


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


def write_text_model(
    folder: Path, cameras: Sequence[CameraModel], camera_index: Sequence[int], T_map_cam: Array,
    names: Sequence[str] | None = None,
) -> Path:  # fmt: skip
    """A COLMAP model of pinhole cameras and posed images without points."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{i + 1} PINHOLE {c.width} {c.height} {c.fx!r} {c.fy!r} {c.cx + HALF!r} {c.cy + HALF!r}"
        for i, c in enumerate(cameras)
    ]
    (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
    T_cam_map = inverse(T_map_cam) if len(T_map_cam) else np.zeros((0, 4, 4))
    text = []
    for i, T in enumerate(T_cam_map):
        x, y, z, w = (float(v) for v in matrix_to_quaternion(T[:3, :3]))
        values = " ".join(repr(float(v)) for v in (w, x, y, z, *T[:3, 3]))
        name = names[i] if names is not None else f"{i:08d}.png"
        text.append(f"{i + 1} {values} {int(camera_index[i]) + 1} {name}\n\n")
    (folder / "images.txt").write_text("".join(text))
    (folder / "points3D.txt").write_text("")
    return folder


def check_binary(folder: Path) -> None:
    """Walk the variable parts of a binary model: before 4.0 a truncated one ends the whole process."""
    images = (folder / "images.bin").read_bytes()
    points = (folder / "points3D.bin").read_bytes()
    try:
        at = 8
        for _ in range(_count(images, 0)):
            at = images.index(0, at + 64) + 1  # id, quaternion, translation, camera; then the name
            at += 8 + 24 * _count(images, at)
        if at != len(images):
            raise DatasetError(f"{folder / 'images.bin'}: expected {at} bytes, found {len(images)}: damaged")
        at = 8
        for _ in range(_count(points, 0)):
            at += 43  # id, position, colour, error
            at += 8 + 8 * _count(points, at)
        if at != len(points):
            raise DatasetError(f"{folder / 'points3D.bin'}: expected {at} bytes, found {len(points)}: damaged")
    except (struct.error, ValueError) as problem:
        raise DatasetError(f"{folder}: expected a COLMAP model, found a damaged one: it ends too early") from problem


def _count(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<Q", data, at)[0])


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


def camera_of_colmap(camera: Any, where: str = "COLMAP") -> CameraModel:
    """A camera of a COLMAP model. :raises CameraError: its model is not supported, or its values are no lens."""
    name = str(getattr(camera, "model_name", None) or camera.model.name)
    if name not in _MODELS:
        raise CameraError(f"{where}: expected a camera model out of {', '.join(_MODELS)}, found {name}")
    layout, distortion, count = _MODELS[name]
    values = [float(v) for v in camera.params]
    named: dict[str, float] = {}
    k: list[float] = []
    for key, value in zip(layout.split(), values, strict=True):
        if key == "k":
            k.append(value)
        else:
            named[key] = value
    return CameraModel(
        int(camera.width),
        int(camera.height),
        named.get("fx", named.get("f", 0.0)),
        named.get("fy", named.get("f", 0.0)),
        named["cx"] - HALF,
        named["cy"] - HALF,
        distortion,
        tuple(k + [0.0] * (count - len(k))),
    )
