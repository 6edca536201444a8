"""map -> odom from the accepted poses, with the drift of the odometry learned.

Wheels that measure 1 % too much, a gyroscope with a bias: what odometry does wrong it does again the next metre. The
track that gates estimates leaves room for much more than that, so that a wheel that slips does not end it, and so it
follows nearly every frame, with that frame's error. What controllers follow can be better: a Kalman filter whose state
is the pose and the drift a metre (translation and rotation), and which weights each frame by its covariance. Where
estimates go on contradicting what the drift predicts (the wheels did slip), the pose is taken over from the track.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vloc_ros.geometry.rotations import skew, so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform, pose_error
from vloc_ros.tracking.motion import Track, mahalanobis_squared
from vloc_ros.tracking.settings import TrackerSettings
from vloc_ros.types import Array

__all__ = ["Correction", "DriftFilter"]

#: One standard deviation of the drift before anything is known of it: of the metres driven, and radians a metre.
DRIFT_M, DRIFT_RAD_M = 0.02, np.radians(0.02)
#: How much of that it changes in a metre driven, as a random walk.
DRIFT_CHANGE = 0.03
#: What the odometry does beside its drift, in metres and radians per square root of a metre.
NOISE_M, NOISE_RAD = 0.01, np.radians(0.1)
#: The same per square root of a second, driven or not: the odometry's resolution.
IDLE_M, IDLE_RAD = 0.001, np.radians(0.01)
#: An estimate surprises beyond this squared Mahalanobis distance from the prediction (85 % of six dimensions); so many
#: in a row say that the odometry is wrong, not they.
SURPRISE, SURPRISES = 9.45, 3


@dataclass(frozen=True)
class Correction:
    """map -> odom after a frame.

    :ivar T_map_odom: (4, 4).
    :ivar T_odom_base: (4, 4) the odometry at the frame's stamp.
    :ivar rate: (6,) how it goes on changing as the vehicle goes on driving, in map axes, seen at the base: metres and
        radians a second.
    """

    T_map_odom: Array
    T_odom_base: Array
    rate: Array


class DriftFilter:
    """Fuses the poses of one track with one odometry.

    The error state is ``[t_est - t; Log(R_est R^T)]`` in map axes and the drift a metre in the base's axes.

    :param settings: ``correlated_frames``, the ``gate`` that its pose may be away from the track at most, and
        ``max_speed_mps``.
    """

    def __init__(self, settings: TrackerSettings) -> None:
        self._settings = settings
        self._known = False
        self._T = np.eye(4)
        self._T_odom_base = np.eye(4)
        self._stamp_ns = 0
        self._drift = np.zeros(6)
        self._P = np.zeros((12, 12))
        self._speed = 0.0
        self._surprises = 0

    def fuse(self, T_map_base: Array, covariance: Array, T_odom_base: Array, stamp_ns: int, track: Track) -> Correction:
        """A new estimate.

        :param T_map_base: (4, 4), its (6, 6) covariance, and the odometry at its stamp.
        :param track: into which it has been fused: where to start from.
        """
        if not self._known:
            self._known, self._P[6:, 6:] = True, _unknown_drift()
            self._take_over(track)
        else:
            self._predict(T_odom_base, max(0.0, (stamp_ns - self._stamp_ns) * 1e-9))
            self._update(T_map_base, covariance)
            away = pose_error(self._T, track.T_map_base)
            far = mahalanobis_squared(away, self._P[:6, :6] + track.pose_covariance) > self._settings.gate
            if far or self._surprises >= SURPRISES:
                self._take_over(track)
        self._T_odom_base, self._stamp_ns = T_odom_base, stamp_ns
        R = self._T[:3, :3]
        rate = self._speed * np.concatenate([R @ self._drift[:3], R @ self._drift[3:]])
        return Correction(self._T @ inverse(T_odom_base), T_odom_base, rate)

    def _update(self, T_map_base: Array, covariance: Array) -> None:
        error, P = pose_error(T_map_base, self._T), self._P
        surprising = mahalanobis_squared(error, P[:6, :6] + covariance) > SURPRISE
        self._surprises = self._surprises + 1 if surprising else 0
        R = covariance * self._settings.correlated_frames
        gain = np.linalg.solve(P[:6, :6] + R, P[:6]).T
        if surprising:
            gain[6:] = 0.0  # a wheel that slips tells nothing of the drift
        change = gain @ error
        A = np.eye(12)
        A[:, :6] -= gain
        P = A @ P @ A.T + gain @ R @ gain.T
        self._P = 0.5 * (P + P.T)
        self._T = make_transform(so3_exp(change[3:6]) @ self._T[:3, :3], self._T[:3, 3] + change[:3])
        self._drift = self._drift + change[6:]

    def _take_over(self, track: Track) -> None:
        """The track's pose; of the drift as much as was known before stays known."""
        self._T = track.T_map_base
        self._P[:6, :] = self._P[:, :6] = 0.0
        self._P[:6, :6] = track.pose_covariance

    def _predict(self, T_odom_base: Array, seconds: float) -> None:
        step = inverse(self._T_odom_base) @ T_odom_base
        metres = float(np.linalg.norm(step[:3, 3]))
        step = make_transform(step[:3, :3] @ so3_exp(metres * self._drift[3:]), step[:3, 3] + metres * self._drift[:3])
        T = self._T @ step
        F = np.eye(12)
        F[:3, 3:6] = -skew(T[:3, 3] - self._T[:3, 3])
        F[:3, 6:9] = metres * self._T[:3, :3]
        F[3:6, 9:] = metres * T[:3, :3]
        P = F @ self._P @ F.T
        P[:3, :3] += np.eye(3) * (NOISE_M**2 * metres + IDLE_M**2 * seconds)
        P[3:6, 3:6] += np.eye(3) * (NOISE_RAD**2 * metres + IDLE_RAD**2 * seconds)
        P[6:, 6:] += DRIFT_CHANGE**2 * metres * _unknown_drift()
        self._T, self._P = T, P
        self._speed = min(metres / seconds, self._settings.max_speed_mps) if seconds > 0.0 else 0.0


def _unknown_drift() -> Array:
    return np.diag([DRIFT_M**2] * 3 + [DRIFT_RAD_M**2] * 3)
