from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform, pose_error, se3_exp
from vloc_ros.tracking import TrackerSettings
from vloc_ros.tracking.motion import Track
from vloc_ros.types import Array

SETTINGS = TrackerSettings()
SECOND = 1_000_000_000


def perturbed(T: Array, error: Array) -> Array:
    return make_transform(so3_exp(error[3:]) @ T[:3, :3], T[:3, 3] + error[:3])


def test_odometry_carries_the_covariance_as_monte_carlo_does() -> None:
    rng = np.random.default_rng(0)
    T = se3_exp([10.0, -4.0, 1.0, 0.1, -0.2, 2.0])
    A = rng.normal(size=(6, 6)) * np.array([[0.1], [0.1], [0.1], [0.02], [0.02], [0.02]])
    P = A @ A.T
    noiseless = TrackerSettings(odometry_noise_m=0, odometry_noise_deg=0, odometry_idle_m=0, odometry_idle_deg=0)
    step = make_transform(np.eye(3), np.array([8.0, 0.5, 0.0]))
    track = Track.start(T, P, SECOND, np.eye(4), "", noiseless).predicted(2 * SECOND, step, noiseless)
    samples = rng.multivariate_normal(np.zeros(6), P, size=20_000)
    errors = np.stack([pose_error(perturbed(T, e) @ step, T @ step) for e in samples])
    assert np.allclose(track.T_map_base, T @ step)
    expected = errors.T @ errors / len(errors)
    assert np.abs(track.pose_covariance - expected).max() < 0.05 * np.abs(expected).max()


def test_constant_velocity_follows_a_turn() -> None:
    twist = np.array([5.0, 0.0, 0.0, 0.0, 0.0, 0.3])
    start = Track.start(np.eye(4), np.eye(6) * 1e-4, SECOND, None, "", SETTINGS)
    track = Track(start.T_map_base, start.covariance, twist, SECOND, None, "")
    for i in range(1, 101):
        track = track.predicted(SECOND + i * SECOND // 100, None, SETTINGS)
    assert np.allclose(track.T_map_base, se3_exp(twist), atol=0.02)


def test_velocity_is_learnt_from_poses_alone() -> None:
    track = Track.start(np.eye(4), np.eye(6) * 0.01, SECOND, None, "", SETTINGS)
    for i in range(1, 40):
        T = make_transform(np.eye(3), np.array([1.2 * i, 0.0, 0.0]))
        track = track.predicted(SECOND + i * SECOND // 10, None, SETTINGS).corrected(T, np.eye(6) * 0.01, SETTINGS)
    assert track.twist[:3] == pytest.approx([12.0, 0.0, 0.0], abs=0.5)


def test_correction_of_two_equal_sources_is_the_middle() -> None:
    track = Track.start(np.eye(4), np.eye(6), SECOND, None, "", SETTINGS)
    T = perturbed(np.eye(4), np.array([2.0, 0, 0, 0, 0, 0.2]))
    fused = track.corrected(T, np.eye(6), SETTINGS)
    assert np.allclose(pose_error(fused.T_map_base, np.eye(4)), [1.0, 0, 0, 0, 0, 0.1])
    assert np.allclose(fused.pose_covariance, 0.5 * np.eye(6))


def test_uncertainty_grows_without_measurements() -> None:
    track = Track.start(np.eye(4), np.eye(6) * 0.01, SECOND, None, "", SETTINGS)
    traces = [np.trace(track.predicted(SECOND + dt * SECOND // 10, None, SETTINGS).pose_covariance) for dt in range(10)]
    assert np.all(np.diff(traces) > 0)
    livelier = TrackerSettings(acceleration_mps2=9.0)
    plain, more = (track.predicted(2 * SECOND, None, s).pose_covariance[0, 0] for s in (SETTINGS, livelier))
    assert more - plain == pytest.approx((9.0**2 - 3.0**2) / 3.0), "white-noise acceleration over one second"


def test_speed_bound() -> None:
    track = Track.start(np.eye(4), np.eye(6) * 1e-4, SECOND, None, "", TrackerSettings(max_speed_mps=10))
    settings = TrackerSettings(max_speed_mps=10)
    for distance, possible in ((0.9, True), (1.5, False)):
        T = make_transform(np.eye(3), np.array([distance, 0.0, 0.0]))
        assert track.reachable(T, np.eye(6) * 1e-4, SECOND + SECOND // 10, settings) is possible
