"""map -> odom of an odometry that drifts, slips, and begins anew."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.tracking import Tracker, TrackerSettings
from vloc_ros.types import Estimate, LocalizationState

SIGMA_M, SIGMA_RAD = 0.03, np.radians(0.2)
COVARIANCE = np.diag([SIGMA_M**2] * 3 + [SIGMA_RAD**2] * 3)
STEP = 0.5  # m between frames, at 10 Hz


class Drive:
    """Round bends at 5 m/s with odometry that is ``scale`` too long and turns ``turn`` rad/m too much."""

    def __init__(self, frames, scale=1.0, turn=0.0, slip=None, seed=0, noise=1.0):
        rng = np.random.default_rng(seed)
        self.truth, self.odometry, self.corrections = [], [], []
        self.tracker = Tracker(TrackerSettings(initial_fixes=1))
        T, odometry = make_transform(so3_exp([0.0, 0.0, 0.4]), [300.0, -50.0, 2.0]), np.eye(4)
        for k in range(frames):
            error = noise * rng.normal(size=6) * np.repeat([SIGMA_M, SIGMA_RAD], 3)
            seen = make_transform(so3_exp(error[3:]) @ T[:3, :3], T[:3, 3] + error[:3])
            stamp = 1_000_000_000 + k * 100_000_000
            estimate = Estimate(stamp, seen, COVARIANCE, 1.0, LocalizationState.LOCALIZED, "", "")
            self.tracker.update(estimate, odometry)
            self.truth.append(T)
            self.odometry.append(odometry)
            self.corrections.append(self.tracker.correction)
            bend = 0.05 * np.sin(k / 40.0) * STEP
            step = make_transform(so3_exp([0.0, 0.0, bend]), [STEP, 0.0, 0.0])
            measured = make_transform(
                so3_exp([0.0, 0.0, bend + turn * STEP]), [STEP * scale + (slip(k) if slip else 0.0), 0.0, 0.0]
            )
            T, odometry = T @ step, odometry @ measured

    def errors(self):
        """Of map -> base at each frame, metres in the base's axes (N, 3)."""
        found = zip(self.truth, self.corrections, self.odometry, strict=True)
        return np.array([(inverse(T) @ c.T_map_odom @ measured)[:3, 3] for T, c, measured in found])


def test_what_the_odometry_does_wrong_again_and_again_is_learned():
    drive = Drive(400, scale=1.01, turn=np.radians(1.5) / 100)
    last = drive.corrections[-1]
    R = (last.T_map_odom @ last.T_odom_base)[:3, :3]
    # 1 % of 5 m/s too far, and 1.5 degrees in 20 s too much to the left.
    np.testing.assert_allclose(R.T @ last.rate[:3], [-0.05, 0.0, 0.0], atol=0.015)
    np.testing.assert_allclose(np.degrees(last.rate[3:]), [0.0, 0.0, -0.075], atol=0.05)
    assert np.abs(drive.errors()[100:].mean(0)).max() < 0.006


def test_frames_are_averaged_and_the_sure_ones_count_more():
    errors = np.linalg.norm(Drive(400, scale=1.01).errors()[100:], axis=1)
    frames = np.linalg.norm(np.random.default_rng(1).normal(size=(4000, 3)) * SIGMA_M, axis=1)
    assert np.quantile(errors, 0.95) < 0.5 * np.quantile(frames, 0.95)


@pytest.mark.parametrize("metres", [0.1, 0.3, 1.0])
def test_a_slip_of_the_wheels_is_made_up_for_and_is_no_drift(metres):
    drive = Drive(300, scale=1.01, slip=lambda k: metres / 6 if 150 <= k < 156 else 0.0)
    errors = np.linalg.norm(drive.errors(), axis=1)
    assert errors[170:].max() < 0.06, "1.4 s after its end"
    last = drive.corrections[-1]
    assert np.linalg.norm(last.rate[:3]) == pytest.approx(0.05, abs=0.03)


def test_where_nothing_is_wrong_nothing_is_learned():
    drive = Drive(300, noise=0.0)
    assert np.abs(drive.errors()).max() < 1e-6 and np.abs(drive.corrections[-1].rate).max() < 1e-6


@pytest.mark.parametrize("bridged", [False, True])
def test_odometry_that_begins_anew_moves_the_vehicle_nowhere(bridged):
    """Also where a frame without odometry hides the jump from the track."""
    drive = Drive(100, scale=1.01)
    tracker, T, stamp = drive.tracker, drive.truth[-1], 1_000_000_000 + 99 * 100_000_000
    for k in range(10):
        stamp += 100_000_000
        T = T @ make_transform(np.eye(3), [STEP, 0.0, 0.0])
        odometry = make_transform(np.eye(3), [STEP * k, 0.0, 0.0])
        estimate = Estimate(stamp, T, COVARIANCE, 1.0, LocalizationState.LOCALIZED, "", "")
        missing = bridged and k == 0
        tracker.update(estimate, None if missing else odometry)
        if tracker.T_map_odom is not None and not missing:
            off = (tracker.T_map_odom @ odometry)[:3, 3] - T[:3, 3]
            assert np.linalg.norm(off) < 0.2
    assert tracker.T_map_odom is not None and np.linalg.norm(tracker.correction.rate[:3]) < 0.3


def test_without_fusing_it_is_the_last_estimate():
    tracker = Tracker(TrackerSettings(initial_fixes=1, smoothing=False))
    for k in range(5):
        T = make_transform(np.eye(3), [k + 0.01 * (-1) ** k, 0.0, 0.0])
        estimate = Estimate(10**9 + k * 10**8, T, COVARIANCE, 1.0, LocalizationState.LOCALIZED, "", "")
        tracker.update(estimate, make_transform(np.eye(3), [float(k), 1.0, 0.0]))
    assert tracker.T_map_odom[0, 3] == pytest.approx(0.01) and not tracker.correction.rate.any()
