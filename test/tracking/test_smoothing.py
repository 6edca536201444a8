"""Corrections of map -> odom without jumps at the vehicle."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.tracking.smoothing import SmoothCorrection

#: The vehicle is a kilometre from where its odometry began.
BASE = np.array([1000.0, 200.0, 0.0])
START = make_transform(so3_exp([0.0, 0.0, 0.3]), [5.0, -2.0, 0.1])
ODOMETRY = make_transform(so3_exp([0.0, 0.0, -1.0]), BASE)


def moved(metres, degrees):
    """START corrected by this much at the vehicle."""
    R = so3_exp([0.0, 0.0, np.radians(degrees)]) @ START[:3, :3]
    at = START[:3, :3] @ BASE + START[:3, 3] + (metres, 0.0, 0.0)
    return make_transform(R, at - R @ BASE)


def base(T):
    return T[:3, :3] @ BASE + T[:3, 3]


def test_the_vehicle_moves_straight_and_no_step_is_larger_than_the_first():
    made = SmoothCorrection(0.5, 2.0, 20.0)
    assert made.step(0.05) is None
    made.aim(START, ODOMETRY)
    np.testing.assert_array_equal(made.step(0.05), START)
    made.aim(moved(1.0, 2.0), ODOMETRY)
    places = [base(START)] + [base(made.step(0.05)) for _ in range(60)]
    steps = np.diff([p[0] for p in places])
    assert steps[0] == pytest.approx(1.0 - np.exp(-0.1), rel=1e-6) and (np.diff(steps) < 1e-9).all() and steps.min() > 0
    assert np.ptp(np.array(places)[:, 1:], axis=0).max() < 1e-9  # though the origin moves by tens of metres
    np.testing.assert_allclose(made.step(10.0), moved(1.0, 2.0), atol=1e-6)


def test_a_relocalization_is_made_at_once_and_a_reset_forgets():
    made = SmoothCorrection(0.5, 2.0, 20.0)
    made.aim(START, ODOMETRY)
    for target in (moved(2.5, 0.0), moved(0.0, 25.0)):
        made.aim(target, ODOMETRY)
        np.testing.assert_allclose(made.step(0.0), target, atol=1e-9)
    made.reset()
    assert made.step(1.0) is None
    made.aim(START, ODOMETRY)
    np.testing.assert_array_equal(made.step(0.0), START)


def test_without_a_time_constant_corrections_are_what_they_are():
    made = SmoothCorrection(0.0, 2.0, 20.0)
    made.aim(START, ODOMETRY)
    made.aim(moved(1.0, 3.0), ODOMETRY)
    np.testing.assert_allclose(made.step(0.0), moved(1.0, 3.0), atol=1e-9)


def followed(scale, seconds, tau=0.5, speed=5.0, stop_s=np.inf, turn=0.0):
    """What stays behind (m, base's axes) of odometry that measures ``scale`` too much, at 10 Hz; and the places."""
    made, true, odometry = SmoothCorrection(tau, 2.0, 20.0), np.eye(4), ODOMETRY
    left, places = [], []
    for tick in range(int(seconds * 50)):
        if tick % 5 == 0:
            made.aim(true @ inverse(odometry), odometry)
        T = made.step(0.02)
        left.append(inverse(true) @ T @ odometry)
        places.append((T @ odometry)[:3, 3] - true[:3, 3])
        length = speed * 0.02 if tick < stop_s * 50 else 0.0
        for_true = make_transform(so3_exp([0.0, 0.0, turn * length]), [length, 0.0, 0.0])
        true, odometry = true @ for_true, odometry @ make_transform(for_true[:3, :3], [length * scale, 0.0, 0.0])
    return np.array(left)[:, :3, 3], np.array(places)


@pytest.mark.parametrize("turn", [0.0, 0.05])
def test_drift_of_the_odometry_leaves_nothing_behind_on_a_straight_and_in_bends(turn):
    left, places = followed(1.02, 40.0, turn=turn)
    lag = 0.5 * 5.0 * 0.02  # what an exponential alone stays behind
    assert np.abs(left[50:60]).max() > 0.6 * lag, "nothing is known yet"
    assert np.linalg.norm(left[-500:], axis=1).max() < 0.35 * lag
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 0.01  # and no jump


def test_a_vehicle_that_stops_is_not_moved_on_by_the_drift_it_had():
    left, _ = followed(1.02, 45.0, stop_s=30.0)
    assert np.abs(left[30 * 50 + 10 : 30 * 50 + 40]).max() < 0.02 and np.abs(left[-50:]).max() < 1e-3


def test_a_frame_that_corrects_nothing_leaves_the_base_where_it_was():
    one, other = SmoothCorrection(0.5, 2.0, 20.0), SmoothCorrection(0.5, 2.0, 20.0)
    for made in (one, other):
        made.aim(START, ODOMETRY)
        made.step(0.05)
        made.aim(moved(0.5, 2.0), ODOMETRY)
        made.step(0.05)
    one.aim(moved(0.5, 2.0))  # its estimate was refused
    np.testing.assert_allclose(one.step(0.05), other.step(0.05), atol=1e-12)


def test_without_corrections_the_drift_does_not_go_on_for_ever():
    made, odometry = SmoothCorrection(0.5, 2.0, 20.0), ODOMETRY
    for k in range(300):
        made.aim(moved(-0.01 * k, 0.0), odometry)
        made.step(0.1)
        odometry = odometry @ make_transform(np.eye(3), [0.5, 0.0, 0.0])
    at = odometry[:3, 3]
    reached = made.step(0.1)
    for _ in range(100):
        last = made.step(0.1)
    assert np.linalg.norm((last[:3, :3] - reached[:3, :3]) @ at + last[:3, 3] - reached[:3, 3]) < 0.2


def test_a_transform_stamped_ahead_is_that_of_its_stamp():
    """Look-ups at the present find transforms that were sent half a second before, at 5 m/s 5 cm of 2 % ago."""
    made, odometry = SmoothCorrection(0.5, 2.0, 20.0), ODOMETRY
    for k in range(400):
        made.aim(moved(-0.01 * k, 0.0), odometry)
        now, ahead = made.step(0.0), made.step(0.0, 0.5)
        made.step(0.1)
        odometry = odometry @ make_transform(np.eye(3), [0.5, 0.0, 0.0])
    np.testing.assert_allclose(ahead[:3, 3] - now[:3, 3], [-0.05, 0.0, 0.0], atol=0.01)
    np.testing.assert_allclose(ahead[:3, :3], now[:3, :3])
    still = SmoothCorrection(0.0, 2.0, 20.0)
    still.aim(START, ODOMETRY)
    still.step(0.1)
    still.aim(moved(1.0, 0.0), ODOMETRY)
    np.testing.assert_allclose(still.step(0.1, 0.5), moved(1.0, 0.0), atol=1e-9)
