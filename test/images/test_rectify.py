"""Rectified images against OpenCV and against the geometry."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vloc_ros.errors import CameraError, ImageError
from vloc_ros.geometry.cameras import project, unproject
from vloc_ros.images.rectify import Rectifier
from vloc_ros.types import CameraModel

TUM = CameraModel(640, 480, 517.3, 516.5, 318.6, 255.3, "plumb_bob", (0.2624, -0.9531, -0.0054, 0.0026, 1.1633))
FISHEYE = CameraModel(640, 480, 250.0, 251.0, 322.0, 238.0, "equidistant", (-0.012, 0.004, -0.003, 4e-4))


def noise() -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8), (0, 0), 3)


def test_agrees_with_opencv():
    rectifier = Rectifier(TUM)
    image, pinhole = rectifier.rectify(noise())
    expected = cv2.undistort(noise(), TUM.K, np.array(TUM.distortion), newCameraMatrix=pinhole.K)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= 1
    assert rectifier.coverage == 1.0


def test_fisheye_agrees_with_opencv():
    image, pinhole = Rectifier(FISHEYE).rectify(noise())
    expected = cv2.fisheye.undistortImage(noise(), FISHEYE.K, np.array(FISHEYE.distortion), Knew=pinhole.K)
    assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("camera", [TUM, FISHEYE])
def test_a_point_lands_where_the_pinhole_camera_says(camera):
    point = np.array([0.3, -0.2, 1.5])
    (u, v), valid = project(camera, point)
    assert valid
    image = np.zeros((480, 640, 3), np.uint8)
    grid_v, grid_u = np.indices((480, 640))
    image[..., 0] = np.clip(255 * np.exp(-((grid_u - u) ** 2 + (grid_v - v) ** 2) / 18.0), 0, 255)
    out, pinhole = Rectifier(camera).rectify(image)
    weight = out[..., 0].astype(float)
    centre = np.array([(grid_u * weight).sum(), (grid_v * weight).sum()]) / weight.sum()
    np.testing.assert_allclose(centre, project(pinhole, point)[0], atol=0.15)


def test_without_distortion_the_image_passes_untouched():
    camera = CameraModel(640, 480, 500, 500, 320, 240, "plumb_bob", (0.0,) * 5)
    image = noise()
    out, pinhole = Rectifier(camera).rectify(image)
    assert out is image
    assert not pinhole.is_distorted


def test_another_target_camera_warps_and_reports_its_coverage():
    target = CameraModel(320, 200, 400.0, 400.0, 159.5, 99.5)
    rectifier = Rectifier(TUM, target)
    out, camera = rectifier.rectify(noise())
    assert out.shape == (200, 320, 3) and camera == target and rectifier.coverage == 1.0
    wide = Rectifier(TUM, CameraModel(320, 200, 60.0, 60.0, 159.5, 99.5))
    out, _ = wide.rectify(noise())
    assert wide.coverage < 0.5 and (out[0, 0] == 0).all()


def test_another_size_is_refused():
    with pytest.raises(ImageError, match="640x480"):
        Rectifier(TUM).rectify(np.zeros((240, 320, 3), np.uint8))


def test_tables_are_made_in_bands_of_rows():
    """6 bytes a pixel and some for a band: 72 MB for a lens of 12 megapixels."""
    import tracemalloc

    camera = CameraModel(2000, 1500, 1500.0, 1500.0, 999.5, 749.5, "plumb_bob", (-0.1, 0.02, 0.0, 0.0))
    tracemalloc.start()
    try:
        rectifier = Rectifier(camera)
        assert tracemalloc.get_traced_memory()[0] < 1e6, "no tables before there is an image"
        map1, map2, _, _ = rectifier._tables
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 3e6 + 150e6, peak
    u, v = np.meshgrid(np.arange(0, 2000, 333), np.arange(0, 1500, 250))
    wanted = project(camera, unproject(rectifier.target, np.stack([u, v], axis=-1).astype(float)))[0]
    step = 1.0 / 32.0  # of cv2's fixed-point tables
    found = map1[v, u] + np.stack([map2[v, u] % 32, map2[v, u] // 32], -1) * step
    np.testing.assert_allclose(found, wanted, atol=step)


@pytest.mark.parametrize("size", [(60000, 60000), (40000, 1000)])
def test_cameras_that_nobody_has_are_refused_before_anything_is_made(size):
    camera = CameraModel(*size, 30000.0, 30000.0, size[0] / 2, size[1] / 2, "plumb_bob", (-0.1, 0.0, 0.0, 0.0))
    with pytest.raises(CameraError, match=f"found {size[0]}x{size[1]}"):
        Rectifier(camera)
