"""The damping of Levenberg-Marquardt (eq. 4): one factor a pose parameter and level, learned (eq. 7) or constant."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vloc_ros.errors import ConfigError

__all__ = ["LearnedDamping", "constant_damping"]


class LearnedDamping(nn.Module):
    """Eq. 7: log10 lambda_l = low + sigmoid(theta_l) (high - low).

    :param levels: feature levels, coarse to fine as everywhere in the package.
    :param log10_range: (low, high). The paper does not state them; see the backend's README.
    """

    theta: Tensor

    def __init__(self, levels: int = 3, log10_range: tuple[float, float] = (-6.0, 5.0)) -> None:
        super().__init__()
        low, high = log10_range
        if not low < high:
            raise ConfigError(f"damping: expected an increasing range of exponents, found {log10_range}")
        self.low, self.high = low, high
        self.theta = nn.Parameter(torch.zeros(levels, 6))

    def forward(self) -> Tensor:
        """lambda (levels, 6), coarse to fine; columns are translation x, y, z and rotation x, y, z of the camera."""
        return 10.0 ** (self.low + self.theta.sigmoid() * (self.high - self.low))


def constant_damping(levels: int, value: float) -> Tensor:
    """The same lambda for every level and parameter; (levels, 6).

    :raises ConfigError: a negative value.
    """
    if value < 0:
        raise ConfigError(f"damping: expected a factor of at least 0, found {value}")
    return torch.full((levels, 6), value)
