"""Two cameras of a rig in the map of the wall: one pose of both, and what a camera that fails does to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_drive
import tiny_pixloc

import vloc_ros
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform, pose_error
from vloc_ros.localizers.pixloc.localizer import FAILURES
from vloc_ros.types import CameraModel, LocalizationState, PosePrior, Query, View, check_covariance

CAMERA = tiny_pixloc.CAMERA
T_SIDE = make_transform(so3_exp([0.0, -1.2, 0.0]), [0.3, 0.0, -0.1])
UP = make_transform(so3_exp([np.pi / 2, 0.0, 0.0]), np.zeros(3))
SURE = np.diag([0.04] * 3 + [0.001] * 3)
DARK = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)


@pytest.fixture(scope="module")
def localizer(tmp_path_factory):
    lap = tiny_pixloc.lap()
    bundle = tiny_pixloc.wall_map(tmp_path_factory.mktemp("rig") / "map", np.concatenate([lap, lap @ T_SIDE]))
    with vloc_ros.load_localizer(bundle.path, "cpu") as loaded:
        yield loaded


def query(T, front=None, side=None, T_side=T_SIDE, side_camera=CAMERA, seed=0):
    """What the rig sees when its front camera is at ``T``; the prior is 0.3 m and 1 deg off."""
    rng = np.random.default_rng(seed)
    prior, way = T.copy(), rng.normal(size=3)
    prior[:3, 3] += 0.3 * way / np.linalg.norm(way)
    prior[:3, :3] = so3_exp(np.radians(1.0) * way[::-1] / np.linalg.norm(way)) @ T[:3, :3]
    front = tiny_pixloc.image(T) if front is None else front
    side = tiny_pixloc.image(T @ T_side, side_camera) if side is None else side
    others = (View(side, side_camera, T_side, "side"),)
    return Query(front, CAMERA, tiny_drive.START, PosePrior(prior, SURE), others=others)


def off(estimate, T):
    return float(np.linalg.norm(pose_error(estimate.T_map_cam, T)[:3]))


def test_two_cameras_are_at_least_as_near_as_the_better_one(localizer):
    errors = []
    for frame, T in enumerate(tiny_pixloc.lap(14, phase=0.02)[2:12]):
        rig = query(T, seed=frame)
        front = localizer.localize(replace(rig, others=()))
        view, prior = rig.others[0], rig.prior
        alone = PosePrior(prior.T_map_cam @ T_SIDE, prior.covariance)
        side = localizer.localize(Query(view.image_rgb, CAMERA, rig.stamp_ns, alone))
        both = localizer.localize(rig)
        check_covariance(both.covariance)
        assert both.diagnostics["rig_views"] == both.diagnostics["rig_fused"] == 2.0
        assert both.diagnostics["points"] > max(front.diagnostics["points"], side.diagnostics["points"])
        assert "rig_views" not in front.diagnostics
        errors.append([off(front, T), off(replace(side, T_map_cam=side.T_map_cam @ inverse(T_SIDE)), T), off(both, T)])
    front, side, both = np.median(errors, axis=0)
    assert both <= min(front, side), errors


@pytest.mark.parametrize("blind", ["front", "side"])
def test_a_blind_camera_is_left_out_and_the_pose_is_that_of_the_other(localizer, blind):
    T = tiny_pixloc.lap(14, phase=0.02)[6]
    found = localizer.localize(query(T, **{blind: DARK}))
    assert found.diagnostics["rig_views"] == 2.0 and found.diagnostics["rig_fused"] == 1.0
    whole, place = query(T), np.eye(4)
    asked = replace(whole, others=())
    if blind == "front":
        view, place = whole.others[0], T_SIDE
        asked = Query(view.image_rgb, CAMERA, 1, PosePrior(whole.prior.T_map_cam @ T_SIDE, whole.prior.covariance))
    other = localizer.localize(asked)
    # Damping is along the axes of the query's camera, so the way there is another one.
    off_m = np.linalg.norm(pose_error(found.T_map_cam @ place, other.T_map_cam)[:3])
    assert off_m < (1e-5 if blind == "side" else 0.02)
    assert found.diagnostics["failure"] == FAILURES["none"] and localizer.is_supported(found.diagnostics)


def test_an_image_of_elsewhere_is_left_out(localizer):
    T, elsewhere = tiny_pixloc.lap(14, phase=0.02)[6], tiny_pixloc.lap(80)[70]
    found = localizer.localize(query(T, side=tiny_pixloc.image(elsewhere)))
    alone = localizer.localize(replace(query(T), others=()))
    assert found.diagnostics["rig_fused"] == 1.0
    assert np.linalg.norm(pose_error(found.T_map_cam, alone.T_map_cam)[:3]) < 1e-5


def test_a_camera_without_references_changes_nothing(localizer):
    T = tiny_pixloc.lap(14, phase=0.02)[6]
    found = localizer.localize(query(T, side=DARK, T_side=UP))
    alone = localizer.localize(replace(query(T), others=()))
    assert found.diagnostics["rig_views"] == 1.0 == found.diagnostics["rig_fused"]
    np.testing.assert_array_equal(found.T_map_cam, alone.T_map_cam)
    np.testing.assert_array_equal(found.covariance, alone.covariance)


def test_where_only_another_camera_has_references_the_pose_is_still_the_querys(localizer):
    T = tiny_pixloc.lap(14, phase=0.02)[6] @ T_SIDE @ UP  # the query's camera looks up, the other one ahead
    found = localizer.localize(query(T, front=DARK, T_side=inverse(T_SIDE @ UP)))
    assert found.diagnostics["failure"] == FAILURES["none"] and found.diagnostics["rig_views"] == 1.0
    assert off(found, T) < 0.3


def test_no_camera_with_references_is_lost(localizer):
    T = tiny_pixloc.lap()[6] @ UP
    found = localizer.localize(query(T, front=DARK, side=DARK, T_side=make_transform(np.eye(3), [0.3, 0.0, 0.0])))
    assert found.state is LocalizationState.LOST and found.diagnostics["failure"] == FAILURES["no_references"]


@pytest.mark.parametrize(
    "lens",
    [
        replace(CAMERA, distortion_model="plumb_bob", distortion=(-0.25, 0.05, 0.001, -0.001)),
        CameraModel(128, 72, 84.0, 84.0, 63.5, 35.5, "equidistant", (0.01, 0.0, 0.0, 0.0)),
        CameraModel(256, 144, 120.0, 120.0, 127.5, 71.5),
    ],
)
def test_cameras_of_several_kinds_are_aligned_together(localizer, lens):
    T = tiny_pixloc.lap(14, phase=0.02)[6]
    found = localizer.localize(query(T, side_camera=lens))
    assert found.diagnostics["rig_fused"] == 2.0 and off(found, T) < 0.3
    trace = localizer.trace(query(T, side_camera=lens))
    assert [eye.number for eye in trace.eyes] == [0, 1] and len(trace.result.peaks) == 2
