"""Fits, intrinsics, normalisation, and which cameras a map accepts."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import CameraMismatchError, ConfigError, ImageError
from vloc_ros.geometry.cameras import cropped, project, resized, undistorted_camera
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.types import CameraModel

KITTI = CameraModel(1241, 376, 718.856, 718.856, 607.1928, 185.2157)
KITTI_SMALL = CameraModel(416, 128, 240.97, 244.72, 203.54, 63.05)
FITS = ["squash", "crop", "pad"]


def spot(camera: CameraModel, point: np.ndarray) -> np.ndarray:
    """An image that is bright where the camera sees the point."""
    u, v = project(camera, point)[0]
    grid_v, grid_u = np.indices((camera.height, camera.width))
    bright = 255 * np.exp(-((grid_u - u) ** 2 + (grid_v - v) ** 2) / (2 * 12.0**2))
    return np.repeat(bright[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(240, 135), (320, 96), (100, 200), (1600, 500)])
def test_the_camera_agrees_with_the_pixels(fit, size):
    preprocess = Preprocess(*size, fit=fit, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    point = np.array([0.03, -0.02, 1.0])
    out = preprocess.apply_uint8(spot(KITTI, point))
    assert out.shape == (size[1], size[0], 3) and out.dtype == np.uint8
    camera = preprocess.camera(KITTI)
    assert camera.size == size
    weight = out[..., 0].astype(float)
    grid_v, grid_u = np.indices(weight.shape)
    centre = np.array([(grid_u * weight).sum(), (grid_v * weight).sum()]) / weight.sum()
    np.testing.assert_allclose(centre, project(camera, point)[0], atol=0.12)


def test_squash_scales_the_axes_independently_and_keeps_the_whole_view():
    camera = Preprocess(240, 135).camera(KITTI)
    assert camera == resized(KITTI, 240, 135)
    assert abs(camera.fx / camera.fy - (240 / 1241) / (135 / 376)) < 1e-12


def test_crop_keeps_the_aspect_of_pixels():
    camera = Preprocess(240, 135, fit="crop").camera(KITTI)
    assert abs(camera.fx / camera.fy - 1) < 0.01


def test_pad_adds_bars_that_are_zero_in_the_tensor():
    preprocess = Preprocess(240, 135, fit="pad")
    tensor = preprocess.apply(np.full((376, 1241, 3), 250, np.uint8))
    inside = (tensor > 1).all(dim=0)
    assert inside[67].all() and not inside[:20].any() and not inside[-20:].any()
    assert float(tensor[:, :20].abs().max()) < 0.01


@pytest.mark.parametrize("fit", FITS)
def test_tensor(fit):
    preprocess = Preprocess(240, 135, fit=fit)
    image = np.random.default_rng(0).integers(0, 256, (376, 1241, 3), dtype=np.uint8)
    tensor = preprocess.apply(image)
    assert tensor.shape == (3, 135, 240) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    expected = (preprocess.apply_uint8(image) / 255.0 - preprocess.mean) / preprocess.std
    np.testing.assert_allclose(tensor.numpy(), expected.transpose(2, 0, 1), atol=1e-5)
    cached = torch.from_numpy(preprocess.apply_uint8(image)).permute(2, 0, 1)[None]
    torch.testing.assert_close(preprocess.normalize(cached)[0], tensor)


def test_the_given_image_is_not_changed_and_may_be_read_only():
    image = np.random.default_rng(0).integers(0, 256, (135, 240, 3), dtype=np.uint8)
    before = image.copy()
    image.flags.writeable = False
    Preprocess(240, 135).apply(image)
    np.testing.assert_array_equal(image, before)


def test_shrinking_averages_over_the_area():
    stripes = np.zeros((40, 60, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (Preprocess(20, 10).apply_uint8(stripes).astype(int) - 100).__abs__().max() <= 34
    assert (Preprocess(30, 20).apply_uint8(stripes) == 100).all()


def test_the_same_lens_at_another_resolution_passes():
    for fit in FITS:
        preprocess = Preprocess(240, 135, fit=fit)
        preprocess.check(KITTI, KITTI_SMALL)
        preprocess.check(KITTI_SMALL, KITTI)
        preprocess.check(resized(KITTI, 620, 188), KITTI)
    a, b = Preprocess(240, 135).camera(KITTI), Preprocess(240, 135).camera(KITTI_SMALL)
    np.testing.assert_allclose([a.fx, a.fy, a.cx, a.cy], [b.fx, b.fy, b.cx, b.cy], rtol=0.02)


@given(st.floats(0.5, 2.0))
def test_field_of_view_limit_is_where_it_is_stated(factor):
    camera = CameraModel(640, 480, 500.0 * factor, 500.0 * factor, 319.5, 239.5)
    reference = CameraModel(640, 480, 500.0, 500.0, 319.5, 239.5)
    ratios = [np.arctan(n / camera.fx) / np.arctan(n / 500.0) for n in (320, 240)]
    preprocess = Preprocess(240, 135, fov_tolerance=0.1)
    worst = max(abs(r - 1) for r in ratios)
    if worst < 0.0999:
        preprocess.check(camera, reference)
    elif worst > 0.1001:
        with pytest.raises(CameraMismatchError, match="field of view"):
            preprocess.check(camera, reference)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (replace(KITTI, fx=900.0, fy=900.0), "horizontal field of view"),
        (replace(KITTI, fy=800.0), "vertical field of view"),
        (cropped(KITTI, 0, 0, 1241, 300), "vertical field of view"),
        (cropped(KITTI, 0, 0, 900, 376), "horizontal field of view"),
        (replace(KITTI, fx=718.856 * 0.965, fy=718.856 * 1.035), "aspect"),
        (replace(KITTI, cx=607.0 + 80.0), "principal point"),
        (replace(KITTI, cy=185.0 + 25.0), "principal point"),
    ],
)
def test_other_views_are_refused(query, message):
    with pytest.raises(CameraMismatchError, match=message):
        Preprocess(240, 135).check(query, KITTI)


def test_crop_compares_what_is_left_after_cropping():
    wide = CameraModel(1920, 1080, 1000.0, 1000.0, 959.5, 539.5)
    narrow = cropped(wide, 240, 0, 1440, 1080)
    Preprocess(200, 200, fit="crop").check(wide, narrow)
    with pytest.raises(CameraMismatchError):
        Preprocess(200, 200).check(wide, narrow)


def test_distorted_cameras_are_compared_by_their_rectified_views():
    raw = CameraModel(640, 480, 517.3, 516.5, 318.6, 255.3, "plumb_bob", (0.2624, -0.9531, -0.0054, 0.0026, 1.1633))
    Preprocess(240, 135).check(raw, undistorted_camera(raw))
    Preprocess(240, 135).check(undistorted_camera(raw), raw)


def test_settings_round_trip_through_json():
    preprocess = Preprocess(240, 135, fit="crop", fov_tolerance=0.1)
    assert Preprocess.from_settings(json.loads(json.dumps(preprocess.settings()))) == preprocess


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 240}, "height"),
        ({"width": 240, "height": 0}, "positive size"),
        ({"width": 240, "height": 135, "fit": "stretch"}, "squash, crop, pad"),
        ({"width": 240, "height": 135, "depth": 3}, "unknown field 'depth'"),
        ({"width": 240, "height": 135, "std": [0.0, 1.0, 1.0]}, "positive deviations"),
        ({"width": 240, "height": 135, "mean": [0.5]}, "mean: expected 3 values"),
        ({"width": 240, "height": 135, "fov_tolerance": -1}, "fov_tolerance"),
        ({"width": 240, "height": 135, "fov_tolerance": float("nan")}, "fov_tolerance"),
        ({"width": "wide", "height": 135}, "preprocessing"),
        ({"width": 64.5, "height": 64}, "width: expected int"),
        ({"width": True, "height": 64}, "width: expected int"),
        ({"width": 30000, "height": 64}, "at most 8192 pixels a side, found 30000x64"),
        ({"width": 64, "height": 64, "std": [1e14, 1.0, 1.0]}, "deviations"),
        ({"width": 64, "height": 64, "std": [1e-30, 1.0, 1.0]}, "deviations"),
        ({"width": 64, "height": 64, "mean": [1e14, 1.0, 1.0]}, "means"),
        ({"width": 64, "height": 64, "fit": 3}, "fit: expected str"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Preprocess.from_settings(settings)


@pytest.mark.parametrize("bad", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)])
def test_bad_images_are_refused(bad):
    with pytest.raises(ImageError, match="uint8 RGB"):
        Preprocess(240, 135).apply(bad)


@pytest.mark.parametrize("name", ["kitti00_416x128", "kitti00_full_res"])
def test_real_frames(shared_data, name):
    folder = shared_data(name)
    path = sorted((folder / ("rgb" if name.endswith("128") else "left")).iterdir())[0]
    image = np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])
    tensor = Preprocess(240, 135).apply(image)
    assert tensor.shape == (3, 135, 240)
    assert 0.3 < float(tensor.std()) < 3
