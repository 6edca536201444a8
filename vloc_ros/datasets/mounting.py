"""A base with REP-103 axes on rigs whose body frame is an IMU's, mounted any way round.

EuRoC's IMU has x up and z forward, that of 4Seasons y backward and z up: poses of such a frame are right and yet no
``base_link``. The base here is at the IMU, turned by quarter turns alone: those that bring its axes nearest to
forward, left and up as the camera sees them. A small tilt between camera and IMU stays in the extrinsics.
"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np

from vloc_ros.datasets.sequence import R_BODY_OPTICAL
from vloc_ros.types import Array

__all__ = ["quarter_turn", "upright_base"]


def quarter_turn(R: Array) -> Array:
    """The one nearest to ``R`` (3, 3) of the 24 rotations that map axes to axes."""
    best = max(_QUARTER_TURNS, key=lambda Q: float(np.sum(Q * R)))
    return best.copy()


def upright_base(T_sensor_cam: Array) -> Array:
    """``T_base_sensor`` (4, 4): the base at the sensor, x forward, y left, z up for the camera mounted on it."""
    T = np.eye(4)
    T[:3, :3] = quarter_turn(R_BODY_OPTICAL @ T_sensor_cam[:3, :3].T)
    return T


def _quarter_turns() -> list[Array]:
    found = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        Q = np.zeros((3, 3))
        Q[range(3), order] = signs
        if np.linalg.det(Q) > 0:
            found.append(Q)
    return found


_QUARTER_TURNS = _quarter_turns()
