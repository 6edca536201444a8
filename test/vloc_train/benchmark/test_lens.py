"""Drives seen by another lens: what their cameras and images are."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_street

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.cameras import field_of_view, project, unproject
from vloc_train.benchmark.lens import Lens, seen_by


def test_a_crop_is_the_part_of_the_image():
    drive = tiny_street.drive(2)
    part = seen_by(Lens(window=(0.25, 0.0, 0.5, 0.75)), drive)
    width, height = drive.camera.size
    left = round(0.25 * width)
    expected = drive.image(1)[: part.camera.height, left : left + part.camera.width]
    assert part.camera.size == (round(0.5 * width), round(0.75 * height))
    np.testing.assert_array_equal(part.image(1), expected)
    np.testing.assert_array_equal(dict(part.frames())[1], expected)
    np.testing.assert_array_equal(part.T_map_cam, drive.T_map_cam)


def test_a_zoom_has_another_focal_length_and_the_same_size():
    camera = tiny_street.CAMERA
    zoomed = Lens(window=(1 / 6, 1 / 6, 2 / 3, 2 / 3), scale=1.5).camera(camera)
    assert zoomed.fx == pytest.approx(1.5 * camera.fx, rel=0.02)
    np.testing.assert_allclose(zoomed.size, camera.size, atol=2)


def test_a_fisheye_sees_its_angle_and_shows_what_was_there():
    drive = tiny_street.drive(1)
    lens = Lens(fisheye_deg=50.0).camera(drive.camera)
    assert np.degrees(field_of_view(lens)[0]) == pytest.approx(50.0, abs=0.5) and lens.distortion_model == "equidistant"
    seen, image = seen_by(Lens(fisheye_deg=50.0), drive).image(0), drive.image(0)
    for u, v in ((60.0, 40.0), (100.0, 60.0), (30.0, 70.0)):
        at, valid = project(drive.camera, unproject(lens, np.array([u, v])))
        assert valid
        x, y = np.floor(at).astype(int)
        around = image[y - 1 : y + 3, x - 1 : x + 3].reshape(-1, 3).astype(int)
        assert (seen[int(v), int(u)] >= around.min(0) - 2).all() and (seen[int(v), int(u)] <= around.max(0) + 2).all()


@pytest.mark.parametrize("window", [(0.5, 0.0, 0.6, 1.0), (-0.1, 0.0, 0.5, 0.5), (0.0, 0.0, 0.0, 1.0)])
def test_a_window_beyond_the_image(window):
    with pytest.raises(ConfigError, match="inside the image"):
        Lens(window=window)
