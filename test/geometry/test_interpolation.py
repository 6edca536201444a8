"""Pose tracks: exact at stamps, SLERP between, nothing across gaps or beyond the ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import GeometryError, InterpolationError
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.geometry.rotations import rotation_angle, so3_exp
from vloc_ros.geometry.se3 import make_transform

# Stamps of today in ns: float64 has a resolution of 256 ns there.
START = 1_760_000_000_123_456_789
SECOND = 1_000_000_000


def track(max_gap_ns: int | None = SECOND) -> PoseTrack:
    stamps = START + np.array([0, 1, 2, 5, 6]) * SECOND
    yaw = np.array([0.0, 0.2, 0.4, 3.0, 3.3])
    return PoseTrack(stamps, make_transform(so3_exp(np.outer(yaw, [0, 0, 1])), np.outer(yaw, [1, 2, 0])), max_gap_ns)


@given(st.integers(0, 2 * SECOND))
def test_constant_motion_is_reproduced(offset):
    T = track().at(START + offset)
    yaw = 0.2 * offset / SECOND
    np.testing.assert_allclose(T[:3, 3], [yaw, 2 * yaw, 0], atol=1e-12)
    assert rotation_angle(T[:3, :3], so3_exp([0, 0, yaw])) < 1e-12


def test_poses_at_their_own_stamps_are_exact():
    t = track()
    T, valid = t.many(t.stamps_ns)
    assert valid.all()
    np.testing.assert_array_equal(T, t.T)


def test_a_nanosecond_is_resolved():
    t = PoseTrack([START, START + 4], make_transform(np.eye(3), [[0.0, 0, 0], [4.0, 0, 0]]))
    assert [t.at(START + k)[0, 3] for k in range(5)] == [0, 1, 2, 3, 4]


def test_gap_and_ends():
    t = track()
    for offset, message in ((-1, "before the first"), (6 * SECOND + 1, "after the last"), (3 * SECOND, "gap of 3.000")):
        assert not t.covers(START + offset)
        with pytest.raises(InterpolationError, match=message):
            t.at(START + offset)
    assert t.covers(START)
    assert t.covers(START + 2 * SECOND), "the pose before a gap"
    assert t.covers(START + 5 * SECOND), "the pose after a gap"
    assert not t.covers(START + 5 * SECOND - 1)
    assert track(max_gap_ns=None).covers(START + 3 * SECOND)
    assert track(max_gap_ns=3 * SECOND).covers(START + 3 * SECOND)


def test_many_equals_at():
    t = track()
    stamps = START + np.array([-1, 0, SECOND // 3, 3 * SECOND, 5 * SECOND + 17, 9 * SECOND])
    T, valid = t.many(stamps)
    assert valid.tolist() == [False, True, True, False, True, False]
    for k in np.flatnonzero(valid):
        np.testing.assert_array_equal(T[k], t.at(int(stamps[k])))
    assert np.isfinite(T).all()


def test_single_pose():
    t = PoseTrack([START], [np.eye(4)])
    np.testing.assert_array_equal(t.at(START), np.eye(4))
    assert not t.covers(START + 1)


@pytest.mark.parametrize("stamps", [[5, 5], [5, 4]])
def test_stamps_that_do_not_increase_are_refused(stamps):
    with pytest.raises(GeometryError, match="strictly increasing"):
        PoseTrack(stamps, [np.eye(4)] * 2)


def test_bad_sizes_and_values_are_refused():
    with pytest.raises(GeometryError, match="shapes"):
        PoseTrack([1, 2], [np.eye(4)])
    with pytest.raises(GeometryError, match="N >= 1"):
        PoseTrack([], np.zeros((0, 4, 4)))
    with pytest.raises(GeometryError, match="finite"):
        PoseTrack([1], [np.full((4, 4), np.nan)])
