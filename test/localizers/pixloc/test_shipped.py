"""The features that come with the package."""

import torch

from vloc_ros.localizers.pixloc.model import read_model
from vloc_ros.maps import read_map
from vloc_ros.maps.describe import verify_map
from vloc_ros.resources import share_path

FEATURES = share_path("models", "pixloc_features")


def test_the_shipped_features_are_whole_and_small():
    assert all(check.passed for check in verify_map(FEATURES))
    assert sum(f.stat().st_size for f in FEATURES.iterdir()) < 2_000_000


def test_the_shipped_features_have_the_levels_that_their_manifest_says():
    bundle = read_map(FEATURES)
    model = read_model(bundle).eval()
    levels = model.network(torch.zeros(1, 3, 96, 160))
    said = bundle.manifest.settings["network"]
    assert [level.stride for level in levels] == list(reversed(said["strides"]))
    assert [level.features.shape[1] for level in levels] == list(reversed(said["dimensions"]))
    assert all(torch.isfinite(level.features).all() for level in levels)
