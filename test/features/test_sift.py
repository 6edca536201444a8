"""Features of an image: where pixels lie, what is refused, and how descriptors are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vloc_ros.errors import ImageError
from vloc_ros.features import make_extractor
from vloc_ros.features.base import Described, FeatureSettings, decode_descriptors, encode_descriptors, enlargement


def blob(x: float, y: float, sigma: float = 3.0) -> np.ndarray:
    v, u = np.indices((120, 160), dtype=np.float64)
    image = 40 + 180 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
    return np.repeat(image.astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("minimum_width", [0, 320, 640])
def test_pixel_centres_are_integers_at_every_enlargement(minimum_width):
    found = make_extractor(FeatureSettings(minimum_width=minimum_width)).extract(blob(70.25, 60.5))
    away = np.linalg.norm(found.pixels - (70.25, 60.5), axis=1)
    assert away.min() < 0.1
    # A blob's feature is as large as the blob, in pixels of the image that was given.
    assert 4.0 < found.sizes[away.argmin()] < 16.0


def test_the_strongest_come_first_and_none_twice():
    coarse = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    image = np.repeat(np.repeat(coarse, 6, axis=0), 6, axis=1)
    extractor = make_extractor(FeatureSettings(limit=200))
    found, few = extractor.extract(image), extractor.extract(image, 50)
    assert 150 < len(found) <= 200 and 30 < len(few) <= 50
    assert (np.diff(found.scores) <= 0).all()
    assert len(np.unique(np.column_stack([found.pixels, found.sizes]), axis=0)) == len(found)
    assert len(Described.of(found, torch.device("cpu")).strongest(20)) == 20


def test_a_plain_image_has_none_and_a_wrong_one_is_refused():
    extractor = make_extractor()
    assert extractor.extract(np.full((60, 80, 3), 128, np.uint8)).descriptors.shape == (0, 128)
    with pytest.raises(ImageError, match=r"expected an RGB image.*float64"):
        extractor.extract(np.zeros((60, 80, 3)))


@pytest.mark.parametrize("signed", [False, True])
def test_bytes_keep_the_cosines(signed):
    rng = np.random.default_rng(1)
    unit = rng.normal(size=(300, 128))
    unit = unit if signed else np.sqrt(np.abs(unit) / np.abs(unit).sum(axis=1, keepdims=True))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    stored = encode_descriptors(unit, signed)
    assert stored.dtype == (np.int8 if signed else np.uint8)
    back = decode_descriptors(stored).double().numpy()
    assert np.abs(back @ back.T - unit @ unit.T).max() < 0.01


def test_images_are_doubled_until_they_are_wide_enough():
    assert [enlargement(w, 800) for w in (1600, 800, 416, 300, 10)] == [1, 1, 2, 4, 8]
    assert enlargement(100, 0) == 1
