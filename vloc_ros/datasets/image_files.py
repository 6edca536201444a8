"""Image files in a fixed order as the images of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import overload

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError, ImageError
from vloc_ros.geometry.cameras import resized
from vloc_ros.images.encoded import EncodedImage, inspect_image
from vloc_ros.images.rectify import Rectifier
from vloc_ros.types import CameraModel, RgbImage

__all__ = [
    "IMAGE_SUFFIXES",
    "FilesIn",
    "FolderImages",
    "OneLensImages",
    "decoded",
    "first_usable",
    "is_file",
    "read_image",
    "scaled_to",
    "stored_size",
    "whole_file",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def is_file(path: Path) -> bool:
    """Whether a file is there; by a name that a data set says, which may be none that a file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def whole_file(path: Path) -> tuple[bytes, str]:
    """An image file as it is, and ``png`` or ``jpeg``, whatever its name says.

    :raises DatasetError: it is missing, breaks off, or is neither.
    """
    data, header = _inspected(path)
    return data, header.kind


def stored_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image file, by its header; None: it is missing, breaks off, or is none."""
    try:
        _, header = _inspected(path)
    except DatasetError:
        return None
    return header.width, header.height


def _inspected(path: Path) -> tuple[bytes, EncodedImage]:
    try:
        data = path.read_bytes()
        return data, inspect_image(data, str(path))
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: expected an image, found no file") from error
    except OSError as error:  # a folder, no permission, a broken disk
        raise DatasetError(f"{path}: expected an image, found what cannot be read: {error.strerror}") from error
    except ImageError as error:
        raise DatasetError(str(error)) from error


def read_image(path: Path) -> RgbImage:
    """An image file as (H, W, 3) uint8 RGB, as it is stored: an EXIF orientation would contradict the intrinsics.

    :raises DatasetError: it is missing, breaks off, or cannot be decoded.
    """
    image = decoded(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(image[..., ::-1], dtype=np.uint8).copy()


def decoded(path: Path, flags: int) -> npt.NDArray[np.generic]:
    """An image file as OpenCV decodes it with ``flags`` (colours: B, G, R), but never a part of one.

    :raises DatasetError: it is missing, breaks off, or cannot be decoded.
    """
    data, _ = whole_file(path)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # a header with values that no image has
        image = None
    if image is None:
        raise DatasetError(f"{path}: expected an image, found a file that cannot be decoded; copy the file again")
    return np.asarray(image)


def scaled_to(camera: CameraModel, width: int, height: int) -> CameraModel | None:
    """The camera of images that were scaled after the calibration; None: they have another shape, by over a pixel."""
    if abs(height * camera.width - width * camera.height) > max(camera.size):
        return None
    return resized(camera, width, height)


def first_usable(
    paths: Sequence[Path],
    problems: Problems,
    expected: tuple[int, int] | None = None,
    calibration: str = "the calibration",
    read: Callable[[Path], npt.NDArray[np.uint8]] = read_image,
) -> tuple[int, tuple[int, int]]:
    """The number of the first image that can be decoded and is as ``expected``, and its width and height.

    Those before it are faults; those behind it are looked at when they are used.

    :param calibration: what says ``expected``, for messages.
    :raises DatasetError: there is none.
    """
    for number, path in enumerate(paths):
        try:
            height, width = read(path).shape[:2]
        except DatasetError as problem:
            problems.fault("image that cannot be decoded", str(problem))
            continue
        if expected is None or (width, height) == expected:
            return number, (width, height)
        problems.fault(
            "image of another size",
            f"{path}: expected {expected[0]}x{expected[1]} pixels as in {calibration}, found {width}x{height}; "
            "use the calibration of these images",
        )
    raise DatasetError(f"{paths[0].parent}: expected images that can be used, found none of {len(paths)}")


@dataclass(frozen=True)
class FilesIn(Sequence[Path]):
    """Files of one folder, in a fixed order: a fifth of the memory of as many paths."""

    folder: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> FilesIn: ...

    def __getitem__(self, index: int | slice) -> Path | FilesIn:
        if isinstance(index, slice):
            return FilesIn(self.folder, self.names[index])
        return self.folder / self.names[index]


@dataclass(frozen=True)
class FolderImages:
    """Image files in a fixed order."""

    paths: Sequence[Path]

    def image(self, index: int) -> RgbImage:
        """:raises DatasetError: the file cannot be decoded."""
        return read_image(self.paths[index])

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        for index in range(len(self.paths)):
            yield index, self.image(index)

    def encoded(self, index: int) -> tuple[bytes, str]:
        """The file as it is, and ``png`` or ``jpeg``. :raises DatasetError: it is missing or breaks off."""
        return whole_file(self.paths[index])


@dataclass(frozen=True)
class OneLensImages:
    """Image files of a camera each, as the one pinhole camera ``target`` would have taken them.

    Rays stay as they are, so the poses hold; what ``target`` sees beyond an image repeats its border. An image that was
    scaled since is read with its camera scaled.
    """

    paths: Sequence[Path]
    cameras: Sequence[CameraModel]
    target: CameraModel

    def image(self, index: int) -> RgbImage:
        """:raises DatasetError: the file cannot be decoded, or has another shape than its camera's."""
        image, camera = read_image(self.paths[index]), self.cameras[index]
        height, width = image.shape[:2]
        scaled = scaled_to(camera, width, height)
        if scaled is None:
            raise DatasetError(
                f"{self.paths[index]}: expected {camera.width}x{camera.height} pixels as in the calibration, or those "
                f"scaled, found {width}x{height}; use the calibration of these images"
            )
        return _to_lens(scaled, self.target).rectify(image)[0]

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        for index in range(len(self.paths)):
            yield index, self.image(index)


@lru_cache(maxsize=2)  # six bytes a pixel each
def _to_lens(camera: CameraModel, target: CameraModel) -> Rectifier:
    return Rectifier(camera, target, beyond="nearest")
