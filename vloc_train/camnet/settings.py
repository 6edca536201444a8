"""Settings of the CamNet trainer, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.camnet.settings import InferenceSettings, NetworkSettings
from vloc_ros.settings import Fixed, ranged
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.settings import ImageTrainSettings

__all__ = ["LOSSES", "MiningSettings", "TrainSettings"]

#: The terms of eq. 1.
LOSSES = ("frustum", "angle", "triplet", "pfr", "prp")


@dataclass(frozen=True)
class MiningSettings:
    """Which images are paired, and how alike they are (Sections 3.1.1 and 3.1.3).

    The two limits of a category are those of ``easy`` and of ``moderate``; what is neither and still within reach is
    ``hard``.

    :param similarity: ``depth``: share of a frustum that the other camera sees (eq. 2; the drives must have depth);
        ``orb``: share of ORB matches that are close (eq. 3); ``assumed_depth``: eq. 2 with everything at
        ``assumed_depth_m``, for drives without depth; ``auto``: depth where there is any, else ORB (paper).
    :param grid: points of eq. 2 along each side of an image.
    :param assumed_depth_m: of ``assumed_depth``; metres along the optical axis.
    :param reach_m: images farther apart are never a pair; metres.
    :param candidates: most pairs of an anchor whose similarity is computed.
    :param overlap: least mean of the two similarities.
    :param near_m: largest distance; metres.
    :param near_deg: largest angle.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {"orb_features": Fixed(500), "orb_distance": Fixed(50)}

    similarity: Literal["auto", "depth", "orb", "assumed_depth"] = "auto"
    grid: int = ranged(10, minimum=1, maximum=100)
    assumed_depth_m: float = ranged(15.0, minimum=0.1)
    reach_m: float = ranged(15.0, minimum=0.0)
    candidates: int = ranged(64, minimum=1)
    overlap: tuple[float, float] = ranged((0.6, 0.3), minimum=0.0, maximum=1.0)
    near_m: tuple[float, float] = ranged((3.0, 8.0), minimum=0.0)
    near_deg: tuple[float, float] = ranged((10.0, 30.0), minimum=0.0, maximum=180.0)

    def __post_init__(self) -> None:
        if self.overlap[0] < self.overlap[1] or self.near_m[0] > self.near_m[1] or self.near_deg[0] > self.near_deg[1]:
            raise ConfigError(
                "camnet.mining: expected easy pairs to be more alike and nearer than moderate ones, found overlap "
                f"{self.overlap}, near_m {self.near_m}, near_deg {self.near_deg}"
            )


#: For one or two CPU cores and some minutes: a narrow backbone that keeps image positions, at 160 x 90.
_SMALL = {
    "network": {
        "backbone": "resnet10t",
        "backbone_options": {"channels": [32, 64, 128, 256], "stem_width": 16},
        "pooling": "grid",
        "pool_grid": (3, 5),
        "feature_dim": 256,
    },
    "inference": {"rotation_weight_m": 18.0},
    "augment": {"photometric": 0.4, "blur": 0.1, "erase": 0.2, "rotate_deg": (1.0, 4.0, 1.0), "shift_m": 0.5},
    "mining": {"similarity": "assumed_depth", "reach_m": 12.0},
    "flip": False,
    "triplet": "anchor",
    "rotation_weight": 20.0,
    "pairs": "group",
    "refine_from": "one",
    "image_width": 160,
    "image_height": 90,
    "epochs": 400,
    "batch_size": 16,
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "weight_decay": 1e-2,
    "schedule": "cosine",
    "weight_average": 0.99,
}


@dataclass(frozen=True)
class TrainSettings(ImageTrainSettings):
    """Everything that decides what a training run produces.

    :param network: shape of the network.
    :param inference: the localizer's settings stored in the map.
    :param mining: which images are paired.
    :param flip: mirror the images of half of the batches, and their poses with them.
    :param losses: the terms of eq. 1 that are trained.
    :param margin: beta of eq. 7.
    :param triplet: eq. 7 over the extremes of the whole ``batch`` (paper), or of each ``anchor`` and their mean.
    :param far_negatives: the batch's images beyond an anchor's reach are hard ones of it, too: the paper pairs images
        of a whole scene at random, ours stand within reach of each other.
    :param rotation_weight: of rotation against translation in eqs. 8 and 9 (paper: 1).
    :param pairs: ``anchor`` regresses the poses of anchor and partner (paper), ``group`` those of every ordered pair of
        an anchor and its three partners: nine more for no image more.
    :param refine_from: where Algorithm 1 finds the closest image: ``any`` but the anchor itself, the ``others`` among
        the drives, or ``one`` other drive, drawn for each anchor. In use the database holds no frame of the query's
        drive, and often only one drive: then the closest image can be a lane away, which PRP must have seen.
    :param image_width: of the network's input, pixels.
    :param image_height: of the network's input, pixels.
    :param batch_size: N, anchors in one step, over all devices together; each brings three partners.
    :param optimizer: ``sgd`` (paper) or ``adamw``.
    :param weight_decay: of either.
    :param keyframe_every: every n-th training frame goes into the database.
    """

    #: ``paper``: Section 4.2.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"pretrained": True}, "small": _SMALL}
    FORMER: ClassVar[Mapping[str, str | Fixed]] = {"momentum": Fixed(0.9), "poly_power": Fixed(0.9)}

    network: NetworkSettings = field(default_factory=NetworkSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    augment: AugmentSettings = field(
        default_factory=lambda: AugmentSettings(photometric=0.4, blur=0.4, erase=0.0, rotate_deg=(0.0, 0.0, 0.0))
    )
    mining: MiningSettings = field(default_factory=MiningSettings)
    flip: bool = True
    losses: tuple[str, ...] = LOSSES
    margin: float = ranged(0.1, minimum=0.0)
    triplet: Literal["batch", "anchor"] = "batch"
    far_negatives: bool = True
    rotation_weight: float = ranged(1.0, minimum=0.0)
    pairs: Literal["anchor", "group"] = "anchor"
    refine_from: Literal["any", "others", "one"] = "others"
    image_width: int = ranged(224, minimum=16)
    image_height: int = ranged(224, minimum=16)
    epochs: int = ranged(300, minimum=1)
    batch_size: int = ranged(128, minimum=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = ranged(0.01, minimum=0.0)
    weight_decay: float = ranged(1e-4, minimum=0.0)
    schedule: Literal["constant", "cosine", "poly"] = "poly"
    keyframe_every: int = ranged(1, minimum=1)

    def __post_init__(self) -> None:
        unknown = [name for name in self.losses if name not in LOSSES]
        if unknown or not self.losses or len(set(self.losses)) != len(self.losses):
            raise ConfigError(f"camnet.losses: expected some of {', '.join(LOSSES)}, found {list(self.losses)}")
        if "prp" in self.losses and "pfr" not in self.losses:
            raise ConfigError("camnet.losses: expected pfr beside prp: Algorithm 1 pairs images by PFR's estimates")
