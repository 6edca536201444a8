"""The poses that a map was made from, wherever its backend keeps them: reports compare with them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_drive
import torch

from vloc_ros.localizers.base import load_localizer
from vloc_ros.maps import MapManifest, Scene, read_map, write_map
from vloc_ros.replay.about import map_references
from vloc_ros.types import Query


@pytest.mark.parametrize("backend", ["retrieval", "copr", "irpnet", "camnet", "cascade"])
def test_nearest_reference_is_a_row_of_the_references(backend):
    pytest.importorskip("lightning", reason="the maps are made by trainers, which need the extra [train]")
    import tiny_maps

    path = tiny_maps.tiny_map(backend)
    references = map_references(read_map(path))["map"]
    lap = tiny_drive.drive(40)
    with load_localizer(path, device="cpu") as localizer:
        np.testing.assert_allclose(references, localizer.reference_poses("map"), atol=1e-6)
        estimate = localizer.localize(Query(lap.image(3), lap.camera, 1))
    nearest = references[int(estimate.diagnostics["nearest_reference"])]
    # An image that the map holds, or (IRPNet's other lap) one taken within a step of it.
    assert np.linalg.norm(nearest[:3, 3] - lap.T_map_cam[3, :3, 3]) < 1.5


def test_a_map_without_them_has_none(tmp_path):
    scene = Scene("map", "map", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    manifest = MapManifest("none", (scene,), tiny_drive.CAMERA)
    bundle = write_map(tmp_path / "map", manifest, {"weights.safetensors": {"w": torch.ones(3)}})
    assert map_references(bundle) == {}
