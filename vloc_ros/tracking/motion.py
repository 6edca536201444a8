"""How a pose and its covariance move between frames: by odometry, or at nearly constant velocity.

The state is the base's pose in the map and its body twist (forward, left, up; m/s, rad/s). Errors are
``[t_est - t; Log(R_est R^T); v_est - v; w_est - w]``, the first six in map axes as everywhere in the package.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vloc_ros.geometry.rotations import skew, so3_exp, so3_log
from vloc_ros.geometry.se3 import inverse, largest_sigma, make_transform, pose_error
from vloc_ros.tracking.settings import ANGULAR_ACCELERATION_DPS2, TrackerSettings
from vloc_ros.types import Array

__all__ = ["Track", "mahalanobis_squared"]


def mahalanobis_squared(error: Array, covariance: Array) -> float:
    """``e^T S^-1 e`` of one 6-vector; infinite where the covariance is singular."""
    try:
        return float(error @ np.linalg.solve(covariance, error))
    except np.linalg.LinAlgError:
        return float("inf")


@dataclass(frozen=True)
class Track:
    """A pose that moves. Immutable: prediction and correction return new tracks.

    :ivar T_map_base: 4x4.
    :ivar covariance: 12x12, see the module.
    :ivar twist: (6,) body velocity.
    :ivar stamp_ns: of the pose; None for a pose whose time is the first frame's.
    :ivar T_odom_base: the odometry at that stamp, if known.
    :ivar scene: of a multi-scene map.
    """

    T_map_base: Array
    covariance: Array
    twist: Array
    stamp_ns: int | None
    T_odom_base: Array | None
    scene: str

    @classmethod
    def start(
        cls,
        T_map_base: Array,
        covariance: Array,
        stamp_ns: int | None,
        T_odom_base: Array | None,
        scene: str,
        settings: TrackerSettings,
    ) -> Track:
        """A track at a pose with 6x6 covariance whose velocity is unknown within ``max_speed_mps``."""
        P = np.zeros((12, 12))
        P[:6, :6] = covariance
        # Half the bound as a standard deviation: 95 % of it lies inside.
        P[6:9, 6:9] = np.eye(3) * (0.5 * settings.max_speed_mps) ** 2
        P[9:, 9:] = np.eye(3) * np.radians(45.0) ** 2
        return cls(T_map_base, P, np.zeros(6), stamp_ns, T_odom_base, scene)

    @classmethod
    def window(cls, T_map_base: Array, covariance: Array, T_odom_base: Array | None, scene: str) -> Track:
        """Where a user says the vehicle is. Without odometry it is taken to drive slowly (2 m/s)."""
        P = np.zeros((12, 12))
        P[:6, :6] = covariance
        P[6:9, 6:9] = np.eye(3) * 2.0**2
        P[9:, 9:] = np.eye(3) * np.radians(10.0) ** 2
        return cls(T_map_base, P, np.zeros(6), None, T_odom_base, scene)

    @property
    def pose_covariance(self) -> Array:
        """6x6 covariance of the pose."""
        return self.covariance[:6, :6]

    def predicted(self, stamp_ns: int, T_odom_base: Array | None, settings: TrackerSettings) -> Track:
        """The track at a later stamp; by odometry where both ends have it and it is plausible."""
        dt = 0.0 if self.stamp_ns is None else max(0.0, (stamp_ns - self.stamp_ns) * 1e-9)
        if self.T_odom_base is not None and T_odom_base is not None:
            step = inverse(self.T_odom_base) @ T_odom_base
            if self.stamp_ns is None or plausible_step(step, dt, settings):
                return self._by_odometry(step, dt, stamp_ns, T_odom_base, settings)
        return self._by_velocity(dt, stamp_ns, T_odom_base, settings)

    def _by_odometry(
        self, step: Array, dt: float, stamp_ns: int, T_odom_base: Array, settings: TrackerSettings
    ) -> Track:
        T = self.T_map_base @ step
        distance = float(np.linalg.norm(step[:3, 3]))
        turn = so3_log(step[:3, :3])
        P = np.zeros((12, 12))
        # A heading error swings the driven distance: e_t' = e_t - skew(moved) e_r.
        J = np.eye(6)
        J[:3, 3:] = -skew(T[:3, 3] - self.T_map_base[:3, 3])
        P[:6, :6] = J @ self.pose_covariance @ J.T
        P[:3, :3] += np.eye(3) * (settings.odometry_noise_m**2 * distance + settings.odometry_idle_m**2 * dt)
        rotation = settings.odometry_noise_deg**2 * distance + settings.odometry_idle_deg**2 * dt
        # Wheels misjudge turns in proportion to the angle: 5 % of it.
        P[3:6, 3:6] += np.eye(3) * (np.radians(1.0) ** 2 * rotation + 0.05**2 * float(turn @ turn))
        twist = np.concatenate([step[:3, 3], turn]) / dt if dt > 1e-6 else self.twist
        speed, rate = float(np.linalg.norm(twist[:3])), float(np.linalg.norm(twist[3:]))
        P[6:9, 6:9] = np.eye(3) * (0.2 + 0.1 * speed) ** 2
        P[9:, 9:] = np.eye(3) * (0.02 + 0.1 * rate) ** 2
        return replace(
            self, T_map_base=_orthonormal(T), covariance=P, twist=twist, stamp_ns=stamp_ns, T_odom_base=T_odom_base
        )

    def _by_velocity(self, dt: float, stamp_ns: int, T_odom_base: Array | None, settings: TrackerSettings) -> Track:
        R, t = self.T_map_base[:3, :3], self.T_map_base[:3, 3]
        moved = R @ self.twist[:3] * dt
        T = make_transform(R @ so3_exp(self.twist[3:] * dt), t + moved)
        F = np.eye(12)
        F[:3, 3:6] = -skew(moved)
        F[:3, 6:9] = F[3:6, 9:] = R * dt
        # White-noise acceleration, integrated over dt.
        Q = np.zeros((12, 12))
        for block, density in (
            (slice(0, 3), settings.acceleration_mps2**2),
            (slice(3, 6), np.radians(ANGULAR_ACCELERATION_DPS2) ** 2),
        ):
            pose, rate = np.arange(12)[block], np.arange(12)[block] + 6
            Q[np.ix_(pose, pose)] = np.eye(3) * density * dt**3 / 3
            Q[np.ix_(rate, rate)] = np.eye(3) * density * dt
            Q[np.ix_(pose, rate)] = R * density * dt**2 / 2
            Q[np.ix_(rate, pose)] = R.T * density * dt**2 / 2
        P = F @ self.covariance @ F.T + Q
        return replace(
            self,
            T_map_base=_orthonormal(T),
            covariance=0.5 * (P + P.T),
            stamp_ns=stamp_ns,
            T_odom_base=T_odom_base,
        )

    def mahalanobis_squared(self, T_map_base: Array, covariance: Array) -> float:
        """Squared distance of a measured pose from this one under the sum of both covariances."""
        return mahalanobis_squared(pose_error(T_map_base, self.T_map_base), self.pose_covariance + covariance)

    def corrected(self, T_map_base: Array, covariance: Array, settings: TrackerSettings) -> Track:
        """The track after fusing a measured pose of the same stamp (Kalman update, Joseph form)."""
        P = self.covariance
        S = P[:6, :6] + covariance
        gain = np.linalg.solve(S, P[:6]).T
        change = gain @ pose_error(T_map_base, self.T_map_base)
        A = np.eye(12)
        A[:, :6] -= gain
        P = A @ P @ A.T + gain @ covariance @ gain.T
        twist = self.twist + change[6:]
        speed = float(np.linalg.norm(twist[:3]))
        if speed > settings.max_speed_mps:
            twist[:3] *= settings.max_speed_mps / speed
        T = make_transform(so3_exp(change[3:6]) @ self.T_map_base[:3, :3], self.T_map_base[:3, 3] + change[:3])
        return replace(self, T_map_base=_orthonormal(T), covariance=0.5 * (P + P.T), twist=twist)

    def reachable(self, T_map_base: Array, covariance: Array, stamp_ns: int, settings: TrackerSettings) -> bool:
        """Whether the vehicle can have got there since this track's stamp without exceeding its top speed."""
        if self.stamp_ns is None:
            return True
        dt = max(0.0, (stamp_ns - self.stamp_ns) * 1e-9)
        distance = float(np.linalg.norm(T_map_base[:3, 3] - self.T_map_base[:3, 3]))
        slack = 3.0 * largest_sigma(self.covariance[:3, :3] + covariance[:3, :3])
        return distance <= settings.max_speed_mps * dt + slack


def plausible_step(step: Array, dt: float, settings: TrackerSettings) -> bool:
    """Whether an odometry increment [4, 4] over ``dt`` seconds is motion, and not a restart of the odometry."""
    return float(np.linalg.norm(step[:3, 3])) <= 1.5 * settings.max_speed_mps * max(dt, 0.02)


def _orthonormal(T: Array) -> Array:
    """Undo rounding so that a rotation stays one over a long drive (one Newton step of the polar factor)."""
    R = T[:3, :3]
    return make_transform(0.5 * R @ (3.0 * np.eye(3) - R.T @ R), T[:3, 3])
