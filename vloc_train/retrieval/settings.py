"""Settings of the extractor's trainer and of maps built from drives, with their presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.retrieval.localizer import RetrievalSettings
from vloc_ros.localizers.retrieval.settings import ExtractorSettings
from vloc_ros.settings import Fixed, ranged
from vloc_train.retrieval.sampling import SamplingSettings
from vloc_train.training.frames import DatabaseChoice
from vloc_train.training.settings import ImageTrainSettings, RunSettings, merged

__all__ = ["LEARNING_RATES", "BuildSettings", "LossSettings", "TrainSettings"]

#: Adam's learning rate for each loss (CoPR, Section IV-A).
LEARNING_RATES = {"triplet": 1e-5, "relative": 1e-4, "distance": 5e-5}

#: For two CPU cores and some minutes, from scratch: a narrow backbone, and everything in a batch is compared.
_SMALL = {
    "extractor": {
        "backbone": "resnet10t",
        "backbone_options": {"channels": [32, 64, 128, 256], "stem_width": 16},
        "scale": 20.0,
        "image_width": 160,
        "image_height": 90,
    },
    "loss": {"active_only": True, "max_distance_m": 15.0, "balanced": True},
    "sampling": {
        "batch_size": 64,
        "group_size": 4,
        "near_m": 12.0,
        "vary_near": True,
        "compare": "batch",
        "positive_m": 10.0,
        "negative_m": 25.0,
    },
    "augment": {"rotate_deg": (1.5, 4.0, 1.5), "shift_m": 0.5},
    "epochs": 1000,
    "max_minutes": 8.0,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 1e-4,
    "gradient_clip": 5.0,
    "weight_average": 0.99,
}


@dataclass(frozen=True)
class LossSettings:
    """Which loss trains the extractor; see :mod:`vloc_train.retrieval.losses`.

    :param kind: ``triplet`` (equation 5, unit descriptors), ``relative`` (equation 6) or ``distance`` (equation 7, raw
        descriptors whose distances are metres).
    :param margin: of the triplet loss (paper: 0.3).
    :param active_only: mean over the triplets that violate the margin.
    :param hidden: units of the relative pose regressor's shared layer.
    :param max_distance_m: distance loss: pairs beyond this need only be as far apart as this; None: no such limit, as
        the paper's rooms need none. Pairs of different places count only with a limit.
    :param balanced: distance loss: pairs within ``max_distance_m`` and pairs beyond it weigh alike, however many.
    :param rotation_m_per_deg: distance loss: what a degree of rotation counts (paper: 0).
    :param near_m: distance loss: weigh a pair by ``near_m / (near_m + distance)``; None: all alike, as the paper.
    """

    kind: Literal["triplet", "relative", "distance"] = "distance"
    margin: float = ranged(0.3, minimum=0.0)
    active_only: bool = False
    hidden: int = ranged(1024, minimum=1)
    max_distance_m: float | None = ranged(None, minimum=0.0)
    balanced: bool = False
    rotation_m_per_deg: float = ranged(0.0, minimum=0.0)
    near_m: float | None = ranged(None, minimum=0.0)


@dataclass(frozen=True)
class TrainSettings(ImageTrainSettings):
    """Everything that decides what a training run of an extractor produces.

    :param extractor: the network and its input size.
    :param loss: what it learns from.
    :param sampling: what stands in a batch.
    :param database: which training frames the map's database holds.
    :param retrieval: the localizer's settings, stored in the map.
    :param epochs: passes over as many images as there are training frames, unless ``max_minutes`` ends the run before.
    :param weight_decay: of AdamW; 0 is plain Adam (paper).
    :param gradient_clip: largest norm of a step's gradient; None: no limit (paper).
    :param validate_every: validations in a whole run.
    :param validation_frames: most queries of one validation.
    :param fit_images: images that NetVLAD's clusters and the whitening are fitted on.
    """

    #: ``paper``: CoPR, Section IV-A: ResNet34 from ImageNet, random pairs, triplets across places.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"pretrained": True}, "small": _SMALL}
    FORMER: ClassVar[Mapping[str, str | Fixed]] = {"warm_up": Fixed(50), "validation_references": Fixed(2000)}

    extractor: ExtractorSettings = field(default_factory=lambda: ExtractorSettings(normalise=False))
    loss: LossSettings = field(default_factory=LossSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    database: DatabaseChoice = field(default_factory=DatabaseChoice)
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    epochs: int = ranged(100, minimum=1)
    learning_rate: float = ranged(5e-5, minimum=0.0)
    weight_decay: float = ranged(0.0, minimum=0.0)
    gradient_clip: float | None = ranged(None, minimum=0.0)
    validate_every: int = ranged(10, minimum=1)
    validation_frames: int = ranged(400, minimum=1)
    fit_images: int = ranged(1000, minimum=2)

    @classmethod
    def preset_values(cls, name: str, changes: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """Learning rate, normalisation and what is compared follow ``loss.kind`` where they are not given."""
        loss = changes.get("loss")
        kind = loss.get("kind", "distance") if isinstance(loss, Mapping) else "distance"
        if kind not in LEARNING_RATES:
            raise ConfigError(f"{where}: loss.kind: expected one of {', '.join(LEARNING_RATES)}, found {kind!r}")
        follows: dict[str, Any] = {"loss": {"kind": kind}, "extractor": {"normalise": kind == "triplet"}}
        if kind == "relative":
            follows["sampling"] = {"compare": "group"}
        return merged({"learning_rate": LEARNING_RATES[kind]}, merged(cls.PRESETS[name], follows))

    def __post_init__(self) -> None:
        if self.extractor.whiten is not None and not self.extractor.normalise:
            raise ConfigError(
                "extractor.whiten: a whitening scales every direction alike, and descriptors whose distances mean "
                f"something lose that; leave it out with loss.kind {self.loss.kind!r}"
            )
        unit = self.loss.kind == "triplet"
        if self.extractor.normalise != unit:
            raise ConfigError(
                f"extractor.normalise: expected {str(unit).lower()} with loss.kind {self.loss.kind!r} "
                f"({'equation 5 is of unit descriptors' if unit else 'its descriptors are compared raw'}), "
                f"found {str(self.extractor.normalise).lower()}"
            )


@dataclass(frozen=True)
class BuildSettings(RunSettings):
    """How a map is built of drives and an extractor that exists already.

    :param database: which frames the database holds.
    :param retrieval: the localizer's settings, stored in the map.
    :param extractor: used when no map with an extractor is given: a network with public or local weights.
    :param pretrained: those weights: ``True`` (public) or a local file.
    :param fit_images: images that a whitening is fitted on where the weights bring none.
    """

    database: DatabaseChoice = field(default_factory=DatabaseChoice)
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    extractor: ExtractorSettings = field(default_factory=ExtractorSettings)
    pretrained: bool | str = False
    fit_images: int = ranged(1000, minimum=2)
