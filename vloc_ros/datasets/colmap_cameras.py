"""COLMAP's camera models, which kapture has taken over: what their parameters are called and what they become here."""

from __future__ import annotations

from collections.abc import Sequence

from vloc_ros.errors import CameraError
from vloc_ros.types import CameraModel

__all__ = ["HALF", "MODEL_NUMBERS", "camera_of_parameters", "parameter_count"]

#: COLMAP's pixel centres lie at one half.
HALF = 0.5
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
#: The models by their number in binary files, with how many parameters they have.
MODEL_NUMBERS: tuple[tuple[str, int], ...] = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8), ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4), ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12),
)  # fmt: skip


def parameter_count(name: str) -> int | None:
    """How many parameters a model has; None where it is not supported."""
    return len(_MODELS[name][0].split()) if name in _MODELS else None


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
