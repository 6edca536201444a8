"""Rotations: matrices, quaternions (xyzw), rotation vectors and fixed-axis Euler angles.

Everything is float64 and batched over leading axes. A rotation vector is axis times angle in radians.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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


def skew(v: npt.ArrayLike) -> Array:
    """The matrix of the cross product: ``skew(v) @ u == cross(v, u)``; [..., 3] -> [..., 3, 3]."""
    v = _last(v, 3, "skew")
    out = np.zeros((*v.shape[:-1], 3, 3))
    out[..., 0, 1], out[..., 0, 2] = -v[..., 2], v[..., 1]
    out[..., 1, 0], out[..., 1, 2] = v[..., 2], -v[..., 0]
    out[..., 2, 0], out[..., 2, 1] = -v[..., 1], v[..., 0]
    return out


def so3_exp(phi: npt.ArrayLike) -> Array:
    """Rotation matrices of rotation vectors (Rodrigues); [..., 3] rad -> [..., 3, 3]."""
    phi = _last(phi, 3, "so3_exp")
    theta = np.linalg.norm(phi, axis=-1)[..., None, None]
    K = skew(phi)
    # sinc is exact at and near zero, so that no series is needed: (1 - cos t) / t^2 = sinc(t/2)^2 / 2.
    a = np.sinc(theta / np.pi)
    b = 0.5 * np.sinc(theta / (2.0 * np.pi)) ** 2
    out: Array = np.eye(3) + a * K + b * (K @ K)
    return out


def so3_log(R: npt.ArrayLike) -> Array:
    """Rotation vectors, angle in [0, pi], of rotation matrices; [..., 3, 3] -> [..., 3] rad.

    Goes through the quaternion, which stays accurate near zero and near pi. At exactly pi the sign
    of the axis is arbitrary.
    """
    q = matrix_to_quaternion(R)
    n = np.linalg.norm(q[..., :3], axis=-1)
    small = n < 1e-9
    safe = np.where(small, 1.0, n)
    factor = np.where(small, 2.0, 2.0 * np.arctan2(n, q[..., 3]) / safe)
    return np.asarray(q[..., :3] * factor[..., None])


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
    x, y, z, w = np.moveaxis(normalize_quaternion(q_xyzw), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quaternion(R: npt.ArrayLike) -> Array:
    """Unit quaternions with w >= 0 of rotation matrices; [..., 3, 3] -> [..., 4] xyzw.

    ``4 q q^T`` is linear in R; its row of largest diagonal is well conditioned for every rotation.
    """
    R = _matrix(R, "matrix_to_quaternion")
    m = [[R[..., i, j] for j in range(3)] for i in range(3)]
    xx, yy, zz = m[0][0], m[1][1], m[2][2]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    xw, yw, zw = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    rows = [
        [1 + xx - yy - zz, xy, xz, xw],
        [xy, 1 - xx + yy - zz, yz, yw],
        [xz, yz, 1 - xx - yy + zz, zw],
        [xw, yw, zw, 1 + xx + yy + zz],
    ]
    Q = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    best = np.argmax(np.diagonal(Q, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(Q, best[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.asarray(np.where(q[..., 3:] < 0, -q, q))


def quaternion_multiply(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """Hamilton product: the rotation ``b`` followed by ``a``; [..., 4], [..., 4] xyzw -> [..., 4]."""
    ax, ay, az, aw = np.moveaxis(_last(a, 4, "quaternion_multiply"), -1, 0)
    bx, by, bz, bw = np.moveaxis(_last(b, 4, "quaternion_multiply"), -1, 0)
    return np.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        axis=-1,
    )


def quaternion_conjugate(q_xyzw: npt.ArrayLike) -> Array:
    """The inverse of unit quaternions; [..., 4] xyzw -> [..., 4]."""
    return np.asarray(_last(q_xyzw, 4, "quaternion_conjugate") * np.array([-1.0, -1.0, -1.0, 1.0]))


def nearest_rotation(R: npt.ArrayLike) -> Array:
    """The orthogonal matrices nearest to ``R`` (Frobenius norm); [..., 3, 3] -> [..., 3, 3].

    For rotations that were written with few digits, or scaled: the determinant keeps its sign.
    """
    u, _, vt = np.linalg.svd(_matrix(R, "nearest_rotation"))
    return np.asarray(u @ vt)


def rotation_angle(Ra: npt.ArrayLike, Rb: npt.ArrayLike) -> Array:
    """Geodesic distance in rad, in [0, pi]; [..., 3, 3], [..., 3, 3] -> [...].

    Accurate for small angles, where the arc cosine of the trace loses half of the digits.
    """
    Ra, Rb = _matrix(Ra, "rotation_angle"), _matrix(Rb, "rotation_angle")
    # |Ra - Rb|_F = 2 sqrt(2) sin(angle / 2); near pi the trace (cosine of the half angle) takes over.
    sine = np.linalg.norm(Ra - Rb, axis=(-2, -1)) / (2.0 * np.sqrt(2.0))
    trace = np.sum(Ra * Rb, axis=(-2, -1))
    cosine = 0.5 * np.sqrt(np.maximum(1.0 + trace, 0.0))
    return np.asarray(2.0 * np.arctan2(sine, cosine))


def slerp(qa: npt.ArrayLike, qb: npt.ArrayLike, fraction: npt.ArrayLike) -> Array:
    """Spherical interpolation along the shorter arc; [..., 4], [..., 4] xyzw unit, [...] in [0, 1] -> [..., 4]."""
    qa, qb = _last(qa, 4, "slerp"), _last(qb, 4, "slerp")
    f = np.asarray(fraction, dtype=np.float64)[..., None]
    qb = np.where(np.sum(qa * qb, axis=-1, keepdims=True) < 0, -qb, qb)
    half = 2.0 * np.arctan2(
        np.linalg.norm(qa - qb, axis=-1, keepdims=True), np.linalg.norm(qa + qb, axis=-1, keepdims=True)
    )
    # sin(k h) / sin(h) through sinc: defined at h = 0, where it is k.
    whole = np.sinc(half / np.pi)
    q = ((1 - f) * np.sinc((1 - f) * half / np.pi) * qa + f * np.sinc(f * half / np.pi) * qb) / whole
    return np.asarray(q / np.linalg.norm(q, axis=-1, keepdims=True))


def euler_to_matrix(rpy: npt.ArrayLike) -> Array:
    """``Rz(yaw) Ry(pitch) Rx(roll)``: rotations about the fixed X, Y, Z axes in that order (REP-103); rad.

    [..., 3] (roll, pitch, yaw) -> [..., 3, 3].
    """
    rpy = _last(rpy, 3, "euler_to_matrix")
    (cr, cp, cy), (sr, sp, sy) = np.moveaxis(np.cos(rpy), -1, 0), np.moveaxis(np.sin(rpy), -1, 0)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_euler(R: npt.ArrayLike) -> Array:
    """(roll, pitch, yaw) about the fixed X, Y, Z axes, pitch in [-pi/2, pi/2]; [..., 3, 3] -> [..., 3] rad.

    At a pitch of +-pi/2 (gimbal lock) roll is set to zero and yaw takes the whole rotation.
    """
    R = _matrix(R, "matrix_to_euler")
    cp = np.hypot(R[..., 0, 0], R[..., 1, 0])
    locked = cp < 1e-9
    pitch = np.arctan2(-R[..., 2, 0], cp)
    roll = np.where(locked, 0.0, np.arctan2(R[..., 2, 1], R[..., 2, 2]))
    yaw = np.where(locked, np.arctan2(-R[..., 0, 1], R[..., 1, 1]), np.arctan2(R[..., 1, 0], R[..., 0, 0]))
    return np.stack([roll, pitch, yaw], axis=-1)
