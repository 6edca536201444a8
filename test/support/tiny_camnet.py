"""CamNet maps small enough for tests: random encoders, and regressors that answer what a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tiny_drive
import tiny_job
import torch

from vloc_ros.localizers.camnet.network import CamNetNetwork
from vloc_ros.localizers.camnet.settings import InferenceSettings, NetworkSettings
from vloc_train.camnet.export import map_contents
from vloc_train.camnet.settings import MiningSettings, TrainSettings
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.frames import FrameSet

NETWORK = {
    "backbone": "resnet10t", "backbone_options": {"channels": [8, 16, 24, 32]}, "hidden": 16,
    "pooling": "grid", "pool_grid": (2, 2), "feature_dim": 24,
}  # fmt: skip


def network(
    coarse: Sequence[float] = (0, 0, 0), precise: Sequence[float] = (0, 0, 0), seed: int = 0, **changes
) -> CamNetNetwork:
    """Random encoders; regressors that always answer these translations (body frame: camera axes) and no rotation."""
    torch.manual_seed(seed)
    made = CamNetNetwork(NetworkSettings(**{**NETWORK, **changes}))
    with torch.no_grad():
        for regressor, answer in ((made.pfr_pair, coarse), (made.prp_pair, precise)):
            regressor.last.weight.zero_()
            regressor.last.bias.copy_(torch.tensor([*answer, 0.0, 0.0, 0.0, 1.0]))
    return made.eval()


def written(path: Path, scenes: Sequence[FrameSet], made: CamNetNetwork | None = None, **inference) -> Path:
    """A map whose database are these frames."""
    settings = InferenceSettings(**inference)
    contents = map_contents(made or network(), scenes, settings, tiny_drive.preprocess())
    tiny_job.written(contents, "camnet", scenes, tiny_drive.preprocess(), path, provenance={"data": "test"})
    return path


def lap(count: int = 20, scene: str = "map", phase: float = 0.0, paint: int = 0) -> FrameSet:
    """Frames of one lap."""
    return tiny_drive.frames(count, scene, phase, paint)


def train_settings(**changes) -> TrainSettings:
    """A trainer small enough for seconds."""
    base = {
        "network": NetworkSettings(**NETWORK), "image_width": tiny_drive.WIDTH, "image_height": tiny_drive.HEIGHT,
        "epochs": 2, "batch_size": 8, "optimizer": "adamw", "learning_rate": 3e-3, "schedule": "cosine",
        "precision": "float32", "rotation_weight": 10.0, "pairs": "group", "weight_average": 0.9,
        "mining": MiningSettings(similarity="assumed_depth", reach_m=8.0),
        "inference": InferenceSettings(rotation_weight_m=18.0),
        "augment": AugmentSettings(photometric=0.1, blur=0.0, erase=0.0, rotate_deg=(0.0, 1.0, 0.0)),
    }  # fmt: skip
    return TrainSettings(**{**base, **changes})


def positions(T: np.ndarray) -> np.ndarray:
    """(..., 3) positions of transforms."""
    return T[..., :3, 3]
