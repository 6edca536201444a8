"""The shape of PixLoc's network. The defaults are the paper's; ``README.md`` lists each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.calibration import ConfidenceSettings
from vloc_ros.localizers.pixloc.optimizer import OptimizerSettings
from vloc_ros.settings import Fixed, ranged

__all__ = ["MAX_SHIFT_DEG", "SECTION", "SHIFT_SIGMAS", "NetworkSettings", "PixLocSettings"]

# The settings of PixLoc at run time. ``README.md`` lists each with its source.


#: The part of a manifest's settings with :class:`PixLocSettings`; those of the optimiser stand in a part of their own.
SECTION = "pixloc"
#: A pose that turned farther than this from its prior has failed, unless the prior's covariance allows it: features
#: are not that invariant.
MAX_SHIFT_DEG = 20.0
#: How many of the prior's standard deviations a pose may move or turn.
SHIFT_SIGMAS = 4.0


@dataclass(frozen=True)
class PixLocSettings(ConfidenceSettings):
    """From a prior to a pose. All of it may change at run time.

    :param references: reference images whose points and features are used (paper: 5).
    :param max_points: most points that are aligned, chosen for many observations and all over the image; 0: all.
    :param pyramid: start on the small image of the map's pyramid; otherwise only the whole image is used.
    :param reselect: choose references and points again around the pose that the small image has given.
    :param radius_m: references farther from the prior are not used, unless its covariance is wider.
    :param starts: poses that the alignment starts from, spread over the prior's covariance; the best of them counts.
    :param start_spacing_m: a prior whose position is surer than this (largest axis) needs a single start.
    :param max_prior_sigma_m: a prior that is less sure than this (largest axis) is no prior.
    :param retrieval_sigma_m: what the pose of the most similar database image is off by, when it is the prior.
    :param max_shift_m: a pose that moved farther than this from its prior has failed, unless the covariance of the
        prior allows four times its standard deviation.
    :param min_peak_share: a pose where fewer of the points than this share look most like the map where it has them is
        not believed: DEGRADED at best. 0 asks for nothing.
    :param exclude_s: references this near to the query's stamp are not used: for figures on the frames that the map
        was made of; 0 uses all.
    :param distorted_images: align images as the lens made them, with distortion in the projection; otherwise they
        come rectified.
    :param precision: of the network: ``auto`` takes bfloat16 where the processor multiplies it faster.
    :param memory_mb: bound on the tiles of reference features in memory, megabytes.
    :param prefetch_m: metres ahead of the vehicle whose tiles are read in the background; 0: none.
    :param calibration_prior_m: standard deviations of the priors that a calibration simulates, smallest and largest:
        those of the poses that this map will be asked to refine. A desk wants centimetres.
    :param calibration_prior_deg_per_m: how far they are turned for each metre that they are off.
    :param optimizer: of the alignment, by name.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {
        "max_shift_deg": Fixed(MAX_SHIFT_DEG),
        "shift_sigmas": Fixed(SHIFT_SIGMAS),
    }

    references: int = ranged(5, minimum=1, maximum=1000)
    max_points: int = ranged(1000, minimum=0, maximum=1_000_000)
    pyramid: bool = True
    reselect: bool = True
    radius_m: float = ranged(20.0, minimum=0.1)
    starts: int = ranged(1, minimum=1, maximum=64)
    start_spacing_m: float = ranged(0.75, minimum=0.01)
    max_prior_sigma_m: float = ranged(15.0, minimum=0.01)
    retrieval_sigma_m: float = ranged(3.0, minimum=0.01)
    max_shift_m: float = ranged(5.0, minimum=0.0)
    min_peak_share: float = ranged(0.2, minimum=0.0, maximum=1.0)
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
        super().__post_init__()
        if self.calibration_prior_m[0] > self.calibration_prior_m[1]:
            raise ConfigError(f"pixloc: expected calibration_prior_m to rise, found {self.calibration_prior_m}")
        if self.max_points and self.max_points < self.optimizer.minimum_points:
            raise ConfigError(
                f"pixloc: expected max_points ({self.max_points}) not to be below optimizer.minimum_points "
                f"({self.optimizer.minimum_points})"
            )


@dataclass(frozen=True)
class NetworkSettings:
    """What fixes the shape of the network; stored in the map and never changed at run time.

    :param encoder: ``vgg19`` (paper) or another VGG of timm, ``plain`` (a narrow stack of convolutions whose widths
        ``encoder_options`` gives), or any timm network that gives feature maps.
    :param encoder_options: passed to ``timm.create_model``; of ``plain``: ``channels`` of its stages,
        ``convolutions`` in each stage behind the first, and ``first_stride`` (1 or 2).
    :param strides: of the levels, pixels, fine to coarse; powers of two (paper: 1, 4, 16).
    :param dimensions: D_l, channels of a level's features, fine to coarse (paper: 32, 128, 128).
    :param decoder: channels of the decoder's blocks from the coarsest stride down to the finest, one for each halving
        of the stride.
    :param normalise: L2-normalise the features along their channels (paper, Section 3.1).
    """

    encoder: str = "vgg19"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    strides: tuple[int, ...] = ranged((1, 4, 16), minimum=1, maximum=64)
    dimensions: tuple[int, ...] = ranged((32, 128, 128), minimum=1, maximum=1024)
    decoder: tuple[int, ...] = ranged((64, 64, 64, 32), minimum=1, maximum=2048)
    normalise: bool = True

    def __post_init__(self) -> None:
        strides = self.strides
        powers = all(s > 0 and s & (s - 1) == 0 for s in strides)
        if not strides or not powers or list(strides) != sorted(set(strides)):
            raise ConfigError(f"pixloc.strides: expected powers of two that increase, found {list(strides)}")
        if len(self.dimensions) != len(strides):
            raise ConfigError(
                f"pixloc.dimensions: expected {len(strides)} numbers, as there are strides, found "
                f"{list(self.dimensions)}"
            )
        steps = (strides[-1] // strides[0]).bit_length() - 1
        if len(self.decoder) != steps:
            raise ConfigError(
                f"pixloc.decoder: expected {steps} blocks, one for each halving from stride {strides[-1]} to "
                f"{strides[0]}, found {list(self.decoder)}"
            )

    @property
    def levels(self) -> int:
        """L, the number of levels."""
        return len(self.strides)
