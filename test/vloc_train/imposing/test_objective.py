from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.geometry.rotations import quaternion_to_matrix
from vloc_train.imposing.objective import score_loss, target_scores

seeds = st.integers(0, 10_000)


def poses(rng: np.random.Generator, *shape: int, spread: float = 3.0) -> np.ndarray:
    """Poses a few metres and degrees around the origin, quaternions of either sign."""
    q = np.concatenate((0.05 * rng.normal(size=(*shape, 3)), np.ones((*shape, 1))), axis=-1)
    q *= rng.choice([-1.0, 1.0], (*shape, 1)) / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.concatenate((spread * rng.normal(size=(*shape, 3)), q), axis=-1)


def transcribed(candidate: np.ndarray, truth: np.ndarray, width_m: float, width_deg: float) -> float:
    """Equations 3 and 4, one pose at a time, in float64."""
    M1, M2 = quaternion_to_matrix(truth[3:]), quaternion_to_matrix(candidate[3:])
    G = math.acos(max(-1.0, min(1.0, (np.trace(M1 @ np.linalg.inv(M2)) - 1) / 2)))
    return max(0.0, 1 - np.linalg.norm(truth[:3] - candidate[:3]) / width_m - math.degrees(G) / width_deg)


@given(seeds, st.floats(0.5, 20.0), st.floats(2.0, 90.0))
def test_targets_are_equations_3_and_4(seed, width_m, width_deg):
    rng = np.random.default_rng(seed)
    candidates, truth = poses(rng, 2, 6), poses(rng, 2)
    found = target_scores(torch.from_numpy(candidates), torch.from_numpy(truth), width_m, width_deg)
    expected = [[transcribed(c, t, width_m, width_deg) for c in row] for row, t in zip(candidates, truth, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)  # the arc cosine of eq. 4 is worse than that at 0


@given(seeds)
def test_a_target_is_one_at_the_truth_and_falls_with_distance(seed):
    rng = np.random.default_rng(seed)
    truth = torch.from_numpy(poses(rng))
    direction = torch.from_numpy(rng.normal(size=3))
    line = truth.repeat(20, 1)
    line[:, :3] += torch.linspace(0, 6, 20, dtype=torch.float64)[:, None] * direction / direction.norm()
    found = target_scores(line, truth, 5.0, 10.0)
    assert float(found[0]) == 1.0 and float(found[-1]) == 0.0
    assert (found.diff() <= 1e-12).all()
    flipped = torch.cat((line[:, :3], -line[:, 3:]), dim=-1)
    torch.testing.assert_close(target_scores(flipped, truth, 5.0, 10.0), found)


def test_the_papers_widths():
    truth = torch.tensor([0.0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)
    half = math.radians(5.0) / 2
    turned = torch.tensor([[0.0, 0, 0, 0, 0, math.sin(half), math.cos(half)], [2.5, 0, 0, 0, 0, 0, 1]]).double()
    np.testing.assert_allclose(target_scores(turned, truth, 5.0, 10.0), [0.5, 0.5], atol=1e-6)


def test_shared_candidates_are_scored_against_each_image():
    rng = np.random.default_rng(0)
    candidates, truth = torch.from_numpy(poses(rng, 5)), torch.from_numpy(poses(rng, 3))
    found = target_scores(candidates.unsqueeze(0), truth, 5.0, 10.0)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found[1], target_scores(candidates, truth[1], 5.0, 10.0))


@given(seeds)
def test_the_loss_is_equation_5(seed):
    rng = np.random.default_rng(seed)
    B, K, N = 3, 4, 7
    s, t = rng.random((2, K, B, N))
    expected = np.mean([sum(abs(s[k, b, n] - t[k, b, n]) for k in range(K) for n in range(N)) / N for b in range(B)])
    found = score_loss([torch.from_numpy(v) for v in s], [torch.from_numpy(v) for v in t])
    np.testing.assert_allclose(float(found), expected, rtol=1e-12)


def test_steps_of_different_sizes_count_alike():
    p = [torch.ones(2, 10), torch.ones(2, 3)]
    t = [torch.zeros(2, 10), torch.full((2, 3), 0.5)]
    assert float(score_loss(p, t)) == 1.5
