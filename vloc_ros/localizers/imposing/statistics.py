"""What the candidates of a search say about its certainty, as a few numbers for the covariance model.

The spread of the last step alone is set by the noise schedule, not by the error; the coarse steps show
whether other places score as well, and the scores themselves were trained to fall with the distance.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["STATISTICS", "search_statistics"]

#: Names of the entries of :func:`search_statistics`, in order.
STATISTICS = (
    "score_deficit",  # log(1.05 - mean score of the averaged candidates)
    "best_deficit",  # log(1.05 - best score of the last step)
    "spread_first",  # log of the score-weighted spread of the best candidates of the first step, metres
    "spread_second",  # the same of the second step
    "spread_last",  # the same of the last step
    "heading_first",  # log of the spread of rotation of the best candidates of the first step, radians
    "heading_last",  # the same of the last step
    "shift_first",  # log distance from the weighted mean of the first step to the final position, metres
    "shift_middle",  # the same of the middle step
    "elsewhere",  # best score in the first steps farther than 10 m from the result, relative to the best score
)


def _spread(poses: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score-weighted mean position, spread of position (m) and spread of rotation (rad)."""
    share = (weights + 1e-9) / (weights + 1e-9).sum()
    mean = (poses[:, :3] * share.unsqueeze(-1)).sum(dim=0)
    position = ((poses[:, :3] - mean).square().sum(dim=-1) * share).sum().sqrt()
    # |<q_i, q_best>| = cos(angle / 2): quaternions of the same hemisphere are not needed.
    half = (poses[:, 3:] @ poses[0, 3:]).abs().clamp_max(1.0)
    rotation = ((2.0 * torch.acos(half)).square() * share).sum().sqrt()
    return mean, position, rotation


def search_statistics(best: list[tuple[Tensor, Tensor]], final: Tensor) -> Tensor:
    """The numbers named in :data:`STATISTICS`, ``(10,)``, without synchronising the device.

    :param best: for each evaluated step the best poses ``(B, 7)`` and their scores ``(B,)``, sorted.
    :param final: the averaged pose ``(7,)``.
    """
    first, second, middle, last = best[0], best[min(1, len(best) - 1)], best[len(best) // 2], best[-1]
    top = last[1][0]
    mean_first, spread_first, heading_first = _spread(*first)
    _, spread_second, _ = _spread(*second)
    mean_middle, _, _ = _spread(*middle)
    _, spread_last, heading_last = _spread(*last)
    distance = torch.linalg.vector_norm(torch.cat((first[0], second[0]))[:, :3] - final[:3], dim=-1)
    rival = torch.where(distance > 10.0, torch.cat((first[1], second[1])), 0.0).max()
    floor = 1e-3
    return torch.stack(
        (
            torch.log(1.05 - last[1].mean()),
            torch.log(1.05 - top),
            torch.log(spread_first + floor),
            torch.log(spread_second + floor),
            torch.log(spread_last + floor),
            torch.log(heading_first + floor),
            torch.log(heading_last + floor),
            torch.log(torch.linalg.vector_norm(mean_first - final[:3]) + floor),
            torch.log(torch.linalg.vector_norm(mean_middle - final[:3]) + floor),
            rival / top.clamp_min(1e-3),
        )
    )
