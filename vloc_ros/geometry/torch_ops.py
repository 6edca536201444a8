"""Torch twins of the rotation and SE(3) functions: batched, any floating dtype and device, differentiable.

Quaternions are xyzw. Gradients are finite everywhere, including at zero rotation: branches are chosen
with ``where`` on arguments that were made safe before.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "adjoint",
    "markley_mean",
    "matrix_to_quaternion",
    "quaternion_from_rotation_vector",
    "quaternion_multiply",
    "quaternion_to_matrix",
    "rotation_angle_quaternion",
    "se3_exp",
    "se3_log",
    "skew",
    "so3_exp",
    "so3_log",
]

# Below this angle the power series replace the closed forms. The series below have a relative error under
# 1e-14 there, and the closed forms in float64 under 1e-13 above.
_SMALL = 0.1


def skew(v: Tensor) -> Tensor:
    """The matrix of the cross product; [..., 3] -> [..., 3, 3]."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*v.shape[:-1], 3, 3)


def _coefficients(phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``sin t / t``, ``(1 - cos t) / t^2``, ``(t - sin t) / t^3`` of t = |phi|; each [..., 1, 1]."""
    t2 = (phi * phi).sum(-1)[..., None, None]
    small = t2 < _SMALL**2
    s2 = torch.where(small, torch.ones_like(t2), t2)
    s = s2.sqrt()
    sin, cos = s.sin(), s.cos()
    a = torch.where(small, 1 - t2 / 6 + t2**2 / 120 - t2**3 / 5040 + t2**4 / 362880, sin / s)
    b = torch.where(small, 0.5 - t2 / 24 + t2**2 / 720 - t2**3 / 40320 + t2**4 / 3628800, (1 - cos) / s2)
    c = torch.where(small, 1 / 6 - t2 / 120 + t2**2 / 5040 - t2**3 / 362880, (s - sin) / (s2 * s))
    return a, b, c


def so3_exp(phi: Tensor) -> Tensor:
    """Rotation matrices of rotation vectors; [..., 3] rad -> [..., 3, 3]."""
    a, b, _ = _coefficients(phi)
    K = skew(phi)
    return torch.eye(3, dtype=phi.dtype, device=phi.device) + a * K + b * (K @ K)


def so3_log(R: Tensor) -> Tensor:
    """Rotation vectors, angle in [0, pi]; [..., 3, 3] -> [..., 3] rad. Accurate near zero and near pi."""
    q = matrix_to_quaternion(R)
    v, w = q[..., :3], q[..., 3:]
    n2 = (v * v).sum(-1, keepdim=True)
    small = n2 < 1e-8
    n = torch.where(small, torch.ones_like(n2), n2).sqrt()
    # 2 atan(n/w) / n near n = 0; the next term of the series is of order n^4.
    w_safe = torch.where(small, w, torch.ones_like(w))
    series = 2.0 / w_safe - (2.0 / 3.0) * n2 / w_safe**3
    return v * torch.where(small, series, 2.0 * torch.atan2(n, w) / n)


def se3_exp(xi: Tensor) -> Tensor:
    """Transforms of tangent vectors [rho, phi]; [..., 6] -> [..., 4, 4]."""
    rho, phi = xi[..., :3], xi[..., 3:]
    a, b, c = _coefficients(phi)
    K = skew(phi)
    K2 = K @ K
    eye = torch.eye(3, dtype=xi.dtype, device=xi.device)
    R = eye + a * K + b * K2
    t = (eye + b * K + c * K2) @ rho[..., None]
    return _assemble(R, t)


def _assemble(R: Tensor, t: Tensor) -> Tensor:
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=R.dtype, device=R.device).expand(*R.shape[:-2], 1, 4)
    return torch.cat([torch.cat([R, t], dim=-1), last], dim=-2)


def adjoint(T: Tensor) -> Tensor:
    """``T exp(xi) T^-1 = exp(adjoint(T) xi)`` with xi = [rho, phi]; [..., 4, 4] -> [..., 6, 6]."""
    R = T[..., :3, :3]
    turned = skew(T[..., :3, 3]) @ R
    return torch.cat([torch.cat([R, turned], -1), torch.cat([torch.zeros_like(R), R], -1)], dim=-2)


def se3_log(T: Tensor) -> Tensor:
    """Tangent vectors [rho, phi], angle in [0, pi]; [..., 4, 4] -> [..., 6]."""
    phi = so3_log(T[..., :3, :3])
    t2 = (phi * phi).sum(-1)[..., None, None]
    small = t2 < _SMALL**2
    s2 = torch.where(small, torch.ones_like(t2), t2)
    half = 0.5 * s2.sqrt()
    d = torch.where(
        small,
        1 / 12 + t2 / 720 + t2**2 / 30240 + t2**3 / 1209600,
        (1.0 - half * half.cos() / half.sin()) / s2,
    )
    K = skew(phi)
    V_inverse = torch.eye(3, dtype=T.dtype, device=T.device) - 0.5 * K + d * (K @ K)
    return torch.cat([(V_inverse @ T[..., :3, 3:])[..., 0], phi], dim=-1)


def quaternion_to_matrix(q: Tensor) -> Tensor:
    """Rotation matrices of quaternions, normalised first; [..., 4] xyzw -> [..., 3, 3]."""
    x, y, z, w = torch.nn.functional.normalize(q, dim=-1).unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=-1).reshape(*q.shape[:-1], 3, 3)


def matrix_to_quaternion(R: Tensor) -> Tensor:
    """Unit quaternions with w >= 0; [..., 3, 3] -> [..., 4] xyzw.

    ``4 q q^T`` is linear in R; its row of largest diagonal is well conditioned, and differentiable.
    """
    xx, yy, zz = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    xy, xz, yz = R[..., 0, 1] + R[..., 1, 0], R[..., 0, 2] + R[..., 2, 0], R[..., 1, 2] + R[..., 2, 1]
    xw, yw, zw = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    entries = [
        1 + xx - yy - zz, xy, xz, xw,
        xy, 1 - xx + yy - zz, yz, yw,
        xz, yz, 1 - xx - yy + zz, zw,
        xw, yw, zw, 1 + xx + yy + zz,
    ]  # fmt: skip
    Q = torch.stack(entries, dim=-1).reshape(*R.shape[:-2], 4, 4)
    best = Q.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = Q.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = torch.nn.functional.normalize(q, dim=-1)
    return torch.where(q[..., 3:] < 0, -q, q)


def quaternion_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product: the rotation ``b`` followed by ``a``; [..., 4], [..., 4] xyzw -> [..., 4]."""
    ax, ay, az, aw = a.unbind(-1)
    bx, by, bz, bw = b.unbind(-1)
    return torch.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        dim=-1,
    )


def quaternion_from_rotation_vector(phi: Tensor) -> Tensor:
    """Unit quaternions of rotation vectors; [..., 3] rad -> [..., 4] xyzw."""
    t2 = (phi * phi).sum(-1, keepdim=True)
    small = t2 < _SMALL**2
    half = 0.5 * torch.where(small, torch.ones_like(t2), t2).sqrt()
    h2 = 0.25 * t2
    s = torch.where(small, 0.5 * (1 - h2 / 6 + h2**2 / 120 - h2**3 / 5040), half.sin() / (2.0 * half))
    w = torch.where(small, 1 - h2 / 2 + h2**2 / 24 - h2**3 / 720 + h2**4 / 40320, half.cos())
    return torch.cat([phi * s, w], dim=-1)


def rotation_angle_quaternion(a: Tensor, b: Tensor) -> Tensor:
    """Geodesic distance in rad, in [0, pi], of unit quaternions whatever their signs; broadcasts [..., 4] -> [...].

    From the chords of the four-dimensional half angle, not the arc cosine of the dot product, which in
    float32 cannot tell rotations closer than 0.05 degrees apart. The gradient at zero is zero.
    """
    b = torch.where((a * b).sum(-1, keepdim=True) < 0, -b, b)
    difference = ((a - b) ** 2).sum(-1)
    positive = difference > 0
    chord = torch.where(positive, difference, torch.ones_like(difference)).sqrt()
    chord = torch.where(positive, chord, torch.zeros_like(chord))
    return 4.0 * torch.atan2(chord, (a + b).norm(dim=-1))


def markley_mean(quaternions: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean rotation; [..., N, 4] unit xyzw, [..., N] non-negative -> [..., 4] with w >= 0.

    Markley et al., "Averaging quaternions", JGCD 30(4), 2007, eqs. 12-13: the eigenvector of the largest
    eigenvalue of ``sum w q q^T``. Computed in float64 whatever the input, returned in its dtype.
    """
    q, w = quaternions.double(), weights.double()
    M = torch.einsum("...n,...ni,...nj->...ij", w / w.sum(-1, keepdim=True), q, q)
    mean = torch.linalg.eigh(M).eigenvectors[..., -1]
    mean = torch.where(mean[..., 3:] < 0, -mean, mean)
    return mean.to(quaternions.dtype)
