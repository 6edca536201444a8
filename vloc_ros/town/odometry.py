"""Drifting wheel odometry: the true motion, measured with realistic errors and summed up."""

from __future__ import annotations

import numpy as np

from vloc_ros.types import Array

__all__ = ["drifting_odometry"]


def drifting_odometry(
    rng: np.random.Generator, T_map_base: Array, scale_sigma: float = 0.01, yaw_deg_per_100m: float = 1.0
) -> Array:
    """Poses (N, 4, 4) of the base in an odometry frame that starts at the first pose's identity.

    Increments carry one scale error (``scale_sigma``), one yaw drift per metre and white noise that
    grows with the square root of the distance; roll and pitch stay near the truth, as an inertial unit keeps them.
    """
    n = len(T_map_base)
    scale = 1.0 + rng.normal(0, scale_sigma)
    yaw_rate = np.radians(rng.normal(0, yaw_deg_per_100m)) / 100.0
    out = np.empty((n, 4, 4))
    out[0] = np.eye(4)
    for i in range(1, n):
        step = np.linalg.inv(T_map_base[i - 1]) @ T_map_base[i]
        d = float(np.linalg.norm(step[:3, 3]))
        root = np.sqrt(max(d, 1e-9))
        noisy = step.copy()
        noisy[:3, 3] = step[:3, 3] * scale + rng.normal(0, [0.004, 0.002, 0.001]) * root
        yaw = yaw_rate * d + rng.normal(0, np.radians(0.02)) * root
        c, s = np.cos(yaw), np.sin(yaw)
        noisy[:3, :3] = step[:3, :3] @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        T = out[i - 1] @ noisy
        u, _, vt = np.linalg.svd(T[:3, :3])
        T[:3, :3] = u @ vt
        out[i] = T
    return out
