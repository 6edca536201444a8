"""What the neighbours of a query say about how far its pose may be off, as a few numbers for the covariance model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vloc_ros.types import Array

__all__ = ["STATISTICS", "retrieval_statistics"]

#: Names of the entries of :func:`retrieval_statistics`, in order.
STATISTICS = (
    "best_distance",  # log of the distance to the nearest descriptor
    "mean_distance",  # log of the mean distance of the neighbours, relative to the nearest
    "second_place",  # log of the nearest distance elsewhere (outside the radius of the best), relative to the nearest
    "spread",  # log of the spread of the neighbours' positions about the best one, metres
    "heading",  # log of the spread of their rotations about the best one, radians
    "elsewhere",  # the share of neighbours that are at another place than the best one
    "shift",  # log of the distance from the best neighbour to the estimate, metres
)


def retrieval_statistics(distances: Array, T_map_cam: Array, same: npt.NDArray[np.bool_], estimate: Array) -> Array:
    """The numbers named in :data:`STATISTICS`, ``(7,)``.

    :param distances: (n,) of the nearest descriptors, in order.
    :param T_map_cam: (n, 4, 4) their poses.
    :param same: (n,) bool, which are at the place of the first.
    :param estimate: (4, 4).
    """
    best = float(distances[0])
    floor = 0.01 * float(distances[-1]) + 1e-6  # a query that is in the database has distance zero
    offsets = T_map_cam[:, :3, 3] - T_map_cam[0, :3, 3]
    trace = np.einsum("kij,ij->k", T_map_cam[:, :3, :3], T_map_cam[0, :3, :3])
    angles = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    others = distances[~same]
    rival = float(others[0]) if len(others) else float(distances[-1])
    return np.array(
        [
            np.log(best + 1e-4),
            np.log((distances.mean() + floor) / (best + floor)),
            np.log((rival + floor) / (best + floor)),
            np.log(np.sqrt((offsets**2).sum(axis=1).mean()) + 0.01),
            np.log(np.sqrt((angles**2).mean()) + 1e-3),
            1.0 - float(same.mean()),
            np.log(np.linalg.norm(estimate[:3, 3] - T_map_cam[0, :3, 3]) + 0.01),
        ]
    )
