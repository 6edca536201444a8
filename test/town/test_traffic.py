from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.town import Renderer, Town, Traversal, default_camera
from vloc_ros.town.textures import remap

TOWN = Town(seed=1, loop_m=120.0)


@pytest.mark.parametrize("lane", [1.75, 0.0, -1.0, -1.75])
def test_nothing_drives_through_the_camera_in_any_lane(lane):
    """Dense traffic: no moving surface comes nearer than a vehicle's length that was left out allows."""
    drive = Traversal(TOWN, 3, spacing_m=2.0, lane_offset_m=lane, weave_m=0.0, traffic=6.0)
    renderer = Renderer(TOWN, default_camera(32, 18))
    nearest = []
    for index in range(len(drive)):
        rendered = renderer.render(drive, index)
        if rendered.moving.any():
            nearest.append(float(rendered.depth[rendered.moving].min()))
    assert nearest and min(nearest) > 0.8


def test_no_pixels_of_a_texture():
    assert remap(np.zeros((4, 4, 3), np.uint8), np.zeros(0, np.float32), np.zeros(0, np.float32)).shape == (0, 3)
