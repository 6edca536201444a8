"""Colour images with 16-bit depth images beside them, as a sequence's source that also knows depth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.errors import DatasetError

__all__ = ["DepthFiles"]


@dataclass(frozen=True)
class DepthFiles(FolderImages):
    """Image files in a fixed order, with a depth file for each, registered to it, or None where there is none.

    :param depths: as many as ``paths``.
    :param scale: grey levels a metre; a grey level of 0 says nothing.
    :param size: width and height of the images.
    """

    depths: tuple[Path | None, ...] = ()
    scale: float = 5000.0
    size: tuple[int, int] = (640, 480)

    def depth(self, index: int) -> npt.NDArray[np.float32]:
        """(H, W) metres along the optical axis, NaN where unknown.

        :raises DatasetError: the file is no 16-bit image of one channel and of the colour image's size.
        """
        path = self.depths[index]
        shape = self.size[::-1]
        if path is None:
            return np.full(shape, np.nan, dtype=np.float32)
        raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if raw is None or raw.dtype != np.uint16 or raw.shape != shape:
            found = "none that can be read" if raw is None else f"{raw.dtype} of shape {raw.shape}"
            raise DatasetError(f"{path}: expected a 16-bit image of {shape[1]}x{shape[0]}, found {found}")
        metres = np.asarray(raw, dtype=np.float32) / np.float32(self.scale)
        metres[raw == 0] = np.nan
        return metres
