"""From several estimates of one pose to one: the RANSAC-style filter and the mean of the inliers (Section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.geometry.averaging import average_poses
from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.types import Array

__all__ = ["Consensus", "consensus"]


@dataclass(frozen=True)
class Consensus:
    """The mean pose (4, 4), which estimates (N,) it is made of, and their spread about it (m, rad)."""

    T_map_cam: Array
    inliers: npt.NDArray[np.bool_]
    spread_m: float
    spread_rad: float


def consensus(T_map_cam: Array, inlier_m: float, inlier_deg: float) -> Consensus:
    """The mean of the largest set of estimates that agree with one of them.

    Every estimate is tried as the hypothesis, instead of a random few: there are never more than a handful, and the
    result must not depend on chance. Of equally large sets the tightest wins, then the one of the better reference.

    :param T_map_cam: (N, 4, 4) estimates, those of better references first.
    :param inlier_m: agree within this distance. :param inlier_deg: and within this angle.
    """
    positions, rotations = T_map_cam[:, :3, 3], T_map_cam[:, :3, :3]
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    turned = rotation_angle(rotations[:, None], rotations[None])
    agree = (apart <= inlier_m) & (turned <= np.radians(inlier_deg))
    np.fill_diagonal(agree, True)
    votes = agree.sum(axis=1)
    # Sums within each hypothesis' set, in units of the thresholds.
    unit = apart / max(inlier_m, 1e-9) + turned / max(np.radians(inlier_deg), 1e-9)
    tightness = np.where(agree, unit, 0.0).sum(axis=1)
    best = min(range(len(votes)), key=lambda i: (-votes[i], round(float(tightness[i]), 9), i))
    inliers = agree[best]
    mean = average_poses(T_map_cam[inliers])
    return Consensus(
        mean,
        inliers,
        float(np.linalg.norm(positions[inliers] - mean[:3, 3], axis=1).mean()),
        float(rotation_angle(rotations[inliers], mean[:3, :3]).mean()),
    )
