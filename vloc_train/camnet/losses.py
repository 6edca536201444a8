"""The five losses of CamNet (eqs. 1 to 9). Each is a mean over pairs; poses are vectors ``(..., 7)``, xyzw."""

from __future__ import annotations

import torch
from torch import Tensor

from vloc_ros.geometry.torch_ops import quaternion_to_matrix

__all__ = ["angle_loss", "angle_target", "frustum_loss", "hard_triplet_loss", "relative_pose_loss", "rotation_share"]


def frustum_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Eq. 4, bilateral: |d1^ - d1| + |d2^ - d2|, ``(P, 2)`` each; the norm of one number is its absolute value."""
    return (predicted - target).abs().sum(dim=-1).mean()


def rotation_share(R_1: Tensor, R_2: Tensor) -> Tensor:
    """Eq. 5: arccos((trace(R_1^T R_2) - 1) / 2) / pi in [0, 1]; ``(..., 3, 3)`` twice to ``(...)``.

    The paper's parentheses put the 1 inside the trace, which has no meaning. Rounding can leave the cosine outside
    [-1, 1], and at its ends the arc cosine has no slope: there the result is 0 or 1, and its gradient zero.
    """
    cosine = ((R_1 * R_2).sum(dim=(-2, -1)) - 1.0) / 2.0
    inside = cosine.abs() < 1.0
    share = torch.acos(torch.where(inside, cosine, torch.zeros_like(cosine))) / torch.pi
    ends = torch.where(cosine > 0, torch.zeros_like(cosine), torch.ones_like(cosine)).detach()
    return torch.where(inside, share, ends)


def angle_target(one: Tensor, two: Tensor) -> Tensor:
    """alpha of eq. 5 of pairs of poses ``(P, 7)``: ``(P,)``."""
    return rotation_share(quaternion_to_matrix(one[..., 3:]), quaternion_to_matrix(two[..., 3:]))


def angle_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Eq. 6: |alpha^ - alpha|, ``(P,)`` each."""
    return (predicted - target).abs().mean()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """L2 distance ``(N,)`` of rows, with a zero gradient where rows are equal."""
    square = (a - b).square().sum(dim=-1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), square)


def hard_triplet_loss(
    anchor: Tensor, easy: Tensor, moderate: Tensor, hard: Tensor, valid: Tensor, margin: float = 0.1
) -> Tensor:
    """Eq. 7: in the whole batch the farthest easy pair shall be nearer than the nearest moderate one, by ``margin``;
    and so the farthest moderate pair than the nearest hard one.

    :param anchor: features ``(N, F)`` of the anchors, and ``easy``, ``moderate``, ``hard`` of their partners.
    :param valid: ``(N, 3)`` bool: an anchor need not have a partner of every category.
    """
    distances = [_distance(anchor, other) for other in (easy, moderate, hard)]
    loss = anchor.new_zeros(())
    for nearer, farther in ((0, 1), (1, 2)):
        if bool(valid[:, nearer].any()) and bool(valid[:, farther].any()):
            largest = distances[nearer][valid[:, nearer]].max()
            smallest = distances[farther][valid[:, farther]].min()
            loss = loss + torch.relu(largest - smallest + margin)
    return loss


def relative_pose_loss(predicted: Tensor, target: Tensor, rotation_weight: float = 1.0) -> Tensor:
    """Eqs. 8 and 9: |dt^ - dt|_1 + w |dq^ / |dq^| - dq|_1, ``(P, 7)`` each.

    ``target`` has unit quaternions with w >= 0 (:func:`~vloc_ros.localizers.camnet.relative.relative_poses`).
    """
    translation = (predicted[..., :3] - target[..., :3]).abs().sum(dim=-1)
    unit = torch.nn.functional.normalize(predicted[..., 3:], dim=-1)
    rotation = (unit - target[..., 3:]).abs().sum(dim=-1)
    return (translation + rotation_weight * rotation).mean()
