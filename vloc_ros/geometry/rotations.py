"""Rotations: matrices, quaternions (xyzw), rotation vectors and fixed-axis Euler angles.

What numpy users of the package call, over ``scipy.spatial.transform``: batched over any leading axes, and with errors
that say what was expected. Everything is float64; a rotation vector is axis times angle in radians.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from vloc_ros.errors import GeometryError
from vloc_ros.types import Array

__all__ = [
    "euler_to_matrix",
    "matrix_to_euler",
    "matrix_to_quaternion",
    "nearest_rotation",
    "normalize_quaternion",
    "quaternion_conjugate",
    "quaternion_multiply",
    "quaternion_to_matrix",
    "rotation_angle",
    "skew",
    "slerp",
    "so3_exp",
    "so3_log",
]


def _last(value: npt.ArrayLike, size: int, name: str) -> Array:
    out = np.asarray(value, dtype=np.float64)
    if out.ndim == 0 or out.shape[-1] != size:
        raise GeometryError(f"{name}: expected {size} values along the last axis, found shape {out.shape}")
    return out


def _matrix(value: npt.ArrayLike, name: str) -> Array:
    out = np.asarray(value, dtype=np.float64)
    if out.ndim < 2 or out.shape[-2:] != (3, 3):
        raise GeometryError(f"{name}: expected 3x3 matrices, found shape {out.shape}")
    return out


def _of_matrix(R: Array) -> Rotation:
    """scipy's rotations, leading axes flattened. :raises GeometryError: no rotations (mirrored, NaN)."""
    if not np.isfinite(R).all():
        raise GeometryError("expected rotation matrices, found NaN or infinity")
    try:
        return Rotation.from_matrix(R.reshape(-1, 3, 3))
    except (ValueError, np.linalg.LinAlgError) as problem:
        told = " ".join(str(problem).split())
        raise GeometryError(f"expected rotation matrices, found others: {told}") from problem


def _of_quaternion(q_xyzw: Array) -> Rotation:
    return Rotation.from_quat(q_xyzw.reshape(-1, 4))


def skew(v: npt.ArrayLike) -> Array:
    """The matrix of the cross product: ``skew(v) @ u == cross(v, u)``; [..., 3] -> [..., 3, 3]."""
    v = _last(v, 3, "skew")
    out = np.zeros((*v.shape[:-1], 3, 3))
    out[..., 0, 1], out[..., 0, 2] = -v[..., 2], v[..., 1]
    out[..., 1, 0], out[..., 1, 2] = v[..., 2], -v[..., 0]
    out[..., 2, 0], out[..., 2, 1] = -v[..., 1], v[..., 0]
    return out


def so3_exp(phi: npt.ArrayLike) -> Array:
    """Rotation matrices of rotation vectors; [..., 3] rad -> [..., 3, 3]."""
    phi = _last(phi, 3, "so3_exp")
    return np.asarray(Rotation.from_rotvec(phi.reshape(-1, 3)).as_matrix().reshape(*phi.shape, 3))


def so3_log(R: npt.ArrayLike) -> Array:
    """Rotation vectors, angle in [0, pi], of rotation matrices; [..., 3, 3] -> [..., 3] rad.

    At exactly pi the sign of the axis is arbitrary.
    """
    R = _matrix(R, "so3_log")
    return np.asarray(_of_matrix(R).as_rotvec().reshape(R.shape[:-1]))


def normalize_quaternion(q_xyzw: npt.ArrayLike) -> Array:
    """Unit quaternions; [..., 4] -> [..., 4].

    :raises GeometryError: a quaternion that is (nearly) zero or not finite, as an unset message field is.
    """
    q = _last(q_xyzw, 4, "quaternion")
    n = np.linalg.norm(q, axis=-1, keepdims=True)
    if not (np.isfinite(n).all() and (n > 1e-12).all()):
        raise GeometryError(
            "quaternion: expected a finite quaternion of non-zero length, found "
            f"{q.reshape(-1, 4)[int(np.argmin(np.nan_to_num(n, nan=-1.0, posinf=-1.0)))].tolist()}; "
            "an unset orientation is all zeros: set w to 1"
        )
    return np.asarray(q / n)


def quaternion_to_matrix(q_xyzw: npt.ArrayLike) -> Array:
    """Rotation matrices of quaternions, normalised first; [..., 4] xyzw -> [..., 3, 3].

    :raises GeometryError: zero or non-finite quaternions.
    """
    q = normalize_quaternion(q_xyzw)
    return np.asarray(_of_quaternion(q).as_matrix().reshape(*q.shape[:-1], 3, 3))


def matrix_to_quaternion(R: npt.ArrayLike) -> Array:
    """Unit quaternions with w >= 0 of rotation matrices; [..., 3, 3] -> [..., 4] xyzw."""
    R = _matrix(R, "matrix_to_quaternion")
    return _canonical(_of_matrix(R).as_quat().reshape(*R.shape[:-2], 4))


def quaternion_multiply(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """The rotation ``b`` followed by ``a``, with w >= 0; [..., 4], [..., 4] xyzw unit -> [..., 4]."""
    qa, qb = np.broadcast_arrays(_last(a, 4, "quaternion_multiply"), _last(b, 4, "quaternion_multiply"))
    return _canonical((_of_quaternion(qa) * _of_quaternion(qb)).as_quat().reshape(qa.shape))


def quaternion_conjugate(q_xyzw: npt.ArrayLike) -> Array:
    """The inverse of unit quaternions; [..., 4] xyzw -> [..., 4]."""
    return np.asarray(_last(q_xyzw, 4, "quaternion_conjugate") * np.array([-1.0, -1.0, -1.0, 1.0]))


def _canonical(q_xyzw: Array) -> Array:
    return np.asarray(np.where(q_xyzw[..., 3:] < 0, -q_xyzw, q_xyzw))


def nearest_rotation(R: npt.ArrayLike) -> Array:
    """The orthogonal matrices nearest to ``R`` (Frobenius norm); [..., 3, 3] -> [..., 3, 3].

    For rotations that were written with few digits, or scaled: the determinant keeps its sign.
    """
    u, _, vt = np.linalg.svd(_matrix(R, "nearest_rotation"))
    return np.asarray(u @ vt)


def rotation_angle(Ra: npt.ArrayLike, Rb: npt.ArrayLike) -> Array:
    """Geodesic distance in rad, in [0, pi]; [..., 3, 3], [..., 3, 3] -> [...]; accurate for small angles too."""
    between = np.swapaxes(_matrix(Ra, "rotation_angle"), -1, -2) @ _matrix(Rb, "rotation_angle")
    return np.asarray(_of_matrix(between).magnitude().reshape(between.shape[:-2]))


def slerp(qa: npt.ArrayLike, qb: npt.ArrayLike, fraction: npt.ArrayLike) -> Array:
    """Spherical interpolation along the shorter arc; [..., 4], [..., 4] xyzw unit, [...] in [0, 1] -> [..., 4].

    scipy's ``Slerp`` goes along one sequence of times; this goes between pairs.
    """
    f = np.asarray(fraction, dtype=np.float64)[..., None]
    qa, qb, f = np.broadcast_arrays(_last(qa, 4, "slerp"), _last(qb, 4, "slerp"), f)
    a = _of_quaternion(qa)
    step = (a.inv() * _of_quaternion(qb)).as_rotvec() * f[..., 0].reshape(-1, 1)
    return _canonical((a * Rotation.from_rotvec(step)).as_quat().reshape(qa.shape))


def euler_to_matrix(rpy: npt.ArrayLike) -> Array:
    """``Rz(yaw) Ry(pitch) Rx(roll)``: rotations about the fixed X, Y, Z axes in that order (REP-103); rad.

    [..., 3] (roll, pitch, yaw) -> [..., 3, 3].
    """
    rpy = _last(rpy, 3, "euler_to_matrix")
    return np.asarray(Rotation.from_euler("xyz", rpy.reshape(-1, 3)).as_matrix().reshape(*rpy.shape, 3))


def matrix_to_euler(R: npt.ArrayLike) -> Array:
    """(roll, pitch, yaw) about the fixed X, Y, Z axes, pitch in [-pi/2, pi/2]; [..., 3, 3] -> [..., 3] rad.

    At a pitch of +-pi/2 (gimbal lock) roll is set to zero and yaw takes the whole rotation, silently: scipy's warns.
    """
    R = _matrix(R, "matrix_to_euler")
    cp = np.hypot(R[..., 0, 0], R[..., 1, 0])
    locked = cp < 1e-9
    pitch = np.arctan2(-R[..., 2, 0], cp)
    roll = np.where(locked, 0.0, np.arctan2(R[..., 2, 1], R[..., 2, 2]))
    yaw = np.where(locked, np.arctan2(-R[..., 0, 1], R[..., 1, 1]), np.arctan2(R[..., 1, 0], R[..., 0, 0]))
    return np.stack([roll, pitch, yaw], axis=-1)
