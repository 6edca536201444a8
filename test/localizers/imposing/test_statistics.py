from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vloc_ros.localizers.imposing.statistics import STATISTICS, search_statistics


def step(positions, scores, headings=None):
    poses = torch.zeros(len(scores), 7, dtype=torch.float64)
    poses[:, :3] = torch.as_tensor(positions, dtype=torch.float64)
    half = torch.as_tensor(np.zeros(len(scores)) if headings is None else headings, dtype=torch.float64) / 2
    poses[:, 5], poses[:, 6] = half.sin(), half.cos()
    return poses, torch.as_tensor(scores, dtype=torch.float64)


def named(best, final):
    return dict(zip(STATISTICS, search_statistics(best, final).tolist(), strict=True))


FINAL = torch.tensor([0.0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)


def test_every_number_by_hand():
    first = step([[0, 0, 0], [4, 0, 0], [30, 0, 0]], [0.5, 0.5, 0.25], [0.0, 0.2, 0.0])
    second = step([[0, 0, 0], [2, 0, 0]], [0.8, 0.8])
    last = step([[0.0, 0, 0], [0.2, 0, 0]], [0.9, 0.7], [0.0, 0.1])
    found = named([first, second, last], FINAL)
    mean = (0.4 * 0 + 0.4 * 4 + 0.2 * 30, 1.0)
    spread = math.sqrt(0.4 * mean[0] ** 2 + 0.4 * (4 - mean[0]) ** 2 + 0.2 * (30 - mean[0]) ** 2)
    expected = {
        "score_deficit": math.log(1.05 - 0.8),
        "best_deficit": math.log(1.05 - 0.9),
        "spread_first": math.log(spread + 1e-3),
        "spread_second": math.log(1.0 + 1e-3),
        "spread_last": math.log(math.sqrt(0.9 / 1.6 * 0.0875**2 + 0.7 / 1.6 * 0.1125**2) + 1e-3),
        "heading_first": math.log(0.2 * math.sqrt(0.4) + 1e-3),
        "heading_last": math.log(0.1 * math.sqrt(0.7 / 1.6) + 1e-3),
        "shift_first": math.log(mean[0] + 1e-3),
        "shift_middle": math.log(1.0 + 1e-3),
        "elsewhere": 0.25 / 0.9,
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_spreads_do_not_care_for_the_signs_of_quaternions():
    poses, scores = step([[0, 0, 0], [1, 0, 0]], [0.5, 0.4], [0.0, 0.3])
    flipped = poses.clone()
    flipped[1, 3:] *= -1
    torch.testing.assert_close(
        search_statistics([(poses, scores)], FINAL), search_statistics([(flipped, scores)], FINAL)
    )


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_for_scores_all_zero_or_all_one_and_poses_all_equal(steps, value, dtype):
    poses, scores = step(np.zeros((20, 3)), np.full(20, value))
    found = search_statistics([(poses.to(dtype), scores.to(dtype))] * steps, FINAL.to(dtype))
    assert found.shape == (len(STATISTICS),) and bool(torch.isfinite(found).all())


def test_scores_rounded_beyond_one_are_still_finite():
    poses, scores = step(np.zeros((4, 3)), np.full(4, 1.0 + 4e-3))  # as bfloat16 signatures give them
    assert bool(torch.isfinite(search_statistics([(poses, scores)], FINAL)).all())
