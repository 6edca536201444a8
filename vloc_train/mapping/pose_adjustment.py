"""Poses and points of a sparse model adjusted together, the given poses as priors.

Reference poses err by centimetres and tenths of a degree: satellites, motion capture and odometry know nothing of the
images. Points triangulated from such poses are off by much more, since a short baseline magnifies what its two ends
disagree in. Bundle adjustment makes the frames agree with each other; the priors keep the map where it was given, in
all that images do not tell (its place, heading and scale, and slow drift).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.linalg

from vloc_ros.geometry.cameras import project, projection_jacobian
from vloc_ros.geometry.rotations import skew, so3_log
from vloc_ros.geometry.se3 import inverse, se3_exp
from vloc_ros.types import Array
from vloc_train.mapping.points import SparseModel

__all__ = ["adjust_poses"]

Ints = npt.NDArray[np.int64]
#: Residuals beyond this many standard deviations count less and less (Cauchy).
_CUT = 2.5
#: Observations of a frame that its pose is found by, those of long tracks first; all points follow afterwards.
_OBSERVATIONS = 400
_ITERATIONS = 20
#: The cost must fall by this share, or the iterations end.
_GAIN = 1e-4


def adjust_poses(model: SparseModel, sigma_m: float, sigma_deg: float, sigma_px: float = 1.0) -> Array:
    """(R, 4, 4) ``T_map_cam`` of the model's frames, where images and given poses agree best.

    Levenberg-Marquardt on poses and points with Cauchy's robust loss, on priors as on observations, so that a pose that
    is badly wrong may move. The points are eliminated (Schur complement), the poses solved for as a sparse system.
    Frames without observations keep their poses.

    :param sigma_m: standard deviation of a given position, m. :param sigma_deg: of a given orientation, degrees.
    :param sigma_px: of an observation, pixels.
    """
    rows = _chosen(model, _OBSERVATIONS)
    if not len(rows):
        return model.T_map_cam.copy()
    used, points = np.unique(model.point_ids[rows], return_inverse=True)
    state = _State(
        inverse(model.T_map_cam), model.points[used], model, rows, points.astype(np.int64),
        (sigma_m, np.radians(sigma_deg), sigma_px),
    )  # fmt: skip
    damping, cost = 1e-4, state.cost
    for _ in range(_ITERATIONS):
        tried = state.stepped(damping)
        if tried is not None and tried.cost < cost:
            gain, cost, state, damping = cost - tried.cost, tried.cost, tried, max(damping * 0.2, 1e-9)
            if gain < _GAIN * cost:
                break
        else:
            damping *= 10.0
            if damping > 1e4:
                break
    return inverse(state.T_cam_map)


def _chosen(model: SparseModel, count: int) -> Ints:
    """Observations, ascending: of each frame the ``count`` of longest tracks, of points that two frames then see."""
    length = np.bincount(model.point_ids, minlength=len(model.points))[model.point_ids]
    order = np.lexsort((np.arange(len(length)), -length, model.frame_of))
    rank = np.arange(len(order)) - model.offsets[model.frame_of[order]]
    chosen = np.sort(order[rank < count])
    seen = np.bincount(model.point_ids[chosen], minlength=len(model.points))
    return np.asarray(chosen[seen[model.point_ids[chosen]] >= 2])


class _State:
    """Poses and points with their residuals."""

    def __init__(
        self,
        T_cam_map: Array,
        points: Array,
        model: SparseModel,
        rows: Ints,
        point_of: Ints,
        sigmas: tuple[float, float, float],
    ) -> None:
        self.T_cam_map, self.points = T_cam_map, points
        self._model, self._rows, self._point_of, self._sigmas = model, rows, point_of, sigmas
        sigma_m, sigma_rad, sigma_px = sigmas
        self._frame_of = model.frame_of[rows]
        R = T_cam_map[self._frame_of][:, :3, :3]
        local = np.einsum("oij,oj->oi", R, points[point_of]) + T_cam_map[self._frame_of][:, :3, 3]
        self._front = local[:, 2] > 1e-3
        local[~self._front] = (0.0, 0.0, 1.0)
        self._local = local
        seen, self._J = np.zeros((len(rows), 2)), np.zeros((len(rows), 2, 3))
        camera_of = model.camera_index[self._frame_of]
        for index, camera in enumerate(model.cameras):
            mine = np.flatnonzero(camera_of == index)
            seen[mine] = project(camera, local[mine])[0]
            self._J[mine] = projection_jacobian(camera, local[mine])
        self._r = (seen - model.pixels[rows]) / sigma_px
        length = np.linalg.norm(self._r, axis=1)
        self._weight = np.where(self._front, 1.0 / (1.0 + (length / _CUT) ** 2), 0.0)
        # Camera axes: where the frame stands and how it is turned against what was given.
        apart = -np.einsum("rji,rj->ri", T_cam_map[:, :3, :3], T_cam_map[:, :3, 3]) - model.T_map_cam[:, :3, 3]
        self._moved = np.einsum("rij,rj->ri", T_cam_map[:, :3, :3], apart) / sigma_m
        self._turned = so3_log(T_cam_map[:, :3, :3] @ model.T_map_cam[:, :3, :3]) / sigma_rad
        move, twist = (np.linalg.norm(part, axis=1) for part in (self._moved, self._turned))
        self._prior_weight = [1.0 / (1.0 + (part / _CUT) ** 2) for part in (move, twist)]
        losses = [length[self._front], move, twist]
        self.cost = float(sum((_CUT**2 * np.log1p((part / _CUT) ** 2)).sum() for part in losses))
        self.cost += 4.0 * _CUT**2 * float((~self._front).sum())

    def stepped(self, damping: float) -> _State | None:
        """The state after one damped step; None where the system has no solution."""
        (sigma_m, sigma_rad, sigma_px), frames, count = self._sigmas, len(self.T_cam_map), len(self.points)
        root = np.sqrt(self._weight)[:, None, None]
        J = self._J / sigma_px * root
        r = (self._r * root[..., 0])[..., None]
        # Left perturbation of T_cam_map: a point moves by rho + phi x p.
        A = np.concatenate([J, -J @ skew(self._local)], axis=-1)  # (O, 2, 6)
        B = J @ self.T_cam_map[self._frame_of][:, :3, :3]  # (O, 2, 3)
        H = np.zeros((frames, 6, 6))
        g = np.zeros((frames, 6))
        np.add.at(H, self._frame_of, np.swapaxes(A, 1, 2) @ A)
        np.add.at(g, self._frame_of, (np.swapaxes(A, 1, 2) @ r)[..., 0])
        # The centre moves by -rho, the rotation by phi.
        for part, values, weight, sigma, sign in (
            (slice(0, 3), self._moved, self._prior_weight[0], sigma_m, -1.0),
            (slice(3, 6), self._turned, self._prior_weight[1], sigma_rad, 1.0),
        ):
            H[:, part, part] += (weight / sigma**2)[:, None, None] * np.eye(3)
            g[:, part] += sign * (weight / sigma)[:, None] * values
        V, h = np.zeros((count, 3, 3)), np.zeros((count, 3))
        np.add.at(V, self._point_of, np.swapaxes(B, 1, 2) @ B)
        np.add.at(h, self._point_of, (np.swapaxes(B, 1, 2) @ r)[..., 0])
        for block in (H, V):
            diagonal = np.einsum("nii->ni", block)
            diagonal *= 1.0 + damping
            diagonal += 1e-9
        try:
            L = np.linalg.inv(np.linalg.cholesky(V))  # V^-1 = L^T L
        except np.linalg.LinAlgError:
            return None
        W = np.swapaxes(A, 1, 2) @ B @ np.swapaxes(L, 1, 2)[self._point_of]  # (O, 6, 3)
        rows = 6 * self._frame_of[:, None, None] + np.arange(6)[:, None]
        columns = 3 * self._point_of[:, None, None] + np.arange(3)
        shape = (6 * frames, 3 * count)
        where = (np.broadcast_to(rows, W.shape).ravel(), np.broadcast_to(columns, W.shape).ravel())
        coupling = scipy.sparse.csr_matrix((W.ravel(), where), shape=shape)
        scaled = (L @ h[..., None])[..., 0]
        system = scipy.sparse.block_diag(list(H), format="csc") - (coupling @ coupling.T).tocsc()
        right = g.ravel() - coupling @ scaled.ravel()
        step = -scipy.sparse.linalg.splu(system).solve(right)
        if not np.isfinite(step).all():
            return None
        along = -scaled - (coupling.T @ step).reshape(-1, 3)
        moved = self.points + (np.swapaxes(L, 1, 2) @ along[..., None])[..., 0]
        turned = se3_exp(step.reshape(-1, 6)) @ self.T_cam_map
        return _State(turned, moved, self._model, self._rows, self._point_of, self._sigmas)
