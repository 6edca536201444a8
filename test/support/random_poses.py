"""Random poses for tests of geometry."""

from __future__ import annotations

import numpy as np

from vloc_ros.geometry.rotations import so3_exp


def pose(rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    """(4, 4) a pose turned by about ``spread`` rad, and about 100 ``spread`` m off."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = so3_exp(rng.normal(size=3) * spread), rng.normal(size=3) * 100.0 * spread
    return T


def moved(T: np.ndarray, e: np.ndarray) -> np.ndarray:
    """The pose moved by ``e`` = [t m; r rad] in map axes."""
    out = T.copy()
    out[:3, 3] += e[:3]
    out[:3, :3] = so3_exp(e[3:]) @ T[:3, :3]
    return out
