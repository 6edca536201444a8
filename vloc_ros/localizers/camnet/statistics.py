"""What the stages say about the certainty of a frame, as a few numbers for the covariance model."""

from __future__ import annotations

import numpy as np

from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.types import Array

__all__ = ["STATISTICS", "refinement_statistics"]

#: Names of the entries of :func:`refinement_statistics`, in order.
STATISTICS = (
    "feature_distance",  # log of the distance of the best reference's features
    "feature_margin",  # log of the worst proposed reference's distance, relative to the best one's
    "retrieval_spread",  # log of the mean distance of the proposed references from the result, metres
    "coarse_spread",  # the same of the coarse poses
    "precise_spread",  # the same of the precise poses, outliers included
    "precise_turn",  # log of the mean angle between the precise poses and the result, radians
    "refinement",  # log of the distance between the best reference's coarse and precise pose, metres
    "reach",  # log of the distance of the result from the nearest reference, metres
    "inlier_share",  # share of the precise poses that agree
)

_FLOOR_M, _FLOOR_RAD = 0.01, 1e-3


def refinement_statistics(
    T_map_cam: Array,
    distances: Array,
    retrieved: Array,
    coarse: Array,
    precise: Array,
    nearest: Array,
    inlier_share: float,
) -> Array:
    """The numbers named in :data:`STATISTICS`, ``(9,)``.

    :param T_map_cam: (4, 4), the result. :param distances: (k,) of the features of the proposed references.
    :param retrieved: (k, 4, 4) their poses. :param coarse: (k, 4, 4). :param precise: (k + s, 4, 4).
    :param nearest: (k, 4, 4) references that the precise poses start from.
    """

    def spread(T: Array) -> float:
        return float(np.linalg.norm(T[:, :3, 3] - T_map_cam[:3, 3], axis=1).mean())

    turn = float(rotation_angle(precise[:, :3, :3], T_map_cam[:3, :3]).mean())
    shift = float(np.linalg.norm(coarse[0, :3, 3] - precise[0, :3, 3]))
    reach = float(np.linalg.norm(nearest[:, :3, 3] - T_map_cam[:3, 3], axis=1).min())
    return np.array(
        [
            np.log(distances[0] + 1e-4),
            np.log((distances[-1] + 1e-4) / (distances[0] + 1e-4)),
            np.log(spread(retrieved) + _FLOOR_M),
            np.log(spread(coarse) + _FLOOR_M),
            np.log(spread(precise) + _FLOOR_M),
            np.log(turn + _FLOOR_RAD),
            np.log(shift + _FLOOR_M),
            np.log(reach + _FLOOR_M),
            inlier_share,
        ]
    )
