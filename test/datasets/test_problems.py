"""Faults stop the reading, or are skipped and counted; never silently."""

from __future__ import annotations

import logging

import pytest

from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError


def test_the_first_fault_ends_it():
    problems = Problems()
    with pytest.raises(DatasetError, match=r"a\.txt:3: expected 7"):
        problems.fault("row of the wrong length", "a.txt:3: expected 7")
    assert problems.counts == {} and problems.summary() == ""


def test_keep_going_counts_by_kind_and_tells_the_first_few(caplog):
    problems = Problems(keep_going=True)
    with caplog.at_level(logging.WARNING):
        for line in range(9):
            problems.fault("row with NaN", f"line {line}")
        problems.skip("image without a pose", "40 of 50", count=40)
    assert problems.counts == {"row with NaN": 9, "image without a pose": 40}
    assert problems.summary() == "9 x row with NaN, 40 x image without a pose"
    told = [record.getMessage() for record in caplog.records]
    assert told == [*(f"line {k}" for k in range(Problems.TOLD)), "40 of 50"]


def test_what_is_no_fault_is_counted_without_keep_going():
    problems = Problems()
    problems.skip("image before the first pose", "x")
    assert problems.counts == {"image before the first pose": 1}
