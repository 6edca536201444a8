"""Rigid transforms: exponential and logarithm, adjoint, and how a pose's covariance travels.

Tangent vectors are ``xi = [rho, phi]``, translation first; ``T`` is [..., 4, 4]. Batched, float64.

The package's pose error is ``e = [t_est - t_true; Log(R_est R_true^T)]`` in map axes: what ROS consumers
read in a ``PoseWithCovariance``, and neither the left nor the right tangent vector of SE(3).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import GeometryError
from vloc_ros.geometry.rotations import skew, so3_exp, so3_log
from vloc_ros.types import Array, check_covariance

__all__ = [
    "adjoint",
    "covariance_of_base",
    "inverse",
    "largest_sigma",
    "make_transform",
    "nees",
    "pose_error",
    "se3_exp",
    "se3_log",
    "transform_points",
]


def _transform(T: npt.ArrayLike, name: str) -> Array:
    out = np.asarray(T, dtype=np.float64)
    if out.ndim < 2 or out.shape[-2:] != (4, 4):
        raise GeometryError(f"{name}: expected 4x4 matrices, found shape {out.shape}")
    return out


def make_transform(R: npt.ArrayLike, t: npt.ArrayLike) -> Array:
    """[..., 3, 3] and [..., 3] -> [..., 4, 4]; leading axes broadcast."""
    R, t = np.asarray(R, dtype=np.float64), np.asarray(t, dtype=np.float64)
    if R.shape[-2:] != (3, 3) or t.shape[-1:] != (3,):
        raise GeometryError(f"make_transform: expected [..., 3, 3] and [..., 3], found {R.shape} and {t.shape}")
    out = np.zeros((*np.broadcast_shapes(R.shape[:-2], t.shape[:-1]), 4, 4))
    out[..., :3, :3], out[..., :3, 3], out[..., 3, 3] = R, t, 1.0
    return out


def inverse(T: npt.ArrayLike) -> Array:
    """The inverse of rigid transforms, by transposition; [..., 4, 4]."""
    T = _transform(T, "inverse")
    Rt = np.swapaxes(T[..., :3, :3], -1, -2)
    return make_transform(Rt, -(Rt @ T[..., :3, 3:])[..., 0])


def transform_points(T: npt.ArrayLike, points: npt.ArrayLike) -> Array:
    """``T p``. One transform [4, 4] with points [..., 3]; or transforms [B..., 4, 4] with points [B..., N, 3]."""
    T, p = _transform(T, "transform_points"), np.asarray(points, dtype=np.float64)
    if p.shape[-1:] != (3,):
        raise GeometryError(f"transform_points: expected [..., 3] points, found shape {p.shape}")
    if T.ndim > 2 and p.ndim < 2:
        raise GeometryError(f"transform_points: batched transforms need [..., N, 3] points, found shape {p.shape}")
    if T.ndim == 2:
        return np.asarray(p @ T[:3, :3].T + T[:3, 3])
    return np.asarray(p @ np.swapaxes(T[..., :3, :3], -1, -2) + T[..., None, :3, 3])


def _v_coefficient(theta: Array) -> Array:
    """``(t - sin t) / t^3``, by its series below 0.1 where the difference cancels."""
    t2 = theta * theta
    series = 1 / 6 - t2 / 120 + t2**2 / 5040 - t2**3 / 362880
    small = theta < 0.1
    safe = np.where(small, 1.0, theta)
    return np.where(small, series, (safe - np.sin(safe)) / safe**3)


def _v_inverse_coefficient(theta: Array) -> Array:
    """``(1 - (t/2) cot(t/2)) / t^2``, by its series below 0.1 where the difference cancels."""
    t2 = theta * theta
    series = 1 / 12 + t2 / 720 + t2**2 / 30240 + t2**3 / 1209600
    small = theta < 0.1
    safe = np.where(small, 1.0, theta)
    return np.where(small, series, (1.0 - 0.5 * safe / np.tan(0.5 * safe)) / safe**2)


def se3_exp(xi: npt.ArrayLike) -> Array:
    """Transforms of tangent vectors; [..., 6] = [rho m, phi rad] -> [..., 4, 4]."""
    xi = np.asarray(xi, dtype=np.float64)
    if xi.shape[-1:] != (6,):
        raise GeometryError(f"se3_exp: expected 6 values along the last axis, found shape {xi.shape}")
    rho, phi = xi[..., :3], xi[..., 3:]
    theta = np.linalg.norm(phi, axis=-1)[..., None, None]
    K = skew(phi)
    V = np.eye(3) + 0.5 * np.sinc(theta / (2 * np.pi)) ** 2 * K + _v_coefficient(theta) * (K @ K)
    return make_transform(so3_exp(phi), (V @ rho[..., None])[..., 0])


def se3_log(T: npt.ArrayLike) -> Array:
    """Tangent vectors [rho, phi], angle in [0, pi]; [..., 4, 4] -> [..., 6]."""
    T = _transform(T, "se3_log")
    phi = so3_log(T[..., :3, :3])
    theta = np.linalg.norm(phi, axis=-1)[..., None, None]
    K = skew(phi)
    V_inverse = np.eye(3) - 0.5 * K + _v_inverse_coefficient(theta) * (K @ K)
    return np.concatenate([(V_inverse @ T[..., :3, 3:])[..., 0], phi], axis=-1)


def adjoint(T: npt.ArrayLike) -> Array:
    """``T exp(xi) T^-1 == exp(adjoint(T) xi)`` with xi = [rho, phi]; [..., 4, 4] -> [..., 6, 6]."""
    T = _transform(T, "adjoint")
    R = T[..., :3, :3]
    out = np.zeros((*T.shape[:-2], 6, 6))
    out[..., :3, :3] = out[..., 3:, 3:] = R
    out[..., :3, 3:] = skew(T[..., :3, 3]) @ R
    return out


def covariance_of_base(T_map_cam: npt.ArrayLike, covariance_cam: npt.ArrayLike, T_cam_base: npt.ArrayLike) -> Array:
    """The covariance of ``T_map_base = T_map_cam @ T_cam_base``, the extrinsics taken as exact.

    The rotation error in map axes is the same for every point of a rigid body; the translation error
    gains the lever arm: ``e_base = [e_t - skew(R_map_cam t_cam_base) e_r; e_r]`` to first order.

    :param T_map_cam: [..., 4, 4], the camera's pose.
    :param covariance_cam: [..., 6, 6], covariance of the camera's pose error (see the module).
    :param T_cam_base: [..., 4, 4], the base in the camera's frame.
    :returns: [..., 6, 6], covariance of the base's pose error, map axes.
    """
    T, X = _transform(T_map_cam, "T_map_cam"), _transform(T_cam_base, "T_cam_base")
    covariance = np.asarray(covariance_cam, dtype=np.float64)
    if covariance.shape[-2:] != (6, 6):
        raise GeometryError(f"covariance_cam: expected 6x6 matrices, found shape {covariance.shape}")
    lever = (T[..., :3, :3] @ X[..., :3, 3:])[..., 0]
    J = np.broadcast_to(np.eye(6), (*lever.shape[:-1], 6, 6)).copy()
    J[..., :3, 3:] = -skew(lever)
    out = J @ covariance @ np.swapaxes(J, -1, -2)
    return np.asarray(0.5 * (out + np.swapaxes(out, -1, -2)))


def pose_error(T_est: npt.ArrayLike, T_true: npt.ArrayLike) -> Array:
    """``[t_est - t_true; Log(R_est R_true^T)]`` in map axes; [..., 4, 4] twice -> [..., 6] (m, rad)."""
    A, B = _transform(T_est, "T_est"), _transform(T_true, "T_true")
    phi = so3_log(A[..., :3, :3] @ np.swapaxes(B[..., :3, :3], -1, -2))
    return np.concatenate([A[..., :3, 3] - B[..., :3, 3], phi], axis=-1)


def largest_sigma(covariance: Array) -> float:
    """The standard deviation along the longest axis of a covariance; 0 where rounding has made it negative."""
    return float(np.sqrt(max(np.linalg.eigvalsh(covariance)[-1], 0.0)))


def nees(error: npt.ArrayLike, covariance: npt.ArrayLike) -> Array:
    """Normalised estimation error squared ``e^T S^-1 e``; [..., 6], [..., 6, 6] -> [...].

    :raises GeometryError: a covariance that is singular, and so claims certainty in some direction.
    """
    e, S = np.asarray(error, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if S.ndim == 2:
        check_covariance(S)
    try:
        L = np.linalg.cholesky(S)
    except np.linalg.LinAlgError as cause:
        raise GeometryError(
            "nees: expected a positive definite covariance, found a singular one; give every direction a variance"
        ) from cause
    whitened = np.linalg.solve(L, np.broadcast_to(e, np.broadcast_shapes(e.shape, S.shape[:-1]))[..., None])
    return np.asarray(np.sum(whitened[..., 0] ** 2, axis=-1))
