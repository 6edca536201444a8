"""Poses of several cameras made one: carried to the query's camera, contradictions, states, shared errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform, pose_error, se3_exp
from vloc_ros.localizers.rig import each_alone, fused
from vloc_ros.types import CameraModel, Estimate, LocalizationState, PosePrior, Query, View

LOCALIZED, DEGRADED, LOST = LocalizationState.LOCALIZED, LocalizationState.DEGRADED, LocalizationState.LOST
CAMERA = CameraModel(8, 6, 5.0, 5.0, 3.5, 2.5)
T_SIDE = make_transform(so3_exp([0.0, 1.5, 0.0]), [0.5, 0.1, -0.2])
T_TRUE = se3_exp([4.0, 5.0, 1.0, 0.1, 0.2, 0.3])


def estimate(T, sigma_m=0.1, state=LOCALIZED, score=0.8):
    return Estimate(1, T, np.diag([sigma_m**2] * 3 + [0.01**2] * 3), score, state, "fake", "map", "town")


def test_each_camera_gets_the_prior_where_it_is():
    covariance = np.diag([0.04] * 3 + [0.01] * 3)
    image = np.zeros((6, 8, 3), np.uint8)
    query = Query(image, CAMERA, 7, PosePrior(T_TRUE, covariance), "town", (View(image + 1, CAMERA, T_SIDE, "side"),))
    own, side = each_alone(query)
    assert own[0].others == () and own[0].image_rgb is image and own[0].prior is query.prior
    assert side[0].stamp_ns == 7 and side[0].scene == "town" and side[0].image_rgb[0, 0, 0] == 1
    np.testing.assert_allclose(side[0].prior.T_map_cam, T_TRUE @ T_SIDE)
    # The lever turns what is not known of the rotation into position.
    assert np.trace(side[0].prior.covariance[:3, :3]) > 0.12
    assert [q.prior for q, _ in each_alone(replace(query, prior=None))] == [None, None]


def test_poses_that_agree_are_weighted_and_their_covariance_is_not_that_of_independent_ones():
    off = make_transform(np.eye(3), [0.12, 0.0, 0.0]) @ T_TRUE
    found = fused([estimate(off, 0.1), estimate(T_TRUE @ T_SIDE, 0.1)], [np.eye(4), T_SIDE])
    error = pose_error(found.T_map_cam, T_TRUE)
    assert 0.05 < error[0] < 0.07  # the lever arm makes the second a little less sure
    assert found.state is LOCALIZED and found.diagnostics["rig_fused"] == 2.0 == found.diagnostics["rig_views"]
    assert np.trace(found.covariance[:3, :3]) >= 0.99 * 3 * 0.1**2


@pytest.mark.parametrize(
    "states, expected",
    [
        ((LOCALIZED, LOST), LOCALIZED),
        ((LOST, LOCALIZED), LOCALIZED),
        ((DEGRADED, LOST), DEGRADED),
        ((LOST, LOST), LOST),
    ],
)
def test_a_lost_camera_has_no_say(states, expected):
    poses = [T_TRUE, T_TRUE @ T_SIDE]
    lost = se3_exp([50.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    pair = [estimate(p if s is not LOST else lost, state=s) for p, s in zip(poses, states, strict=True)]
    found = fused(pair, [np.eye(4), T_SIDE])
    assert found.state is expected
    if expected is not LOST:
        np.testing.assert_allclose(found.T_map_cam, T_TRUE, atol=1e-9)


def test_of_three_the_two_that_agree_are_believed_and_of_two_that_contradict_neither():
    far = make_transform(np.eye(3), [5.0, 0.0, 0.0]) @ T_TRUE
    three = fused([estimate(far, 0.05), estimate(T_TRUE @ T_SIDE), estimate(T_TRUE)], [np.eye(4), T_SIDE, np.eye(4)])
    assert three.state is LOCALIZED and np.linalg.norm(pose_error(three.T_map_cam, T_TRUE)) < 1e-6
    two = fused([estimate(far), estimate(T_TRUE)], [np.eye(4), np.eye(4)])
    assert two.state is DEGRADED and two.diagnostics["rig_fused"] == 1.0
    weak = fused([estimate(far, state=DEGRADED), estimate(T_TRUE)], [np.eye(4), np.eye(4)])
    assert weak.state is LOCALIZED and np.linalg.norm(pose_error(weak.T_map_cam, T_TRUE)) < 1e-9


def test_what_awaits_a_track_counts_among_each_other_as_localized():
    far = make_transform(np.eye(3), [5.0, 0.0, 0.0]) @ T_TRUE

    def waiting(T):
        return replace(estimate(T, state=DEGRADED), awaits_track=True)

    found = fused([waiting(T_TRUE @ T_SIDE), waiting(T_TRUE)], [T_SIDE, np.eye(4)])
    assert found.state is DEGRADED and found.awaits_track
    against = fused([waiting(far), waiting(T_TRUE)], [np.eye(4), np.eye(4)])
    assert against.state is DEGRADED and not against.awaits_track
    weak = fused([estimate(far, state=DEGRADED), waiting(T_TRUE)], [np.eye(4), np.eye(4)])
    assert weak.awaits_track and np.linalg.norm(pose_error(weak.T_map_cam, T_TRUE)) < 1e-9
