"""How well the points of a sparse model are known, and where they are by some of its observations alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vloc_ros.geometry.cameras import project, projection_jacobian
from vloc_ros.types import Array
from vloc_train.mapping.points import SparseModel

__all__ = ["adjusted", "point_roots"]

#: Gauss-Newton steps from where more observations had put a point.
_STEPS = 4
#: Nothing is farther off along its ray than this share of its distance.
_RANGE_SHARE = 0.5


def point_roots(model: SparseModel, sigma_px: float = 1.0) -> Array:
    """(P, 3, 3) lower triangular roots L of the points' covariances L L^T, map frame, m.

    Of the observations' errors alone: poses count as exact. A point that hardly any parallax fixes is as far off along
    its ray as half its distance.

    :param sigma_px: standard deviation of an observation.
    """
    H, _ = _normal_equations(model, np.inf)
    H /= sigma_px**2
    local = model.points_cam()
    distance = np.zeros(len(model.points))
    np.maximum.at(distance, model.point_ids, np.linalg.norm(local, axis=1))
    known = 1.0 / np.maximum(_RANGE_SHARE * distance, 1e-6) ** 2
    H += known[:, None, None] * np.eye(3)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(H)))


def adjusted(model: SparseModel, error_px: float, minimum_track: int = 2) -> SparseModel:
    """The model with its points moved to where its own observations have them; poses stay.

    For a model of fewer frames than its points were made of: what the missing frames knew is taken out of them.
    Observations that are then off by more than ``error_px`` are dropped, and points with fewer than ``minimum_track``.
    """
    for _ in range(_STEPS):
        H, g = _normal_equations(model, 2.0)
        scale = np.trace(H, axis1=1, axis2=2) / 3.0
        H += (1e-9 * np.maximum(scale, 1e-12))[:, None, None] * np.eye(3)
        step = np.linalg.solve(H, g[..., None])[..., 0]
        model = replace(model, points=model.points - step)
    good = model.reprojection_errors() <= error_px
    return model.keep(good, minimum_track)


def _normal_equations(model: SparseModel, huber_px: float) -> tuple[Array, Array]:
    """Sums over each point's observations of J^T J (P, 3, 3) and J^T r (P, 3), in map axes."""
    local = model.points_cam()
    camera_of = model.camera_index[model.frame_of]
    J, r = np.zeros((len(local), 2, 3)), np.zeros((len(local), 2))
    for index, camera in enumerate(model.cameras):
        mine = np.flatnonzero(camera_of == index)
        front = np.maximum(local[mine, 2], 1e-3)
        at = np.column_stack([local[mine, :2], front])
        J[mine] = projection_jacobian(camera, at)
        r[mine] = project(camera, at)[0] - model.pixels[mine]
    J = J @ np.swapaxes(model.T_map_cam[model.frame_of][:, :3, :3], 1, 2)
    length = np.linalg.norm(r, axis=1)
    weight = np.where(length > huber_px, huber_px / np.maximum(length, 1e-9), 1.0)
    full = np.einsum("o,oki,okj->oij", weight, J, J)
    part = np.einsum("o,oki,ok->oi", weight, J, r)
    offsets, order = model.by_point
    if not len(order):
        return np.zeros((len(model.points), 3, 3)), np.zeros((len(model.points), 3))
    starts = np.minimum(offsets[:-1], len(order) - 1)
    H, g = np.add.reduceat(full[order], starts), np.add.reduceat(part[order], starts)
    empty = np.diff(offsets) == 0
    H[empty], g[empty] = 0.0, 0.0
    return H, g
