"""The paired comparison accepts equals, and notices what is worse by more than the limit."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.errors import ConfigError
from vloc_ros.evaluation.comparison import compare_paired


@pytest.fixture
def errors():
    rng = np.random.default_rng(0)
    difficulty = rng.lognormal(-1.0, 0.5, 300)
    return difficulty * rng.lognormal(0.0, 0.05, (10, 300))


def test_equals_pass(errors):
    rng = np.random.default_rng(1)
    other = errors * rng.lognormal(0.0, 0.01, errors.shape)
    result = compare_paired(errors, other, threshold=2.0, samples=300)
    assert result.as_accurate
    assert result.median_increase_allowed == pytest.approx(max(0.02 * np.median(errors), 0.01))


def test_ten_percent_worse_fails(errors):
    result = compare_paired(errors, 1.1 * errors, threshold=2.0, samples=300)
    assert not result.as_accurate and result.median_increase_upper > result.median_increase_allowed


def test_lost_frames_fail_by_recall(errors):
    other = errors.copy()
    other[:, ::50] = np.inf
    result = compare_paired(errors, other, threshold=2.0, samples=300)
    assert not result.as_accurate and result.recall_loss_upper > 0.015


def test_both_mostly_silent_is_a_tie():
    silent = np.full((10, 20), np.inf)
    assert compare_paired(silent, silent, threshold=1.0, samples=50).median_increase_upper == 0.0


def test_too_few_seeds_or_other_frames_are_refused(errors):
    with pytest.raises(ConfigError, match="10 seeds"):
        compare_paired(errors[:9], errors[:9], 1.0)
    with pytest.raises(ConfigError, match="equal"):
        compare_paired(errors, errors[:, :-1], 1.0)
