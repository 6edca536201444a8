"""What is flat is seen from two poses: the better one stands, and where they are alike the covariance holds both."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.features.mirror import better_of_two, mirrored_pose
from vloc_ros.features.pose import Observations, refine_rig
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform, pose_error
from vloc_ros.types import CameraModel

CAMERA = CameraModel(640, 480, 500.0, 500.0, 319.5, 239.5)
T_MAP_CAM = make_transform(so3_exp([0.3, -0.5, 0.9]), [4.0, -7.0, 2.0])


def panel(depth_m, tilt_deg=12.0, count=80, thick_m=0.0, seed=0):
    """Points (N, 3) of the map on a tilted panel of 1 m before the camera, a little off its middle."""
    rng = np.random.default_rng(seed)
    flat = np.column_stack([rng.uniform(-0.5, 0.5, (count, 2)), thick_m * rng.normal(size=count)])
    turn = so3_exp(np.radians(tilt_deg) * np.array([np.cos(seed), np.sin(seed), 0.0]))
    local = flat @ turn.T + (0.05 * depth_m, -0.03 * depth_m, depth_m)
    return local @ T_MAP_CAM[:3, :3].T + T_MAP_CAM[:3, 3]


def seen(points, sigma_px, seed=0):
    T = inverse(T_MAP_CAM)
    pixels, _ = project(CAMERA, points @ T[:3, :3].T + T[:3, 3])
    return Observations(CAMERA, points, pixels + np.random.default_rng(seed).normal(0.0, sigma_px, pixels.shape), 0.7)


def off(found):
    return float(np.linalg.norm(pose_error(found.T_map_cam, T_MAP_CAM)[3:]))


@pytest.mark.parametrize("seed", range(8))
def test_a_descent_that_ended_in_the_wrong_pose_is_turned_over(seed):
    points = panel(10.0, 25.0, seed=seed)
    what = seen(points, 0.2, seed)
    start = mirrored_pose(T_MAP_CAM, points)
    wrong, right = refine_rig(start, [what], 2.0), refine_rig(T_MAP_CAM, [what], 2.0)
    assert off(right) < 0.03
    for begun in (wrong, right):
        found = better_of_two(begun, what, 2.0)
        assert off(found) < 0.03 and found.cost <= begun.cost
    assert off(wrong) > 0.4, "the descent alone stays there"
    doubt = better_of_two(right, what, 2.0).doubt
    assert np.abs(doubt).max() < 1e-6, "nothing speaks for the other one"


def test_the_mirror_image_of_the_mirror_image_is_the_pose():
    points = panel(5.0)
    twice = mirrored_pose(mirrored_pose(T_MAP_CAM, points), points)
    np.testing.assert_allclose(twice, T_MAP_CAM, atol=1e-9)


def test_two_poses_that_are_alike_are_both_in_the_covariance():
    """From afar a panel looks the same with its tilt turned over: its own curvature knows nothing of that."""
    doubts, alone = [], []
    for seed in range(12):
        what = seen(panel(60.0, 20.0, seed=seed), 0.5, seed)
        found = better_of_two(refine_rig(T_MAP_CAM, [what], 2.0), what, 2.0)
        doubts.append(np.sqrt(np.linalg.eigvalsh(found.doubt[3:, 3:])[-1]))
        alone.append(np.sqrt(np.linalg.eigvalsh(found.covariance[3:, 3:])[-1]))
    assert np.median(doubts) > max(np.radians(15.0), np.median(alone)), (doubts, alone)


def test_what_is_not_flat_or_not_tilted_has_one_pose():
    assert mirrored_pose(T_MAP_CAM, panel(3.0, thick_m=0.2)) is None
    assert mirrored_pose(T_MAP_CAM, panel(3.0)[:4]) is None
    spread = np.concatenate([panel(2.0), panel(6.0, seed=1), panel(20.0, seed=2)])
    assert mirrored_pose(T_MAP_CAM, spread) is None
    solid = seen(panel(3.0, thick_m=0.2), 0.3)
    begun = refine_rig(T_MAP_CAM, [solid], 2.0)
    assert better_of_two(begun, solid, 2.0) is begun and begun.doubt is None
