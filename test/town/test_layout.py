from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vloc_ros.errors import ConfigError
from vloc_ros.town import Town
from vloc_ros.town.layout import Terrain, build_layout

TERRAIN = Terrain(np.random.default_rng(3), 200.0)


@given(st.floats(-900, 900), st.floats(-900, 900))
@settings(max_examples=50, deadline=None)
def test_terrain_gradient_is_the_derivative_of_the_height(x: float, y: float) -> None:
    e = 1e-4
    gx, gy = TERRAIN.gradient(x, y)
    assert gx == pytest.approx((TERRAIN.height(x + e, y) - TERRAIN.height(x - e, y)) / (2 * e), abs=1e-6)
    assert gy == pytest.approx((TERRAIN.height(x, y + e) - TERRAIN.height(x, y - e)) / (2 * e), abs=1e-6)


@given(st.floats(-500, 500), st.floats(-500, 500))
@settings(max_examples=50, deadline=None)
def test_terrain_in_float32_agrees_with_float64(x: float, y: float) -> None:
    h, gx, gy = TERRAIN.sample32(np.array([x], np.float32), np.array([y], np.float32))
    assert h[0] == pytest.approx(float(TERRAIN.height(x, y)), abs=1e-3)
    assert (gx[0], gy[0]) == pytest.approx(TERRAIN.gradient(x, y), abs=1e-4)


@pytest.mark.parametrize(("seed", "length"), [(0, 150.0), (1, 200.0), (2, 1000.0), (3, 3000.0)])
def test_the_loop_is_closed_smooth_and_as_long_as_asked(seed: int, length: float) -> None:
    loop = build_layout(np.random.default_rng(seed), length).loop
    steps = np.linalg.norm(np.roll(loop.points, -1, axis=0) - loop.points, axis=1)
    assert steps.sum() == pytest.approx(length, rel=0.02)
    assert steps.max() < 0.3
    heading = np.unwrap(np.arctan2(loop.tangents[:, 1], loop.tangents[:, 0]))
    assert np.abs(np.diff(heading)).max() / 0.25 < 1 / 4.5  # no bend tighter than 4.5 m
    total = heading[-1] - heading[0]
    assert total == pytest.approx(2 * np.pi, abs=0.1)  # counter-clockwise, once round


def test_street_positions_wrap_round_the_loop() -> None:
    loop = build_layout(np.random.default_rng(4), 200.0).loop
    a, ta = loop.at(np.array([3.3]))
    b, tb = loop.at(np.array([3.3 + loop.length]))
    np.testing.assert_allclose(a, b, atol=1e-9)
    np.testing.assert_allclose(ta, tb, atol=1e-9)


@pytest.mark.parametrize("length", [50.0, 1e6])
def test_impossible_sizes_are_refused(length: float) -> None:
    with pytest.raises(ConfigError, match="120 to 20000"):
        Town(1, length)
