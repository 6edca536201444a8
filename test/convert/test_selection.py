"""Frame selections: slices and held-out blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.convert.source import select_frames
from vloc_ros.errors import ConfigError


def test_even_and_odd_split_the_drive():
    even, odd = select_frames(11, "0::2"), select_frames(11, "1::2")
    np.testing.assert_array_equal(np.sort(np.concatenate([even, odd])), np.arange(11))
    np.testing.assert_array_equal(select_frames(100, "10:20"), np.arange(10, 20))


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 60))
def test_train_and_test_are_a_partition_of_blocks(count, length, rest):
    hold_out = f"{length}:{length + rest}"
    train = select_frames(count, hold_out=hold_out)
    try:
        test = select_frames(count, hold_out=hold_out, part="test")
    except ConfigError:
        assert count <= rest  # too short to hold anything out
        return
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(count))
    runs = np.split(test, np.flatnonzero(np.diff(test) > 1) + 1)
    assert all(len(run) == length for run in runs[:-1]) and len(runs[-1]) <= length


def test_blocks_of_20_in_100():
    test = select_frames(1018, hold_out="20:100", part="test")
    assert test[0] == 80 and test[19] == 99 and test[20] == 180 and len(test) == 200


@pytest.mark.parametrize(
    ("frames", "hold_out", "part"),
    [
        ("x", None, "train"),
        ("5", None, "train"),
        ("0:10:0", None, "train"),
        ("0:10:-1", None, "train"),
        ("1:2:3:4", None, "train"),
        ("50:60", None, "train"),
        (None, "20", "train"),
        (None, "0:100", "train"),
        (None, "100:100", "train"),
        (None, "a:b", "train"),
        (None, "2:10", "validation"),
    ],
)
def test_nonsense_is_refused(frames, hold_out, part):
    with pytest.raises(ConfigError):
        select_frames(10, frames, hold_out, part)
