"""Settings of the PixLoc trainer, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.pixloc.optimizer import OptimizerSettings
from vloc_ros.localizers.pixloc.settings import NetworkSettings
from vloc_ros.settings import ranged
from vloc_train.mapping.sfm_frames import SfmSettings
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.settings import ImageTrainSettings

__all__ = ["PairSettings", "PointSettings", "PriorSettings", "TrainSettings"]

#: For one or two CPU cores and some minutes: a narrow U-Net from stride 2 on, and images mostly at half size.
_SMALL = {
    "network": {
        "encoder": "plain",
        "encoder_options": {"channels": [24, 48, 96, 128], "convolutions": 2, "first_stride": 2},
        "strides": (2, 4, 16),
        "dimensions": (16, 32, 32),
        "decoder": (64, 48, 32),
    },
    "prior": {"kind": "mixed", "distance_m": 2.0, "angle_deg": 5.0},
    "augment": {"photometric": 0.5, "blur": 0.1, "erase": 0.0, "rotate_deg": (0.0, 0.0, 0.0)},
    "pairs": {"reach_m": 4.0},
    "points": {"drawn": 256},
    "train_iterations": 8,
    "both_ways": True,
    "clamp_px": 150.0,
    "scales": (0.5, 0.5, 0.5, 1.0),
    "batch_size": 4,
    "learning_rate": 2e-3,
    "damping_rate": 10.0,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "gradient_norm": 1.0,
    "weight_average": 0.99,
}


@dataclass(frozen=True)
class PointSettings:
    """Where the 3D points of the training frames come from, and how many there are.

    :param source: ``depth`` (drives with depth images: the town, RGB-D), ``sfm`` (triangulated with the known poses),
        ``auto``: depth where a place's drives have it, else structure from motion; so places can be mixed.
    :param models: sparse models (``.npz``) of places by name, made before: they are used instead.
    :param stored: points kept of each frame with depth.
    :param drawn: points of a reference in one example.
    :param max_depth_m: points of depth images farther away are left out.
    """

    source: Literal["auto", "depth", "sfm"] = "auto"
    models: dict[str, str] = field(default_factory=dict)
    stored: int = ranged(2048, minimum=16)
    drawn: int = ranged(512, minimum=16)
    max_depth_m: float = ranged(80.0, minimum=0.5)


@dataclass(frozen=True)
class PairSettings:
    """Which frames are paired. Our choice: the paper samples covisible pairs and says no more.

    :param reach_m: largest distance of two frames.
    :param nearest_m: smallest distance.
    :param max_angle_deg: largest angle between their optical axes.
    :param overlap: least share of its points that each has in the other's view.
    :param candidates: most partners of a frame.
    :param least_points: frames that see fewer are left out.
    :param cross_drive: share of the pairs whose frames are of different drives, where there are such: another light,
        other traffic.
    """

    reach_m: float = ranged(6.0, minimum=0.0)
    nearest_m: float = ranged(0.0, minimum=0.0)
    max_angle_deg: float = ranged(30.0, minimum=0.0, maximum=180.0)
    overlap: float = ranged(0.3, minimum=0.0, maximum=1.0)
    candidates: int = ranged(64, minimum=1)
    least_points: int = ranged(64, minimum=10)
    cross_drive: float = ranged(0.5, minimum=0.0, maximum=1.0)

    def __post_init__(self) -> None:
        if self.nearest_m > self.reach_m:
            raise ConfigError(f"pixloc.pairs: expected nearest_m not above reach_m, found {self.nearest_m}")


@dataclass(frozen=True)
class PriorSettings:
    """Where the optimisation of an example begins.

    :param kind: ``reference``: at the reference's pose (paper); ``noise``: at the true pose moved and turned at random;
        ``mixed``: half of the examples each.
    :param distance_m: of the noise: the distance is uniform from 0 to this, in any direction.
    :param angle_deg: of the noise: the angle is uniform from 0 to this, about any axis.
    """

    kind: Literal["reference", "noise", "mixed"] = "reference"
    distance_m: float = ranged(2.0, minimum=0.0)
    angle_deg: float = ranged(5.0, minimum=0.0, maximum=90.0)


@dataclass(frozen=True)
class TrainSettings(ImageTrainSettings):
    """Everything that decides what a training run produces.

    :param network: shape of the network.
    :param optimizer: of the poses, in training and in use; ``iterations`` of it are ``train_iterations`` here.
    :param points: 3D points of the frames.
    :param sfm: structure from motion, for places without depth.
    :param pairs: which frames are paired.
    :param prior: where an example begins.
    :param augment: of the images; turning and shifting them is left out, because their points stay where they are.
    :param train_iterations: unrolled steps of each level (paper: 15).
    :param both_ways: localize the second image of a pair by the first, too: twice the examples for the same images.
    :param huber_px: gamma of eq. 8, pixels.
    :param success_px: a level succeeded when its mean error is below this many of its own pixels; else the finer
        levels of the example do not count.
    :param clamp_px: errors of an example above this have no gradient.
    :param image_width: of the network's input, pixels.
    :param image_height: of the network's input, pixels.
    :param sizes: (width, height) of the images of some places, by name, where they differ: places of other cameras.
    :param scales: a batch's images are shrunk by one of these factors, drawn at random: the image pyramid that the
        network will see in use, and shorter steps.
    :param epochs: passes over the training frames as anchors, unless ``max_minutes`` ends the run before; 0 writes
        the weights that the run would begin with.
    :param batch_size: pairs in one step, over all devices together.
    :param damping_rate: of the damping's parameters (eq. 7), as a multiple of ``learning_rate``.
    :param weight_decay: decoupled, of the network's weights.
    :param gradient_norm: longer gradients are cut to this length.
    :param precision: of the network in training: ``auto`` is bfloat16 mixed precision where the device multiplies it
        faster. Poses are float32 always.
    :param pretrained: ``False``, ``True`` (the encoder's weights from timm's hub), or a local file with weights of the
        encoder or of a converted public PixLoc checkpoint.
    :param validation_pairs: most pairs of a place that the finished network is tried on.
    """

    #: ``paper``: Section 5.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"pretrained": True}, "small": _SMALL}

    network: NetworkSettings = field(default_factory=NetworkSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    points: PointSettings = field(default_factory=PointSettings)
    sfm: SfmSettings = field(default_factory=SfmSettings)
    pairs: PairSettings = field(default_factory=PairSettings)
    prior: PriorSettings = field(default_factory=PriorSettings)
    augment: AugmentSettings = field(
        default_factory=lambda: AugmentSettings(photometric=0.3, blur=0.1, erase=0.0, rotate_deg=(0.0, 0.0, 0.0))
    )
    train_iterations: int = ranged(15, minimum=1, maximum=100)
    both_ways: bool = False
    huber_px: float = ranged(2.0, minimum=0.01)
    success_px: float = ranged(3.0, minimum=0.0)
    clamp_px: float = ranged(50.0, minimum=1.0)
    image_width: int = ranged(640, minimum=16)
    image_height: int = ranged(384, minimum=16)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    scales: tuple[float, ...] = ranged((1.0,), minimum=0.05, maximum=1.0)
    epochs: int = ranged(100, minimum=0)
    batch_size: int = ranged(6, minimum=1)
    learning_rate: float = ranged(1e-5, minimum=0.0)
    damping_rate: float = ranged(100.0, minimum=0.0)
    weight_decay: float = ranged(0.0, minimum=0.0)
    gradient_norm: float = ranged(1.0, minimum=0.0)
    validation_pairs: int = ranged(128, minimum=1)

    def __post_init__(self) -> None:
        if any(self.augment.rotate_deg) or self.augment.shift_m:
            raise ConfigError(
                "pixloc.augment: expected no virtual rotation and no shift: the points of an image stay where they are"
            )
        small = {name: size for name, size in self.sizes.items() if min(size) < 16}
        if small:
            raise ConfigError(f"pixloc.sizes: expected images of at least 16 x 16 pixels, found {small}")
        if not self.scales:
            raise ConfigError("pixloc.scales: expected at least one, found none")
