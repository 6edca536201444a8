from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.geometry.rotations import euler_to_matrix, quaternion_to_matrix, so3_log
from vloc_ros.localizers.imposing.sampling import moved, noise_rows, noise_scale, perturb, pick
from vloc_ros.localizers.imposing.settings import SearchSettings

angles = st.floats(-3.1, 3.1)


def test_the_papers_noise_in_our_axes():
    expected = [8.0, 8.0, 0.2, *np.radians([1.0, 1.0, 5.0])]
    np.testing.assert_allclose(noise_scale(SearchSettings()).numpy(), expected, rtol=1e-12)


@given(angles, angles, angles)
def test_noise_turns_about_fixed_x_then_y_then_z(x, y, z):
    normal = torch.tensor([[1.0, 2.0, 3.0, x, y, z]], dtype=torch.float64)
    metres, turn = noise_rows(normal, torch.tensor([2.0, 2.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    assert metres[:, 0].tolist() == [2.0, 4.0, 6.0]
    np.testing.assert_allclose(quaternion_to_matrix(turn[:, 0].numpy()), euler_to_matrix([x, y, z]), atol=1e-12)


def test_columns_move_as_poses_do():
    generator = torch.Generator().manual_seed(4)
    normal = torch.randn(3, 20, 6, generator=generator, dtype=torch.float64)
    poses = torch.randn(20, 7, generator=generator, dtype=torch.float64)
    scale = noise_scale(SearchSettings()) * torch.tensor([[1.0], [0.5], [0.25]], dtype=torch.float64)
    metres, turns = noise_rows(normal, scale)
    for k in range(3):
        torch.testing.assert_close(moved(poses.T, metres[k], turns[k]).T, perturb(poses, normal[k] * scale[k]))


@given(st.integers(0, 10_000))
def test_perturb_moves_and_turns_in_map_axes(seed):
    rng = np.random.default_rng(seed)
    q = rng.normal(size=4)
    pose = np.concatenate((rng.normal(size=3) * 100, q / np.linalg.norm(q)))
    noise = rng.normal(size=6) * [8, 8, 0.2, 0.1, 0.1, 0.3]
    found = perturb(torch.from_numpy(pose), torch.from_numpy(noise)).numpy()
    np.testing.assert_allclose(found[:3], pose[:3] + noise[:3], atol=1e-12)
    expected = euler_to_matrix(noise[3:]) @ quaternion_to_matrix(pose[3:])
    np.testing.assert_allclose(quaternion_to_matrix(found[3:]), expected, atol=1e-12)


def test_perturbed_poses_have_the_stated_deviations():
    scale = noise_scale(SearchSettings())
    generator = torch.Generator().manual_seed(0)
    q = torch.tensor([0.1, -0.7, 0.7, 0.1], dtype=torch.float64)
    pose = torch.cat((torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64), q / q.norm()))
    noise = torch.randn(20_000, 6, generator=generator, dtype=torch.float64) * scale
    found = perturb(pose.expand(len(noise), 7), noise)
    np.testing.assert_allclose(found[:, :3].std(dim=0), [8.0, 8.0, 0.2], rtol=0.03)
    turn = quaternion_to_matrix(found[:, 3:].numpy()) @ quaternion_to_matrix(pose[3:].numpy()).T
    np.testing.assert_allclose(np.degrees(so3_log(turn).std(axis=0)), [1.0, 1.0, 5.0], rtol=0.03)
    np.testing.assert_allclose(torch.linalg.vector_norm(found[:, 3:], dim=-1), 1.0, atol=1e-12)


def test_components_are_picked_as_often_as_they_weigh():
    weights = torch.tensor([0.5, 0.0, 0.2, 1.3], dtype=torch.float64)
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shares = torch.bincount(pick(weights, uniform), minlength=4) / len(uniform)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=4 * math.sqrt(0.25 / len(uniform)))
    assert shares[1] == 0.0


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20), st.floats(0.0, 1.0, exclude_max=True))
def test_pick_inverts_the_cumulative_distribution(weights, u):
    found = int(pick(torch.tensor(weights, dtype=torch.float64), torch.tensor([u], dtype=torch.float64)))
    assert 0 <= found < len(weights)
    total = float(np.cumsum(weights)[-1])
    if total > 1e-9:
        below, above = sum(weights[:found]), sum(weights[: found + 1])
        assert below - 1e-9 <= u * total <= above + 1e-9
        assert weights[found] > 0 or u * total >= total - 1e-9


def test_pick_in_a_batch_treats_each_row_alone():
    weights = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 2.0]])
    uniform = torch.tensor([[0.0, 0.5, 0.999], [0.0, 0.5, 0.999]])
    assert pick(weights, uniform).tolist() == [[0, 1, 2], [2, 2, 2]]


@pytest.mark.parametrize("largest", [1.0 - 2**-24])
def test_the_largest_uniform_stays_inside(largest):
    weights = torch.full((100,), 1 / 3)
    assert int(pick(weights, torch.tensor([largest]))) <= 99
