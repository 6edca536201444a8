"""The settings of the tracker, all of them our choice: none of the papers has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vloc_ros.settings import Fixed, ranged

__all__ = ["ANGULAR_ACCELERATION_DPS2", "INITIAL_POSE_SIGMAS", "MIN_SIGMA_DEG", "MIN_SIGMA_M", "TrackerSettings"]

#: Standard deviations for an initial pose that comes without a covariance: metres, radians.
INITIAL_POSE_SIGMAS = (1.0, 1.0, 0.5, 0.1, 0.1, 0.3)
#: Estimates are never taken as more certain than this (m, deg): stamps and the camera's mounting are no better.
MIN_SIGMA_M, MIN_SIGMA_DEG = 0.02, 0.05
#: How fast the rate of turning changes where there is no odometry, deg / s^2: a car's in town.
ANGULAR_ACCELERATION_DPS2 = 60.0


@dataclass(frozen=True)
class TrackerSettings:
    """When to believe an estimate.

    :param initial_fixes: confident estimates in a row that must agree before the first LOCALIZED, and after LOST.
        A pose given by the user counts as the first of them.
    :param relocalize_after: confident estimates in a row that the gate rejects but that agree with each other,
        after which the vehicle is taken to be where they say (it was carried, or the track was wrong).
    :param recover_after: after misses, accepted frames before LOCALIZED again: as many as were missed, at most this.
    :param lost_after_frames: misses in a row (rejected or improbable frames) after which the state is LOST; 0: never.
    :param lost_after_s: seconds of stamp time without an accepted estimate after which the state is LOST; it also
        bounds the gap between estimates that can agree. 0: never.
    :param gate: largest accepted squared Mahalanobis distance of an estimate from the prediction, under the sum of
        both covariances; 27.86 is the 99.99 % point of chi-square with 6 degrees of freedom.
    :param max_speed_mps: faster than any motion of the vehicle; bounds the motion model without odometry, and
        odometry that jumps further is not believed.
    :param max_sigma_m: an estimate less certain than this (largest axis, one standard deviation) is at best DEGRADED;
        0: no limit.
    :param max_sigma_deg: the same for rotation.
    :param odometry_noise_m: drift of the odometry in metres per square root of a metre driven.
    :param odometry_noise_deg: the same for its heading, degrees per square root of a metre.
    :param odometry_idle_m: its drift per square root of a second, driven or not.
    :param odometry_idle_deg: the same for rotation.
    :param acceleration_mps2: how fast velocity changes where there is no odometry.
    :param correlated_frames: neighbouring estimates of one map err alike; this many count as one when they are fused.
    :param smoothing: compose map -> odom from the accepted estimates by their covariances, with the odometry's drift
        learned; otherwise from the last accepted estimate alone.
    :param prior_max_misses: give the localizer a search window only while at most this many frames in a row were
        missed; beyond, it searches the whole map.
    :param initial_pose_hold_s: seconds for which a pose given by the user is not overruled by estimates elsewhere;
        unconfirmed after that, it is dropped and the whole map is searched.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {
        "min_sigma_m": Fixed(MIN_SIGMA_M),
        "min_sigma_deg": Fixed(MIN_SIGMA_DEG),
        "angular_acceleration_dps2": Fixed(ANGULAR_ACCELERATION_DPS2),
    }

    initial_fixes: int = ranged(3, minimum=1, maximum=100)
    relocalize_after: int = ranged(8, minimum=1, maximum=1000)
    recover_after: int = ranged(3, minimum=1, maximum=100)
    lost_after_frames: int = ranged(15, minimum=0)
    lost_after_s: float = ranged(3.0, minimum=0.0)
    gate: float = ranged(27.86, minimum=1.0)
    max_speed_mps: float = ranged(40.0, minimum=0.1)
    max_sigma_m: float = ranged(3.0, minimum=0.0)
    max_sigma_deg: float = ranged(15.0, minimum=0.0)
    odometry_noise_m: float = ranged(0.1, minimum=0.0)
    odometry_noise_deg: float = ranged(0.5, minimum=0.0)
    odometry_idle_m: float = ranged(0.02, minimum=0.0)
    odometry_idle_deg: float = ranged(0.1, minimum=0.0)
    acceleration_mps2: float = ranged(3.0, minimum=0.01)
    correlated_frames: float = ranged(4.0, minimum=1.0)
    smoothing: bool = True
    prior_max_misses: int = ranged(2, minimum=0)
    initial_pose_hold_s: float = ranged(10.0, minimum=0.0)
