"""The settings of PixLoc at run time. ``README.md`` lists each with its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.pixloc.optimizer import OptimizerSettings
from vloc_ros.settings import ranged

__all__ = ["SECTION", "PixLocSettings"]

#: The part of a manifest's settings with :class:`PixLocSettings`; those of the optimiser stand in a part of their own.
SECTION = "pixloc"


@dataclass(frozen=True)
class PixLocSettings:
    """From a prior to a pose. All of it may change at run time.

    :param references: reference images whose points and features are used (paper: 5).
    :param max_points: most points that are aligned, chosen for many observations and all over the image; 0: all.
    :param pyramid: start on the small image of the map's pyramid; otherwise only the whole image is used.
    :param radius_m: references farther from the prior are not used, unless its covariance is wider.
    :param starts: poses that the alignment starts from, spread over the prior's covariance; the best of them counts.
    :param start_spacing_m: a prior whose position is surer than this (largest axis) needs a single start.
    :param max_prior_sigma_m: a prior that is less sure than this (largest axis) is no prior.
    :param retrieval_sigma_m: what the pose of the most similar database image is off by, when it is the prior.
    :param max_shift_m: a pose that moved farther than this from its prior has failed, unless the covariance of the
        prior allows ``shift_sigmas`` times its standard deviation.
    :param max_shift_deg: the same for rotation.
    :param shift_sigmas: see ``max_shift_m``.
    :param exclude_s: references this near to the query's stamp are not used: for figures on the frames that the map
        was made of; 0 uses all.
    :param distorted_images: align images as the lens made them, with distortion in the projection; otherwise they
        come rectified.
    :param precision: of the network: ``auto`` takes bfloat16 where the processor multiplies it faster.
    :param memory_mb: bound on the tiles of reference features in memory, megabytes.
    :param prefetch_m: metres ahead of the vehicle whose tiles are read in the background; 0: none.
    :param localized_sigma_m: a frame is LOCALIZED up to this standard deviation of position (largest axis).
    :param lost_sigma_m: a frame is LOST beyond this standard deviation of position (largest axis).
    :param calibration_prior_m: standard deviations of the priors that a calibration simulates, smallest and largest:
        those of the poses that this map will be asked to refine. A desk wants centimetres.
    :param calibration_prior_deg_per_m: how far they are turned for each metre that they are off.
    :param optimizer: of the alignment, by name.
    """

    references: int = ranged(5, minimum=1, maximum=1000)
    max_points: int = ranged(1000, minimum=0, maximum=1_000_000)
    pyramid: bool = True
    radius_m: float = ranged(20.0, minimum=0.1)
    starts: int = ranged(1, minimum=1, maximum=64)
    start_spacing_m: float = ranged(0.75, minimum=0.01)
    max_prior_sigma_m: float = ranged(15.0, minimum=0.01)
    retrieval_sigma_m: float = ranged(3.0, minimum=0.01)
    max_shift_m: float = ranged(5.0, minimum=0.0)
    max_shift_deg: float = ranged(20.0, minimum=0.0, maximum=180.0)
    shift_sigmas: float = ranged(4.0, minimum=0.1)
    exclude_s: float = ranged(0.0, minimum=0.0)
    distorted_images: bool = True
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_mb: float = ranged(512.0, minimum=1.0)
    prefetch_m: float = ranged(30.0, minimum=0.0)
    localized_sigma_m: float = ranged(0.5, minimum=0.0)
    lost_sigma_m: float = ranged(5.0, minimum=0.0)
    calibration_prior_m: tuple[float, float] = ranged((0.1, 1.0), minimum=1e-3, maximum=100.0)
    calibration_prior_deg_per_m: float = ranged(3.0, minimum=0.0)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        if self.lost_sigma_m < self.localized_sigma_m:
            raise ConfigError(
                f"pixloc: expected lost_sigma_m ({self.lost_sigma_m}) not to be below "
                f"localized_sigma_m ({self.localized_sigma_m})"
            )
        if self.calibration_prior_m[0] > self.calibration_prior_m[1]:
            raise ConfigError(f"pixloc: expected calibration_prior_m to rise, found {self.calibration_prior_m}")
        if self.max_points and self.max_points < self.optimizer.minimum_points:
            raise ConfigError(
                f"pixloc: expected max_points ({self.max_points}) not to be below optimizer.minimum_points "
                f"({self.optimizer.minimum_points})"
            )
