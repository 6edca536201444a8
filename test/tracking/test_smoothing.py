"""Corrections of map -> odom without jumps at the vehicle."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.geometry.rotations import so3_exp, so3_log
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.tracking.correction import Correction
from vloc_ros.tracking.smoothing import SmoothCorrection

#: The vehicle is a kilometre from where its odometry began.
BASE = np.array([1000.0, 200.0, 0.0])
START = make_transform(so3_exp([0.0, 0.0, 0.3]), [5.0, -2.0, 0.1])
ODOMETRY = make_transform(so3_exp([0.0, 0.0, -1.0]), BASE)
#: Half a metre and a degree in a second.
RATE = np.array([0.3, 0.0, -0.4, 0.0, 0.0, np.radians(1.0)])


def moved(metres, degrees):
    """START corrected by this much at the vehicle."""
    R = so3_exp([0.0, 0.0, np.radians(degrees)]) @ START[:3, :3]
    at = START[:3, :3] @ BASE + START[:3, 3] + (metres, 0.0, 0.0)
    return make_transform(R, at - R @ BASE)


def to(T, rate=0.0 * RATE):
    return Correction(T, ODOMETRY, rate)


def base(T):
    return T[:3, :3] @ BASE + T[:3, 3]


def apart(T, other):
    """Of the base: how far (3,), and the rotation (3,)."""
    return base(T) - base(other), so3_log(T[:3, :3] @ other[:3, :3].T)


def test_the_vehicle_moves_straight_and_no_step_is_larger_than_the_first():
    made = SmoothCorrection(0.5, 2.0, 20.0)
    assert made.step(0.05) is None
    made.aim(to(START))
    np.testing.assert_allclose(made.step(0.05), START, atol=1e-9)
    made.aim(to(moved(1.0, 2.0)))
    places = [base(START)] + [base(made.step(0.05)) for _ in range(60)]
    steps = np.diff([p[0] for p in places])
    assert steps[0] == pytest.approx(1.0 - np.exp(-0.1), rel=1e-6) and (np.diff(steps) < 1e-9).all() and steps.min() > 0
    assert np.ptp(np.array(places)[:, 1:], axis=0).max() < 1e-9  # though the origin moves by tens of metres
    np.testing.assert_allclose(made.step(10.0), moved(1.0, 2.0), atol=1e-6)


def test_a_relocalization_is_made_at_once_and_a_reset_forgets():
    made = SmoothCorrection(0.5, 2.0, 20.0)
    made.aim(to(START))
    for target in (moved(2.5, 0.0), moved(0.0, 25.0)):
        made.aim(to(target))
        np.testing.assert_allclose(made.step(0.0), target, atol=1e-9)
    made.reset()
    assert made.step(1.0) is None
    made.aim(to(START))
    np.testing.assert_allclose(made.step(0.0), START, atol=1e-9)


def test_without_a_time_constant_corrections_are_what_they_are():
    made = SmoothCorrection(0.0, 2.0, 20.0)
    made.aim(to(START))
    made.aim(to(moved(1.0, 3.0)))
    np.testing.assert_allclose(made.step(0.0), moved(1.0, 3.0), atol=1e-9)


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_the_drift_goes_on_from_the_stamp_of_the_frame_until_that_of_the_transform(tau):
    made = SmoothCorrection(tau, 2.0, 20.0)
    made.aim(to(START, RATE), 0.2)
    made.step(0.1)
    metres, turn = apart(made.step(0.0, 0.4), START)
    np.testing.assert_allclose(metres, 0.7 * RATE[:3], atol=1e-9)
    np.testing.assert_allclose(turn, 0.7 * RATE[3:], atol=1e-9)
    # What has been asked for ahead has not happened.
    np.testing.assert_allclose(apart(made.step(0.0), START)[0], 0.3 * RATE[:3], atol=1e-9)


def test_a_target_that_drifts_is_reached_and_nothing_jumps_on_the_way():
    made = SmoothCorrection(0.5, 2.0, 20.0)
    made.aim(to(START))
    places = [base(made.step(0.0))]
    for k in range(100):  # a correction at 10 Hz that runs away as its rate says
        R = so3_exp(0.1 * k * RATE[3:]) @ START[:3, :3]
        target = make_transform(R, base(START) + (0.3, 0.0, 0.0) + 0.1 * k * RATE[:3] - R @ BASE)
        made.aim(to(target, RATE))
        places += [base(made.step(0.02)) for _ in range(5)]
    np.testing.assert_allclose(places[-1], base(target) + 0.1 * RATE[:3], atol=1e-6)
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 0.02 * (0.5 + 0.3 / 0.5)


def test_without_corrections_the_drift_does_not_go_on_for_ever():
    made = SmoothCorrection(0.5, 2.0, 20.0)
    made.aim(to(START, RATE), 0.3)
    for _ in range(100):
        made.step(0.1)
    assert np.linalg.norm(apart(made.step(0.0, 0.5), START)[0]) == pytest.approx(0.5)  # a second of it


def test_an_image_from_the_future_is_one_of_now():
    made = SmoothCorrection(0.0, 2.0, 20.0)
    made.aim(to(START, RATE), -0.4)
    np.testing.assert_allclose(made.step(0.0), START, atol=1e-9)
