"""Corrections of map -> odom without jumps at the vehicle."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.tracking.smoothing import SmoothCorrection

#: The vehicle is a kilometre from where its odometry began.
BASE = np.array([1000.0, 200.0, 0.0])
START = make_transform(so3_exp([0.0, 0.0, 0.3]), [5.0, -2.0, 0.1])


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
    made.aim(START, BASE)
    np.testing.assert_array_equal(made.step(0.05), START)
    made.aim(moved(1.0, 2.0), BASE)
    places = [base(START)] + [base(made.step(0.05)) for _ in range(60)]
    steps = np.diff([p[0] for p in places])
    assert steps[0] == pytest.approx(1.0 - np.exp(-0.1), rel=1e-6) and (np.diff(steps) < 1e-9).all() and steps.min() > 0
    assert np.ptp(np.array(places)[:, 1:], axis=0).max() < 1e-9  # though the origin moves by tens of metres
    np.testing.assert_allclose(made.step(10.0), moved(1.0, 2.0), atol=1e-6)


def test_a_relocalization_is_made_at_once_and_a_reset_forgets():
    made = SmoothCorrection(0.5, 2.0, 20.0)
    made.aim(START, BASE)
    for target in (moved(2.5, 0.0), moved(0.0, 25.0)):
        made.aim(target, BASE)
        np.testing.assert_allclose(made.step(0.0), target, atol=1e-9)
    made.reset()
    assert made.step(1.0) is None
    made.aim(START, BASE)
    np.testing.assert_array_equal(made.step(0.0), START)


def test_without_a_time_constant_corrections_are_what_they_are():
    made = SmoothCorrection(0.0, 2.0, 20.0)
    made.aim(START, BASE)
    made.aim(moved(1.0, 3.0), BASE)
    np.testing.assert_allclose(made.step(0.0), moved(1.0, 3.0), atol=1e-9)
