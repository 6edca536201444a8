"""Cameras against OpenCV, against finite differences and against their own inverses."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import CameraError
from vloc_ros.geometry import cameras
from vloc_ros.geometry.distortion import distort, distort_with_jacobian, maximum_radius, undistort
from vloc_ros.types import CameraModel

PINHOLE = CameraModel(640, 480, 517.3, 516.5, 318.6, 255.3)


def lens(model: str, *coefficients: float) -> CameraModel:
    return replace(PINHOLE, distortion_model=model, distortion=coefficients)


BROWN = {
    "four": lens("plumb_bob", -0.28, 0.07, 1e-3, -2e-4),
    "tum": lens("plumb_bob", 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    "barrel": lens("plumb_bob", -0.35, 0.15, 1e-3, -5e-4, -0.03),
    "rational": lens("rational_polynomial", 0.55, 0.06, 1e-4, -3e-5, 0.002, 0.9, 0.18, 0.012),
    "prism": lens("rational_polynomial", 0.5, 0.05, 1e-4, 1e-4, 0.0, 0.85, 0.15, 0.0, 1e-3, -2e-4, 5e-4, 1e-4),
    "tilted": lens(
        "rational_polynomial", 0.5, 0.05, 1e-4, 1e-4, 0.0, 0.85, 0.15, 0.0, 1e-3, 0.0, 0.0, 1e-4, 0.03, -0.02
    ),
}  # fmt: skip
FISHEYE = {
    "fisheye": CameraModel(640, 480, 280.0, 281.0, 322.0, 238.0, "equidistant", (-0.012, 0.004, -0.003, 4e-4)),
    "ideal": CameraModel(640, 480, 300.0, 300.0, 319.5, 239.5, "equidistant", (0.0, 0.0, 0.0, 0.0)),
}
ALL = {"pinhole": PINHOLE, **BROWN, **FISHEYE}
every_camera = pytest.mark.parametrize("camera", ALL.values(), ids=ALL.keys())


def points_in_view(camera: CameraModel, count: int = 500) -> np.ndarray:
    rng = np.random.default_rng(0)
    xy = rng.uniform(-0.55, 0.55, (count, 2))
    return np.concatenate([xy, np.ones((count, 1))], axis=1) * rng.uniform(0.5, 80.0, (count, 1))


@pytest.mark.parametrize("camera", [PINHOLE, *BROWN.values()], ids=["pinhole", *BROWN.keys()])
def test_projection_agrees_with_opencv(camera):
    p = points_in_view(camera)
    expected = cv2.projectPoints(p, np.zeros(3), np.zeros(3), camera.K, np.array(camera.distortion))[0][:, 0]
    np.testing.assert_allclose(cameras.project(camera, p)[0], expected, atol=1e-9)


@pytest.mark.parametrize("camera", FISHEYE.values(), ids=FISHEYE.keys())
def test_fisheye_projection_agrees_with_opencv(camera):
    p = points_in_view(camera) * [3.0, 3.0, 1.0]
    D = np.array(camera.distortion)
    expected = cv2.fisheye.projectPoints(p[:, None], np.zeros((3, 1)), np.zeros((3, 1)), camera.K, D)[0][:, 0]
    np.testing.assert_allclose(cameras.project(camera, p)[0], expected, atol=1e-9)


@every_camera
def test_pixels_survive_the_round_trip(camera):
    v, u = np.meshgrid(np.linspace(0, 479, 25), np.linspace(0, 639, 31), indexing="ij")
    px = np.stack([u, v], axis=-1)
    rays = cameras.unproject(camera, px)
    assert rays.shape == (25, 31, 3)
    seen = np.isfinite(rays).all(axis=-1)
    assert seen.all(), "these lenses see through every pixel"
    np.testing.assert_array_equal(rays[..., 2], 1.0)
    pixels, valid = cameras.project(camera, rays * 7.3)
    assert valid.all()
    np.testing.assert_allclose(pixels, px, atol=1e-6)


@pytest.mark.parametrize("camera", BROWN.values(), ids=BROWN.keys())
def test_undistortion_agrees_with_opencv_where_that_converges(camera):
    px = points_in_view(camera)[:, :2] / points_in_view(camera)[:, 2:] * 0.5 * camera.fx + [camera.cx, camera.cy]
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    expected = cv2.undistortPointsIter(
        px[:, None], camera.K, np.array(camera.distortion), np.eye(3), np.eye(3), criteria
    ) if hasattr(cv2, "undistortPointsIter") else cv2.undistortPoints(
        px[:, None], camera.K, np.array(camera.distortion), criteria=criteria
    )  # fmt: skip
    np.testing.assert_allclose(cameras.unproject(camera, px)[:, :2], expected[:, 0], atol=1e-6)


@given(st.floats(-0.2, 0.1), st.floats(-0.02, 0.02), st.floats(-2e-3, 2e-3), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
def test_undistort_inverts_distort_for_mild_lenses(k1, k2, p1, x, y):
    camera = lens("plumb_bob", k1, k2, p1, -p1, 0.0)
    np.testing.assert_allclose(undistort(camera, distort(camera, np.array([x, y]))), [x, y], atol=1e-8)


@given(st.floats(-0.03, 0.03), st.floats(-0.01, 0.01), st.floats(0, 1.5), st.floats(0, 6.28))
def test_undistort_inverts_distort_for_fisheyes(k1, k2, theta, direction):
    camera = lens("equidistant", k1, k2, 0.0, 0.0)
    xy = np.tan(theta) * np.array([np.cos(direction), np.sin(direction)])
    np.testing.assert_allclose(undistort(camera, distort(camera, xy)), xy, rtol=1e-6, atol=1e-9)


@every_camera
def test_jacobians_agree_with_finite_differences(camera):
    p = np.concatenate([points_in_view(camera, 40), [[0, 0, 2.0], [1e-5, 0, 1.0]]])
    J = cameras.projection_jacobian(camera, p)
    assert J.shape == (42, 2, 3)
    for axis in range(3):
        h = 1e-6 * p[:, 2:] * np.eye(3)[axis]
        difference = cameras.project(camera, p + h)[0] - cameras.project(camera, p - h)[0]
        np.testing.assert_allclose(J[:, :, axis], difference / (2 * h[:, [axis]]), rtol=1e-6, atol=2e-5)
    xy = p[:, :2] / p[:, 2:]
    _, J_lens = distort_with_jacobian(camera, xy)
    for axis in range(2):
        h = 1e-6 * np.eye(2)[axis]
        np.testing.assert_allclose(
            J_lens[..., axis], (distort(camera, xy + h) - distort(camera, xy - h)) / 2e-6, atol=1e-7
        )


def test_points_behind_beside_and_beyond_the_fold_are_not_valid():
    points = np.array([[0, 0, 1.0], [0, 0, -1.0], [0, 0, 0.0], [5, 0, 1.0], [0, -5, 1.0]])
    assert cameras.project(PINHOLE, points)[1].tolist() == [True, False, False, False, False]
    # k1 < 0 alone folds at r = sqrt(1 / (3 |k1|)); a point further out comes back into the image.
    camera = lens("plumb_bob", -0.4, 0.0, 0.0, 0.0)
    assert abs(maximum_radius(camera) - np.sqrt(1 / 1.2)) < 1e-3
    pixels, valid = cameras.project(camera, [[1.5, 0.0, 1.0], [0.3, 0.0, 1.0]])
    assert 0 < pixels[0, 0] < 640, "the formula alone would call this visible"
    assert valid.tolist() == [False, True]


def test_pixels_that_no_ray_reaches_are_nan():
    camera = replace(lens("plumb_bob", -0.4, 0.0, 0.0, 0.0), fx=300.0, fy=300.0)
    assert np.isnan(cameras.unproject(camera, [0.0, 0.0])[:2]).all()
    assert np.isfinite(cameras.unproject(camera, [318.0, 255.0])).all()
    wide = CameraModel(640, 480, 150.0, 150.0, 319.5, 239.5, "equidistant", (0.0, 0.0, 0.0, 0.0))
    assert np.isnan(cameras.unproject(wide, [0.0, 239.5])[:2]).all(), "122 degrees off the axis"


@every_camera
def test_resizing_keeps_what_is_seen(camera):
    half = cameras.resized(camera, 320, 120)
    p = points_in_view(camera, 50)
    full_px, small_px = cameras.project(camera, p)[0], cameras.project(half, p)[0]
    # Pixel centres are at integers: edges scale, centres do not.
    np.testing.assert_allclose(small_px, (full_px + 0.5) * [0.5, 0.25] - 0.5, atol=1e-9)
    np.testing.assert_allclose(cameras.field_of_view(half), cameras.field_of_view(camera), atol=1e-9)
    back = cameras.resized(half, 640, 480)
    np.testing.assert_allclose([back.fx, back.fy, back.cx, back.cy], [camera.fx, camera.fy, camera.cx, camera.cy])


def test_resizing_agrees_with_resized_images():
    # A ramp u sampled at the projected pixel must read the same in the resized image.
    ramp = np.tile(np.arange(640, dtype=np.float32), (480, 1))
    small = cv2.resize(ramp, (160, 120), interpolation=cv2.INTER_AREA)
    camera = cameras.resized(PINHOLE, 160, 120)
    ray = cameras.unproject(camera, [40.0, 60.0])
    assert abs(cameras.project(PINHOLE, ray)[0][0] - small[60, 40]) < 1e-4


def test_cropping_shifts_pixels():
    window = cameras.cropped(PINHOLE, 100, 50, 200, 300)
    assert window.size == (200, 300)
    np.testing.assert_allclose(
        cameras.project(window, [0.1, 0.2, 1])[0], cameras.project(PINHOLE, [0.1, 0.2, 1])[0] - [100, 50]
    )


def test_field_of_view():
    camera = CameraModel(1241, 376, 718.856, 718.856, 607.1928, 185.2157)
    h, v = np.degrees(cameras.field_of_view(camera))
    assert abs(h - 81.6) < 0.1 and abs(v - 29.3) < 0.1
    ideal = CameraModel(400, 400, 400 / np.pi, 400 / np.pi, 199.5, 199.5, "equidistant", (0.0, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(cameras.field_of_view(ideal), [np.pi, np.pi], atol=1e-9)
    with pytest.raises(CameraError, match="fold"):
        cameras.field_of_view(replace(lens("plumb_bob", -2.0, 0.0, 0.0, 0.0)))


@every_camera
def test_undistorted_camera_sees_source_everywhere_and_no_less_than_needed(camera):
    pinhole = cameras.undistorted_camera(camera)
    assert not pinhole.is_distorted and pinhole.size == camera.size

    def filled(c: CameraModel) -> bool:
        v, u = np.meshgrid(np.linspace(0, 479, 60), np.linspace(0, 639, 80), indexing="ij")
        return bool(cameras.project(camera, cameras.unproject(c, np.stack([u, v], -1)))[1].all())

    assert filled(pinhole)
    if pinhole.fx > camera.fx:
        assert not filled(replace(pinhole, fx=pinhole.fx * 0.999, fy=pinhole.fy * 0.999)), "zoomed more than needed"
    else:
        assert (pinhole.fx, pinhole.fy) == (camera.fx, camera.fy)


K = [517.3, 0, 318.6, 0, 516.5, 255.3, 0, 0, 1]
P = [500.0, 0, 320.0, 0, 0, 501.0, 240.0, 0, 0, 0, 1, 0]
D = [0.2624, -0.9531, -0.0054, 0.0026, 1.1633]


def test_camera_info_of_a_raw_image():
    camera = cameras.from_camera_info(640, 480, "plumb_bob", D, K, np.eye(3), P)
    assert camera == CameraModel(640, 480, 517.3, 516.5, 318.6, 255.3, "plumb_bob", tuple(D))


def test_camera_info_of_a_rectified_image_uses_the_projection_matrix():
    camera = cameras.from_camera_info(640, 480, "plumb_bob", D, K, np.eye(3), P, rectified=True)
    assert camera == CameraModel(640, 480, 500.0, 501.0, 320.0, 240.0)
    with pytest.raises(CameraError, match="P is all zero"):
        cameras.from_camera_info(640, 480, "plumb_bob", D, K, rectified=True)
    plain = cameras.from_camera_info(640, 480, "plumb_bob", [0] * 5, K, rectified=True)
    assert plain == CameraModel(640, 480, 517.3, 516.5, 318.6, 255.3)


@pytest.mark.parametrize(
    ("model", "coefficients", "expected"),
    [
        ("", [], "none"),
        ("none", [], "none"),
        ("none", [0.0] * 5, "none"),
        ("plumb_bob", [], "none"),
        ("plumb_bob", D, "plumb_bob"),
        ("", D, "plumb_bob"),
        ("plumb_bob", [*D, 0.1, 0.1, 0.0], "rational_polynomial"),
        ("rational_polynomial", D, "plumb_bob"),
        ("rational_polynomial", [*D, 0.1, 0.1, 0.0], "rational_polynomial"),
        ("equidistant", D[:4], "equidistant"),
        ("fisheye", D[:4], "equidistant"),
        ("equidistant", [*D[:4], 0.0], "equidistant"),  # five, the last 0
    ],
)
def test_distortion_models_as_drivers_spell_them(model, coefficients, expected):
    assert cameras.from_camera_info(640, 480, model, coefficients, K).distortion_model == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": [0.0] * 9}, "not calibrated"),
        ({"K": [np.nan] * 9}, "finite"),
        ({"K": [1.0] * 8}, "expected 9 values"),
        ({"D": [np.nan] * 5}, "finite"),
        ({"D": [0.1] * 3}, "coefficients"),
        ({"distortion_model": "mystery"}, "unknown distortion model"),
        ({"distortion_model": "none"}, "name the model"),
        ({"width": 0}, "positive image size"),
        ({"P": [np.inf] * 12, "rectified": True}, "finite"),
    ],
)
def test_bad_camera_info_is_refused(change, message):
    good = {"width": 640, "height": 480, "distortion_model": "plumb_bob", "D": D, "K": K}
    with pytest.raises(CameraError, match=message):
        cameras.from_camera_info(**{**good, **change})


def test_region_of_interest_and_binning():
    camera = cameras.from_camera_info(640, 480, "none", [], K, roi=(100, 40, 400, 200), binning=(2, 2))
    full = CameraModel(640, 480, 517.3, 516.5, 318.6, 255.3)
    assert camera == cameras.resized(cameras.cropped(full, 100, 40, 400, 200), 200, 100)
    assert cameras.from_camera_info(640, 480, "none", [], K, roi=(0, 0, 0, 0), binning=(1, 0)) == full
