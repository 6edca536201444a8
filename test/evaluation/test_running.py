"""Poses beside a reference as they come: what is judged when, frames without a pose, other kinds of references."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vloc_ros.evaluation.running import RunningComparison
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.types import LocalizationState

S = 10**9
COVARIANCE = np.diag([0.01] * 3 + [1e-4] * 3)


def at(x, yaw=0.0):
    return make_transform(so3_exp([0.0, 0.0, yaw]), [x, 0.0, 0.0])


def test_a_pose_is_judged_when_the_reference_has_passed_it():
    made = RunningComparison()
    made.add_state(LocalizationState.LOCALIZED)
    made.add_pose(2 * S + S // 2, at(2.6), COVARIANCE)
    assert made.judge() == []
    for k in (2, 3):
        made.add_reference(k * S, at(float(k)))
        assert len(made.judge()) == 0 if k == 2 else True
    assert made.records == []  # a gap of a second is not bridged
    made = RunningComparison(max_gap_s=2.0)
    made.add_state(LocalizationState.LOCALIZED)
    made.add_reference(3 * S, at(3.0))
    made.add_pose(2 * S + S // 2, at(2.6), COVARIANCE)
    made.add_reference(2 * S, at(2.0))  # references may come late, too
    (record,) = made.judge()
    metres, degrees, nees = made.errors(record)
    assert metres == pytest.approx(0.1) and degrees == pytest.approx(0.0) and nees == pytest.approx(1.0)
    assert record.state is LocalizationState.LOCALIZED and made.judge() == []


def test_frames_without_a_pose_are_infinitely_wrong_once_they_get_none():
    made = RunningComparison()
    for k in range(10):
        made.add_reference(k * S // 10, at(k / 10))
        made.add_frame(k * S // 10)
        if k % 2:
            made.add_pose(k * S // 10, at(k / 10 + 0.02), COVARIANCE)
    made.judge(patience_ns=S // 2)
    figures = made.figures()
    assert figures["published"] == 5 and figures["frames"] == 7  # 1 to 4 without one; later ones may still come
    made.judge()
    figures = made.figures()
    assert figures["frames"] == 9 and figures["recall"][1]["share"] == pytest.approx(5 / 9)
    assert figures["median_translation_m"] == pytest.approx(0.02) and figures["nees"]["count"] == 5


def test_odometry_is_moved_to_the_first_pose():
    made = RunningComparison(aligned=True)
    for k in range(5):
        made.add_frame(k * S // 10 + 1)
        made.add_reference(k * S // 10 + 1, at(k / 10))
        if k:
            made.add_pose(k * S // 10 + 1, make_transform(np.eye(3), [5.0, 7.0, 0.0]) @ at(k / 10, 0.0), COVARIANCE)
    made.judge()
    figures = made.figures()
    assert figures["mean_translation_m"] == pytest.approx(0.0, abs=1e-9) and figures["frames_with_reference"] == 4


def test_positions_alone_judge_no_rotations():
    made = RunningComparison(oriented=False)
    made.add_pose(S, at(1.0, 0.5), COVARIANCE)
    made.add_reference(S, at(1.3))
    (record,) = made.judge()
    metres, degrees, nees = made.errors(record)
    assert metres == pytest.approx(0.3) and math.isnan(degrees) and math.isnan(nees)
    figures = made.figures()
    assert figures["median_translation_m"] == pytest.approx(0.3)
    assert figures["median_rotation_deg"] is None and figures["recall"] is None and figures["nees_mean"] is None
