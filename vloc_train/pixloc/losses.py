"""The loss of PixLoc: reprojection errors of the points at every level's pose, gated level by level (eq. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vloc_ros.geometry.torch_cameras import TorchCamera

__all__ = ["PixLocLoss", "gated_loss", "huber", "reprojection_errors"]

#: A point's depth is taken to be at least this share of its true one, so that a pose that moved past a point has an
#: error, and a gradient back.
_LEAST_DEPTH = 0.1


def huber(error: Tensor, width: float) -> Tensor:
    """The Huber cost of non-negative errors over its width: ``e^2 / (2 w)`` up to ``w``, ``e - w / 2`` beyond."""
    return torch.where(error <= width, error * error / (2.0 * width), error - 0.5 * width)


def reprojection_errors(
    T_cam_map: Tensor, T_true: Tensor, points_map: Tensor, mask: Tensor, camera: TorchCamera
) -> tuple[Tensor, Tensor]:
    """How far points land from where they belong; pixels.

    :param T_cam_map: (B, 4, 4) estimated. :param T_true: (B, 4, 4). :param points_map: (B, N, 3).
    :param mask: (B, N) points that are there.
    :return: errors (B, N), and which count (B, N): those that the true camera sees.
    """
    true = _transform(T_true, points_map)
    uv_true, seen = camera.project(true)
    at = _transform(T_cam_map, points_map)
    least = _LEAST_DEPTH * true[..., 2].clamp_min(1e-6)
    at = torch.cat([at[..., :2], torch.maximum(at[..., 2], least)[..., None]], dim=-1)
    uv, _ = camera.project(at)
    valid = mask & seen
    apart = torch.where(valid[..., None], uv - uv_true, torch.zeros_like(uv))
    squared = (apart * apart).sum(-1)
    # The root has no gradient at zero.
    positive = squared > 0
    error = torch.where(positive, torch.where(positive, squared, torch.ones_like(squared)).sqrt(), squared)
    return error, valid


@dataclass(frozen=True)
class PixLocLoss:
    """``total`` scalar; ``errors`` (L, B) mean Huber error of each level in pixels, coarse to fine; ``success`` (L, B):
    the level's pose is close enough for the next; ``usable`` (B,): enough points to learn from."""

    total: Tensor
    errors: Tensor
    success: Tensor
    usable: Tensor


def gated_loss(
    T_levels: Sequence[Tensor],
    strides: Sequence[int],
    T_true: Tensor,
    points_map: Tensor,
    mask: Tensor,
    camera: TorchCamera,
    *,
    width: float,
    success_px: float,
    clamp_px: float,
    least_points: int = 10,
) -> PixLocLoss:
    """Eq. 8: the mean over levels and examples, where a level counts only if the one before it succeeded.

    The error of an example is a mean over its points (the paper sums): examples of few points weigh as much.

    :param T_levels: poses (B, 4, 4) after each level, coarse to fine. :param strides: of these levels.
    :param width: of the Huber cost, pixels.
    :param success_px: largest error of a level that succeeded, in pixels of that level.
    :param clamp_px: larger errors of an example count as this, without gradient.
    """
    levels = len(T_levels)
    errors, success = [], []
    allowed = torch.ones(len(points_map), dtype=torch.bool, device=points_map.device)
    terms = []
    for T, stride in zip(T_levels, strides, strict=True):
        error, valid = reprojection_errors(T, T_true, points_map, mask, camera)
        count = valid.sum(-1)
        usable = count >= least_points
        # Without `where`, a pose that became NaN would spoil the whole batch.
        found = (huber(error, width) * valid).sum(-1) / count.clamp_min(1)
        finite = torch.isfinite(found)
        found = torch.where(finite, found, torch.full_like(found, clamp_px))
        counts = allowed & usable & finite
        terms.append(torch.where(counts, found.clamp(max=clamp_px), torch.zeros_like(found)))
        errors.append(found.detach())
        allowed = allowed & usable & (found.detach() < success_px * stride)
        success.append(allowed)
    usable_any = usable.sum().clamp_min(1)
    total = torch.stack(terms).sum() / (levels * usable_any)
    return PixLocLoss(total, torch.stack(errors), torch.stack(success), usable)


def _transform(T: Tensor, points: Tensor) -> Tensor:
    return points @ T[:, :3, :3].mT + T[:, None, :3, 3]
