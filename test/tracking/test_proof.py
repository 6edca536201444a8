"""Frames of a standing vehicle are one frame: what a track of a map without points needs to be LOCALIZED."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.tracking import Tracker
from vloc_ros.tracking.proof import LEAST_DEG, LEAST_M, SIGMAS_ODOMETRY, SIGMAS_POSES, Proof
from vloc_ros.types import LocalizationState

INITIALIZING, LOCALIZED = LocalizationState.INITIALIZING, LocalizationState.LOCALIZED
DEGRADED, LOST = LocalizationState.DEGRADED, LocalizationState.LOST
both = pytest.mark.parametrize("odometry", [True, False], ids=["odometry", "no_odometry"])
COVARIANCE = np.diag([0.3**2] * 3 + [np.radians(0.5) ** 2] * 3)


def moved(metres=0.0, degrees=0.0):
    return make_transform(so3_exp([0.0, 0.0, np.radians(degrees)]), [metres, 0.0, 0.0])


def run(tracker, drive, where, *, odometry=True, waits=True, offset=(0.0, 0.0, 0.0), begin=0):
    """States of a tracker that hears of the vehicle at these frames of a drive, one after the other."""
    states = []
    for k, i in enumerate(where):
        stamp = drive.stamps_ns[0] + (begin + k) * 100_000_000
        estimate = drive.estimate(i, DEGRADED if waits else LOCALIZED, offset, stamp_ns=stamp)
        estimate = replace(estimate, awaits_track=waits)
        states.append(tracker.update(estimate, drive.T_odom_base[i] if odometry else None, drive.T_base_cam).state)
    return states


@both
def test_a_standing_vehicle_waits_until_it_has_moved(make_drive, odometry):
    drive, tracker = make_drive(60), Tracker()
    states = run(tracker, drive, [5] * 30, odometry=odometry)
    assert states[:2] == [INITIALIZING] * 2 and set(states[2:]) == {DEGRADED} and tracker.awaits_motion
    assert tracker.last.accepted, "there is a pose, and it may be published"
    states = run(tracker, drive, range(6, 20), odometry=odometry, begin=30)
    assert states[0] is DEGRADED and states[-1] is LOCALIZED and not tracker.awaits_motion
    assert set(run(tracker, drive, [20] * 20, odometry=odometry, begin=44)) == {LOCALIZED}, "it has been borne out"


def test_with_points_a_standing_vehicle_needs_no_more(make_drive):
    drive, tracker = make_drive(10), Tracker()
    assert set(run(tracker, drive, [5] * 10, waits=False)[2:]) == {LOCALIZED}
    mixed = Tracker()
    run(mixed, drive, [5] * 5)
    assert run(mixed, drive, [5], waits=False, begin=5) == [LOCALIZED], "one frame that sees points is enough"


def test_a_standing_vehicle_is_not_carried_away_by_one_picture(make_drive):
    """Something stands before the camera, and looks like another place."""
    drive, tracker = make_drive(40), Tracker()
    assert run(tracker, drive, range(20))[-1] is LOCALIZED
    states = run(tracker, drive, [20] * 14, offset=(40.0, 0.0, 0.0), begin=20)
    assert set(states) == {DEGRADED} and not tracker.last.accepted
    assert run(tracker, drive, [20], offset=(40.0, 0.0, 0.0), begin=34) == [LOST]
    seen = Tracker()
    run(seen, drive, range(20), waits=False)
    states = run(seen, drive, [20] * 14, waits=False, offset=(40.0, 0.0, 0.0), begin=20)
    assert LOCALIZED in states, "points are evidence of where it stands"


def test_the_word_of_the_user_bears_a_standing_vehicle_out(make_drive):
    drive, tracker = make_drive(10), Tracker()
    tracker.set_initial_pose(drive.T_map_base[5], np.eye(6) * 0.2)
    assert run(tracker, drive, [5] * 4)[-1] is LOCALIZED


def test_odometry_that_slips_or_begins_anew_is_no_motion(make_drive):
    drive, tracker = make_drive(40), Tracker()
    run(tracker, drive, [5] * 10)
    for k in range(10):
        stamp = drive.stamps_ns[0] + (10 + k) * 100_000_000
        estimate = replace(drive.estimate(5, DEGRADED, stamp_ns=stamp), awaits_track=True)
        anew = inverse(drive.T_odom_base[5]) @ drive.T_odom_base[5] @ moved(1000.0)
        assert tracker.update(estimate, anew, drive.T_base_cam).state is not LOCALIZED


@pytest.mark.parametrize("odometry", [np.eye(4), None], ids=["odometry", "no_odometry"])
def test_how_far_is_far_enough(odometry):
    sigmas = SIGMAS_POSES if odometry is None else SIGMAS_ODOMETRY
    begun = Proof(False, np.eye(4), odometry)
    for sigma_m, sigma_deg in ((0.01, 0.1), (0.3, 0.5), (2.0, 8.0)):
        P = np.diag([sigma_m**2] * 3 + [np.radians(sigma_deg) ** 2] * 3)
        metres, degrees = max(LEAST_M, sigmas * sigma_m), max(LEAST_DEG, sigmas * sigma_deg)
        for step, enough in (
            (moved(0.99 * metres), False),
            (moved(1.01 * metres), True),
            (moved(degrees=0.99 * degrees), False),
            (moved(degrees=1.01 * degrees), True),
        ):
            assert begun.after(False, step, P, None if odometry is None else step).given is enough
    assert begun.after(True, np.eye(4), COVARIANCE, odometry).given
    kept = replace(begun, given=True)
    assert kept.after(False, np.eye(4), COVARIANCE, odometry) is kept
