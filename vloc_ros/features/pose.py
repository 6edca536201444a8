"""The pose of a camera from points that it sees: robustly from nothing, then exactly, with a covariance.

Any calibrated lens: the search works on rays, the refinement on pixels of the image as it is, distortion included.
Everything is float64.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.cameras import project, projection_jacobian, unproject
from vloc_ros.geometry.rotations import skew
from vloc_ros.geometry.se3 import inverse, se3_exp
from vloc_ros.types import Array, CameraModel

__all__ = [
    "LEAST_SCALE",
    "Observations",
    "RefinedPose",
    "Solver",
    "absolute_pose",
    "refine_pose",
    "refine_rig",
    "solver_name",
]

Solver = Literal["auto", "poselib", "opencv"]
#: Rays further off the axis than this have no place on the plane that solvers work on.
STEEPEST = np.tan(np.radians(75.0))
#: Residuals are never this much better than they should be by more than luck.
LEAST_SCALE = 0.3
#: A match with less weight says little.
_INNER = 0.3
#: No pose without this many points in agreement: three fix a pose, the others must confirm it.
MINIMAL = 6


@functools.cache
def solver_name(wanted: Solver) -> str:
    """``poselib`` where it is asked for or ``auto`` finds it installed, else ``opencv``.

    :raises ConfigError: it is asked for and not installed.
    """
    there = importlib.util.find_spec("poselib") is not None
    if wanted == "poselib" and not there:
        raise ConfigError("solver: expected poselib to be installed, found none: pip install poselib, or solver: auto")
    return "poselib" if there and wanted != "opencv" else "opencv"


def absolute_pose(
    camera: CameraModel,
    pixels: Array,
    points: Array,
    threshold_px: float,
    solver: Solver = "auto",
    iterations: int = 10_000,
    seed: int = 0,
) -> tuple[Array, npt.NDArray[np.bool_]] | None:
    """``T_map_cam`` (4, 4) that most matches agree with, and which these are (N,); None where there is none.

    P3P in RANSAC with local optimisation: PoseLib's (Larsson), or OpenCV's USAC. The same input gives the same pose.

    :param pixels: (N, 2) of the image, lens and all, the surest matches first. :param points: (N, 3) m, map frame.
    :param threshold_px: largest reprojection error of a match in agreement.
    """
    if len(pixels) < MINIMAL:
        return None
    plane = unproject(camera, pixels)[:, :2]
    usable = np.flatnonzero(np.nan_to_num(np.abs(plane), nan=np.inf).max(axis=1) < STEEPEST)
    if len(usable) < MINIMAL:
        return None
    focal = 0.5 * (camera.fx + camera.fy)
    # Large map coordinates cost digits in the solvers' polynomials.
    centre = np.median(points[usable], axis=0)
    local = points[usable] - centre
    find = _poselib if solver_name(solver) == "poselib" else _opencv
    found = find(plane[usable] * focal, local, focal, threshold_px, iterations, seed)
    if found is None or not np.isfinite(found[0]).all():
        return None
    T_map_cam = inverse(found[0])
    T_map_cam[:3, 3] += centre
    inside = np.zeros(len(pixels), dtype=bool)
    inside[usable[found[1]]] = True
    return (T_map_cam, inside) if inside.sum() >= MINIMAL else None


def _poselib(
    plane: Array, points: Array, focal: float, threshold_px: float, iterations: int, seed: int
) -> tuple[Array, npt.NDArray[np.bool_]] | None:
    import poselib

    camera = {"model": "SIMPLE_PINHOLE", "width": 1, "height": 1, "params": [focal, 0.0, 0.0]}
    options = {
        "max_reproj_error": threshold_px,
        "max_iterations": iterations,
        "min_iterations": 100,
        "success_prob": 0.9999,
        "seed": seed,
        "progressive_sampling": True,
    }
    pose, told = poselib.estimate_absolute_pose(plane, points, camera, options, {"loss_type": "TRUNCATED"})
    inside = np.asarray(told.get("inliers", []), dtype=bool)
    if len(inside) != len(points):
        return None
    T = np.eye(4)
    T[:3] = pose.Rt
    return T, inside


def _opencv(
    plane: Array, points: Array, focal: float, threshold_px: float, iterations: int, seed: int
) -> tuple[Array, npt.NDArray[np.bool_]] | None:
    usac: Any = cv2.UsacParams()
    usac.threshold, usac.maxIterations, usac.confidence = threshold_px, iterations, 0.9999
    usac.isParallel, usac.randomGeneratorState = False, seed
    usac.sampler, usac.score = cv2.SAMPLING_UNIFORM, cv2.SCORE_METHOD_MSAC
    usac.loMethod, usac.loIterations, usac.loSampleSize = cv2.LOCAL_OPTIM_INNER_LO, 10, 14
    K = np.diag([focal, focal, 1.0])
    try:
        good, _, rotation, shift, rows = cv2.solvePnPRansac(
            points[:, None], np.ascontiguousarray(plane[:, None]), K, None, params=usac
        )
    except cv2.error:  # all matches in one place, and the like
        return None
    if not good or rows is None:
        return None
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(rotation)[0], shift.ravel()
    inside = np.zeros(len(points), dtype=bool)
    inside[np.asarray(rows).ravel()] = True
    return T, inside


@dataclass(frozen=True)
class RefinedPose:
    """A pose by least squares on N matches.

    :ivar T_map_cam: (4, 4).
    :ivar covariance: (6, 6), map axes as everywhere: of the pose if every match erred as its sigma says.
    :ivar scale: median-based standard deviation of the normalised residuals: 1 where sigmas are right.
    :ivar errors_px: (N,) reprojection errors; infinite behind the camera.
    :ivar normalised: (N,) lengths of the residuals in units of their own standard deviation.
    :ivar weights: (N,) robust weights in [0, 1].
    :ivar well_posed: the matches determine all six parameters.
    :ivar cost: robust, squares of standard deviations.
    :ivar doubt: (6, 6) what another pose that explains the matches adds to the covariance; None: there is none.
    """

    T_map_cam: Array
    covariance: Array
    scale: float
    errors_px: Array
    normalised: Array
    weights: Array
    well_posed: bool
    cost: float = 0.0
    doubt: Array | None = None

    @property
    def inner(self) -> npt.NDArray[np.bool_]:
        """(N,) matches that the pose is made of."""
        return self.weights > _INNER


#: Eigenvalues of the scaled Hessian below this share of the largest are rounding, not knowledge.
_RANK = 1e-9
#: The cost counts standard deviations squared: a step that promises less than this moves the pose by less than a
#: thousandth of its own. One that promises little and does not keep it is at the minimum, but for what the points'
#: covariances change with the pose.
_GAIN, _NOISE = 1e-6, 1e-2
#: The loss is nearly quadratic once a step lowers it by less than this share. Its curvature is no less than the other.
_NEAR, _LEAST_CURVATURE = 0.1, 0.05
_WIDE = np.diag([1e6, 1e6, 1e6, np.pi**2, np.pi**2, np.pi**2])


@dataclass(frozen=True)
class Observations:
    """Map points that one camera sees, and where that camera is on its rig.

    :ivar camera: of the image as it is. :ivar points: (N, 3) m, map frame. :ivar pixels: (N, 2).
    :ivar sigma_px: of the pixels, for all or each (N,).
    :ivar roots: (N, 3, 3) roots L of the points' covariances L L^T, map frame, m; None: points are exact.
    :ivar T_rig_cam: (4, 4) the camera on the rig; None: the camera is the rig.
    """

    camera: CameraModel
    points: Array
    pixels: Array
    sigma_px: Array | float = 1.0
    roots: Array | None = None
    T_rig_cam: Array | None = None

    def __len__(self) -> int:
        return len(self.points)


def refine_pose(
    T_map_cam: Array,
    camera: CameraModel,
    points: Array,
    pixels: Array,
    sigma_px: Array | float = 1.0,
    point_roots: Array | None = None,
    cut: float = 2.5,
    iterations: int = 15,
) -> RefinedPose:
    """:func:`refine_rig` of one camera, whose :class:`Observations` these are."""
    return refine_rig(T_map_cam, [Observations(camera, points, pixels, sigma_px, point_roots)], cut, iterations)


def refine_rig(
    T_map_rig: Array, observations: Sequence[Observations], cut: float = 2.5, iterations: int = 15
) -> RefinedPose:
    """Levenberg-Marquardt on all matches of all cameras with Cauchy's robust loss; wrong ones lose their weight.

    A match's residual is divided by its own standard deviation: of the pixel, and of the point as the camera sees it
    (``J P J^T``), so that far points whose depth nobody knows do not pretend to.

    :param observations: of each camera; the places of the cameras on the rig are taken as exact.
    :param cut: residuals beyond this many standard deviations are outliers' more than not.
    :returns: ``T_map_cam`` of it is ``T_map_rig``; what there is for each match is in the order of the observations.
    """
    T = inverse(T_map_rig)
    count = sum(len(o) for o in observations)
    damping, near = 1e-6, False
    state = _evaluate(T, observations, cut)
    for _ in range(iterations):
        H, g = state.newton_equations() if near else state.normal_equations()
        d = np.sqrt(np.maximum(np.diag(H), 1e-12))
        scaled = H / np.outer(d, d)
        step = np.linalg.lstsq(scaled + damping * np.eye(6), -g / d, rcond=None)[0] / d
        # At the minimum the cost no longer falls, but by rounding: what a step promises is known before it is tried.
        promised = -float(g @ step)
        if not np.isfinite(step).all() or promised < _GAIN:
            break
        tried = _evaluate(se3_exp(step) @ T, observations, cut)
        if tried.cost <= state.cost:
            near = state.cost - tried.cost < _NEAR * state.cost
            T, state, damping = se3_exp(step) @ T, tried, max(damping * 0.1, 1e-9)
        elif promised < _NOISE:
            break
        elif near:
            near = False
        else:
            damping = max(damping * 10.0, 1e-3)
            if damping > 1e6:
                break
    H, _ = state.normal_equations()
    d = np.sqrt(np.maximum(np.diag(H), 1e-12))
    values, vectors = np.linalg.eigh(H / np.outer(d, d))
    posed = bool(count >= 3 and values[0] > _RANK * max(values[-1], 1e-12) and (np.diag(H) > 1e-9).all())
    T_out = inverse(T)
    covariance = _WIDE.copy()
    if posed:
        local = ((vectors / values) @ vectors.T) / np.outer(d, d)
        turn = np.zeros((6, 6))
        turn[:3, :3] = turn[3:, 3:] = T_out[:3, :3]
        covariance = turn @ local @ turn.T
        covariance = 0.5 * (covariance + covariance.T)
    inner = state.normalised[state.weights > _INNER]
    # The median length of a two-dimensional standard normal is 1.1774.
    scale = float(np.median(inner) / 1.1774) if len(inner) else 0.0
    return RefinedPose(T_out, covariance, scale, state.errors_px, state.normalised, state.weights, posed, state.cost)


@dataclass(frozen=True)
class _State:
    """Residuals at a pose: ``whitened`` (N, 2), Jacobians (N, 2, 6) whitened alike, and what they cost."""

    whitened: Array
    jacobian: Array
    normalised: Array
    errors_px: Array
    weights: Array
    cost: float

    def normal_equations(self) -> tuple[Array, Array]:
        J = (self.jacobian * np.sqrt(self.weights)[:, None, None]).reshape(-1, 6)
        r = (self.whitened * np.sqrt(self.weights)[:, None]).reshape(-1)
        return J.T @ J, J.T @ r

    def newton_equations(self) -> tuple[Array, Array]:
        """The same with the loss's own curvature, for steps near the minimum: fixed weights make them too short there.

        Along its residual a match pulls less the farther it is (Triggs et al. 2000, section 4.3); the curvature is
        kept positive.
        """
        length = np.maximum(np.linalg.norm(self.whitened, axis=1, keepdims=True), 1e-12)
        along = self.whitened / length
        left = np.maximum(2.0 * self.weights - 1.0, _LEAST_CURVATURE)  # (1 - s) / (1 + s) of Cauchy's loss
        share = np.sqrt(self.weights)[:, None, None]
        J = share * self.jacobian
        pulled = np.einsum("nk,nkj->nj", along, J)
        H = np.einsum("nki,nkj->ij", J, J) - (pulled * (1.0 - left)[:, None]).T @ pulled
        return H, self.normal_equations()[1]


def _evaluate(T_rig_map: Array, observations: Sequence[Observations], cut: float) -> _State:
    parts = [_residuals(T_rig_map, o) for o in observations]
    if len(parts) == 1:
        whitened, jacobian, front, errors = parts[0]
    else:
        whitened, jacobian, front, errors = (np.concatenate(column) for column in zip(*parts, strict=True))
    length = np.linalg.norm(whitened, axis=1)
    weights = np.where(front, 1.0 / (1.0 + (length / cut) ** 2), 0.0)
    cost = float(np.where(front, cut**2 * np.log1p((length / cut) ** 2), 4.0 * cut**2).sum())
    return _State(whitened, jacobian, np.where(front, length, np.inf), errors, weights, cost)


def _residuals(T_rig_map: Array, seen_by: Observations) -> tuple[Array, Array, npt.NDArray[np.bool_], Array]:
    """Whitened residuals (N, 2) and Jacobians (N, 2, 6) of one camera, which points lie before it, and pixels off."""
    camera, points, variance = seen_by.camera, seen_by.points, np.asarray(seen_by.sigma_px, dtype=np.float64) ** 2
    R = T_rig_map[:3, :3]
    on_rig = points @ R.T + T_rig_map[:3, 3]
    local, R_cam_rig = on_rig, None
    if seen_by.T_rig_cam is not None:
        T_cam_rig = inverse(seen_by.T_rig_cam)
        R_cam_rig = T_cam_rig[:3, :3]
        local, R = on_rig @ R_cam_rig.T + T_cam_rig[:3, 3], R_cam_rig @ R
    front = local[:, 2] > 1e-3
    seen, _ = project(camera, local)
    difference = np.where(front[:, None], seen - seen_by.pixels, 0.0)
    J_point = projection_jacobian(camera, np.where(front[:, None], local, (0.0, 0.0, 1.0)))
    # Left perturbation of the rig: a point moves by rho + phi x p in its axes.
    J_rig = J_point if R_cam_rig is None else J_point @ R_cam_rig
    J = np.concatenate([J_rig, -J_rig @ skew(on_rig)], axis=-1)
    S = np.zeros((len(points), 2, 2))
    S[:, 0, 0] = S[:, 1, 1] = variance
    if seen_by.roots is not None:
        across = J_point @ R @ seen_by.roots
        S += across @ np.swapaxes(across, 1, 2)
    # Inverse of the lower Cholesky factor of 2x2 matrices, by hand: N of them at once.
    a, b, c = S[:, 0, 0], S[:, 0, 1], S[:, 1, 1]
    l11 = np.sqrt(a)
    l21 = b / l11
    l22 = np.sqrt(np.maximum(c - l21**2, 1e-12))
    W = np.zeros_like(S)
    W[:, 0, 0], W[:, 1, 1], W[:, 1, 0] = 1.0 / l11, 1.0 / l22, -l21 / (l11 * l22)
    whitened = (W @ difference[..., None])[..., 0]
    return whitened, W @ J, front, np.where(front, np.linalg.norm(difference, axis=1), np.inf)
