"""Residuals of the alignment and their normal equations (eqs. 1-3), without ever building the Jacobian of a residual.

The Jacobian of a residual is J = G P: the field's gradient G (C, 2) times the derivative P (2, 6) of the projection by
the pose update. All that the normal equations need of the C features of a point is therefore r.r, G^T r (2) and G^T G
(2, 2); the rest is geometry of size 2 x 6 a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.localizers.pixloc.field import FeatureField
from vloc_ros.localizers.pixloc.robust import Robust

# Without gradients, points are taken in portions of at most this many sampled numbers (128 MiB in float32).
_PORTION = 2**25

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


def project_points(
    T_cam_map: Tensor, points_map: Tensor, camera: TorchCamera, jacobian: bool = True
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Pixels, their derivative by the pose update, and whether they are valid.

    :param T_cam_map: (B, 4, 4), in the precision to compute in.
    :param points_map: (B | 1, N, 3) m.
    :returns: (B, N, 2); (2, 6, B, N) for T <- exp(delta) T, translation first; (B, N).
    """
    p = T_cam_map[:, :3, :3] @ points_map.transpose(-1, -2) + T_cam_map[:, :3, 3:]  # (B, 3, N)
    p = p.transpose(0, 1)
    uv, J, valid = camera.project_components(p, jacobian)
    if J is not None:
        # dp = rho + phi x p, and a.(phi x p) = phi.(p x a)
        J = torch.cat([J, torch.linalg.cross(p.expand_as(J), J, dim=1)], dim=1)
    return uv.movedim(0, -1), J, valid


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
    B, N, C = T_cam_map.shape[0], points_map.shape[1], reference.shape[-1]
    size = max(_PORTION // (3 * B * C), 1)

    def portion(start: int, stop: int) -> Evaluation:
        part = slice(start, stop)
        return _evaluate(
            T_cam_map,
            points_map[:, part],
            reference[:, part],
            None if reference_confidence is None else reference_confidence[:, part],
            None if mask is None else mask[:, part],
            field,
            camera,
            robust,
            jacobian,
            scatter,
        )

    if size >= N or torch.is_grad_enabled():
        return portion(0, N)
    return _joined([portion(start, min(start + size, N)) for start in range(0, N, size)])


def _joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Of portions of the points, that of all."""

    def total(tensors: Sequence[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(present).sum(0) if present else None

    return Evaluation(
        torch.stack([part.cost for part in parts]).sum(0),
        torch.cat([part.valid for part in parts], dim=1),
        torch.cat([part.squared for part in parts], dim=1),
        torch.cat([part.weights for part in parts], dim=1),
        total([part.gradient for part in parts]),
        total([part.hessian for part in parts]),
        total([part.scatter for part in parts]),
    )


def _evaluate(
    T_cam_map: Tensor,
    points_map: Tensor,
    reference: Tensor,
    reference_confidence: Tensor | None,
    mask: Tensor | None,
    field: FeatureField,
    camera: TorchCamera,
    robust: Robust,
    jacobian: bool,
    scatter: bool,
) -> Evaluation:
    uv, P, valid = project_points(T_cam_map, points_map, camera, jacobian)
    sample = field.sample(uv, gradients=jacobian)
    r = sample.values - reference
    squared = torch.linalg.vecdot(r, r)
    confidence = sample.confidence
    if reference_confidence is not None:
        confidence = reference_confidence if confidence is None else confidence * reference_confidence
    valid = valid & sample.inside & (squared if confidence is None else squared + confidence).isfinite()
    if mask is not None:
        valid = valid & mask
    zero = torch.zeros_like(squared)
    squared = torch.where(valid, squared, zero)
    weights = robust.weight(squared)
    cost = robust.cost(squared)
    if confidence is not None:
        weights, cost = weights * confidence, cost * confidence
    weights = torch.where(valid, weights, zero)
    cost = torch.where(valid, cost, zero).sum(-1)
    if P is None:
        return Evaluation(cost, valid, squared, weights)
    assert sample.gradients is not None
    # w G^T G and w G^T r, entry by entry (B, N).
    gx, gy = sample.gradients.unbind(-1)
    dot = torch.linalg.vecdot
    products = torch.stack([dot(gx, gx), dot(gx, gy), dot(gy, gy), dot(gx, r), dot(gy, r)])
    xx, xy, yy, xr, yr = torch.where(valid, products * weights, zero)
    P = torch.where(valid, P, zero)
    # [w G^T G P | w G^T r] (2, 7, B, N), then P^T times it, summed over rows and points.
    right = torch.stack([torch.cat([xx * P[0] + xy * P[1], xr[None]]), torch.cat([xy * P[0] + yy * P[1], yr[None]])])
    left = P.permute(2, 1, 0, 3).flatten(2)  # (B, 6, 2 N)
    normal = left @ right.permute(2, 0, 3, 1).flatten(1, 2)
    shares = None
    if scatter:
        a = (P[0] * xr + P[1] * yr).transpose(0, 1)  # (B, 6, N)
        shares = a @ a.transpose(-1, -2)
    return Evaluation(cost, valid, squared, weights, normal[..., 6], normal[..., :6], shares)
