"""Descriptors at new poses from those of references nearby, linearly (Section III-C, 1 and 2).

Both linear methods are affine combinations of anchor descriptors: first the weights, in float64, then their sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "combine",
    "interpolation_weights",
    "nearest_anchors",
    "plane_weights",
    "two_trajectories",
]

#: Entries of a distance matrix at a time.
_BLOCK = 1 << 24


def interpolation_weights(targets: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Weights of two anchors at a target between them (equations 1 to 3).

    ``f = (1 - a1) f1 + (1 - a2) f2`` with ``a_i = b_i / (b1 + b2)`` and ``b_i`` the distance of anchor i.

    :param targets: ``(B, 3)`` positions. :param first: ``(B, 3)``. :param second: ``(B, 3)``.
    :return: ``(B, 2)`` float64. Where both anchors lie at the target they weigh the same.
    """
    t = targets.double()
    b = torch.stack([torch.linalg.vector_norm(t - a.double(), dim=-1) for a in (first, second)], dim=-1)
    total = b.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, 1.0 - b / torch.where(total > 0, total, torch.ones_like(total)), 0.5)


def plane_weights(targets: Tensor, anchors: Tensor, tolerance: float = 0.05, ridge_m: float = 0.0) -> Tensor:
    """Weights of O anchors whose least-squares plane is evaluated at a target (Section III-C2).

    The plane of a descriptor's dimension is ``mean(f) + (t - mean(x)) g``, the slope ``g`` fitted to the anchors'
    deviations from their means. It is the same for every dimension but for ``f``, so that ``f_new`` is a weighted sum
    of the anchors' descriptors; the weights sum to one.

    :param targets: ``(B, 3)`` positions. :param anchors: ``(B, O, 3)`` positions.
    :param tolerance: singular values of the deviations below this share of the largest count as zero: the slope of
        least norm. Without it centimetres across a road would decide what happens metres across it.
    :param ridge_m: adds its square to the squared singular values.
    :return: ``(B, O)`` float64.
    """
    x = anchors.double()
    mean = x.mean(dim=1, keepdim=True)
    U, S, Vh = torch.linalg.svd(x - mean, full_matrices=False)
    largest = S.amax(dim=-1, keepdim=True)
    kept = (S > tolerance * largest) & (S > 1e-9)
    gains = torch.where(kept, S / torch.where(kept, S**2 + ridge_m**2, torch.ones_like(S)), torch.zeros_like(S))
    along = ((targets.double() - mean[:, 0])[:, None] @ Vh.mT)[:, 0]
    slopes: Tensor = ((along * gains)[:, None] @ U.mT)[:, 0]
    return 1.0 / x.shape[1] + slopes


def combine(descriptors: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums ``(B, D)`` of the rows ``(B, O)`` of ``(M, D)`` descriptors, in their dtype."""
    out = torch.zeros(len(rows), descriptors.shape[1], dtype=descriptors.dtype, device=descriptors.device)
    for k in range(rows.shape[1]):  # one anchor at a time: (B, O, D) would be O times as large
        out += weights[:, k, None].to(descriptors) * descriptors[rows[:, k]]
    return out


def nearest_anchors(targets: Tensor, anchors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The nearest anchors by translation: distances and rows ``(B, k)``, nearest first; k is ``count`` or M.

    :param targets: ``(B, 3)`` positions. :param anchors: ``(M, 3)``.
    """
    k = min(count, len(anchors))
    block = max(1, _BLOCK // max(1, len(anchors)))
    distances, rows = [], []
    for start in range(0, len(targets), block):
        part = targets[start : start + block].double()
        # Not by the squares of matrix products: far from the origin their difference would be noise.
        apart = torch.cdist(part, anchors.double(), compute_mode="donot_use_mm_for_euclid_dist")
        found = apart.topk(k, largest=False)
        distances.append(found.values)
        rows.append(found.indices)
    if not distances:
        return torch.zeros(0, k, dtype=torch.float64), torch.zeros(0, k, dtype=torch.int64)
    return torch.cat(distances), torch.cat(rows)


def two_trajectories(targets: Tensor, anchors: Tensor, trajectory: Tensor, count: int) -> Tensor | None:
    """``count`` nearest anchors of each of the two trajectories nearest to a target (Station Escalator).

    :param trajectory: ``(M,)`` the number of each anchor's trajectory.
    :return: rows ``(B, 2 count)``; None where there are not two trajectories of that many anchors.
    """
    numbers = [n for n in sorted(set(trajectory.tolist())) if int((trajectory == n).sum()) >= count]
    if len(numbers) < 2:
        return None
    members = [torch.nonzero(trajectory == n)[:, 0] for n in numbers]
    found = [nearest_anchors(targets, anchors[m], count) for m in members]
    closest = torch.stack([d[:, 0] for d, _ in found], dim=1).topk(2, dim=1, largest=False).indices
    rows = torch.stack([m[r] for m, (_, r) in zip(members, found, strict=True)], dim=1)
    chosen = rows.gather(1, closest[..., None].expand(-1, -1, count))
    return chosen.reshape(len(targets), 2 * count)
