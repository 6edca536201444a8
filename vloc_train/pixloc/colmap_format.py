"""The text form of COLMAP's models, written without pycolmap; :mod:`vloc_ros.datasets.colmap_model` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vloc_ros.datasets.colmap_cameras import HALF
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, CameraModel

__all__ = ["write_text_model"]


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
    T_cam_map = inverse(T_map_cam) if len(T_map_cam) else T_map_cam
    text = []
    for i, T in enumerate(T_cam_map):
        x, y, z, w = (float(v) for v in matrix_to_quaternion(T[:3, :3]))
        values = " ".join(repr(float(v)) for v in (w, x, y, z, *T[:3, 3]))
        name = names[i] if names is not None else f"{i:08d}.png"
        text.append(f"{i + 1} {values} {int(camera_index[i]) + 1} {name}\n\n")
    (folder / "images.txt").write_text("".join(text))
    (folder / "points3D.txt").write_text("")
    return folder
