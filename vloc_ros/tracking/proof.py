"""What bears a track out: points that an image shows, the word of the user or of a satellite, or motion.

A map without points answers the same picture with the same pose, right or wrong: however many frames of a standing
vehicle agree, they are one. They say something when the vehicle has moved by more than its poses are unsure, and they
went along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.geometry.se3 import inverse, largest_sigma
from vloc_ros.types import Array

__all__ = ["Proof"]

#: Motion (m, deg) that is one at all, and how many standard deviations of a pose it has to be as well: by odometry, and
#: where only the poses themselves, which scatter, tell of it.
LEAST_M, LEAST_DEG = 0.5, 10.0
SIGMAS_ODOMETRY, SIGMAS_POSES = 3.0, 5.0


@dataclass(frozen=True)
class Proof:
    """Whether a track is borne out, and where its estimates began.

    :ivar given: it is. :ivar T_map_base: (4, 4) of the first estimate. :ivar T_odom_base: (4, 4) there, or None.
    """

    given: bool
    T_map_base: Array
    T_odom_base: Array | None

    def after(self, alone: bool, T_map_base: Array, covariance: Array, T_odom_base: Array | None) -> Proof:
        """With one more estimate that agrees.

        :param alone: the frame bears itself out. :param T_map_base: (4, 4) of the track there. :param covariance:
            (6, 6) of the estimate. :param T_odom_base: (4, 4) there, or None.
        """
        if self.given or not (alone or self._moved(T_map_base, covariance, T_odom_base)):
            return self
        return replace(self, given=True)

    def _moved(self, T_map_base: Array, covariance: Array, T_odom_base: Array | None) -> bool:
        step, sigmas = inverse(self.T_map_base) @ T_map_base, SIGMAS_POSES
        metres, radians = _size(step)
        if self.T_odom_base is not None and T_odom_base is not None:
            by_odometry, sigmas = inverse(self.T_odom_base) @ T_odom_base, SIGMAS_ODOMETRY
            metres, radians = _size(by_odometry)
            # Odometry that slips or begins anew moves nothing: the poses went along, but for half of it.
            metres *= float(np.linalg.norm(step[:3, 3] - by_odometry[:3, 3])) <= 0.5 * metres
            radians *= float(rotation_angle(step[:3, :3], by_odometry[:3, :3])) <= 0.5 * radians
        sigma_m, sigma_rad = largest_sigma(covariance[:3, :3]), largest_sigma(covariance[3:, 3:])
        return metres >= max(LEAST_M, sigmas * sigma_m) or radians >= max(np.radians(LEAST_DEG), sigmas * sigma_rad)


def _size(step: Array) -> tuple[float, float]:
    """Metres and radians of a motion."""
    return float(np.linalg.norm(step[:3, 3])), float(rotation_angle(step[:3, :3], np.eye(3)))
