"""Poses of one clock for the images of another."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import covered_frames, track_of
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import so3_exp, so3_log

NS = 10**9


def sample(seconds, x=None):
    T = np.eye(4)
    T[:3, :3], T[0, 3] = so3_exp([0.0, 0.0, 0.1 * seconds]), seconds if x is None else x
    return round(seconds * NS), T, f"poses.csv:{round(10 * seconds) + 1}"


def test_poses_between_the_rows():
    track = track_of([sample(s) for s in (1.0, 1.4, 1.8)], "poses.csv", Problems())
    stamps = np.array([1.0, 1.1, 1.8]) * NS
    kept, T = covered_frames(stamps.astype(np.int64), track, "images", Problems())
    assert kept.tolist() == [0, 1, 2]
    np.testing.assert_allclose(T[:, 0, 3], [1.0, 1.1, 1.8], atol=1e-12)
    np.testing.assert_allclose(so3_log(T[1, :3, :3]), [0, 0, 0.11], atol=1e-12)


def test_images_beyond_the_poses_or_in_a_gap_are_left_out_and_counted():
    track = track_of([sample(s) for s in (1.0, 1.4, 3.0, 3.2)], "poses.csv", Problems(), max_gap_s=0.5)
    stamps = (np.array([0.9, 1.2, 1.4, 2.0, 3.0, 3.1, 3.3]) * NS).astype(np.int64)
    problems = Problems()
    kept, _ = covered_frames(stamps, track, "images", problems)
    assert kept.tolist() == [1, 2, 4, 5] and problems.counts == {"image without a pose": 3}
    with pytest.raises(
        DatasetError,
        match=r"at most 0\.5 s apart, found none: images from 5",
    ):
        covered_frames(stamps + 5 * NS, track, "images", Problems(keep_going=True))


@pytest.mark.parametrize(
    ("seconds", "kind", "message"),
    [
        ((1.0, 1.4, 1.2), "stamp out of order", r"poses\.csv:13: expected increasing stamps.*--keep-going"),
        ((1.0, 1.4, 1.4), "repeated stamp", r"poses\.csv:15: expected one pose a stamp, found 1400000000 ns twice"),
        ((1.0, 1.4, 1.0), "repeated stamp", r"poses\.csv:11: expected one pose a stamp"),
    ],
)
def test_disordered_stamps_are_faults_and_put_in_order_on_request(seconds, kind, message):
    rows = [sample(s, x=k) for k, s in enumerate(seconds)]
    with pytest.raises(DatasetError, match=message):
        track_of(rows, "poses.csv", Problems())
    problems = Problems(keep_going=True)
    track = track_of(rows, "poses.csv", problems)
    assert problems.counts == {kind: 1}
    assert track.stamps_ns.tolist() == sorted({round(s * NS) for s in seconds})
    assert track.T[0, 0, 3] == 0  # of two poses of a stamp the first counts


def test_no_poses():
    with pytest.raises(DatasetError, match=r"poses\.csv: expected poses, found none"):
        track_of([], "poses.csv", Problems(keep_going=True))
