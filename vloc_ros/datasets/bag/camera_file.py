"""Intrinsics from the YAML file that ROS's camera calibration writes, for bags that lack camera_info."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vloc_ros.datasets.tables import read_yaml
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.geometry.cameras import from_camera_info
from vloc_ros.settings import is_integer, is_number
from vloc_ros.types import CameraModel

__all__ = ["is_camera_file", "read_camera_file"]


def is_camera_file(text: str | None) -> bool:
    """Whether ``--camera-info`` names a file and not a topic."""
    return text is not None and (text.endswith((".yaml", ".yml")) or Path(text).is_file())


def read_camera_file(path: str | Path, rectified: bool = False) -> CameraModel:
    """The camera of ``image_width``, ``image_height``, ``camera_matrix``, ``distortion_model``,
    ``distortion_coefficients`` and (for rectified images) ``projection_matrix``; a matrix is a mapping with ``data``
    or a plain list.

    :raises CameraError: no such file, no YAML, a field that is missing, or intrinsics that are none.
    """
    try:
        content = read_yaml(Path(path))
    except DatasetError as problem:
        raise CameraError(f"{problem}; expected a file of camera_calibration") from problem

    def numbers(name: str, default: list[float] | None = None) -> list[float]:
        value: Any = content.get(name, default)
        value = value.get("data") if isinstance(value, dict) else value
        try:
            if isinstance(value, list) and all(is_number(v) for v in value):
                return [float(v) for v in value]
        except OverflowError:  # an integer of hundreds of digits
            pass
        raise CameraError(f"{path}: {name}: expected numbers, or a mapping with data, found {value!r:.60}")

    width, height = content.get("image_width"), content.get("image_height")
    if not (is_integer(width) and is_integer(height) and width > 0 and height > 0):
        raise CameraError(f"{path}: expected image_width and image_height in pixels, found {width}, {height}")
    model = str(content.get("distortion_model", "plumb_bob"))
    try:
        return from_camera_info(
            width, height, model, numbers("distortion_coefficients", []), numbers("camera_matrix"),
            None, numbers("projection_matrix", [0.0] * 12), rectified=rectified,
        )  # fmt: skip
    except CameraError as problem:
        text = str(problem)
        raise CameraError(text if text.startswith(str(path)) else f"{path}: {text}") from problem
