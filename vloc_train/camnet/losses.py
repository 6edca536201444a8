"""The five losses of CamNet (eqs. 1 to 9). Each is a mean over pairs; poses are vectors ``(..., 7)``, xyzw."""

from __future__ import annotations

import torch
from torch import Tensor

from vloc_ros.geometry.torch_ops import quaternion_to_matrix

__all__ = [
    "angle_loss",
    "angle_target",
    "frustum_loss",
    "hard_triplet_loss",
    "nearest_of",
    "relative_pose_loss",
    "rotation_share",
]


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


def nearest_of(anchor: Tensor, images: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """For each anchor the distance ``(N,)`` of the allowed image whose feature is nearest, and whether there is one.

    :param anchor: features ``(N, F)``. :param images: ``(B, F)``. :param allowed: ``(N, B)`` bool.
    """
    with torch.no_grad():
        apart = torch.cdist(anchor, images, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = apart.masked_fill(~allowed, torch.inf).argmin(dim=1)
    return _distance(anchor, images[nearest]), allowed.any(dim=1)


def hard_triplet_loss(
    anchor: Tensor,
    easy: Tensor,
    moderate: Tensor,
    hard: Tensor,
    valid: Tensor,
    margin: float = 0.1,
    far: tuple[Tensor, Tensor] | None = None,
    scope: str = "batch",
) -> Tensor:
    """Eq. 7: the farthest easy pair shall be nearer than the nearest moderate one, by ``margin``; and so the farthest
    moderate pair than the nearest hard one.

    :param anchor: features ``(N, F)`` of the anchors, and ``easy``, ``moderate``, ``hard`` of their partners.
    :param valid: ``(N, 3)`` bool: an anchor need not have a partner of every category.
    :param far: more hard pairs: distances ``(N,)`` and which of them there are (see :func:`nearest_of`).
    :param scope: ``batch`` takes the extremes of the whole batch (the paper's), ``anchor`` those of each anchor, and
        the mean over the anchors.
    """
    distances = [_distance(anchor, other) for other in (easy, moderate, hard)]
    exists = list(valid.unbind(dim=1))
    if far is not None:
        infinite = torch.full_like(distances[2], torch.inf)
        one, two = torch.where(exists[2], distances[2], infinite), torch.where(far[1], far[0], infinite)
        distances[2], exists[2] = torch.minimum(one, two), exists[2] | far[1]
    loss = anchor.new_zeros(())
    for nearer, farther in ((0, 1), (1, 2)):
        # Without asking the device which there are: what does not exist gives nothing, and no gradient.
        if scope == "anchor":
            both = exists[nearer] & exists[farther]
            apart = torch.relu(distances[nearer] - distances[farther] + margin)
            loss = loss + apart.masked_fill(~both, 0.0).sum() / both.sum().clamp_min(1)
        else:
            largest = distances[nearer].masked_fill(~exists[nearer], -torch.inf).max()
            smallest = distances[farther].masked_fill(~exists[farther], torch.inf).min()
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
