"""Frames without anything to see are refused; dark but real ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.errors import ImageError
from vloc_ros.images.content import check_content

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers():
    """In whatever order the tests run."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def scene(contrast: float, brightness: float, shape: tuple[int, int] = (376, 1241)) -> np.ndarray:
    v, u = np.indices(shape)
    pattern = np.sin(u / 17.0) * np.cos(v / 23.0) + RNG.normal(0, 0.2, shape)
    return np.clip(brightness + contrast * pattern[..., None] * [1.0, 0.9, 0.8], 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(376, 1241), (8, 8), (135, 240)])
def test_scenes_pass(size):
    check_content(scene(40, 120, size))


def test_dark_night_scene_passes():
    check_content(scene(8, 12))


@pytest.mark.parametrize("size", [(376, 1241), (1, 1), (3, 500)])
@pytest.mark.parametrize(
    ("colour", "message"), [((0, 0, 0), "all black"), ((255, 255, 255), "one colour"), ((10, 200, 30), r"10, 200, 30")]
)
def test_one_colour_is_refused(size, colour, message):
    with pytest.raises(ImageError, match=message):
        check_content(np.full((*size, 3), colour, np.uint8))


def test_sensor_noise_alone_is_refused():
    noise = np.clip(RNG.normal(4, 1.2, (480, 640, 3)), 0, 255).astype(np.uint8)
    with pytest.raises(ImageError, match="black"):
        check_content(noise)


def test_structure_in_one_channel_counts():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:, 2] = 80
    check_content(image)


def test_empty_image_is_refused():
    with pytest.raises(ImageError, match="empty"):
        check_content(np.zeros((0, 5, 3), np.uint8))
