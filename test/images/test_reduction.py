"""Reduced images and their cameras see the same: a point lies at the same share of both."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_drive
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.geometry.cameras import project
from vloc_ros.images.reduction import reduced_camera, reduced_image
from vloc_ros.types import CameraModel


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 3000))
def test_the_longer_side_is_bounded_and_points_stay_where_they_are(width, height, side):
    camera = CameraModel(
        width, height, 0.8 * width, 0.9 * height, 0.45 * width, 0.55 * height, "plumb_bob", (0.1, 0.01, 0, 0)
    )
    small = reduced_camera(camera, side)
    if max(width, height) <= side:
        assert small is camera
        return
    assert max(small.size) == side and min(small.size) >= 1
    points = np.array([[0.1, -0.2, 2.0], [-0.3, 0.1, 1.0], [0.0, 0.0, 5.0]])
    (full, _), (reduced, _) = project(camera, points), project(small, points)
    np.testing.assert_allclose((reduced + 0.5) / small.size, (full + 0.5) / camera.size, atol=1e-9)


def test_no_bound():
    camera = CameraModel(5000, 3000, 1.0, 1.0, 0.0, 0.0)
    assert reduced_camera(camera, 0) is camera


def test_pixels_are_means_of_areas():
    camera = CameraModel(8, 6, 8.0, 8.0, 3.5, 2.5)
    image = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    small = reduced_camera(camera, 4)
    assert small.size == (4, 3) and small.cx == pytest.approx(1.5)
    means = image.reshape(3, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(reduced_image(image, small), means, atol=0.51)
    assert reduced_image(image, camera) is image


def test_a_drive_of_smaller_images():
    drive = tiny_drive.drive(5)
    small = drive.reduced(drive.camera.width // 2)
    assert drive.reduced(drive.camera.width) is drive and small.camera == reduced_camera(
        drive.camera, small.camera.width
    )
    part = small.select(np.array([1, 3]))
    frames = dict(part.frames())
    for number, index in enumerate((1, 3)):
        expected = reduced_image(drive.image(index), small.camera)
        np.testing.assert_array_equal(frames[number], expected)
        np.testing.assert_array_equal(part.image(number), expected)
    assert part.camera == small.camera and part.stamps_ns.tolist() == drive.stamps_ns[[1, 3]].tolist()
