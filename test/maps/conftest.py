from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vloc_ros.geometry.geodesy import Datum
from vloc_ros.maps import MapManifest, Scene, write_map
from vloc_ros.types import CameraModel


@pytest.fixture
def manifest() -> MapManifest:
    return MapManifest(
        backend="imposing",
        scenes=(Scene("town", "map", (0.0, -5.0, 0.0), (100.0, 50.0, 2.0), Datum(48.1, 11.5, 520.0)),),
        camera=CameraModel(240, 135, 200.0, 201.0, 119.5, 67.0, "plumb_bob", (0.1, -0.05, 0.0, 0.0)),
        preprocessing={"width": 240, "height": 135},
        settings={"network": {"embed_dim": 256, "pool_grid": [2, 4]}, "rate": 1e-5},
        provenance={"commit": "abc", "data": ["a", "b"]},
        validation={"median_translation_m": 0.4},
        calibration={"scale": [1.0, 2.0]},
    )


@pytest.fixture
def tensors() -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weights.safetensors": {
            "layer.weight": torch.randn(4, 3, 3, 3, generator=generator),
            "layer.bias": torch.randn(4, generator=generator).half(),
            "steps": torch.arange(3),
        },
        "scenes/town.safetensors": {"poses": torch.randn(10, 7, generator=generator, dtype=torch.float64)},
    }


@pytest.fixture
def map_dir(tmp_path: Path, manifest: MapManifest, tensors: dict[str, dict[str, torch.Tensor]]) -> Path:
    write_map(tmp_path / "town", manifest, tensors)
    return tmp_path / "town"
