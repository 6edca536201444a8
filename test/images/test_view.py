"""Images of one camera as another one in the same place would have made them."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.errors import CameraError, ImageError
from vloc_ros.geometry.cameras import cropped, project, resized, unproject
from vloc_ros.images.view import ViewWarp
from vloc_ros.types import CameraModel

VIEW = CameraModel(96, 64, 80.0, 76.0, 46.0, 32.5)
LENSES = {
    "pinhole": CameraModel(200, 160, 110.0, 112.0, 98.0, 81.0),
    "plumb_bob": CameraModel(220, 160, 100.0, 100.0, 108.0, 79.0, "plumb_bob", (-0.2, 0.03, 0.001, -0.002, 0.0)),
    "rational": CameraModel(
        240, 180, 110.0, 110.0, 121.0, 88.0, "rational_polynomial", (0.1, 0.02, 0.0, 0.0, 0.0, 0.3, 0.05, 0.0)
    ),
    "fisheye": CameraModel(220, 180, 90.0, 90.0, 109.0, 90.0, "equidistant", (0.01, -0.002, 0.0, 0.0)),
}


def painted(camera: CameraModel) -> np.ndarray:
    """Colours that are smooth in the direction of the ray, so that every camera's image of them is known."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    ray = unproject(camera, np.stack([u, v], axis=-1).astype(np.float64))
    x, y = ray[..., 0], ray[..., 1]
    colour = np.stack([np.sin(5 * x), np.cos(4 * y), np.sin(3 * (x + y))], axis=-1)
    return np.nan_to_num(127.5 + 100.0 * colour).round().astype(np.uint8)


@pytest.mark.parametrize("lens", LENSES)
def test_every_lens_gives_the_same_view(lens):
    warp = ViewWarp(LENSES[lens], VIEW)
    assert warp.covered == 1.0 and warp.enlarged < 1.0
    difference = np.abs(warp.warp(painted(LENSES[lens])).astype(int) - painted(VIEW))
    assert difference.max() <= 4 and difference.mean() < 1.0


def test_what_is_not_seen_shows_the_nearest_pixel_and_its_share_is_stated():
    part = cropped(VIEW, 24, 16, 48, 32)  # the middle half of each side
    warp = ViewWarp(part, VIEW)
    assert warp.covered == pytest.approx(0.25, abs=0.01) and warp.enlarged == pytest.approx(1.0)
    image = painted(VIEW)
    seen = warp.warp(np.ascontiguousarray(image[16:48, 24:72]))
    np.testing.assert_array_equal(seen[16:48, 24:72], image[16:48, 24:72])
    np.testing.assert_array_equal(seen, np.pad(image[16:48, 24:72], ((16, 16), (24, 24), (0, 0)), mode="edge"))
    behind = CameraModel(96, 64, 80.0, 76.0, 2000.0, 32.5)
    assert ViewWarp(behind, VIEW).covered == 0.0 and ViewWarp(behind, VIEW).warp(image).shape == image.shape


def test_pixels_are_averaged_when_there_are_many_and_counted_when_few():
    many, few = resized(VIEW, 960, 640), resized(VIEW, 24, 16)
    noise = np.random.default_rng(0).integers(0, 256, (640, 960, 3), dtype=np.uint8)
    warp = ViewWarp(many, VIEW)
    assert warp.enlarged == pytest.approx(0.1, rel=1e-3)
    assert warp.warp(noise).std() < 15.0, "noise of 10 x 10 pixels averages out; sampled it would stay at 74"
    assert ViewWarp(few, VIEW).enlarged == pytest.approx(4.0, rel=1e-3)
    squeezed = resized(VIEW, 24, 64)
    assert ViewWarp(squeezed, VIEW).enlarged == pytest.approx(4.0, rel=1e-3)


def test_a_view_of_a_pixel_is_where_it_projects():
    warp, rng = ViewWarp(LENSES["fisheye"], VIEW), np.random.default_rng(1)
    for u, v in rng.integers((8, 8), (88, 56), (10, 2)):
        at, valid = project(LENSES["fisheye"], unproject(VIEW, np.array([float(u), float(v)])))
        assert valid
        image = np.zeros((180, 220, 3), np.uint8)
        x, y = np.round(at).astype(int)
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
        assert warp.warp(image)[v, u].min() > 150


def test_an_image_of_another_size_and_a_camera_of_none():
    with pytest.raises(ImageError, match=r"220x180.*found 100x50"):
        ViewWarp(LENSES["fisheye"], VIEW).warp(np.zeros((50, 100, 3), np.uint8))
    with pytest.raises(CameraError, match="megapixels"):
        ViewWarp(CameraModel(20000, 20000, 15000.0, 15000.0, 9999.5, 9999.5), resized(VIEW, 40000, 20000))
