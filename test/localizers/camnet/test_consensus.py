from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.geometry.averaging import average_poses
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.localizers.camnet.consensus import consensus


def poses(positions, yaws_deg=None) -> np.ndarray:
    positions = np.atleast_2d(np.asarray(positions, float))
    yaws = np.radians(np.zeros(len(positions)) if yaws_deg is None else yaws_deg)
    return make_transform(so3_exp(np.column_stack((0 * yaws, 0 * yaws, yaws))), positions)


def test_an_outlier_in_position_is_left_out():
    T = poses([[0, 0, 0], [9, 0, 0], [0.4, 0, 0]])
    found = consensus(T, 1.0, 5.0)
    assert found.inliers.tolist() == [True, False, True]
    np.testing.assert_allclose(found.T_map_cam, average_poses(T[[0, 2]]), atol=1e-12)
    assert found.spread_m == pytest.approx(0.2)


def test_an_outlier_in_rotation_is_left_out():
    found = consensus(poses([[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]], [0, 30, 2]), 1.0, 5.0)
    assert found.inliers.tolist() == [True, False, True]
    np.testing.assert_allclose(found.T_map_cam[:3, :3], so3_exp(np.array([0, 0, np.radians(1.0)])), atol=1e-9)


def test_the_tighter_of_two_sets_wins_then_the_better_reference():
    found = consensus(poses([[0, 0, 0], [0.9, 0, 0], [20, 0, 0], [20.1, 0, 0]]), 1.0, 5.0)
    assert found.inliers.tolist() == [False, False, True, True]
    alone = consensus(poses([[0, 0, 0], [10, 0, 0], [20, 0, 0]]), 1.0, 5.0)
    assert alone.inliers.tolist() == [True, False, False] and alone.spread_m == 0.0


def test_one_estimate_is_its_own_mean():
    T = poses([[1, 2, 3]], [40])
    found = consensus(T, 0.0, 0.0)
    np.testing.assert_allclose(found.T_map_cam, T[0], atol=1e-12)
    assert found.inliers.tolist() == [True]


def test_the_order_of_the_others_does_not_matter():
    rng = np.random.default_rng(3)
    T = poses(rng.normal(0, 0.6, (5, 3)))
    first = consensus(T, 1.0, 5.0)
    order = rng.permutation(5)
    second = consensus(T[order], 1.0, 5.0)
    np.testing.assert_allclose(first.T_map_cam, second.T_map_cam, atol=1e-12)
