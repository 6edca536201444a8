"""Extractors and settings small enough to train in some seconds on the drives of :mod:`tiny_drive`."""

from __future__ import annotations

from typing import Any

import torch

from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.retrieval.descriptor import Descriptor, build_extractor, preprocess_for
from vloc_ros.localizers.retrieval.extractors import Extractor
from vloc_ros.localizers.retrieval.settings import ExtractorSettings
from vloc_train.retrieval.settings import TrainSettings

SHAPE: dict[str, Any] = {
    "backbone": "resnet10t",
    "backbone_options": {"channels": [8, 16, 24, 32], "stem_width": 8},
    "image_width": 64,
    "image_height": 36,
    "precision": "float32",
}


def extractor(seed: int = 0, **changes: Any) -> Extractor:
    """Random weights; raw 32-D vectors of average pooling unless changed."""
    torch.manual_seed(seed)
    return build_extractor(ExtractorSettings(**{**SHAPE, "normalise": False, **changes})).eval()


def descriptor(seed: int = 0, **changes: Any) -> Descriptor:
    """Of :func:`extractor`."""
    made = extractor(seed, **changes)
    return Descriptor(made, preprocess_for(made.settings), torch.device("cpu"))


def preprocess() -> Preprocess:
    """Of its images."""
    return Preprocess(64, 36)


def settings(kind: str = "distance", **changes: Any) -> TrainSettings:
    """The small preset on tiny images; learns a lap of :func:`tiny_drive.drive` in some seconds."""
    base: dict[str, Any] = {
        "extractor": {**SHAPE, **changes.pop("extractor", {})},
        "loss": {"kind": kind, **changes.pop("loss", {})},
        "sampling": {"batch_size": 16, "group_size": 4, "near_m": 8.0, "near_deg": None, "positive_m": 4.0,
                     "positive_deg": None, **changes.pop("sampling", {})},
        "augment": {"photometric": 0.2, "blur": 0.0, "erase": 0.0, "rotate_deg": [0.0, 0.0, 0.0]},
        "epochs": 30, "max_minutes": None, "learning_rate": 3e-3, "weight_average": 0.9,
        "precision": "float32", "validate_every": 2, "fit_images": 40,
    }  # fmt: skip
    return TrainSettings.preset("small", {**base, **changes}, "test")
