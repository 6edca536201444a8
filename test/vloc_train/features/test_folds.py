"""Frames that a calibration leaves out: by place in one drive, by pass in several."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_train.features.folds import held_out_folds


@pytest.mark.parametrize("count", [14, 40, 443])
def test_one_drive_loses_blocks_of_several_lengths_and_other_ones_each_time(count):
    folds = held_out_folds(np.zeros(count, dtype=np.int64))
    assert 4 <= len(folds) <= 12
    for mask in folds:
        assert 0.1 < mask.mean() < 0.6 and not mask[0] and not mask[-1]
    asked = np.sum(folds, axis=0)
    assert asked.sum() > min(40, count) and (asked[1:-1] > 0).mean() > 0.6
    assert len({mask.tobytes() for mask in folds}) > 1
    # Not every n-th frame: some lose their neighbours, too.
    runs = []
    for mask in folds:
        rows = np.flatnonzero(mask)
        runs += [len(run) for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)]
    assert min(runs) <= 2 and max(runs) >= min(count // 12, 16)


def test_several_drives_lose_one_as_a_whole():
    drive = np.repeat([0, 1, 2, 3, 4, 5], 20)
    folds = held_out_folds(drive)
    assert len(folds) == 4
    assert all(len(np.unique(drive[mask])) == 1 and mask.sum() == 20 for mask in folds)


def test_next_to_nothing_cannot_be_parted():
    assert held_out_folds(np.zeros(3, dtype=np.int64)) == []


def test_the_cameras_of_a_rig_lose_the_same_moments():
    stamps = np.arange(40, dtype=np.int64) * 100_000_000
    drive = np.repeat([0, 1], 40)
    recording = np.zeros(80, dtype=np.int64)
    folds = held_out_folds(recording, np.concatenate([stamps, stamps + 5_000_000]))
    assert len(folds) >= 4
    for mask in folds:
        np.testing.assert_array_equal(mask[drive == 0], mask[drive == 1])
        assert 0.1 < mask.mean() < 0.6
