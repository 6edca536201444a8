"""The other pose that a plane leaves: points of one flat thing are seen nearly alike with its tilt to the line of sight
turned over (Schweighofer and Pinz, "Robust pose estimation from a planar target", PAMI 2006).

Both poses are minima of the reprojection error. A descent ends in the one it began near, and its curvature says nothing
of the other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vloc_ros.features.pose import LEAST_SCALE, MINIMAL, Observations, RefinedPose, refine_rig
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, pose_error
from vloc_ros.types import Array

__all__ = ["better_of_two", "mirrored_pose"]

#: Points are flat that leave their plane by less than this share of its shorter side (standard deviations of both), and
#: the plane is of the points within this share of the median depth, which are most of them.
_FLAT, _NEAR, _MOST = 0.2, 0.3, 0.6
#: A tilt of less (rad) turned over is the same pose.
_TILT = 0.01
#: Less likely than this a pose is not the one.
_UNLIKELY = 0.01


def mirrored_pose(T_map_cam: Array, points: Array) -> Array | None:
    """The pose (4, 4) from which flat points look nearly as from ``T_map_cam``; None where they are not flat.

    :param points: (N, 3) m, map frame.
    """
    if len(points) < MINIMAL:
        return None
    T = inverse(T_map_cam)
    local = points @ T[:3, :3].T + T[:3, 3]
    depth = local[:, 2]
    near = np.abs(depth - np.median(depth)) < _NEAR * np.median(depth)
    if near.sum() < max(MINIMAL, _MOST * len(local)):
        return None
    centre = local[near].mean(axis=0)
    _, sides, axes = np.linalg.svd(local[near] - centre, full_matrices=False)
    if sides[2] > _FLAT * sides[1]:
        return None
    sight, normal = centre / np.linalg.norm(centre), axes[2]
    normal = normal if normal @ sight > 0.0 else -normal
    across = np.cross(normal, sight)
    sine = float(np.linalg.norm(across))
    if sine < _TILT:
        return None
    # Twice the tilt, about the axis across both and through the middle of the points.
    turn = so3_exp(across / sine * 2.0 * float(np.arctan2(sine, normal @ sight)))
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = turn, centre - turn @ centre
    return inverse(moved @ T)


def better_of_two(found: RefinedPose, observations: Observations, cut: float) -> RefinedPose:
    """A refined pose of something flat, or its mirror image where that fits the image better; and the doubt left.

    The two are compared by pixels alone. Points of one flat thing err together, where their covariances take each for
    itself: so unsure of the plane, a fit with these believes a few false points beside it.

    :param found: with its losses cut at ``cut``. :param observations: that it was refined by; of one camera, no rig.
    """
    start = mirrored_pose(found.T_map_cam, observations.points[found.inner])
    if start is None:
        return found
    exact = replace(observations, roots=None)
    same, other = (refine_rig(T, [exact], cut) for T in (found.T_map_cam, start))
    if not (same.well_posed and other.well_posed and np.isfinite(other.T_map_cam).all()):
        return found
    best, rest = (other, same) if other.cost < same.cost else (same, other)
    # How much likelier the better one is, by errors as large as they turn out to be.
    scale = max(best.scale, LEAST_SCALE)
    unlikely = 1.0 / (1.0 + float(np.exp(min((rest.cost - best.cost) / (2.0 * scale**2), 700.0))))
    if best is same or unlikely > _UNLIKELY:
        apart = pose_error(other.T_map_cam, same.T_map_cam)
        return replace(found, doubt=(unlikely if best is same else 1.0 - unlikely) * np.outer(apart, apart))
    apart = pose_error(found.T_map_cam, best.T_map_cam)
    return replace(best, doubt=np.outer(apart, apart))
