"""Synthetic drives as bags."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.convert.town import convert_town
from vloc_ros.datasets import open_sequence
from vloc_ros.errors import BagError, ConfigError
from vloc_ros.town import Renderer, Town, Traversal, default_camera

SMALL = {"width": 48, "height": 27, "frames": "0:60:20"}


def test_bags_hold_the_drives_exactly(tmp_path):
    paths = convert_town(tmp_path, seed=3, loop_m=150.0, traversals=2, first=1, **SMALL)
    assert [p.name for p in paths] == ["traversal_1", "traversal_2"]
    town = Town(3, 150.0)
    drive, found = Traversal(town, 2), open_sequence(paths[1])
    np.testing.assert_array_equal(found.stamps_ns, drive.stamps_ns[0:60:20])
    np.testing.assert_allclose(found.T_map_cam, drive.T_map_cam[0:60:20], atol=1e-9)
    np.testing.assert_allclose(found.T_odom_base, drive.T_odom_base[0:60:20], atol=1e-9)
    expected = Renderer(town, default_camera(48, 27)).render(drive, 40).rgb
    np.testing.assert_array_equal(found.image(2), expected)


def test_bad_requests_fail_before_rendering(tmp_path):
    with pytest.raises(ConfigError, match="traversals"):
        convert_town(tmp_path, seed=1, traversals=0)
    with pytest.raises(ConfigError, match="lights"):
        convert_town(tmp_path, seed=1, traversals=2, lights=["ultraviolet"])
    wrong = {"width": 1, "height": 10**6, "seed": -1, "traffic": -1.0, "laps": float("nan"), "first": -1}
    for name, value in wrong.items():
        with pytest.raises(ConfigError, match=r"expected.*found"):
            convert_town(tmp_path, **{"seed": 1, "traversals": 1, name: value})
    assert not list(tmp_path.iterdir())
    (tmp_path / "traversal_0").mkdir()
    with pytest.raises(BagError, match="already exists"):
        convert_town(tmp_path, seed=1, traversals=1)
