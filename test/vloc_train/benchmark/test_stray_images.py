"""The references of the stray-image test lie about the query and apart from each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vloc_ros.errors import ConfigError
from vloc_train.benchmark.stray_images import around

positions = hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(-20, 20))


@given(positions, hnp.arrays(np.float64, 3, elements=st.floats(-20, 20)), st.integers(1, 5), st.floats(0, 8))
def test_nearest_that_keep_their_distance(points, query, count, spacing):
    T = np.tile(np.eye(4), (len(points), 1, 1))
    T[:, :3, 3] = points
    at = np.eye(4)
    at[:3, 3] = query
    expected: list[int] = []
    for row in np.argsort(np.linalg.norm(points - query, axis=1), kind="stable"):
        if all(np.linalg.norm(points[row] - points[other]) >= spacing for other in expected):
            expected.append(row)
    if len(expected) < count:
        with pytest.raises(ConfigError, match=f"expected {count} references .* found {len(expected)} in a map"):
            around(at, T, count, spacing)
        return
    rows = around(at, T, count, spacing)
    assert rows.tolist() == expected[:count]
    distance = np.linalg.norm(points - query, axis=1)
    assert len(rows) == count == len(set(rows.tolist()))
    assert distance[rows[0]] == distance.min() and (np.diff(distance[rows]) >= 0).all()
    between = np.linalg.norm(points[rows][:, None] - points[rows][None], axis=-1)
    assert (between[~np.eye(count, dtype=bool)] >= spacing).all()
