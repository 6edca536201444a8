"""Settings of the ImPosing trainer, and its two presets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.imposing.settings import NetworkSettings, SearchSettings
from vloc_ros.settings import ranged, settings_from_mapping, settings_to_mapping

__all__ = ["PRESETS", "AugmentSettings", "TrainSettings", "preset"]


@dataclass(frozen=True)
class AugmentSettings:
    """Changes of the training images that keep their poses known. Our choice; the paper states none.

    :param photometric: strength of brightness, contrast, saturation, colour cast and gamma jitter, 0 to 1.
    :param blur: share of the images that are blurred.
    :param erase: share of the images in which a rectangle is painted over, as traffic does.
    :param rotate_deg: virtual camera rotations (pitch, yaw, roll), uniform in plus or minus these angles. A rotation
        about the optical centre is an exact homography of the image whatever the scene, and the pose turns with it.
    :param shift_m: virtual steps to the side, uniform in plus or minus this. Drives of a road are a few lines, and what
        lies between them is never seen; a step needs the depth, which is taken from a street: flat ground, a wall on
        either side, the rest far away. An approximation, unlike the rotations; 0 for scenes that are no streets.
    :param camera_height_m: of that street: height of the camera above the ground.
    :param street_half_width_m: of that street: distance of the walls.
    """

    photometric: float = ranged(0.5, minimum=0.0, maximum=1.0)
    blur: float = ranged(0.1, minimum=0.0, maximum=1.0)
    erase: float = ranged(0.3, minimum=0.0, maximum=1.0)
    rotate_deg: tuple[float, float, float] = ranged((1.0, 2.0, 1.0), minimum=0.0, maximum=30.0)
    shift_m: float = ranged(0.0, minimum=0.0, maximum=5.0)
    camera_height_m: float = ranged(1.6, minimum=0.1, maximum=10.0)
    street_half_width_m: float = ranged(10.0, minimum=1.0, maximum=100.0)


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides what a training run produces.

    :param network: shape of the encoders.
    :param search: the search stored in the map.
    :param augment: image augmentation.
    :param image_width: of the network's input, pixels.
    :param image_height: of the network's input, pixels.
    :param epochs: passes over the training frames, unless ``max_minutes`` ends the run before.
    :param max_minutes: wall-clock limit, over all parts of a resumed run; None for none.
    :param batch_size: images in one step, over all devices together.
    :param learning_rate: of Adam.
    :param schedule: ``constant`` (paper) or ``cosine`` (to zero at the end of epochs or minutes).
    :param weight_average: decay of the exponential moving average of the weights that is validated and exported;
        0 keeps the last weights (paper).
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
    :param precision: ``auto`` is bfloat16 mixed precision where the device multiplies it faster.
    :param pretrained: ``False``, ``True`` (timm's hub) or a local file with backbone weights.
    :param validate_every: validations in a whole run.
    :param validation_frames: most frames localized in one validation.
    :param hold_out: every n-th frame is kept for validation and calibration when no calibration data is given.
    :param reference_vectors: store the training images' vectors in the map: reports then show the nearest-neighbour
        baseline.
    :param weights: storage of the weights in the map.
    :param seed: of everything random.
    """

    network: NetworkSettings = field(default_factory=NetworkSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    image_width: int = ranged(240, minimum=16)
    image_height: int = ranged(135, minimum=16)
    epochs: int = ranged(250, minimum=1)
    max_minutes: float | None = None
    batch_size: int = ranged(32, minimum=1)
    learning_rate: float = ranged(1e-4, minimum=0.0)
    schedule: Literal["constant", "cosine"] = "constant"
    weight_average: float = ranged(0.0, minimum=0.0, maximum=0.99999)
    train_candidates: int = ranged(4096, minimum=8)
    train_initial: int = ranged(4096, minimum=8)
    width_m: float = ranged(5.0, minimum=1e-3)
    width_deg: float = ranged(10.0, minimum=1e-3)
    narrowing: float = ranged(1.0, minimum=1e-3, maximum=1.0)
    narrow_after: float = ranged(0.4, minimum=0.0, maximum=1.0)
    keep_gradient: bool = True
    cross_scene: float = ranged(1.0, minimum=0.0)
    uniform_noise: float = ranged(1.0, minimum=0.0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    pretrained: bool | str = False
    validate_every: int = ranged(10, minimum=1)
    validation_frames: int = ranged(64, minimum=1)
    hold_out: int = ranged(10, minimum=2)
    reference_vectors: bool = False
    weights: Literal["float16", "int8"] = "float16"
    seed: int = ranged(0, minimum=0)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as a configuration file or a manifest holds them."""
        return settings_to_mapping(self)


def _small() -> TrainSettings:
    """For two CPU cores and a quarter of an hour: a narrow backbone that keeps image positions, fewer candidates."""
    return TrainSettings(
        network=NetworkSettings(
            backbone="resnet10t",
            backbone_options={"channels": [32, 64, 128, 256], "stem_width": 16, "output_stride": 16},
            pooling="grid",
            pool_grid=(2, 10),
            position_octaves=8,
            rotation_octaves=4,
            rotation_input="matrix",
        ),
        search=SearchSettings(candidates=1024, noise_rotation_deg=(0.3, 0.3, 5.0)),
        augment=AugmentSettings(rotate_deg=(1.5, 4.0, 1.5), shift_m=0.5),
        image_width=160,
        image_height=90,
        epochs=1000,
        learning_rate=1e-3,
        schedule="cosine",
        weight_average=0.998,
        narrowing=0.5,
        train_candidates=96,
        train_initial=512,
        reference_vectors=True,
    )


#: ``paper``: Section 4 of the paper, the default. ``small``: see :func:`_small`.
PRESETS = ("paper", "small")


def preset(name: str, changes: dict[str, Any] | None = None, where: str = "training settings") -> TrainSettings:
    """The settings of a preset with some fields changed.

    :param changes: nested mappings of fields, as in a configuration file.
    :raises ConfigError: unknown preset or field, or a value out of range.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset: expected one of {', '.join(PRESETS)}, found {name!r}")
    base = TrainSettings(pretrained=True) if name == "paper" else _small()
    return settings_from_mapping(TrainSettings, _merged(base.to_mapping(), changes or {}), where)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict) and key != "backbone_options"
        out[key] = _merged(out[key], value) if nested else value
    return out
