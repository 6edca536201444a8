from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from vloc_ros.geometry.rotations import euler_to_matrix, so3_exp
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.tracking import Tracker
from vloc_ros.types import Array, Estimate, LocalizationState

SECOND = 1_000_000_000


@dataclass
class Drive:
    """A simulated drive at 10 Hz: true poses, drifting odometry, and noisy estimates of the camera."""

    stamps_ns: list[int]
    T_map_base: Array
    T_odom_base: Array
    T_base_cam: Array
    rng: np.random.Generator
    sigma_m: float = 0.3
    sigma_deg: float = 0.5

    @property
    def covariance(self) -> Array:
        return np.diag([self.sigma_m**2] * 3 + [np.radians(self.sigma_deg) ** 2] * 3)

    def estimate(
        self,
        i: int,
        state: LocalizationState = LocalizationState.LOCALIZED,
        offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
        scene: str = "",
        stamp_ns: int | None = None,
        covariance: Array | None = None,
    ) -> Estimate:
        noise = self.rng.normal(size=6) * np.sqrt(np.diag(self.covariance))
        T = self.T_map_base[i] @ self.T_base_cam
        T = make_transform(so3_exp(noise[3:]) @ T[:3, :3], T[:3, 3] + noise[:3] + np.asarray(offset))
        P = self.covariance if covariance is None else covariance
        return Estimate(stamp_ns or self.stamps_ns[i], T, P, 0.8, state, "fake", "id", scene)

    def feed(
        self, tracker: Tracker, i: int, estimate: Estimate | None = None, odometry: bool = True
    ) -> LocalizationState:
        T_odom = self.T_odom_base[i] if odometry else None
        return tracker.update(estimate or self.estimate(i), T_odom, self.T_base_cam).state

    def error(self, i: int, T_map_base: Array) -> float:
        return float(np.linalg.norm(T_map_base[:3, 3] - self.T_map_base[i, :3, 3]))


@pytest.fixture(scope="session")
def make_drive() -> Callable[..., Drive]:
    def make(frames: int = 100, speed: float = 8.0, seed: int = 0) -> Drive:
        rng = np.random.default_rng(seed)
        T, odom = [np.eye(4)], [make_transform(euler_to_matrix((0.0, 0.0, 1.0)), np.array([5.0, -3.0, 0.0]))]
        for i in range(1, frames):
            step = make_transform(so3_exp([0.0, 0.0, 0.03 * np.sin(i / 20)]), [0.1 * speed, 0.0, 0.0])
            drift = make_transform(so3_exp(rng.normal(0, 5e-4, 3)), rng.normal(0, 0.005, 3))
            T.append(T[-1] @ step)
            odom.append(odom[-1] @ step @ drift)
        # Optical axes (x right, y down, z forward), 2 m ahead of and 1.5 m above the base.
        R = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        stamps = [SECOND + i * SECOND // 10 for i in range(frames)]
        return Drive(stamps, np.stack(T), np.stack(odom), make_transform(R, [2.0, 0.0, 1.5]), rng)

    return make
