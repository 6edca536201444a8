"""Rectification: a distorted image to the pinhole image of the same camera."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.errors import CameraError, ImageError
from vloc_ros.geometry.cameras import project, undistorted_camera, unproject
from vloc_ros.types import CameraModel, RgbImage

__all__ = ["MAX_PIXELS", "Rectifier"]

#: Larger cameras are mistakes of a camera_info.
MAX_PIXELS = 100_000_000
#: cv2 counts pixels of a table in 16 bits.
_LARGEST_SIDE = 1 << 15
_BAND_PIXELS = 1 << 18


#: Numbers of pixels that see nothing, and for each the number of the nearest that does.
_Beyond = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class Rectifier:
    """Removes the lens distortion of one camera; the look-up tables are made once, with the first image.

    An image without distortion passes unchanged. Interpolation is bilinear.

    :param camera: the distorted camera.
    :param target: the pinhole camera to produce, at any size and field of view;
        default: :func:`~vloc_ros.geometry.cameras.undistorted_camera`.
    :param beyond: what the target shows beyond the source: ``black``, or the ``nearest`` pixel that it sees.
    :raises CameraError: coefficients that are no lens, or a size that no camera has.
    """

    def __init__(
        self, camera: CameraModel, target: CameraModel | None = None, beyond: Literal["black", "nearest"] = "black"
    ) -> None:
        self.camera, self._nearest = camera, beyond == "nearest"
        self.target = undistorted_camera(camera) if target is None else target
        self._identity = not camera.is_distorted and target in (None, camera)
        if self._identity:
            return
        for size in (camera.size, self.target.size):
            if size[0] * size[1] > MAX_PIXELS or max(size) >= _LARGEST_SIDE:
                raise CameraError(
                    f"rectify: expected a camera of at most {MAX_PIXELS // 10**6} megapixels, below {_LARGEST_SIDE} "
                    f"pixels a side, found {size[0]}x{size[1]}; check camera_info, or rectify smaller images"
                )

    @cached_property
    def _tables(self) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint16], float, _Beyond | None]:
        """The two tables of ``cv2.remap``, the share of the target's pixels that see the source, and what others show.

        Made for an image, not for a message that says how large it is.
        """
        width, height = self.target.size
        # Fixed-point tables: less memory traffic than float ones, and remap is twice as fast. 6 bytes a pixel; made in
        # bands of rows, for the mathematics takes some hundred.
        map1, map2 = np.empty((height, width, 2), np.int16), np.empty((height, width), np.uint16)
        band, seen = max(1, _BAND_PIXELS // width), np.empty((height, width), dtype=bool)
        for top in range(0, height, band):
            rows = slice(top, min(top + band, height))
            v, u = np.mgrid[rows, :width].astype(np.float64)
            pixels, valid = project(self.camera, unproject(self.target, np.stack([u, v], axis=-1)))
            seen[rows] = valid
            pixels = np.where(valid[..., None], pixels, -1e4).astype(np.float32)
            map1[rows], map2[rows] = cv2.convertMaps(pixels[..., 0], pixels[..., 1], cv2.CV_16SC2)
        beyond = _nearest_seen(seen) if self._nearest and seen.any() and not seen.all() else None
        return map1, map2, float(seen.mean()), beyond

    @property
    def coverage(self) -> float:
        """Share of the target's pixels that see the source image."""
        return 1.0 if self._identity else self._tables[2]

    def rectify(self, image: RgbImage) -> tuple[RgbImage, CameraModel]:
        """The rectified (H, W, 3) uint8 image and its pinhole camera.

        :raises ImageError: an image of another size than the camera's.
        """
        if image.shape[:2] != (self.camera.height, self.camera.width):
            raise ImageError(
                f"rectify: expected an image of {self.camera.width}x{self.camera.height} as in the camera model, found "
                f"{image.shape[1]}x{image.shape[0]}; image and camera_info disagree"
            )
        if self._identity:
            return image, self.target
        map1, map2, _, beyond = self._tables
        border = cv2.BORDER_REPLICATE if self._nearest else cv2.BORDER_CONSTANT
        out = np.asarray(cv2.remap(image, map1, map2, cv2.INTER_LINEAR, borderMode=border), dtype=np.uint8)
        if beyond is not None:
            out.reshape(-1, 3)[beyond[0]] = out.reshape(-1, 3)[beyond[1]]
        return out, self.target


def _nearest_seen(seen: npt.NDArray[np.bool_]) -> _Beyond:
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~seen, return_distances=False, return_indices=True)
    beyond = np.flatnonzero(~seen)
    return beyond, (rows.ravel()[beyond] * seen.shape[1] + columns.ravel()[beyond]).astype(np.int64)
