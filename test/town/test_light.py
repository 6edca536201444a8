from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.errors import ConfigError
from vloc_ros.town import CONDITIONS, Town, Traversal
from vloc_ros.town.light import make_light, shadow_heights, sky_panorama
from vloc_ros.town.placement import Grid


def test_a_block_throws_a_shadow_of_the_right_length_away_from_the_sun() -> None:
    grid = Grid(np.array([-40.0, -40.0]), np.array([40.0, 40.0]), 2.0)
    tops = np.zeros(grid.shape, np.float32)
    tops[76:85, 76:85] = 10.0  # 4 m square block around the origin
    sun = np.array([np.cos(0.7), 0.0, np.sin(0.7)])  # in the east, 40 degrees up
    shadow = shadow_heights(tops, grid, sun)
    west = shadow[80, ::-1][grid.shape[1] // 2 :] > 0.5
    reach = (np.nonzero(west)[0].max()) / grid.k
    assert reach == pytest.approx(2.0 + 9.5 / np.tan(0.7), abs=1.2)
    assert (shadow[80, grid.shape[1] // 2 + 8 :] < 0.5).all()  # none on the sunny side


def test_unknown_light_is_refused() -> None:
    with pytest.raises(ConfigError, match="known: noon"):
        make_light(np.random.default_rng(0), "eclipse")


def test_conditions_differ_and_cycle_with_the_index(town: Town) -> None:
    lights = [Traversal(town, i).light for i in range(9)]
    assert [x.condition for x in lights[:8]] == list(CONDITIONS)
    assert lights[8].condition == lights[0].condition
    assert not np.allclose(lights[8].sun, lights[0].sun, atol=0.01)
    for x in lights:
        assert np.linalg.norm(x.sun) == pytest.approx(1.0)
        assert x.exposure > 0


def test_the_sky_closes_round_the_horizon(town: Town) -> None:
    sky = sky_panorama(np.random.default_rng(2), make_light(np.random.default_rng(1), "noon"), town.skyline)
    np.testing.assert_array_equal(sky[:, 0], sky[:, -1])
    steps = np.abs(np.diff(sky[:150], axis=1)).max(axis=(0, 2))
    assert steps[-1] <= np.quantile(steps, 0.99) * 1.5
