"""One pose from the poses of the best k neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import GeometryError
from vloc_ros.geometry.averaging import markley_mean
from vloc_ros.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.types import Array

__all__ = [
    "Averaged",
    "Weighting",
    "average_neighbours",
    "interpolation_weights",
    "neighbour_weights",
    "same_place",
    "similarity_weights",
]

Weighting = Literal["uniform", "similarity", "interpolation"]


#: Power of the similarity in ``similarity`` weights (Pion et al., 3DV 2020).
SIMILARITY_POWER = 8.0
#: Regularisation of the interpolation, as a share of the neighbours' mean squared distance: the combination is singular
#: when neighbours repeat or are more than dimensions.
RIDGE = 1e-3


def interpolation_weights(query: Array, neighbours: Array, ridge: float = RIDGE) -> Array:
    """The affine combination of neighbours that is closest to the query.

    Minimises ``||q - sum a_i f_i||^2`` subject to ``sum a_i = 1`` (Torii et al. 2011; the interpolation baseline of
    Sattler et al., CVPR 2019). With G the Gram matrix of ``f_i - q`` the solution is ``G^-1 1 / (1^T G^-1 1)``.
    G is singular when neighbours are equal or more than they have dimensions; ``ridge`` times its mean diagonal is
    added, which draws the weights towards equal ones: duplicates share their weight.

    :param query: (D,).
    :param neighbours: (k, D).
    :returns: (k,), sum 1; entries may be negative.
    """
    differences = np.asarray(neighbours, dtype=np.float64) - np.asarray(query, dtype=np.float64)
    k = len(differences)
    gram = differences @ differences.T
    scale = float(np.trace(gram)) / k
    if scale <= 1e-24:  # every neighbour is the query itself
        return np.full(k, 1.0 / k)
    weights = np.linalg.solve(gram / scale + ridge * np.eye(k), np.ones(k))
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def similarity_weights(similarities: Array, power: float = SIMILARITY_POWER) -> Array:
    """Weights proportional to ``similarity^power`` (Pion et al., 3DV 2020, "cosine similarity", power 8).

    :param similarities: (k,) in [0, 1].
    """
    s = np.clip(np.asarray(similarities, dtype=np.float64), 0.0, None)
    if not s.max() > 0:
        return np.full(len(s), 1.0 / len(s))
    weights = (s / s.max()) ** power
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def neighbour_weights(
    kind: Weighting, query: Array, neighbours: Array, similarities: Array, power: float = SIMILARITY_POWER
) -> Array:
    """``(k,)`` weights of neighbours ``(k, D)`` of a query ``(D,)``, sum 1."""
    if kind == "uniform":
        return np.full(len(neighbours), 1.0 / len(neighbours))
    if kind == "similarity":
        return similarity_weights(similarities, power)
    return interpolation_weights(query, neighbours)


def same_place(T_map_cam: Array, radius_m: float, radius_deg: float) -> npt.NDArray[np.bool_]:
    """Which of ``(k, 4, 4)`` poses are at the place of the first: near it, and turned nearly as it is.

    Two places that look alike have no mean: half way between them is neither.
    """
    near = np.linalg.norm(T_map_cam[:, :3, 3] - T_map_cam[0, :3, 3], axis=1) <= radius_m
    trace = np.einsum("kij,ij->k", T_map_cam[:, :3, :3], T_map_cam[0, :3, :3])
    return np.asarray(near & (np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))) <= radius_deg))


@dataclass(frozen=True)
class Averaged:
    """``T_map_cam`` (4, 4), the mean of poses, and the weights (k,) that the position was made with."""

    T_map_cam: Array
    weights: Array


def average_neighbours(T_map_cam: Array, weights: Array, radius_m: float) -> Averaged:
    """The weighted mean of the poses of neighbours, the nearest first.

    The position is ``sum a_i t_i``, weights below zero included: an affine combination may lie beyond its neighbours.
    Where it lies farther than ``radius_m`` from the nearest neighbour the weights below zero count as zero. The
    rotation is Markley's mean, which is defined for weights that are not negative: there they always count as zero.

    :param T_map_cam: (k, 4, 4).
    :param weights: (k,), sum 1.
    :raises GeometryError: no neighbour, or weights that are not finite or do not sum to 1.
    """
    if not len(T_map_cam) or weights.shape != (len(T_map_cam),):
        raise GeometryError(f"average: expected a weight a pose, found {len(T_map_cam)} poses and {weights.shape}")
    if not np.isfinite(weights).all() or abs(float(weights.sum()) - 1.0) > 1e-6:
        raise GeometryError(f"average: expected finite weights of sum 1, found sum {weights.sum()}")
    positive = np.clip(weights, 0.0, None)  # not all are zero: they sum to 1
    positive /= positive.sum()
    used, position = weights, weights @ T_map_cam[:, :3, 3]
    if np.linalg.norm(position - T_map_cam[0, :3, 3]) > radius_m:
        used, position = positive, positive @ T_map_cam[:, :3, 3]
    rotation = quaternion_to_matrix(markley_mean(matrix_to_quaternion(T_map_cam[:, :3, :3]), positive))
    return Averaged(make_transform(rotation, position), used)
