"""Image files in a fixed order as the images of a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vloc_ros.errors import DatasetError
from vloc_ros.types import RgbImage

__all__ = ["IMAGE_SUFFIXES", "FolderImages", "read_image"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_image(path: Path) -> RgbImage:
    """An image file as (H, W, 3) uint8 RGB. :raises DatasetError: it is missing, or cannot be decoded."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        found = "a file that cannot be decoded" if path.is_file() else "no file"
        raise DatasetError(f"{path}: expected an image, found {found}")
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
        """The file as it is, and ``png`` or ``jpeg``."""
        path = self.paths[index]
        return path.read_bytes(), "png" if path.suffix.lower() == ".png" else "jpeg"
