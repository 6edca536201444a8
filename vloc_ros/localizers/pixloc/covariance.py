"""How certain a refined pose is: the inverse undamped Hessian times the residuals' variance.

With residuals of variance s^2 / w in every channel, the normal equations of the last level say that the update delta
has the covariance s^2 H^-1. For ``T_cam_map = exp(delta) T_true`` the package's pose error of the inverse,
``[t_est - t_true; Log(R_est R_true^T)]`` of T_map_cam in map axes, is to first order ``-[R rho; R phi]`` with
R = R_map_cam: a rotation of both halves, without a lever arm.

All of it is done on the host: for matrices this small a GPU's solver takes milliseconds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["LEAST_CURVATURE", "pose_covariance", "residual_variance", "well_posed"]

# Standard deviations of what is known without any residual: somewhere within a kilometre, turned anyhow.
_PRIOR_M = 1000.0
_PRIOR_RAD = math.pi
# No pose is known better than this.
_LEAST_M = 1e-6
_LEAST_RAD = 1e-7
# Eigenvalues of the Hessian (scaled to a unit diagonal) below this share of the largest are rounding, not knowledge.
_RANK = 1e-6
# Curvature (squared features per squared metre or radian) below which there is no texture, only rounding.
LEAST_CURVATURE = 1e-6
# Entries beyond this are no Hessian, and would overflow.
_LARGEST = 1e50


def residual_variance(squared: Tensor, weights: Tensor, valid: Tensor, channels: int) -> Tensor:
    """The variance of one channel of a residual of weight one; float64.

    :param squared: (B, N) squared norms of the residuals.
    :param weights: (B, N) their weights in the normal equations.
    :param valid: (B, N) which of them count.
    :returns: (B,) sum of w r.r over the degrees of freedom, N C - 6.
    """
    total = (squared.double() * weights.double()).sum(-1)
    freedom: Tensor = (valid.sum(-1) * channels - 6).clamp(min=1)
    return total / freedom


def _scaled(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """H with a unit diagonal, and the scale s: H = diag(1/s) scaled diag(1/s). Parameters without curvature give 0."""
    s = hessian.diagonal(dim1=-2, dim2=-1).clamp(min=LEAST_CURVATURE).rsqrt()
    scaled = s[..., :, None] * hessian * s[..., None, :]
    return 0.5 * (scaled + scaled.transpose(-1, -2)), s


def well_posed(hessian: Tensor) -> Tensor:
    """(B,) whether the Hessians (B, 6, 6) determine all six parameters beyond rounding."""
    H = hessian.detach().double()
    usable = (H.abs() < _LARGEST).flatten(1).all(-1)
    H = torch.where(usable[:, None, None], H, torch.zeros_like(H))
    values = torch.linalg.eigh(_scaled(H)[0])[0]
    curved = (H.diagonal(dim1=-2, dim2=-1) > LEAST_CURVATURE).all(-1)
    posed: Tensor = curved & (values[..., 0] > _RANK * values[..., -1])
    return posed


def pose_covariance(
    T_cam_map: Tensor,
    hessian: Tensor,
    variance: Tensor,
    *,
    scatter: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Covariance of T_map_cam in the package's convention (map axes; x, y, z, rotation about fixed X, Y, Z); float64.

    Directions that the Hessian does not determine keep a standard deviation of 1 km or half a turn.

    :param T_cam_map: (B, 4, 4) refined poses.
    :param hessian: (B, 6, 6) undamped, of updates on the left of T_cam_map, translation first.
    :param variance: (B,) of :func:`residual_variance`.
    :param scatter: (B, 6, 6) of :class:`Evaluation`: then the covariance is H^-1 S H^-1, which does not assume that
        the channels of a point err independently, nor that weights are inverse variances.
    :param known: (B,) poses whose Hessian means something; the others get the widest covariance.
    :returns: (B, 6, 6) positive definite.
    """
    H, variance = hessian.double(), variance.double()
    usable = (H.abs() < _LARGEST).flatten(1).all(-1) & (variance >= 0) & (variance < _LARGEST)
    if scatter is not None:
        scatter = scatter.double()
        usable = usable & (scatter.abs() < _LARGEST).flatten(1).all(-1)
    if known is not None:
        usable = usable & known
    H = torch.where(usable[:, None, None], H, torch.zeros_like(H))
    variance = torch.where(usable, variance, torch.ones_like(variance))
    scaled, s = _scaled(H)
    values, vectors = torch.linalg.eigh(scaled)
    values = torch.where(values > _RANK * values[:, -1:].clamp(min=0.5), values, torch.zeros_like(values))
    prior = H.new_tensor([_PRIOR_M] * 3 + [_PRIOR_RAD] * 3)
    least = H.new_tensor([_LEAST_M] * 3 + [_LEAST_RAD] * 3)
    # In units of the prior's standard deviations the prior is the identity, and every eigenvalue at least one.
    half = (prior / s)[..., :, None] * vectors * values.sqrt()[:, None, :]
    noise = variance.clamp(min=1e-30)[:, None, None]
    information = half @ half.transpose(-1, -2)
    certain, axes = torch.linalg.eigh(information / noise)
    spread = 1.0 / (1.0 + certain.clamp(min=0.0))
    unit = axes * spread[:, None, :] @ axes.transpose(-1, -2)
    if scatter is not None:
        S = torch.where(usable[:, None, None], scatter, torch.zeros_like(H))
        # Gain times scatter times gain; what the Hessian does not determine has no gain, and keeps the prior.
        known_share = certain.clamp(min=0.0) * spread
        gain = axes * (spread * known_share)[:, None, :] @ axes.transpose(-1, -2) / noise
        W = prior[:, None] * S * prior[None, :]
        unit = gain @ W @ gain.transpose(-1, -2) + unit @ unit.transpose(-1, -2)
    cov = prior[:, None] * unit * prior[None, :] + torch.diag(least**2)
    R = T_cam_map[:, :3, :3].double().transpose(-1, -2)
    turn = torch.zeros_like(H)
    turn[:, :3, :3] = turn[:, 3:, 3:] = R
    out = turn @ cov @ turn.transpose(-1, -2)
    symmetric: Tensor = 0.5 * (out + out.transpose(-1, -2))
    return symmetric
