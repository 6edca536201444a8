"""Is one stochastic method as accurate as another? Paired on the same frames, over several seeds, with a bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vloc_ros.errors import ConfigError
from vloc_ros.types import Array

__all__ = ["PairedComparison", "compare_paired"]

MIN_SEEDS = 10


@dataclass(frozen=True)
class PairedComparison:
    """The bootstrap's 95 % upper bounds of how much worse the candidate is, and what is allowed."""

    median_baseline: float
    median_candidate: float
    median_increase_upper: float
    median_increase_allowed: float
    recall_loss_upper: float
    recall_loss_allowed: float

    @property
    def as_accurate(self) -> bool:
        """Whether both bounds hold."""
        return (
            self.median_increase_upper <= self.median_increase_allowed
            and self.recall_loss_upper <= self.recall_loss_allowed
        )


def compare_paired(
    baseline: Array, candidate: Array, threshold: float, samples: int = 2000, seed: int = 0
) -> PairedComparison:
    """Compare errors of the same frames.

    Frames are resampled together for both methods and all seeds, because the frames' difficulties are shared;
    seeds are resampled too.

    :param baseline: (S, N) errors of S >= 10 seeds over N frames, infinite where no pose was published.
    :param candidate: the same frames in the same order.
    :param threshold: the error within which a frame counts for the recall.
    :raises ConfigError: shapes differ, or fewer than 10 seeds.
    """
    if baseline.ndim != 2 or baseline.shape != candidate.shape:
        raise ConfigError(
            f"paired comparison: expected equal (seeds, frames), found {baseline.shape}, {candidate.shape}"
        )
    if baseline.shape[0] < MIN_SEEDS:
        raise ConfigError(f"paired comparison: expected at least {MIN_SEEDS} seeds, found {baseline.shape[0]}")
    random = np.random.default_rng(seed)
    seeds, frames = baseline.shape
    increases, losses = np.empty(samples), np.empty(samples)
    for i in range(samples):
        picked = np.ix_(random.integers(0, seeds, size=seeds), random.integers(0, frames, size=frames))
        a, b = baseline[picked], candidate[picked]
        increases[i] = _difference(float(np.median(b)), float(np.median(a)))
        losses[i] = (a <= threshold).mean() - (b <= threshold).mean()
    median = float(np.median(baseline))
    return PairedComparison(
        median,
        float(np.median(candidate)),
        float(np.quantile(increases, 0.95, method="higher")),
        max(0.02 * median, 0.01),
        float(np.quantile(losses, 0.95, method="higher")),
        0.005,
    )


def _difference(b: float, a: float) -> float:
    """b - a, where two infinite medians are equally bad."""
    return 0.0 if a == b else b - a
