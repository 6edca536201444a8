"""The settings of the backend ``features`` at run time. ``README.md`` says where each comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

from vloc_ros.features.pose import Solver
from vloc_ros.features.verification import JudgeSettings
from vloc_ros.features.view_matching import Matcher
from vloc_ros.localizers.calibration import ConfidenceSettings
from vloc_ros.settings import ranged

__all__ = ["FEATURES_SECTION", "SECTION", "FeaturesSettings"]

#: The part of a manifest's settings with :class:`FeaturesSettings`.
SECTION = "features"
#: The part with :class:`~vloc_ros.features.base.FeatureSettings`, and ``id``, whose descriptors they are.
FEATURES_SECTION = "local_features"


@dataclass(frozen=True)
class FeaturesSettings(ConfidenceSettings):
    """From an image to a pose. All of it may change at run time.

    :param localized_sigma_m: a frame is LOCALIZED up to this standard deviation of position (largest axis).
    :param lost_sigma_m: a frame is LOST beyond this standard deviation of position (largest axis).
    :param images: most similar images of the map that a pose is looked for in, without a prior.
    :param hypotheses: places that these images are of, at most; each gives a pose, and what they see decides.
    :param frames: frames of the map whose points are used around a pose.
    :param max_points: of them, points at most, chosen for many observations and all over the image.
    :param match_features: features of the query, the strongest, that a first pose is looked for with.
    :param match_points: points of each place that they are compared with, those that most of its images saw.
    :param ratio: of the distances to the most similar and the second most similar point that a match may have.
    :param matcher: what a first pose is looked for with, without a prior: ``nearest`` neighbours, or ``lightglue``: a
        network that compares the query with the map as each of some similar images sees it (ALIKED, DISK; LighterGlue
        for XFeat; needs the extra ``features``).
    :param matcher_images: similar images of each place that ``lightglue`` compares with.
    :param threshold_px: reprojection error of a match that agrees with a first pose.
    :param solver: of the first pose: ``poselib``, ``opencv``, or ``auto``: PoseLib where it is installed.
    :param iterations: of its random search, at most.
    :param feature_limit: features of an image at most; 0: as the map's images had.
    :param prior_features: the same, with a prior.
    :param prior_points: points at most, with a prior.
    :param prior_sigmas: points are looked for within this many standard deviations of where the prior has them.
    :param prior_reach_px: and never farther than this; a prior that would need more is none.
    :param search_again: a prior that leads to no supported pose is forgotten, and the whole map searched.
    :param exclude_s: images of the map this near to the query's stamp are not retrieved: for figures on the frames
        that the map was made of; 0 uses all.
    :param memory_mb: bound on the tiles of descriptors in memory, megabytes.
    :param calibration_prior_m: standard deviations of the priors that a calibration simulates, smallest and largest.
    :param judge: when a pose is believed.
    """

    localized_sigma_m: float = ranged(0.5, minimum=0.0)
    lost_sigma_m: float = ranged(5.0, minimum=0.0)
    images: int = ranged(20, minimum=1, maximum=1000)
    hypotheses: int = ranged(3, minimum=1, maximum=32)
    frames: int = ranged(12, minimum=1, maximum=1000)
    max_points: int = ranged(3000, minimum=32, maximum=1_000_000)
    match_features: int = ranged(2048, minimum=16, maximum=65535)
    match_points: int = ranged(3000, minimum=16, maximum=1_000_000)
    ratio: float = ranged(0.9, minimum=0.1, maximum=1.0)
    matcher: Matcher = "nearest"
    matcher_images: int = ranged(5, minimum=1, maximum=100)
    threshold_px: float = ranged(6.0, minimum=0.5, maximum=100.0)
    solver: Solver = "auto"
    iterations: int = ranged(10_000, minimum=10, maximum=1_000_000)
    feature_limit: int = ranged(0, minimum=0, maximum=65535)
    prior_features: int = ranged(1024, minimum=16, maximum=65535)
    prior_points: int = ranged(1500, minimum=32, maximum=1_000_000)
    prior_sigmas: float = ranged(3.0, minimum=0.5, maximum=10.0)
    prior_reach_px: float = ranged(120.0, minimum=5.0, maximum=2000.0)
    search_again: bool = True
    exclude_s: float = ranged(0.0, minimum=0.0)
    memory_mb: float = ranged(512.0, minimum=1.0)
    calibration_prior_m: tuple[float, float] = ranged((0.05, 1.0), minimum=1e-3, maximum=100.0)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
