"""Colour images with a depth image each, and depth carried from a depth camera to the colour camera beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import FolderImages, decoded
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.se3 import transform_points
from vloc_ros.types import Array, CameraModel

__all__ = ["DepthCamera", "DepthImages", "read_depth", "registered"]

F32 = npt.NDArray[np.float32]


def read_depth(path: Path, levels_per_metre: float = 1000.0, invalid: tuple[int, ...] = (0, 65535)) -> F32:
    """A 16-bit image of depths as (H, W) metres along the optical axis, NaN where it is unknown.

    :param invalid: grey levels that say nothing.
    :raises DatasetError: it is missing, truncated, or no 16-bit image of one channel.
    """
    raw = decoded(path, cv2.IMREAD_UNCHANGED)
    if raw.ndim != 2 or raw.dtype != np.uint16:
        raise DatasetError(
            f"{path}: expected a 16-bit depth image of one channel, found {raw.dtype} of shape {raw.shape}"
        )
    out = raw.astype(np.float32) / np.float32(levels_per_metre)
    out[np.isin(raw, invalid)] = np.nan
    return out


@dataclass(frozen=True)
class DepthCamera:
    """What took the depth images: fx, fy, cx, cy in pixels, and its pose seen from the colour camera (4, 4)."""

    intrinsics: tuple[float, float, float, float]
    T_colour_depth: Array


def registered(depth: F32, depth_camera: DepthCamera, colour: CameraModel) -> F32:
    """Depth (H, W) along the colour camera's axis at the pixels of its images, NaN where none was measured.

    Every measured point goes to the pixel that sees it; of several, the nearest stays. There is no filling in.

    :param colour: an undistorted camera.
    """
    fx, fy, cx, cy = depth_camera.intrinsics
    v, u = np.nonzero(np.isfinite(depth))
    z = depth[v, u].astype(np.float64)
    points = transform_points(depth_camera.T_colour_depth, np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], axis=1))
    points = points[points[:, 2] > 0.0]
    z = points[:, 2]
    at = np.rint(points[:, :2] / z[:, None] * (colour.fx, colour.fy) + (colour.cx, colour.cy)).astype(np.int64)
    inside = (at >= 0).all(axis=1) & (at[:, 0] < colour.width) & (at[:, 1] < colour.height)
    at, z = at[inside], z[inside]
    order = np.argsort(-z, kind="stable")
    out = np.full((colour.height, colour.width), np.nan, dtype=np.float32)
    out[at[order, 1], at[order, 0]] = z[order]
    return out


@dataclass(frozen=True)
class DepthImages(FolderImages):
    """Colour images with a depth file each, or None where there is none.

    A source of depth as the trainers ask for it: :meth:`depth` gives metres along the optical axis.

    :param depth_paths: as many as ``paths``.
    :param colour: the camera of the colour images.
    :param depth_camera: of depth images that are not registered to the colour images; None: depth as it is stored.
    :param levels_per_metre: grey levels of a depth image.
    :param invalid: those that say nothing.
    """

    depth_paths: Sequence[Path | None]
    colour: CameraModel
    depth_camera: DepthCamera | None = None
    levels_per_metre: float = 1000.0
    invalid: tuple[int, ...] = (0, 65535)

    def depth(self, index: int) -> F32:
        """(H, W) metres, NaN where unknown, at the pixels of the colour image (H, W).

        :raises DatasetError: the file cannot be read, or is of another size than the colour image and stays so.
        """
        path = self.depth_paths[index]
        if path is None:
            return np.full(self.colour.size[::-1], np.nan, dtype=np.float32)
        found = read_depth(path, self.levels_per_metre, self.invalid)
        if self.depth_camera is not None:
            return registered(found, self.depth_camera, self.colour)
        if found.shape != self.colour.size[::-1]:
            raise DatasetError(
                f"{path}: expected depth of {self.colour.width}x{self.colour.height} as the colour image, found "
                f"{found.shape[1]}x{found.shape[0]}"
            )
        return found
