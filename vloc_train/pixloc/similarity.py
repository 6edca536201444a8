"""One trajectory laid over another by a similarity: rotation, translation and scale."""

from __future__ import annotations

import numpy as np

from vloc_ros.errors import DatasetError
from vloc_ros.types import Array

__all__ = ["align_poses", "similarity"]


def similarity(T_a: Array, T_b: Array, with_scale: bool = True) -> tuple[float, Array, Array]:
    """``(s, R, t)`` with ``p_b = s R p_a + t`` for two lists (N, 4, 4) of the same cameras' poses.

    The rotation comes from the orientations, so that a straight drive, whose positions leave the roll about it open,
    aligns, too.

    :raises DatasetError: fewer than two poses, or cameras that all stand at one place while the scale is wanted.
    """
    if len(T_a) < 2 or len(T_a) != len(T_b):
        raise DatasetError(f"alignment: expected at least two poses in both, found {len(T_a)} and {len(T_b)}")
    u, _, vt = np.linalg.svd(np.einsum("nij,nkj->ik", T_b[:, :3, :3], T_a[:, :3, :3]))
    R = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    centre_a, centre_b = T_a[:, :3, 3].mean(axis=0), T_b[:, :3, 3].mean(axis=0)
    a, b = (T_a[:, :3, 3] - centre_a) @ R.T, T_b[:, :3, 3] - centre_b
    size = float((a * a).sum())
    scale = 1.0
    if with_scale:
        if size < 1e-12 or (a * b).sum() <= 0:
            raise DatasetError("alignment: expected cameras that moved, found them at one place: no scale follows")
        scale = float((a * b).sum()) / size
    return scale, R, centre_b - scale * (R @ centre_a)


def align_poses(T_a: Array, T_b: Array, points: Array) -> tuple[Array, Array]:
    """Poses ``T_a`` (N, 4, 4) and points (P, 3) of their frame, brought into the frame of ``T_b``."""
    scale, R, t = similarity(T_a, T_b)
    out = T_a.copy()
    out[:, :3, :3] = R @ T_a[:, :3, :3]
    out[:, :3, 3] = scale * T_a[:, :3, 3] @ R.T + t
    return out, np.asarray(scale * points @ R.T + t)
