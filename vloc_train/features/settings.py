"""How a map of the backend ``features`` is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vloc_ros.features.base import FeatureSettings
from vloc_ros.settings import ranged
from vloc_train.mapping.sfm import SfmSettings
from vloc_train.mapping.subsample import SubsampleSettings
from vloc_train.training.settings import RunSettings

__all__ = ["BuildSettings"]


@dataclass(frozen=True)
class BuildSettings(RunSettings):
    """From drives with poses to points with descriptors.

    :param features: which local features; those of the queries will be the same.
    :param sfm: of the points; its ``detector``, ``features`` and ``peak`` do not count here. Without a ``spacing_m``
        of its own (0) frames are as far apart as leaves ``least_frames`` of them, ``widest_spacing_m`` at most.
    :param widest_spacing_m: see ``sfm``.
    :param least_frames: see ``sfm``.
    :param subsample: what the map keeps of the points.
    :param prototypes: descriptors of a point at most: one, and more where frames saw it differently.
    :param prototype_cosine: descriptors of a point that are less alike than this are kept apart.
    :param words: of the vocabulary that similar images are found by (VLAD), when no extractor is given.
    :param image_dimension: length of an image's descriptor then.
    :param sigma_px: standard deviation of an observation, for how well points are known.
    :param tile_points: points of a tile of descriptors.
    :param localizer: changes of the localizer's settings.
    :param calibration_frames: frames of the map, at most, that the covariance is calibrated on, besides those that are
        held out: each with a map that lacks its place (blocks of the drive) or pass (a drive among several); 0: none.
    """

    features: FeatureSettings = field(default_factory=FeatureSettings)
    sfm: SfmSettings = field(
        default_factory=lambda: SfmSettings(spacing_m=0.0, two_view=True, error_px=3.0, epipolar_px=3.0)
    )
    widest_spacing_m: float = ranged(0.5, minimum=0.001)
    least_frames: int = ranged(200, minimum=2)
    subsample: SubsampleSettings = field(default_factory=lambda: SubsampleSettings(2000, 2, 3.0))
    prototypes: int = ranged(3, minimum=1, maximum=8)
    prototype_cosine: float = ranged(0.8, minimum=-1.0, maximum=1.0)
    words: int = ranged(64, minimum=1, maximum=4096)
    image_dimension: int = ranged(512, minimum=1, maximum=8192)
    sigma_px: float = ranged(1.0, minimum=0.05, maximum=20.0)
    tile_points: int = ranged(20_000, minimum=100)
    localizer: dict[str, Any] = field(default_factory=dict)
    calibration_frames: int = ranged(200, minimum=0)
