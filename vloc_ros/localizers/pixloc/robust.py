"""Robust costs of eq. 2: what a squared residual counts.

Every cost rho is a function of the squared norm s of a residual, scaled so that it equals s near zero:
``rho(s) = c^2 f(s / c^2)`` with f(0) = 0 and f'(0) = 1. Its derivative rho'(s), in [0, 1], is the weight of the
residual in the normal equations (eq. 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vloc_ros.errors import ConfigError

__all__ = ["LearnedBarron", "Robust", "RobustKind"]

RobustKind = Literal["squared", "huber", "cauchy", "geman_mcclure", "barron"]


@dataclass(frozen=True)
class Robust:
    """A robust cost of squared norms.

    With x = s / scale^2 the functions f(x) are ``squared`` x; ``huber`` x up to 1, then 2 sqrt(x) - 1; ``cauchy``
    log(1 + x); ``geman_mcclure`` x / (1 + x); ``barron`` the family of Barron ("A general and adaptive robust loss
    function", CVPR 2019, eq. 1, times two): 2 b/alpha ((x/b + 1)^(alpha/2) - 1), b = |alpha - 2|, which is squared at
    alpha = 2, Cauchy (of sqrt(2) times the scale) at 0, Geman-McClure (of twice the scale) at -2.

    :param kind: one of the names above.
    :param scale: c, the norm of a residual from which on it counts less.
    :param alpha: shape of ``barron``, at most 2; a tensor if it is learned.
    :raises ConfigError: an unknown kind, a scale that is not positive, alpha above 2.
    """

    kind: RobustKind = "barron"
    scale: float = 0.1
    alpha: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(RobustKind):
            raise ConfigError(f"robust cost: expected one of {', '.join(get_args(RobustKind))}, found {self.kind!r}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"robust cost: expected a positive scale, found {self.scale}")
        if not isinstance(self.alpha, Tensor) and not (math.isfinite(self.alpha) and self.alpha <= 2):
            raise ConfigError(f"robust cost: expected a finite alpha of at most 2, found {self.alpha}")

    def cost(self, s: Tensor) -> Tensor:
        """rho(s); any shape."""
        if self.kind == "squared":
            return s
        c2 = self.scale**2
        x = s / c2
        if self.kind == "huber":
            return c2 * torch.where(x <= 1, x, 2.0 * x.clamp(min=1.0).sqrt() - 1.0)
        if self.kind == "cauchy":
            return c2 * torch.log1p(x)
        if self.kind == "geman_mcclure":
            return s / (1.0 + x)
        if not isinstance(self.alpha, Tensor) and self.alpha == 0.0:
            return 2.0 * c2 * torch.log1p(0.5 * x)
        b, half = self._barron(x)
        # b/half (e^(half L) - 1) with L = log(1 + x/b); the quotient (e^z - 1)/z has no pole at alpha = 0.
        log = torch.log1p(x / b)
        z = half * log
        small = z.abs() < 1e-4
        safe = torch.where(small, torch.ones_like(z), z)
        quotient = torch.where(small, 1.0 + z / 2.0 + z * z / 6.0, torch.expm1(safe) / safe)
        return c2 * b * log * quotient

    def weight(self, s: Tensor) -> Tensor:
        """rho'(s), in [0, 1]; any shape."""
        if self.kind == "squared":
            return torch.ones_like(s)
        x = s / self.scale**2
        if self.kind == "huber":
            return x.clamp(min=1.0).rsqrt()
        if self.kind == "cauchy":
            return 1.0 / (1.0 + x)
        if self.kind == "geman_mcclure":
            return (1.0 + x) ** -2
        if not isinstance(self.alpha, Tensor) and self.alpha == 0.0:
            return 1.0 / (1.0 + 0.5 * x)
        b, half = self._barron(x)
        return torch.exp((half - 1.0) * torch.log1p(x / b))

    def weight_and_cost(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """rho'(s) and rho(s); any shape. Of the default cost in half the operations."""
        if self.kind != "barron" or isinstance(self.alpha, Tensor) or self.alpha != 0.0:
            return self.weight(s), self.cost(s)
        x = s * (0.5 / self.scale**2)
        return (x + 1.0).reciprocal(), x.log1p() * (2.0 * self.scale**2)

    def _barron(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """b = |alpha - 2|, kept from zero (where the limit is the squared cost to rounding), and alpha / 2."""
        least = 1e-7 if x.dtype == torch.float64 else 1e-4
        if isinstance(self.alpha, Tensor):
            alpha = self.alpha.to(x)
            return (2.0 - alpha).clamp(min=least), 0.5 * alpha
        return max(2.0 - self.alpha, least), 0.5 * self.alpha


class LearnedBarron(nn.Module):
    """Barron's family with the shape learned along with the features: alpha = low + sigmoid(theta) (2 - low).

    :param scale: c of :class:`Robust`.
    :param start: alpha at the start of training.
    :param low: the smallest alpha.
    """

    def __init__(self, scale: float = 0.1, start: float = 0.0, low: float = -2.0) -> None:
        super().__init__()
        if not low < start < 2:
            raise ConfigError(f"robust cost: expected the first alpha between {low} and 2, found {start}")
        self.scale, self.low = scale, low
        share = (start - low) / (2.0 - low)
        self.theta = nn.Parameter(torch.tensor(math.log(share / (1.0 - share))))

    def forward(self) -> Robust:
        """The cost at the present shape."""
        return Robust("barron", self.scale, self.low + self.theta.sigmoid() * (2.0 - self.low))
