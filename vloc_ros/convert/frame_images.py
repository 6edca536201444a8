"""The images of a drive as they go into a bag: checked, and bit by bit where they are stored as files."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence, encoded_image
from vloc_ros.errors import ConfigError, DatasetError, ImageError, VlocError
from vloc_ros.images.encoded import inspect_image
from vloc_ros.types import RgbImage

__all__ = ["FrameImages", "ImageFormat", "encode"]

ImageFormat = Literal["raw", "png", "jpeg"]


def encode(image: RgbImage, image_format: ImageFormat, quality: int = 95) -> tuple[bytes, str]:
    """``(bytes, CompressedImage.format)`` as image_transport's compressed plugin writes it."""
    suffix = ".png" if image_format == "png" else ".jpg"
    settings = [] if image_format == "png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), settings)
    if not done:
        raise ConfigError(f"image format {image_format}: OpenCV was built without it; use raw")
    return data.tobytes(), f"bgr8; {image_format} compressed bgr8"


class FrameImages:
    """Every frame's image, ready to be written.

    :param image_format: None copies stored files and writes all else as pixels.
    :param problems: told about images that are missing, break off or have another size than the camera.
    """

    def __init__(self, sequence: PosedSequence, image_format: ImageFormat | None, problems: Problems) -> None:
        self._sequence, self._format, self._problems = sequence, image_format, problems

    def get(self, index: int) -> RgbImage | tuple[bytes, str] | None:
        """Pixels, or bytes with their format; None (a fault that was counted) where there is nothing to write.

        :raises DatasetError: a fault, unless the problems keep going.
        """
        where = f"{self._sequence.name}, frame {index} (stamp {self._sequence.stamps_ns[index]} ns)"
        try:
            if self._format is None:
                stored = encoded_image(self._sequence.source, index)
                if stored is not None:
                    found = inspect_image(stored[0], where)
                    return stored if self._fits(found.width, found.height, where) else None
            image = self._sequence.image(index)
        except (DatasetError, ImageError) as error:
            self._problems.fault("image that cannot be read", _with_advice(error, where))
            return None
        if not self._fits(image.shape[1], image.shape[0], where):
            return None
        return encode(image, self._format) if self._format in ("png", "jpeg") else image

    def _fits(self, width: int, height: int, where: str) -> bool:
        camera = self._sequence.camera
        if (width, height) == camera.size:
            return True
        self._problems.fault(
            "image of another size than the camera",
            f"{where}: expected {camera.width}x{camera.height} pixels as the calibration says, found "
            f"{width}x{height}; correct the calibration, or leave such images out with --keep-going",
        )
        return False


def _with_advice(error: VlocError, where: str) -> str:
    place = "" if where in str(error) else f"{where}: "
    return f"{place}{error}; or leave it out with --keep-going"
