"""The sensors of Oxford RobotCar: where they sit, and the cameras' intrinsics, lookup tables and Bayer images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import decoded
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import read_rows, transform_from_matrix
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import euler_to_matrix
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.types import Array, RgbImage

__all__ = [
    "INVERTED",
    "MODELS",
    "PUBLISHED",
    "T_BASE_VEHICLE",
    "BayerImages",
    "Intrinsics",
    "demosaic",
    "lut_path",
    "lut_pixels",
    "read_bayer",
    "read_model",
    "se3_of",
    "sensor_mountings",
]

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
#: Which model belongs to which image folder.
MODELS = {
    "stereo/left": "stereo_wide_left",
    "stereo/centre": "stereo_narrow_left",
    "stereo/right": "stereo_wide_right",
    "mono_left": "mono_left",
    "mono_right": "mono_right",
    "mono_rear": "mono_rear",
}
Pattern = Literal["GBRG", "RGGB"]
#: The colours of a mosaic's first two rows, and OpenCV's name for it. Its older two-letter names are those of the
#: second row and column ("BG" is RGGB), which is how red and blue get exchanged.
_CODES = {"GBRG": cv2.COLOR_BayerGBRG2RGB, "RGGB": cv2.COLOR_BayerRGGB2RGB}


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


def se3_of(xyzrpy: Array) -> Array:
    """[..., 6] x, y, z (m), roll, pitch, yaw (rad) -> [..., 4, 4]."""
    values = np.asarray(xyzrpy, dtype=np.float64)
    return make_transform(euler_to_matrix(values[..., 3:]), values[..., :3])


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
