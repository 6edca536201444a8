"""Linear regressors against float64 transcriptions: equations 1 to 3, and ordinary least squares where it is unique."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.localizers.copr.regressors import (
    combine,
    interpolation_weights,
    nearest_anchors,
    plane_weights,
    two_trajectories,
)

SEEDS = st.integers(0, 2**32 - 1)


def equations_1_to_3(t, t1, t2, f1, f2):
    b1, b2 = np.linalg.norm(t - t1), np.linalg.norm(t - t2)
    a1, a2 = b1 / (b1 + b2), b2 / (b1 + b2)
    return (1 - a1) * f1 + (1 - a2) * f2


@given(SEEDS)
def test_linear_interpolation_is_equations_1_to_3(seed):
    rng = np.random.default_rng(seed)
    t, t1, t2 = rng.normal(0, 10, (3, 5, 3))
    f = rng.normal(0, 1, (10, 7))
    weights = interpolation_weights(*(torch.from_numpy(x) for x in (t, t1, t2)))
    rows = torch.arange(10).reshape(2, 5).T
    found = combine(torch.from_numpy(f), rows, weights).numpy()
    expected = [equations_1_to_3(t[i], t1[i], t2[i], f[i], f[5 + i]) for i in range(5)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_interpolation_is_exact_at_the_anchors_and_even_where_both_are_the_same():
    a, b = torch.tensor([[0.0, 0, 0]]), torch.tensor([[4.0, 0, 0]])
    for target, expected in ((a, [1, 0]), (b, [0, 1]), (0.25 * b, [0.75, 0.25])):
        assert interpolation_weights(target, a, b)[0].tolist() == pytest.approx(expected)
    assert interpolation_weights(a, a, a)[0].tolist() == [0.5, 0.5]


@given(SEEDS)
def test_plane_is_ordinary_least_squares_where_that_is_unique(seed):
    rng = np.random.default_rng(seed)
    x, t, f = rng.normal(0, 5, (8, 3)), rng.normal(0, 5, 3), rng.normal(0, 1, (8, 4))
    design = np.c_[np.ones(8), x]
    expected = np.r_[1.0, t] @ np.linalg.lstsq(design, f, rcond=None)[0]
    weights = plane_weights(torch.from_numpy(t[None]), torch.from_numpy(x[None]), tolerance=0.0)
    np.testing.assert_allclose(weights[0].numpy() @ f, expected, atol=1e-8)


@given(SEEDS, st.integers(1, 3))
def test_plane_reproduces_linear_functions_on_what_the_anchors_span(seed, dimensions):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :dimensions]
    centre = rng.normal(0, 50, 3)
    x = centre + (rng.uniform(-5, 5, (6, dimensions)) + 10 * np.eye(6, dimensions)) @ basis.T
    t = centre + rng.uniform(-20, 20, dimensions) @ basis.T
    slope, offset = rng.normal(size=(3, 4)), rng.normal(size=4)
    weights = plane_weights(torch.from_numpy(t[None]), torch.from_numpy(x[None]), tolerance=1e-6)
    assert float(weights.sum()) == pytest.approx(1.0)
    np.testing.assert_allclose(weights[0].numpy() @ (x @ slope + offset), t @ slope + offset, atol=1e-6)


@given(SEEDS)
def test_beside_a_line_of_anchors_the_plane_is_what_it_is_on_the_line(seed):
    """Centimetres of weave across a road say nothing about metres across it."""
    rng = np.random.default_rng(seed)
    x = np.c_[np.arange(4) * 25.0, rng.uniform(-0.1, 0.1, 4), np.zeros(4)]
    on = np.array([[30.0, 0, 0]])
    beside = np.array([[30.0, 10.0, 0]])
    weights = plane_weights(torch.from_numpy(np.r_[on, beside]), torch.from_numpy(np.stack([x, x])))
    np.testing.assert_allclose(weights[0], weights[1], atol=0.02)
    free = plane_weights(torch.from_numpy(beside), torch.from_numpy(x[None]), tolerance=0.0)
    assert float(free.abs().max()) > 2.0  # what the tolerance is for


def test_a_ridge_draws_the_plane_towards_the_mean():
    x = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]])
    t = torch.tensor([[10.0, 0, 0]])
    plain, ridged = plane_weights(t, x), plane_weights(t, x, ridge_m=10.0)
    assert float((ridged - 1 / 3).abs().max()) < 0.1 * float((plain - 1 / 3).abs().max())


def test_one_anchor_or_anchors_at_one_place_give_their_mean():
    t = torch.tensor([[3.0, 4, 5]])
    assert plane_weights(t, torch.zeros(1, 1, 3)).tolist() == [[1.0]]
    assert plane_weights(t, torch.ones(1, 4, 3))[0].tolist() == pytest.approx([0.25] * 4)


@given(SEEDS, st.integers(1, 12))
def test_nearest_anchors_are_those_of_brute_force(seed, count):
    rng = np.random.default_rng(seed)
    targets, anchors = rng.normal(0, 3, (6, 3)) + 1e6, rng.normal(0, 3, (9, 3)) + 1e6
    distances, rows = nearest_anchors(torch.from_numpy(targets), torch.from_numpy(anchors), count)
    apart = np.linalg.norm(targets[:, None] - anchors, axis=2)
    np.testing.assert_array_equal(rows.numpy(), np.argsort(apart, axis=1)[:, :count])
    np.testing.assert_allclose(distances.numpy(), np.sort(apart, axis=1)[:, :count], atol=1e-9)


def test_two_nearest_of_each_of_the_two_nearest_trajectories():
    x = torch.arange(5.0)
    anchors = torch.cat([torch.stack([x, torch.full((5,), y), 0 * x], dim=1) for y in (0.0, 4.0, 100.0)])
    trajectory = torch.arange(3).repeat_interleave(5)
    rows = two_trajectories(torch.tensor([[1.4, 1.0, 0.0]]), anchors, trajectory, 2)
    assert rows is not None and rows[0].tolist() == [1, 2, 6, 7]
    assert two_trajectories(torch.zeros(1, 3), anchors[:5], trajectory[:5], 2) is None
