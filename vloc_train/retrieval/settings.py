"""Settings of the extractor's trainer and of maps built from drives, with their presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.retrieval.localizer import RetrievalSettings
from vloc_ros.localizers.retrieval.settings import ExtractorSettings
from vloc_ros.settings import ranged, settings_to_mapping
from vloc_train.retrieval.sampling import SamplingSettings
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.frames import DatabaseChoice
from vloc_train.training.settings import from_preset

__all__ = [
    "BUILD_PRESETS",
    "LEARNING_RATES",
    "PRESETS",
    "BuildSettings",
    "LossSettings",
    "TrainSettings",
    "build_preset",
    "preset",
]

#: Adam's learning rate for each loss (CoPR, Section IV-A).
LEARNING_RATES = {"triplet": 1e-5, "relative": 1e-4, "distance": 5e-5}


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
class TrainSettings:
    """Everything that decides what a training run of an extractor produces.

    :param extractor: the network and its input size.
    :param loss: what it learns from.
    :param sampling: what stands in a batch.
    :param augment: image augmentation.
    :param database: which training frames the map's database holds.
    :param retrieval: the localizer's settings, stored in the map.
    :param epochs: passes over as many images as there are training frames, unless ``max_minutes`` ends the run before.
    :param max_minutes: wall-clock limit, over all parts of a resumed run; None for none.
    :param learning_rate: of Adam.
    :param schedule: ``constant`` (paper) or ``cosine`` (to zero at the end of epochs or minutes).
    :param warm_up: steps over which the learning rate of ``cosine`` rises.
    :param weight_decay: of AdamW; 0 is plain Adam (paper).
    :param gradient_clip: largest norm of a step's gradient; None: no limit (paper).
    :param weight_average: decay of the moving average of the weights that is validated and exported; 0: none (paper).
    :param pretrained: ``True`` (the backbone's public ImageNet weights, as the paper), ``False`` or a local file.
    :param precision: ``auto`` is bfloat16 mixed precision where the device multiplies it faster.
    :param validate_every: validations in a whole run.
    :param validation_frames: most queries of one validation.
    :param validation_references: most database images of one validation set, which is a drive.
    :param fit_images: images that NetVLAD's clusters and the whitening are fitted on.
    :param seed: of everything random.
    """

    extractor: ExtractorSettings = field(default_factory=lambda: ExtractorSettings(normalise=False))
    loss: LossSettings = field(default_factory=LossSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    database: DatabaseChoice = field(default_factory=DatabaseChoice)
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    epochs: int = ranged(100, minimum=1)
    max_minutes: float | None = None
    learning_rate: float = ranged(5e-5, minimum=0.0)
    schedule: Literal["constant", "cosine"] = "constant"
    warm_up: int = ranged(50, minimum=0)
    weight_decay: float = ranged(0.0, minimum=0.0)
    gradient_clip: float | None = ranged(None, minimum=0.0)
    weight_average: float = ranged(0.0, minimum=0.0, maximum=0.99999)
    pretrained: bool | str = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validate_every: int = ranged(10, minimum=1)
    validation_frames: int = ranged(400, minimum=1)
    validation_references: int = ranged(2000, minimum=1)
    fit_images: int = ranged(1000, minimum=2)
    seed: int = ranged(0, minimum=0)

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

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as a configuration file or a manifest holds them."""
        return settings_to_mapping(self)


@dataclass(frozen=True)
class BuildSettings:
    """How a map is built of drives and an extractor that exists already.

    :param database: which frames the database holds.
    :param retrieval: the localizer's settings, stored in the map.
    :param extractor: used when no map with an extractor is given: a network with public or local weights.
    :param pretrained: those weights: ``True`` (public) or a local file.
    :param fit_images: images that a whitening is fitted on where the weights bring none.
    :param seed: of everything random.
    """

    database: DatabaseChoice = field(default_factory=DatabaseChoice)
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    extractor: ExtractorSettings = field(default_factory=ExtractorSettings)
    pretrained: bool | str = False
    fit_images: int = ranged(1000, minimum=2)
    seed: int = ranged(0, minimum=0)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as a configuration file or a manifest holds them."""
        return settings_to_mapping(self)


def _paper(kind: str) -> TrainSettings:
    """CoPR, Section IV-A: ResNet34 from ImageNet, random pairs; triplets of images of one place and of another."""
    return TrainSettings(
        extractor=ExtractorSettings(kind="gap", normalise=kind == "triplet"),
        loss=LossSettings(kind=kind),  # type: ignore[arg-type]
        learning_rate=LEARNING_RATES[kind],
        pretrained=True,
    )


def _small(kind: str) -> TrainSettings:
    """For two CPU cores and some minutes, from scratch: a narrow backbone, and everything in a batch is compared."""
    return TrainSettings(
        extractor=ExtractorSettings(
            kind="gap",
            backbone="resnet10t",
            backbone_options={"channels": [32, 64, 128, 256], "stem_width": 16},
            normalise=kind == "triplet",
            scale=20.0,
            image_width=160,
            image_height=90,
        ),
        loss=LossSettings(kind=kind, active_only=True, max_distance_m=15.0, balanced=True),  # type: ignore[arg-type]
        sampling=SamplingSettings(
            batch_size=64,
            group_size=4,
            near_m=12.0,
            vary_near=True,
            compare="group" if kind == "relative" else "batch",
            positive_m=10.0,
            negative_m=25.0,
        ),
        augment=AugmentSettings(rotate_deg=(1.5, 4.0, 1.5), shift_m=0.5),
        epochs=1000,
        max_minutes=8.0,
        learning_rate=1e-3,
        schedule="cosine",
        weight_decay=1e-4,
        gradient_clip=5.0,
        weight_average=0.99,
    )


#: ``paper``: CoPR's own settings, the default. ``small``: see :func:`_small`.
PRESETS = ("paper", "small")


def preset(name: str, changes: dict[str, Any] | None = None, where: str = "training settings") -> TrainSettings:
    """The settings of a preset with some fields changed.

    Learning rate and normalisation follow ``loss.kind`` where they are not given.

    :raises ConfigError: unknown preset or field, or a value out of range.
    """
    loss = (changes or {}).get("loss")
    kind = loss.get("kind", "distance") if isinstance(loss, Mapping) else "distance"
    if kind not in LEARNING_RATES:
        raise ConfigError(f"{where}: loss.kind: expected one of {', '.join(LEARNING_RATES)}, found {kind!r}")
    return from_preset({"paper": lambda: _paper(kind), "small": lambda: _small(kind)}, name, changes, where)


#: ``vloc map build retrieval`` knows one set of settings.
BUILD_PRESETS = ("default",)


def build_preset(
    name: str, changes: dict[str, Any] | None = None, where: str = "settings of the build"
) -> BuildSettings:
    """As :func:`preset`, for a map that is built without training."""
    return from_preset({"default": BuildSettings}, name, changes, where)
