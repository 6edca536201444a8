"""One pose from several cameras: exact, outvoting a camera that sees something else, and where none is enough alone."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.features.pose import Observations, absolute_pose, refine_pose, refine_rig
from vloc_ros.features.rig_pose import rig_poses
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform, nees, pose_error, se3_exp
from vloc_ros.types import CameraModel

FRONT = CameraModel(640, 480, 500.0, 510.0, 320.0, 235.0)
SIDE = CameraModel(640, 480, 300.0, 300.0, 320.0, 240.0, "equidistant", (0.02, -0.01, 0.002, -0.001))
#: The side camera looks to the right of the front one, half a metre beside it.
T_FRONT_SIDE = make_transform(so3_exp([0.0, np.pi / 2, 0.0]), [0.5, 0.0, -0.2])


@pytest.fixture(params=["poselib", "opencv"])
def solver(request):
    if request.param == "poselib":
        pytest.importorskip("poselib")
    return request.param


def seen(camera, T_map_rig, T_rig_cam, count, rng, noise_px=0.0, wrong=0):
    """Points in a camera's view, and where it sees them, some of them wrongly."""
    local = rng.uniform((-8, -6, 2), (8, 6, 20), (40 * count + 200, 3))
    pixels, valid = project(camera, local)
    local, pixels = local[valid][:count], pixels[valid][:count].copy()
    T = T_map_rig if T_rig_cam is None else T_map_rig @ T_rig_cam
    pixels += rng.normal(0, noise_px, pixels.shape)
    rows = rng.permutation(count)[:wrong]
    pixels[rows] = rng.uniform((0, 0), (640, 480), (wrong, 2))
    return Observations(camera, local @ T[:3, :3].T + T[:3, 3], pixels, 0.5, T_rig_cam=T_rig_cam)


def somewhere(seed):
    rng = np.random.default_rng(seed)
    T = se3_exp(np.concatenate([rng.normal(0, 2, 3), rng.normal(0, 0.5, 3)]))
    T[:3, 3] += (2000.0, -500.0, 30.0)
    return T, rng


def test_all_cameras_agree_among_outliers(solver):
    T, rng = somewhere(0)
    both = [seen(FRONT, T, None, 120, rng, 0.3, 50), seen(SIDE, T, T_FRONT_SIDE, 100, rng, 0.3, 40)]
    found = rig_poses(both, 3.0, solver)
    assert found and np.linalg.norm(pose_error(found[0], T)[:3]) < 0.1
    again = rig_poses(both, 3.0, solver)
    np.testing.assert_array_equal(found[0], again[0])
    refined = refine_rig(found[0], both)
    assert refined.well_posed and np.linalg.norm(pose_error(refined.T_map_cam, T)[:3]) < 0.02


def test_a_camera_that_sees_something_else_is_outvoted(solver):
    T, rng = somewhere(1)
    elsewhere = T @ se3_exp([3.0, 0.0, 1.0, 0.0, 0.3, 0.0])
    both = [seen(FRONT, elsewhere, None, 40, rng, 0.2), seen(SIDE, T, T_FRONT_SIDE, 90, rng, 0.2)]
    found = rig_poses(both, 3.0, solver)
    assert np.linalg.norm(pose_error(found[0], T)[:3]) < 0.1


def test_cameras_that_see_too_little_alone_see_enough_together(solver):
    T, rng = somewhere(2)
    parts = [
        seen(FRONT, T, None, 5, rng),
        seen(SIDE, T, T_FRONT_SIDE, 5, rng),
        seen(FRONT, T, inverse(T_FRONT_SIDE), 4, rng),
    ]
    assert all(absolute_pose(o.camera, o.pixels, o.points, 3.0, solver) is None for o in parts)
    found = rig_poses(parts, 3.0, solver)
    assert found and np.linalg.norm(pose_error(found[0], T)) < 1e-3
    assert rig_poses([parts[0], seen(SIDE, T, T_FRONT_SIDE, 0, rng)], 3.0, solver) == []


def test_one_camera_is_the_plain_solver(solver):
    T, rng = somewhere(3)
    alone = seen(FRONT, T, None, 60, rng, 0.3, 20)
    (found,) = rig_poses([alone], 3.0, solver)
    plain = absolute_pose(FRONT, alone.pixels, alone.points, 3.0, solver)
    assert plain is not None
    np.testing.assert_array_equal(found, plain[0])


def test_the_covariance_of_a_rig_holds_and_is_smaller_than_one_camera_s():
    ratios, inside = [], []
    for seed in range(60):
        T, rng = somewhere(10 + seed)
        both = [seen(FRONT, T, None, 40, rng, 0.5), seen(SIDE, T, T_FRONT_SIDE, 40, rng, 0.5)]
        start = T @ se3_exp(np.full(6, 0.005))
        found = refine_rig(start, both, cut=50.0)
        front = refine_pose(start, FRONT, both[0].points, both[0].pixels, 0.5, cut=50.0)
        ratios.append(np.trace(found.covariance[:3, :3]) / np.trace(front.covariance[:3, :3]))
        inside.append(nees(pose_error(found.T_map_cam, T), found.covariance))
    assert np.median(ratios) < 0.8
    assert 4.0 < np.mean(inside) < 8.5


def test_a_camera_s_place_on_the_rig_does_not_matter_to_it_alone():
    """The pose of the rig from one camera is the camera's, carried over."""
    T, rng = somewhere(4)
    side = seen(SIDE, T, T_FRONT_SIDE, 50, rng, 0.4)
    start = T @ se3_exp(np.full(6, 0.01))
    rig = refine_rig(start, [side])
    alone = refine_pose(start @ T_FRONT_SIDE, SIDE, side.points, side.pixels, 0.5)
    np.testing.assert_allclose(rig.T_map_cam @ T_FRONT_SIDE, alone.T_map_cam, atol=1e-6)
