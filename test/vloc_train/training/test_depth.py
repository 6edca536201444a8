from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_drive

from vloc_ros.convert.town import town_sequence
from vloc_ros.errors import DatasetError
from vloc_ros.town import Renderer, Town, Traversal, default_camera
from vloc_ros.types import CameraModel
from vloc_train.camnet.similarity import frustum_overlap
from vloc_train.training.depth import depth_grids, grid_pixels, has_depth


class WithDepth(tiny_drive.Pictures):
    def depth(self, index: int) -> np.ndarray:
        return np.arange(36 * 64, dtype=np.float32).reshape(36, 64) + 10_000 * index


def drive(count: int = 3):
    plain = tiny_drive.drive(count)
    return replace(plain, source=WithDepth(plain.T_map_cam))


def test_depth_at_the_points_of_the_grid():
    grids = depth_grids([drive(3), drive(2)], 4)
    assert grids.shape == (5, 16) and grids.dtype == np.float32
    u, v = np.round(grid_pixels(tiny_drive.CAMERA, 4)).astype(int).T
    np.testing.assert_array_equal(grids[1], 10_000 + 64 * v + u)
    np.testing.assert_array_equal(grids[4], grids[1])


def test_drives_without_depth_say_so():
    assert has_depth([drive()]) and not has_depth([tiny_drive.drive(3)]) and not has_depth([])
    assert not has_depth([drive(), tiny_drive.drive(3)])
    with pytest.raises(DatasetError, match="depth images"):
        depth_grids([tiny_drive.drive(3)], 10)


def test_depth_of_a_distorted_camera_is_refused():
    bent = CameraModel(64, 36, 42.0, 42.0, 31.5, 17.5, "plumb_bob", (0.1, 0.0, 0.0, 0.0))
    with pytest.raises(DatasetError, match="undistorted"):
        depth_grids([replace(drive(), camera=bent)], 10)


def test_a_rendered_town_has_depth_that_agrees_with_its_geometry():
    renderer = Renderer(Town(3, 120.0), default_camera(96, 54))
    sequence = town_sequence(renderer, Traversal(renderer.town, 0, spacing_m=4.0))
    sequence = replace(sequence.select(np.arange(4)), source=sequence.source)  # a selection hides what a source can do
    assert has_depth([sequence])
    grids = depth_grids([sequence], 10)
    T = sequence.T_map_cam
    forward = frustum_overlap(T[:1], T[1:2], grids[:1], sequence.camera)
    back = frustum_overlap(T[1:2], T[:1], grids[1:2], sequence.camera)
    # Four metres ahead most was seen from behind, but not the other way round.
    assert 0.2 < float(forward[0]) < 0.8 < float(back[0])
