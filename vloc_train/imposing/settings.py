"""Settings of the ImPosing trainer, and its two presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vloc_ros.localizers.imposing.settings import NetworkSettings, SearchSettings
from vloc_ros.settings import ranged
from vloc_train.training.settings import ImageTrainSettings

__all__ = ["TrainSettings"]

#: For two CPU cores and a quarter of an hour: a narrow backbone that keeps image positions, fewer candidates.
_SMALL = {
    "network": {
        "backbone": "resnet10t",
        "backbone_options": {"channels": [32, 64, 128, 256], "stem_width": 16, "output_stride": 16},
        "pooling": "grid",
        "pool_grid": (2, 10),
        "position_octaves": 8,
        "rotation_octaves": 4,
        "rotation_input": "matrix",
    },
    "search": {"candidates": 1024, "noise_rotation_deg": (0.3, 0.3, 5.0)},
    "augment": {"rotate_deg": (1.5, 4.0, 1.5), "shift_m": 0.5},
    "image_width": 160,
    "image_height": 90,
    "epochs": 1000,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_average": 0.998,
    "narrowing": 0.5,
    "train_candidates": 96,
    "train_initial": 512,
    "reference_vectors": True,
}


@dataclass(frozen=True)
class TrainSettings(ImageTrainSettings):
    """Everything that decides what a training run produces.

    :param network: shape of the encoders.
    :param search: the search stored in the map.
    :param image_width: of the network's input, pixels.
    :param image_height: of the network's input, pixels.
    :param batch_size: images in one step, over all devices together.
    :param train_candidates: poses a step and image for k >= 1 (paper: N = 4096).
    :param train_initial: poses of step 0, drawn for each batch and shared by its images (paper: N = 4096).
    :param width_m: the target score reaches zero at this distance: 1 / lambda_t.
    :param width_deg: the target score reaches zero at this angle: 1 / lambda_r.
    :param narrowing: widths of step k are multiplied by narrowing^(k / (K - 1)); 1 keeps them all alike (paper).
    :param narrow_after: share of the run after which narrowing begins, so that the wide kernel has converged.
    :param keep_gradient: score candidates near the truth by the bare cosine, without the ReLU, while training.
        With the ReLU their gradient dies where the cosine is negative, and the loss can rest at the mean of the target.
    :param cross_scene: weight of the scores that images get in scenes where they were not taken (multi-scene models).
        Our extension: it makes scores of different scenes comparable.
    :param uniform_noise: share of v of the uniform noise on the first candidates (paper: 1).
    :param validate_every: validations in a whole run.
    :param validation_frames: most frames localized in one validation.
    :param reference_vectors: store the training images' vectors in the map: reports then show the nearest-neighbour
        baseline.
    :param weights: storage of the weights in the map.
    """

    #: ``paper``: Section 4 of the paper.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"pretrained": True}, "small": _SMALL}

    network: NetworkSettings = field(default_factory=NetworkSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    image_width: int = ranged(240, minimum=16)
    image_height: int = ranged(135, minimum=16)
    epochs: int = ranged(250, minimum=1)
    batch_size: int = ranged(32, minimum=1)
    train_candidates: int = ranged(4096, minimum=8)
    train_initial: int = ranged(4096, minimum=8)
    width_m: float = ranged(5.0, minimum=1e-3)
    width_deg: float = ranged(10.0, minimum=1e-3)
    narrowing: float = ranged(1.0, minimum=1e-3, maximum=1.0)
    narrow_after: float = ranged(0.4, minimum=0.0, maximum=1.0)
    keep_gradient: bool = True
    cross_scene: float = ranged(1.0, minimum=0.0)
    uniform_noise: float = ranged(1.0, minimum=0.0)
    validate_every: int = ranged(10, minimum=1)
    validation_frames: int = ranged(64, minimum=1)
    reference_vectors: bool = False
    weights: Literal["float16", "int8"] = "float16"
