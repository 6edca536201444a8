"""Association by time: against a search of all pairs, one to one, at the limit, with drop-outs and other rates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import GeometryError
from vloc_ros.evaluation.trajectory_errors import associate

STAMPS = st.lists(st.integers(0, 400), max_size=30, unique=True).map(sorted)
START = 1_700_000_000_000_000_000


def search(few, many, limit):
    """Every pair by the definition: nearest, earlier of equals; then the nearest of those that want the same."""
    wanted = {}
    for i, stamp in enumerate(few):
        if many:
            j = min(range(len(many)), key=lambda k: (abs(many[k] - stamp), many[k]))
            if abs(many[j] - stamp) <= limit:
                wanted.setdefault(j, []).append((abs(many[j] - stamp), i))
    pairs = sorted((min(rows)[1], j) for j, rows in wanted.items())
    return pairs, sum(len(rows) - 1 for rows in wanted.values())


@given(STAMPS, STAMPS, st.integers(0, 60))
def test_against_the_definition(estimate, reference, limit):
    found = associate(np.array(estimate) + START, np.array(reference) + START, limit)
    if len(estimate) > len(reference):
        pairs, contested = search(reference, estimate, limit)
        pairs = sorted((e, r) for r, e in pairs)
    else:
        pairs, contested = search(estimate, reference, limit)
    assert list(zip(found.estimate.tolist(), found.reference.tolist(), strict=True)) == pairs
    assert found.contested == contested


@given(STAMPS, STAMPS, st.integers(0, 60), st.integers(-50, 50))
def test_pairs_are_within_the_limit_one_to_one_and_in_order(estimate, reference, limit, offset):
    found = associate(estimate, reference, limit, offset)
    for rows in (found.estimate, found.reference):
        assert (np.diff(rows) > 0).all()
    apart = np.array(estimate, dtype=int)[found.estimate] + offset - np.array(reference, dtype=int)[found.reference]
    assert (np.abs(apart) <= limit).all()


@given(STAMPS, STAMPS.filter(bool), st.integers(0, 60))
def test_both_directions_agree_where_the_lengths_differ(estimate, reference, limit):
    if len(estimate) != len(reference):
        there, back = associate(estimate, reference, limit), associate(reference, estimate, limit)
        assert there.estimate.tolist() == back.reference.tolist() and there.contested == back.contested


def test_the_limit_is_exact_to_the_nanosecond_of_our_time():
    assert len(associate([START], [START + 10_000_000])) == 1
    assert len(associate([START], [START + 10_000_001])) == 0
    assert len(associate([START], [START + 10_000_001], offset_ns=1)) == 1


@pytest.mark.parametrize("bad", [[2, 1], [1, 1]])
def test_stamps_that_do_not_increase_are_refused(bad):
    with pytest.raises(GeometryError, match=r"estimate: expected increasing stamps.*index 1"):
        associate(bad, [1])
    with pytest.raises(GeometryError, match="reference"):
        associate([1], bad)
