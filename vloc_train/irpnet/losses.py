"""The losses of IRPNet: equation 1, and the learned weighting of the MLP baseline (Kendall and Cipolla, 2017).

Of q-hat and q / ||q|| the text says only that they are "ground truth and estimated unit vector quaternions". Here the
*prediction* is normalised and compared with the unit quaternion of the truth (w >= 0): the truth has length 1 anyway.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vloc_ros.geometry.torch_ops import quaternion_to_matrix
from vloc_ros.localizers.irpnet.network import Regressed, columns_matrix

__all__ = ["LearnedWeights", "orientation_loss", "pose_loss", "position_loss"]


def position_loss(position: Tensor, truth: Tensor) -> Tensor:
    """L_x: ``(B, 3)`` metres each to ``(B,)`` metres."""
    distance: Tensor = torch.linalg.vector_norm(position - truth, dim=-1)
    return distance


def orientation_loss(rotation: Tensor, truth: Tensor) -> Tensor:
    """L_q: regressed ``(B, 4)`` quaternions or ``(B, 6)`` columns, and true unit quaternions ``(B, 4)``, to ``(B,)``.

    About half the angle in radians while it is small, in both forms: ||q/|q| - q_true|| = 2 sin(angle / 4), and for
    matrices ||R - R_true||_F / (2 sqrt 2) = sin(angle / 2).
    """
    if rotation.shape[-1] == 6:
        difference = columns_matrix(rotation) - quaternion_to_matrix(truth)
        chordal: Tensor = torch.linalg.vector_norm(difference.flatten(-2), dim=-1)
        return chordal / (2.0 * math.sqrt(2.0))
    distance: Tensor = torch.linalg.vector_norm(functional.normalize(rotation, dim=-1) - truth, dim=-1)
    return distance


def pose_loss(found: Regressed, truth: Tensor, weights: tuple[float, float]) -> Tensor:
    """Equation 1, the mean over the batch: s_x L_x + s_q L_q.

    :param truth: ``(B, 7)`` pose vectors.
    :param weights: (s_x, s_q); a term of weight 0 is not computed.
    """
    s_x, s_q = weights
    total = truth.new_zeros(())
    if s_x:
        assert found.position is not None
        total = total + s_x * position_loss(found.position, truth[:, :3]).mean()
    if s_q:
        assert found.rotation is not None
        total = total + s_q * orientation_loss(found.rotation, truth[:, 3:]).mean()
    return total


class LearnedWeights(nn.Module):
    """L_x exp(-s_x) + s_x + L_q exp(-s_q) + s_q with learned s_x, s_q (their equation 7, started at 0 and -3)."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor([0.0, -3.0]))

    def forward(self, found: Regressed, truth: Tensor) -> Tensor:
        """The mean over the batch; arguments as of :func:`pose_loss`."""
        assert found.position is not None and found.rotation is not None
        losses = torch.stack(
            (
                position_loss(found.position, truth[:, :3]).mean(),
                orientation_loss(found.rotation, truth[:, 3:]).mean(),
            )
        )
        return (losses * torch.exp(-self.s.to(losses)) + self.s.to(losses)).sum()
