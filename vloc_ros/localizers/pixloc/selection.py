"""Which points are aligned, and from where the alignment starts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, CameraModel

__all__ = ["choose_points", "spread", "starting_poses"]

#: Cells across the image in which points compete (rows are as many as keep cells square).
_COLUMNS = 12
#: Around the image, as a share of its size: where the prior is wrong, points come in from there.
_MARGIN = 0.15
_LEAST_DEPTH = 0.1


def choose_points(
    points: Array, priority: npt.NDArray[np.integer], T_map_cam: Array, camera: CameraModel, count: int
) -> npt.NDArray[np.int64]:
    """Rows of at most ``count`` points that a camera near this pose may see, ascending; 0: all of them.

    :param points: (N, 3) m.
    :param priority: (N,) larger is better.
    """
    T = inverse(T_map_cam)
    local = points @ T[:3, :3].T + T[:3, 3]
    # The image and a margin, as a camera of its own; the lens decides what is valid.
    wide = CameraModel(
        round(camera.width * (1 + 2 * _MARGIN)),
        round(camera.height * (1 + 2 * _MARGIN)),
        camera.fx,
        camera.fy,
        camera.cx + round(camera.width * _MARGIN),
        camera.cy + round(camera.height * _MARGIN),
        camera.distortion_model,
        camera.distortion,
    )
    pixels, valid = project(wide, local)
    rows = np.flatnonzero(valid & (local[:, 2] > _LEAST_DEPTH))
    if not count or len(rows) <= count:
        return rows.astype(np.int64)
    return np.sort(rows[spread(pixels[rows], priority[rows], count, wide.width / _COLUMNS)]).astype(np.int64)


def spread(pixels: Array, priority: npt.NDArray[np.integer], count: int, cell: float) -> npt.NDArray[np.int64]:
    """Rows of the ``count`` points that come first when every cell of the image gives its best in turn."""
    cells = np.floor(pixels / cell).astype(np.int64)
    key = cells[:, 1] * 1_000_003 + cells[:, 0]
    order = np.lexsort((np.arange(len(key)), -priority, key))
    sorted_key = key[order]
    rank = np.arange(len(key)) - np.searchsorted(sorted_key, sorted_key, side="left")
    best = np.lexsort((order, -priority[order], rank))[:count]
    return np.asarray(order[best], dtype=np.int64)


def starting_poses(T_map_cam: Array, covariance: Array, starts: int, spacing_m: float) -> Array:
    """The prior, and if it is wide further poses along the axes of its position: (S, 4, 4), S at most ``starts``.

    Offsets are 1, 2, ... standard deviations along the widest axis, then the next, to both sides; rotations are the
    prior's own, moved with the position as far as the two are correlated.
    """
    out = [T_map_cam]
    values, axes = np.linalg.eigh(covariance[:3, :3])
    sigmas = np.sqrt(np.maximum(values, 0.0))
    gain = covariance[3:, :3] @ np.linalg.pinv(covariance[:3, :3], hermitian=True)
    steps = [
        (number * min(sigmas[i], 2.0 * spacing_m), i, sign * number)
        for number in (1, 2, 3)
        for i in range(3)
        if sigmas[i] > spacing_m
        for sign in (1, -1)
    ]
    for _, i, number in sorted(steps, key=lambda step: step[0])[: max(starts - 1, 0)]:
        offset = axes[:, i] * number * min(sigmas[i], 2.0 * spacing_m)
        T = np.array(T_map_cam)
        T[:3, 3] += offset
        T[:3, :3] = so3_exp(gain @ offset) @ T[:3, :3]
        out.append(T)
    return np.stack(out)
