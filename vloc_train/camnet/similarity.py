"""How much two images share: frustum overlap by depth (eq. 2) and ORB similarity (eq. 3)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.types import Array, CameraModel, RgbImage
from vloc_train.training.depth import grid_pixels

__all__ = ["frustum_overlap", "orb_descriptors", "orb_similarity"]


def frustum_overlap(T_1: Array, T_2: Array, depth_1: npt.NDArray[np.floating], camera: CameraModel) -> Array:
    """theta of pairs: the share of image 1's grid points that fall inside image 2.

    Eq. 2 as it must read: X_2 = K R_2^T (R_1 K^-1 X_1 D_1(y, x) + t_1 - t_2). As printed, the translation is not turned
    into camera 2 and the depth is taken at the principal point for every pixel.

    :param T_1: (P, 4, 4) T_map_cam of image 1. :param T_2: of image 2.
    :param depth_1: (P, n * n) depths along the optical axis at :func:`grid_pixels`, metres; infinity is the sky, NaN
        and values that are not positive are unknown and left out of the share (no known depth at all: share 0).
    :param camera: of both images.
    """
    n = round(depth_1.shape[-1] ** 0.5)
    pixels = grid_pixels(camera, n)
    rays = np.column_stack(
        ((pixels[:, 0] - camera.cx) / camera.fx, (pixels[:, 1] - camera.cy) / camera.fy, np.ones(n * n))
    )
    known = ~np.isnan(depth_1) & (depth_1 > 0)
    depth = np.where(known, np.minimum(depth_1, 1e6), 1.0)
    R = np.swapaxes(T_2[:, :3, :3], 1, 2) @ T_1[:, :3, :3]
    t = (np.swapaxes(T_2[:, :3, :3], 1, 2) @ (T_1[:, :3, 3:] - T_2[:, :3, 3:]))[..., 0]
    points = (rays @ np.swapaxes(R, 1, 2)) * depth[..., None] + t[:, None]
    z = np.where(points[..., 2] > 1e-6, points[..., 2], np.inf)
    u = camera.fx * points[..., 0] / z + camera.cx
    v = camera.fy * points[..., 1] / z + camera.cy
    inside = np.isfinite(z) & (np.abs(u - (camera.width - 1) / 2) <= camera.width / 2)
    inside &= np.abs(v - (camera.height - 1) / 2) <= camera.height / 2
    return np.asarray((inside & known).sum(axis=1) / np.maximum(known.sum(axis=1), 1))


def orb_descriptors(image: RgbImage, features: int = 500) -> npt.NDArray[np.uint8]:
    """ORB descriptors (n, 32) of an image, n at most ``features``; small images are searched to their borders."""
    edge = int(min(31, max(3, min(image.shape[:2]) // 8)))
    # The patch must not be larger than the margin that is left out around the image.
    orb: Any = cv2.ORB_create(  # type: ignore[attr-defined]
        nfeatures=features, edgeThreshold=edge, patchSize=max(2, edge), fastThreshold=7
    )
    _, descriptors = orb.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    return np.zeros((0, 32), np.uint8) if descriptors is None else np.asarray(descriptors, np.uint8)


def orb_similarity(one: npt.NDArray[np.uint8], two: npt.NDArray[np.uint8], distance: int = 50) -> float:
    """theta' of eq. 3: the share of image 1's key points whose best match in image 2 is nearer than ``distance``.

    The paper counts distances above its threshold; alike are descriptors whose Hamming distance lies below it.
    """
    if not len(one) or not len(two):
        return 0.0
    matches = cv2.BFMatcher(cv2.NORM_HAMMING).match(one, two)
    return sum(m.distance < distance for m in matches) / len(matches)
