"""Odometry for data sets that have none: true steps with noise, which adds up to drift."""

from __future__ import annotations

import numpy as np

from vloc_ros.geometry.se3 import se3_exp
from vloc_ros.types import Array

__all__ = ["noisy_odometry"]


def noisy_odometry(T_map_base: Array, translation: float, rotation_rad_m: float, seed: int) -> Array:
    """Drifting odometry (N, 4, 4) made from true poses: each step is measured with noise, and the errors add up.

    :param translation: standard deviation of a step's translation, as a share of its length.
    :param rotation_rad_m: standard deviation of the heading's drift after one metre, growing with the square
        root of the distance, as a random walk does.
    """
    random = np.random.default_rng(seed)
    T = np.broadcast_to(np.eye(4), T_map_base.shape).copy()
    for index in range(1, len(T)):
        step = np.linalg.inv(T_map_base[index - 1]) @ T_map_base[index]
        length = float(np.linalg.norm(step[:3, 3]))
        noise = np.zeros(6)
        noise[:3] = random.normal(size=3) * translation * length
        noise[5] = random.normal() * rotation_rad_m * np.sqrt(length)
        T[index] = T[index - 1] @ step @ se3_exp(noise)
    return T
