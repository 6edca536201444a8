"""Target scores and the loss of ImPosing (Section 3.2, eqs. 3 to 5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vloc_ros.geometry.torch_ops import rotation_angle_quaternion

__all__ = ["score_loss", "target_scores"]


def target_scores(poses: Tensor, truth: Tensor, width_m: float | Tensor, width_deg: float | Tensor) -> Tensor:
    """Eq. 3: 1 - |dt| / width_m - angle / width_deg, at least 0; the angle of eq. 4 in degrees.

    :param poses: ``(..., N, 7)`` candidates.
    :param truth: ``(..., 7)`` true poses.
    :param width_m: 1 / lambda_t: where the target reaches zero, metres (5 by default: see README).
    :param width_deg: 1 / lambda_r in degrees (10).
    """
    truth = truth.unsqueeze(-2)
    distance = torch.linalg.vector_norm(poses[..., :3] - truth[..., :3], dim=-1)
    angle = rotation_angle_quaternion(poses[..., 3:], truth[..., 3:]) * (180.0 / math.pi)
    return torch.relu(1.0 - distance / width_m - angle / width_deg)


def score_loss(predicted: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Eq. 5: the mean absolute difference in each step, summed over the steps, averaged over the images.

    :param predicted: for each step k a ``(B, N_k)`` tensor of scores.
    :param targets: the target scores, of the same shapes.
    """
    steps = [torch.abs(p - t).mean(dim=-1) for p, t in zip(predicted, targets, strict=True)]
    return torch.stack(steps).sum(dim=0).mean()
