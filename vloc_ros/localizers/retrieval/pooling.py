"""From local features to one vector: the average and the generalised mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AveragePooling", "GeneralisedMean"]


class AveragePooling(nn.Module):
    """The mean over all places of the image: ``(B, C, h, w)`` to ``(B, C)``."""

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return features.mean(dim=(-2, -1))


class GeneralisedMean(nn.Module):
    """GeM (Radenovic et al., TPAMI 2019, eq. 3): (mean x^p)^(1/p) of each channel, p learned and shared.

    p = 1 is the average, p towards infinity the maximum. Scaling all features scales the result alike.

    :param power: the first p.
    :param floor: features below it count as this much: powers need positive numbers.
    """

    def __init__(self, power: float = 3.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor([float(power)]))
        self.floor = floor

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, C)``."""
        x = features.clamp_min(self.floor)
        # In units of each channel's maximum, so that x^p neither overflows nor vanishes for a large p.
        scale = x.detach().amax(dim=(-2, -1), keepdim=True)
        mean = (x / scale).pow(self.power).mean(dim=(-2, -1))
        return mean.pow(1.0 / self.power) * scale.flatten(1)
