"""Selections: what is written is what Python's slices take, and nothing else is accepted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vloc_ros.errors import ConfigError
from vloc_train.benchmark.data import Selection

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True) | st.sampled_from(
    ["$map", "$left_out", "$query_left_out"]
)
ends = st.none() | st.integers(-50, 50)


@given(names, ends, ends, st.none() | st.integers(1, 9), st.integers(0, 40))
def test_rows_are_those_of_the_slice(name, start, stop, step, count):
    text = str(Selection(name, start, stop, step))
    found = Selection.parse(text, "here")
    expected = np.arange(count)[start:stop:step]
    assert found.name == name
    if len(expected):
        np.testing.assert_array_equal(found.rows(count), expected)
    else:
        with pytest.raises(ConfigError, match="none of the drive"):
            found.rows(count)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text):
    try:
        found = Selection.parse(text, "here")
    except ConfigError as problem:
        assert str(problem).startswith("here: ")
    else:
        assert Selection.parse(str(found), "here") == found


@pytest.mark.parametrize(
    "bad", ["", "a[", "a[]", "a[1]", "a[::0]", "a[::-1]", "a[1:2:3:4]", "a b", "$maps", 3, None, []]
)
def test_what_is_no_selection(bad):
    with pytest.raises(ConfigError, match="here"):
        Selection.parse(bad, "here")


@given(st.integers(0, 60), st.integers(1, 7))
def test_steps_partition_a_drive(count, step):
    assume(count >= step)
    parts = [Selection("d", r, None, step).rows(count) for r in range(step)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
