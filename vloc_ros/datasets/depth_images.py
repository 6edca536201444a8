"""Colour images with a depth image each, and depth carried from a depth camera to the colour camera beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.se3 import transform_points
from vloc_ros.types import Array, CameraModel

__all__ = ["DepthCamera", "DepthImages", "read_depth", "registered"]

F32 = npt.NDArray[np.float32]


def read_depth(path: Path, levels_per_metre: float = 1000.0, invalid: tuple[int, ...] = (0, 65535)) -> F32:
    """A 16-bit image of depths as (H, W) metres, NaN where it is unknown.

    :raises DatasetError: it is missing, truncated, or no 16-bit image of one channel.
    """
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.ndim != 2 or raw.dtype != np.uint16:
        found = "none that can be decoded" if raw is None else f"{raw.dtype} of shape {raw.shape}"
        raise DatasetError(f"{path}: expected a 16-bit depth image of one channel, found {found}")
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
    """Colour images with a depth file each; ``depth_camera`` None: depth as it is stored.

    A source of depth as the trainers ask for it: :meth:`depth` gives metres along the optical axis.
    """

    depth_paths: tuple[Path, ...]
    colour: CameraModel
    depth_camera: DepthCamera | None

    def depth(self, index: int) -> F32:
        """(H, W) metres, NaN where unknown. :raises DatasetError: the file cannot be read."""
        found = read_depth(self.depth_paths[index])
        return found if self.depth_camera is None else registered(found, self.depth_camera, self.colour)
