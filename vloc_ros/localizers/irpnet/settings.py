"""The settings of IRPNet. The defaults are the paper's; ``README.md`` lists each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.view import ViewSettings
from vloc_ros.settings import Fixed, ranged

__all__ = ["DEGRADED_STRANGENESS", "DISAGREEMENT", "LOST_STRANGENESS", "InferenceSettings", "NetworkSettings"]


@dataclass(frozen=True)
class NetworkSettings:
    """What fixes the shape of the regressors; stored in the map and never changed at run time.

    :param architecture: ``branching`` (Figure 2: one shared layer, a branch each for position and orientation) or
        ``mlp`` (Table I: one sequence of layers that ends in both heads).
    :param shared: width of the shared layer; ``mlp`` has none.
    :param widths: hidden layers of each branch, or of the MLP.
    :param dropout: probability, after the second hidden layer.
    :param inputs: ``plain`` descriptors (paper) or ``standardised``: less their mean, over their deviation, both of the
        training descriptors.
    :param positions: what the last layer gives: ``metres`` of the map frame (paper), metres about the middle of the
        training positions (``centred``), or those in units of their deviation (``scaled``). The loss is in metres.
    :param rotation: ``quaternion`` (paper; w >= 0) or ``matrix`` (its first two columns, six numbers): a drive round a
        block turns by 360 degrees, on which quaternions of one sign have a cut.
    """

    architecture: Literal["branching", "mlp"] = "branching"
    shared: int = ranged(4096, minimum=1, maximum=1 << 16)
    widths: tuple[int, ...] = ranged((4096, 2048, 1024), minimum=1, maximum=1 << 16)
    dropout: float = ranged(0.2, minimum=0.0, maximum=0.95)
    inputs: Literal["plain", "standardised"] = "plain"
    positions: Literal["metres", "centred", "scaled"] = "metres"
    rotation: Literal["quaternion", "matrix"] = "quaternion"

    def __post_init__(self) -> None:
        if not 1 <= len(self.widths) <= 16:
            raise ConfigError(f"irpnet.widths: expected 1 to 16 hidden layers, found {len(self.widths)}")

    @property
    def rotation_size(self) -> int:
        """Numbers that a rotation is regressed as."""
        return 4 if self.rotation == "quaternion" else 6


#: A frame is DEGRADED whose statistics lie above those of calibration frames by this many of their standard deviations
#: (root mean square over the statistics; what is below counts as 0): calibration frames themselves stay below it.
DEGRADED_STRANGENESS = 1.2
#: The same for LOST: the image does not show the map, or not as the map knows it.
LOST_STRANGENESS = 1.8
#: Regressed pose and nearest stored image's pose disagree where they are farther apart than in calibration frames by
#: this many deviations; the covariance is then at least as wide as their difference.
DISAGREEMENT = 2.0


@dataclass(frozen=True)
class InferenceSettings(ViewSettings):
    """How far a frame is believed. All of it may change at run time, if the map was calibrated for it.

    :param covariance: what the covariance is made from: ``residuals`` (everything that goes with the errors of
        calibration frames) or ``dropout`` (the spread of Monte Carlo dropout, and how familiar the image is).
    :param samples: regressions under dropout; their random numbers are seeded by map and stamp.
    :param neighbours: stored descriptors that the estimate is compared with.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {
        "degraded_strangeness": Fixed(DEGRADED_STRANGENESS),
        "lost_strangeness": Fixed(LOST_STRANGENESS),
        "disagreement": Fixed(DISAGREEMENT),
    }

    covariance: Literal["residuals", "dropout"] = "residuals"
    samples: int = ranged(32, minimum=2, maximum=1024)
    neighbours: int = ranged(5, minimum=1, maximum=100)
