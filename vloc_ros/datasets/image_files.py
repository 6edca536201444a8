"""Image files in a fixed order as the images of a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vloc_ros.errors import DatasetError, ImageError
from vloc_ros.images.encoded import inspect_image
from vloc_ros.types import RgbImage

__all__ = ["IMAGE_SUFFIXES", "FolderImages", "read_image", "whole_file"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def whole_file(path: Path) -> tuple[bytes, str]:
    """An image file as it is, and ``png`` or ``jpeg``, whatever its name says.

    :raises DatasetError: it is missing, breaks off, or is neither.
    """
    try:
        data = path.read_bytes()
        return data, inspect_image(data, str(path)).kind
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: expected an image, found no file") from error
    except ImageError as error:
        raise DatasetError(str(error)) from error


def read_image(path: Path) -> RgbImage:
    """An image file as (H, W, 3) uint8 RGB, as it is stored: an EXIF orientation would contradict the intrinsics.

    :raises DatasetError: it is missing, breaks off, or cannot be decoded.
    """
    data, _ = whole_file(path)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DatasetError(f"{path}: expected an image, found a file that cannot be decoded")
    return np.asarray(image[..., ::-1], dtype=np.uint8).copy()


@dataclass(frozen=True)
class FolderImages:
    """Image files in a fixed order."""

    paths: tuple[Path, ...]

    def image(self, index: int) -> RgbImage:
        """:raises DatasetError: the file cannot be decoded."""
        return read_image(self.paths[index])

    def frames(self) -> Iterator[tuple[int, RgbImage]]:
        for index in range(len(self.paths)):
            yield index, self.image(index)

    def encoded(self, index: int) -> tuple[bytes, str]:
        """The file as it is, and ``png`` or ``jpeg``. :raises DatasetError: it is missing or breaks off."""
        return whole_file(self.paths[index])
