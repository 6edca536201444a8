from __future__ import annotations

import numpy as np
import pytest
from random_poses import moved, pose

from vloc_ros.localizers.fusion import combined, contradict, pose_difference


def covariance(rng):
    A = rng.normal(size=(6, 6)) * np.array([0.1] * 3 + [0.01] * 3)[:, None]
    return A @ A.T + 1e-8 * np.eye(6)


def test_the_difference_of_poses_is_what_moves_one_to_the_other():
    rng = np.random.default_rng(0)
    for _ in range(20):
        T, e = pose(rng), rng.normal(size=6) * 0.3
        np.testing.assert_allclose(pose_difference(moved(T, e), T), e, atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_the_mean_is_weighted_by_information(seed):
    """A float64 reference in the tangent space, for poses that are near each other."""
    rng = np.random.default_rng(seed)
    a, A, B = pose(rng), covariance(rng), covariance(rng)
    e = rng.normal(size=6) * 1e-4
    T, C, share = combined(a, A, moved(a, e), B)
    one, two = np.linalg.inv(A), np.linalg.inv(B)
    np.testing.assert_allclose(pose_difference(T, a), np.linalg.solve(one + two, two @ e), rtol=1e-3, atol=1e-9)
    assert 0.0 <= share <= 1.0
    # Between independent errors and the bound for any dependence (covariance intersection with equal shares).
    least, most = np.linalg.inv(one + two), 2.0 * np.linalg.inv(one + two)
    half = np.linalg.cholesky(np.linalg.inv(most))
    for matrix in (half.T @ (C - least) @ half, half.T @ (most - C) @ half):
        assert np.linalg.eigvalsh(matrix)[0] >= -1e-5
    back, C_back, share_back = combined(moved(a, e), B, a, A)
    np.testing.assert_allclose(pose_difference(back, T), 0.0, atol=1e-8)
    np.testing.assert_allclose(C_back, C, rtol=1e-4, atol=1e-9)
    assert share_back == pytest.approx(1.0 - share, abs=1e-4)


def test_who_knows_nothing_has_no_say():
    a = pose(np.random.default_rng(5))
    A = np.diag([0.01**2] * 3 + [0.001**2] * 3)
    T, C, share = combined(a, A, moved(a, np.full(6, 0.5)), np.eye(6) * 1e6)
    np.testing.assert_allclose(T, a, atol=1e-6)
    np.testing.assert_allclose(C, A, rtol=1e-3)
    assert share > 0.999


def test_errors_that_both_share_stay_inside():
    """Two estimates with one common error: a product of independent likelihoods would be too sure."""
    rng = np.random.default_rng(3)
    truth, n = pose(rng), 400
    squared = []
    for _ in range(n):
        common, own_a, own_b = rng.normal(size=(3, 6)) * 0.02
        C = np.eye(6) * (0.02**2 * 2)
        T, found, _ = combined(moved(truth, common + own_a), C, moved(truth, common + own_b), C)
        e = pose_difference(T, truth)
        squared.append(e @ np.linalg.solve(found, e))
    assert np.mean(np.array(squared) <= 12.59) >= 0.93


def test_contradiction():
    rng = np.random.default_rng(1)
    a, C = pose(rng), np.diag([0.01**2] * 3 + [0.001**2] * 3)
    inside = np.mean([contradict(moved(a, rng.normal(size=6) * np.sqrt(2 * np.diag(C))), C, a, C) for _ in range(2000)])
    assert inside < 0.006
    assert contradict(moved(a, np.array([0.1, 0, 0, 0, 0, 0])), C, a, C)
