"""Residuals of the alignment and their normal equations (eqs. 1-3), without ever building the Jacobian of a residual.

The Jacobian of a residual is J = G P: the field's gradient G (C, 2) times the derivative P (2, 6) of the projection by
the pose update. All that the normal equations need of the C features of a point is therefore the inner products of r
and the two columns of G: the Hessian is the sum over the points of P^T (w G^T G) P, the gradient that of P^T (w G^T r).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.localizers.pixloc.field import FeatureField, GridField
from vloc_ros.localizers.pixloc.robust import Robust

# Without gradients, points are taken in portions of at most this many sampled numbers (128 MiB in float32).
_PORTION = 2**25
# Closer to the camera's plane than this a point has no stable projection.
_MIN_DEPTH = 1e-6
# Beyond this (normalised coordinates, and inverse metres of depth) only finiteness matters: no product overflows.
_FAR = 1e4

__all__ = ["Evaluation", "Problem", "evaluate", "joined", "project_points"]


@dataclass(frozen=True)
class Evaluation:
    """The cost of eq. 2 at B poses, and its normal equations.

    :param cost: (B,) sum over the valid points of w rho(r.r).
    :param valid: (B, N) points that count: asked for, finite, in front, inside the image and the field.
    :param squared: (B, N) r.r, zero where not valid.
    :param weights: (B, N) w rho'(r.r), zero where not valid.
    :param normal: (B, 6, 7): J^T W J and J^T W r, half the derivative of the cost by the update (rho' and w taken as
        constants).
    :param scatter: (B, 6, 6) sum of the outer products of the points' shares of ``gradient``.
    """

    cost: Tensor
    valid: Tensor
    squared: Tensor
    weights: Tensor
    normal: Tensor | None = None
    scatter: Tensor | None = None

    @property
    def hessian(self) -> Tensor | None:
        """(B, 6, 6) J^T W J."""
        return None if self.normal is None else self.normal[..., :6]

    @property
    def gradient(self) -> Tensor | None:
        """(B, 6) J^T W r."""
        return None if self.normal is None else self.normal[..., 6]


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


class Problem:
    """The cost of a level's points as a function of the pose: what does not change with the pose is made once.

    The parameters are those of :func:`evaluate`.
    """

    def __init__(
        self,
        points_map: Tensor,
        reference: Tensor,
        reference_confidence: Tensor | None,
        mask: Tensor | None,
        field: FeatureField,
        camera: TorchCamera,
        robust: Robust,
    ) -> None:
        self.reference, self.confidence = reference, reference_confidence
        self.field, self.camera, self.robust = field, camera, robust
        # (B | 1, 4, N): with points as the last axis small element-wise work is fast. Points that are not asked for lie
        # in the camera's centre, where no pose sees them.
        points = functional.pad(points_map, (0, 1), value=1.0)
        if mask is not None:
            points = torch.where(mask[..., None], points, torch.zeros_like(points))
        self.points = points.mT.contiguous()
        self._pinhole = None if camera.model != "none" else _pinhole(camera, points_map.dtype)
        self._grid = field if isinstance(field, GridField) and self._pinhole is not None else None
        if self._grid is not None and self._pinhole is not None:
            # What both the image and its feature map hold is asked once.
            pixel, low, high, products = self._pinhole
            last, first = self._grid.bounds(points_map.dtype)
            low = torch.maximum(low, functional.pad(first, (0, 1), value=1.0)[:, None])
            high = torch.minimum(high, functional.pad(last, (0, 1), value=1.0)[:, None])
            self._pinhole = pixel, low, high, products

    def evaluate(self, T_cam_map: Tensor, jacobian: bool = True, scatter: bool = False) -> Evaluation:
        """See :func:`evaluate`."""
        B, N, C = T_cam_map.shape[0], self.points.shape[2], self.reference.shape[-1]
        size = max(_PORTION // (3 * B * C), 1)
        if size >= N or torch.is_grad_enabled():
            return self._portion(slice(0, N), T_cam_map, jacobian, scatter)
        return joined(
            [self._portion(slice(start, start + size), T_cam_map, jacobian, scatter) for start in range(0, N, size)]
        )

    def _project(self, T: Tensor, points: Tensor, jacobian: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        """Pixels (B, N, 2), P transposed (B, 6, 2, N), and what the camera sees (B, N)."""
        if self._pinhole is None:
            uv, P, valid = project_points(T, points[:, :3].mT, self.camera, jacobian)
            valid = valid & (points[:, 3] > 0)
            return uv, None if P is None else P.permute(2, 1, 0, 3), valid
        pixel, low, high, products = self._pinhole
        p = T @ points  # (B, 4, N): x, y, z, 1
        # (x / z, y / z, 1, 1 / z); the third is one where the point is in front, and only there.
        q = (p / p[:, 2:3].clamp_min(_MIN_DEPTH)).clamp(-_FAR, _FAR)
        uvz = torch.addcmul(pixel[0], q[:, :3], pixel[1])
        held = torch.minimum(torch.maximum(uvz, low), high)
        valid = (held == uvz).all(1)
        # Where there is no field of cells what is outside must stay outside.
        uv = (uvz if self._grid is None else held)[:, :2].mT
        if not jacobian:
            return uv, None, valid
        P = products @ (q[:, :, None] * q[:, None]).flatten(1, 2)
        return uv, P.view(len(P), 6, 2, -1), valid

    def _portion(self, part: slice, T: Tensor, jacobian: bool, scatter: bool) -> Evaluation:
        uv, P, valid = self._project(T, self.points[..., part], jacobian)
        if self._grid is not None:
            sample = self._grid.sample_inside(uv, valid, jacobian)
        else:
            sample = self.field.sample(uv, gradients=jacobian)
            valid = valid & sample.inside
        confidence = sample.confidence
        if self.confidence is not None:
            stored = self.confidence[:, part]
            confidence = stored if confidence is None else confidence * stored
        reference = self.reference[:, part]
        if P is None:
            r = sample.values - reference
            squared = torch.linalg.vecdot(r, r)
            valid, squared, weights, cost = self._weighed(valid, squared, confidence)
            return Evaluation(cost, valid, squared, weights)
        rows = sample.stacked
        if rows is None:
            assert sample.gradients is not None
            rows = torch.cat([(sample.values - reference)[..., None, :], sample.gradients.mT], dim=-2)
        elif torch.is_grad_enabled():
            rows = torch.cat([rows[..., :1, :] - reference[..., None, :], rows[..., 1:, :]], dim=-2)
        else:
            rows[..., 0, :].sub_(reference)
        squared, M = _inner_products(rows)
        valid, squared, weights, cost = self._weighed(valid, squared, confidence)
        M = torch.where(valid[:, None, None], M, _zero(M.device, M.dtype)) * weights[:, None, None]
        # (B, 7, 2, N): w G^T G P, and w G^T r.
        right = torch.cat([torch.addcmul(P[:, :, :1] * M[:, None, 1], P[:, :, 1:], M[:, None, 2]), M[:, :1]], dim=1)
        normal = P.flatten(2) @ right.flatten(2).mT
        shares = None
        if scatter:
            a = (P * M[:, :1]).sum(2)  # (B, 6, N)
            shares = a @ a.mT
        return Evaluation(cost, valid, squared, weights, normal, shares)

    def _weighed(
        self, seen: Tensor, squared: Tensor, confidence: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Valid, r.r and the weight where valid, and the cost (B,)."""
        valid = seen & ((squared if confidence is None else squared + confidence) < torch.inf)
        zero = _zero(squared.device, squared.dtype)
        squared = torch.where(valid, squared, zero)
        weights, cost = self.robust.weight_and_cost(squared)
        confidence = valid if confidence is None else torch.where(valid, confidence, zero)
        weights, cost = weights * confidence, cost * confidence
        return valid, squared, weights, cost.sum(-1)


def _inner_products(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of r and the columns of G, (B, N, 3, C): r.r (B, N), and those of all three with both columns, (B, 3, 2, N)."""
    if rows.device.type != "cpu" or torch.is_grad_enabled():
        found = (rows @ rows.mT).permute(0, 2, 3, 1)
        return found[:, 0, 0], found[:, :, 1:].contiguous()
    # Of so small matrices a processor's library takes twice the time that the six products need.
    out = rows.new_empty(rows.shape[0], 3, 2, rows.shape[1])
    each = rows.unbind(2)
    for i, j in ((0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        torch.linalg.vecdot(each[i], each[j], out=out[:, i, j - 1])
    out[:, 2, 0] = out[:, 1, 1]
    return torch.linalg.vecdot(each[0], each[0]), out


@lru_cache(maxsize=16)
def _zero(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros((), device=device, dtype=dtype)


@lru_cache(maxsize=16)
def _monomials(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """P of a pinhole by the products of (a, b, 1, 1 / z): what fx and what fy multiplies, (12, 16) each."""
    a, b, one, i = range(4)
    out = torch.zeros(2, 4, 4, 6, 2)
    for column, row, other, value in ((0, i, one, 1.0), (2, a, i, -1.0), (3, a, b, -1.0), (4, one, one, 1.0),
                                      (4, a, a, 1.0), (5, b, one, -1.0)):  # fmt: skip
        out[0, row, other, column, 0] = value
    for column, row, other, value in ((1, i, one, 1.0), (2, b, i, -1.0), (3, one, one, -1.0), (3, b, b, -1.0),
                                      (4, a, b, 1.0), (5, a, one, 1.0)):  # fmt: skip
        out[1, row, other, column, 1] = value
    with torch.inference_mode(False):
        by_fx, by_fy = out.view(2, 16, 12).mT.contiguous().to(device, dtype)
    return by_fx, by_fy


def _pinhole(camera: TorchCamera, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a camera without distortion: (centre, focal) with a third axis, the bounds of both, and P by products."""
    focal, centre, size = (getattr(camera, name).to(dtype)[..., None] for name in ("focal", "centre", "size"))
    one = torch.ones_like(focal[..., :1, :])
    pixel = torch.stack([torch.cat([centre, 0.0 * one], -2), torch.cat([focal, one], -2)])
    low, high = torch.cat([0.0 * size - 0.5, one], -2), torch.cat([size - 0.5, one], -2)
    by_fx, by_fy = _monomials(focal.device, dtype)
    return pixel, low, high, focal[..., :1, :] * by_fx + focal[..., 1:, :] * by_fy


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
    problem = Problem(points_map, reference, reference_confidence, mask, field, camera, robust)
    return problem.evaluate(T_cam_map, jacobian, scatter)


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Of portions of the points, that of all."""
    if len(parts) == 1:
        return parts[0]

    def total(tensors: Sequence[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(present).sum(0) if present else None

    return Evaluation(
        torch.stack([part.cost for part in parts]).sum(0),
        torch.cat([part.valid for part in parts], dim=1),
        torch.cat([part.squared for part in parts], dim=1),
        torch.cat([part.weights for part in parts], dim=1),
        total([part.normal for part in parts]),
        total([part.scatter for part in parts]),
    )
