"""Settings of the trainer of CoPR's regressor H, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vloc_ros.localizers.copr.settings import RegressorSettings
from vloc_ros.localizers.retrieval.localizer import RetrievalSettings
from vloc_ros.settings import ranged
from vloc_train.training.settings import TrainSettings as BaseSettings

__all__ = ["PairSettings", "TrainSettings"]

#: For streets, two CPU cores and some minutes: H learns what changes, for steps as long as a sparse map's gaps.
_SMALL = {
    "regressor": {"standardise": True, "translation_scale_m": 10.0, "residual": True, "skip": True},
    "pairs": {"radius_m": 18.0, "max_angle_deg": 60.0, "noise": 0.3},
    "epochs": 60,
    "anchors_per_frame": 8,
    "schedule": "cosine",
}


@dataclass(frozen=True)
class PairSettings:
    """Which descriptor pairs H learns from. The paper pairs what its data sets offer; the limits are our choice.

    :param radius_m: farthest target of an anchor. Densification warns of targets beyond it.
    :param max_angle_deg: and the largest turn between the two; 180 takes any.
    :param across_drives: anchor and target may be of different drives; otherwise both are of one drive, in one light.
    :param noise: anchors' descriptors are blurred by so many of their spreads, so that H does not learn drives by
        heart; 0 is the paper's.
    :param batch_size: pairs in one step.
    """

    radius_m: float = ranged(10.0, minimum=0.01, maximum=1e4)
    max_angle_deg: float = ranged(180.0, minimum=0.1, maximum=180.0)
    across_drives: bool = True
    noise: float = ranged(0.0, minimum=0.0, maximum=100.0)
    batch_size: int = ranged(256, minimum=1)


@dataclass(frozen=True)
class TrainSettings(BaseSettings):
    """Everything that decides what a training run of H produces.

    :param regressor: the network.
    :param pairs: what it learns from.
    :param loss: ``mse``, as the text names it, or ``norm``, as equation 4 is printed.
    :param retrieval: the localizer's settings, stored in the map.
    :param epochs: passes in which every frame is an anchor ``anchors_per_frame`` times.
    :param anchors_per_frame: pairs a frame and epoch.
    :param learning_rate: of Adam (paper: 5e-4).
    :param validate_every: validations in a whole run.
    :param validation_pairs: pairs of one validation.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "small": _SMALL}

    regressor: RegressorSettings = field(default_factory=RegressorSettings)
    pairs: PairSettings = field(default_factory=PairSettings)
    loss: Literal["mse", "norm"] = "mse"
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    epochs: int = ranged(1000, minimum=1)
    anchors_per_frame: int = ranged(1, minimum=1, maximum=1024)
    learning_rate: float = ranged(5e-4, minimum=0.0)
    validate_every: int = ranged(10, minimum=1)
    validation_pairs: int = ranged(2048, minimum=1)
