"""Residuals of the alignment and their normal equations (eqs. 1-3), without ever building the Jacobian of a residual.

The Jacobian of a residual is J = G P: the field's gradient G (C, 2) times the derivative P (2, 6) of the projection by
the pose update. All that the normal equations need of the C features of a point is therefore r.r, G^T r (2) and G^T G
(2, 2); the rest is geometry of size 2 x 6 a point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.localizers.pixloc.field import FeatureField
from vloc_ros.localizers.pixloc.robust import Robust

__all__ = ["Evaluation", "evaluate", "project_points"]


@dataclass(frozen=True)
class Evaluation:
    """The cost of eq. 2 at B poses, and its normal equations.

    :param cost: (B,) sum over the valid points of w rho(r.r).
    :param valid: (B, N) points that count: asked for, finite, in front, inside the image and the field.
    :param squared: (B, N) r.r, zero where not valid.
    :param weights: (B, N) w rho'(r.r), zero where not valid.
    :param gradient: (B, 6) J^T W r, half the derivative of the cost by the update (rho' and w taken as constants).
    :param hessian: (B, 6, 6) J^T W J.
    :param scatter: (B, 6, 6) sum of the outer products of the points' shares of ``gradient``.
    """

    cost: Tensor
    valid: Tensor
    squared: Tensor
    weights: Tensor
    gradient: Tensor | None = None
    hessian: Tensor | None = None
    scatter: Tensor | None = None


def project_points(T_cam_map: Tensor, points_map: Tensor, camera: TorchCamera) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels, their derivative by the pose update, valid, and the points in the camera's frame.

    :param T_cam_map: (B, 4, 4), in the precision to compute in.
    :param points_map: (B | 1, N, 3) m.
    :returns: (B, N, 2); (B, N, 2, 6) for T <- exp(delta) T, translation first; (B, N); (B, N, 3).
    """
    p = points_map @ T_cam_map[:, :3, :3].transpose(-1, -2) + T_cam_map[:, None, :3, 3]
    uv, J, valid = camera.project_with_jacobian(p)
    # dp = rho + phi x p, and a.(phi x p) = phi.(p x a)
    turn = torch.linalg.cross(p[..., None, :], J)
    return uv, torch.cat([J, turn], dim=-1), valid, p


def evaluate(
    T_cam_map: Tensor,
    points_map: Tensor,
    reference: Tensor,
    reference_confidence: Tensor | None,
    mask: Tensor | None,
    field: FeatureField,
    camera: TorchCamera,
    robust: Robust,
    jacobian: bool = True,
    scatter: bool = False,
) -> Evaluation:
    """The cost of B poses against a field, and with ``jacobian`` its normal equations.

    :param T_cam_map: (B, 4, 4) world to camera, finite.
    :param points_map: (B | 1, N, 3) m, finite where the mask is true.
    :param reference: (B | 1, N, C) features of the points.
    :param reference_confidence: (B | 1, N) in [0, 1], or None: 1.
    :param mask: (B | 1, N) points to use, or None: all.
    :param camera: of the field's level (:meth:`TorchCamera.scaled`).
    :param scatter: also fill :attr:`Evaluation.scatter`.
    """
    if jacobian:
        uv, P, valid, _ = project_points(T_cam_map, points_map, camera)
    else:
        p = points_map @ T_cam_map[:, :3, :3].transpose(-1, -2) + T_cam_map[:, None, :3, 3]
        uv, valid = camera.project(p)
        P = None
    sample = field.sample(uv, gradients=jacobian)
    r = sample.values - reference
    squared = (r * r).sum(-1)
    valid = valid & sample.inside & squared.isfinite()
    if mask is not None:
        valid = valid & mask
    zero = torch.zeros_like(squared)
    squared = torch.where(valid, squared, zero)
    confidence = sample.confidence
    if reference_confidence is not None:
        confidence = reference_confidence if confidence is None else confidence * reference_confidence
    weights = robust.weight(squared)
    cost = robust.cost(squared)
    if confidence is not None:
        weights, cost = weights * confidence, cost * confidence
    weights = torch.where(valid, weights, zero)
    cost = torch.where(valid, cost, zero).sum(-1)
    if P is None:
        return Evaluation(cost, valid, squared, weights)
    assert sample.gradients is not None
    Gt = sample.gradients.transpose(-1, -2)  # (B, N, 2, C)
    # [G^T G | G^T r] (B, N, 2, 3)
    products = torch.cat([Gt @ sample.gradients, Gt @ r[..., None]], dim=-1)
    products = torch.where(valid[..., None, None], products * weights[..., None, None], zero[..., None, None])
    P = torch.where(valid[..., None, None], P, zero[..., None, None])
    # [w G^T G P | w G^T r] (B, N, 2, 7), then P^T times it, summed over points and rows.
    right = torch.cat(
        [products[..., :1] * P[..., :1, :] + products[..., 1:2] * P[..., 1:, :], products[..., 2:]], dim=-1
    )
    normal = P.flatten(1, 2).transpose(-1, -2) @ right.flatten(1, 2)
    shares = None
    if scatter:
        a = (P * products[..., 2:]).sum(-2)  # (B, N, 6)
        shares = a.transpose(-1, -2) @ a
    return Evaluation(cost, valid, squared, weights, normal[..., 6], normal[..., :6], shares)
