"""One pose of two that agree, and how sure the two together may be."""

from __future__ import annotations

import numpy as np

from vloc_ros.geometry.rotations import so3_exp, so3_log
from vloc_ros.types import Array

__all__ = ["combined", "contradict", "pose_difference"]

#: 99.9 % quantile of chi-square with six degrees of freedom: two poses of one camera are rarely farther apart.
_APART = 22.46


def pose_difference(a: Array, b: Array) -> Array:
    """(6,) ``[t_a - t_b; Log(R_a R_b^T)]`` of two ``T_map_cam``, in map axes."""
    return np.concatenate([a[:3, 3] - b[:3, 3], so3_log(a[:3, :3] @ b[:3, :3].T)])


def contradict(a: Array, covariance_a: Array, b: Array, covariance_b: Array) -> bool:
    """Whether two poses are farther apart than their covariances allow."""
    e = pose_difference(a, b)
    scale = np.sqrt(np.maximum(np.diag(covariance_a), 1e-18))
    both = (covariance_a + covariance_b) / np.outer(scale, scale)
    return not float(e / scale @ np.linalg.solve(both, e / scale)) <= _APART


def combined(a: Array, covariance_a: Array, b: Array, covariance_b: Array) -> tuple[Array, Array, float]:
    """Two poses of the same image in the same map as one: the mean weighted by their inverse covariances.

    Errors of the map and of the camera's calibration are in both, so that the two must not be counted as independent:
    the covariance is that of the mean when both err the same way along each of the six axes in which the covariances
    are diagonal together. It is never smaller than the smaller of the two, and at most 1.46 times as large.

    :param a: (4, 4) ``T_map_cam``. :param covariance_a: (6, 6), map axes.
    :returns: the pose, its covariance, and the first one's mean weight along the axes, in [0, 1].
    """
    # Scaled to units of what is known, so that metres and radians weigh alike.
    scale = np.sqrt(np.maximum(np.diag(covariance_a), 1e-18))
    L = np.linalg.cholesky(covariance_a / np.outer(scale, scale) + 1e-12 * np.eye(6))
    second = np.linalg.solve(L, np.linalg.solve(L, covariance_b / np.outer(scale, scale)).T)
    squared, U = np.linalg.eigh(0.5 * (second + second.T))
    squared = np.maximum(squared, 1e-12)  # of the second's standard deviations along the axes; the first's are 1
    ratio, axes, weight = np.sqrt(squared), L @ U, 1.0 / (1.0 + squared)
    step = axes @ (weight * np.linalg.solve(axes, pose_difference(b, a) / scale)) * scale
    T = np.eye(4)
    T[:3, :3] = so3_exp(step[3:]) @ a[:3, :3]
    T[:3, 3] = a[:3, 3] + step[:3]
    along = axes * (ratio * (1.0 + ratio) * weight)
    covariance = (along @ along.T) * np.outer(scale, scale)
    return T, 0.5 * (covariance + covariance.T), float(1.0 - weight.mean())
