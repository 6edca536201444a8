"""Weighted means of rotations and poses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from vloc_ros.errors import GeometryError
from vloc_ros.geometry.rotations import matrix_to_quaternion, normalize_quaternion, quaternion_to_matrix
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.types import Array

__all__ = ["average_poses", "markley_mean"]


def _weights(weights: npt.ArrayLike | None, count: int) -> Array:
    if count == 0:
        raise GeometryError("mean: expected at least one element, found none")
    w = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (count,):
        raise GeometryError(f"mean: expected {count} weights, found shape {w.shape}")
    if not np.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise GeometryError("mean: expected finite, non-negative weights with a positive sum")
    return np.asarray(w / w.sum())


def markley_mean(quaternions: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Array:
    """The mean rotation: the eigenvector of the largest eigenvalue of ``sum w q q^T``.

    Markley, Cheng, Crassidis, Oshman, "Averaging quaternions", JGCD 30(4), 2007, eqs. 12-13, as scipy's
    ``Rotation.mean`` solves it. The signs of the quaternions do not matter.

    :param quaternions: [N, 4] xyzw; normalised here.
    :param weights: [N], non-negative; equal when None.
    :returns: [4] xyzw with w >= 0.
    """
    q = normalize_quaternion(quaternions)
    if q.ndim != 2:
        raise GeometryError(f"markley_mean: expected [N, 4] quaternions, found shape {q.shape}")
    mean = Rotation.from_quat(q).mean(_weights(weights, q.shape[0])).as_quat()
    return np.asarray(-mean if mean[3] < 0 else mean)


def average_poses(T: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Array:
    """The weighted mean of translations and, after Markley, of rotations; [N, 4, 4], [N] -> [4, 4]."""
    T = np.asarray(T, dtype=np.float64)
    if T.ndim != 3 or T.shape[1:] != (4, 4):
        raise GeometryError(f"average_poses: expected [N, 4, 4] transforms, found shape {T.shape}")
    w = _weights(weights, T.shape[0])
    q = markley_mean(matrix_to_quaternion(T[:, :3, :3]), w)
    return make_transform(quaternion_to_matrix(q), w @ T[:, :3, 3])
