"""The settings of a chain of maps. All of it is our choice: ``README.md`` says why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vloc_ros.settings import ranged

__all__ = ["SECTION", "CascadeSettings"]

#: The part of a manifest's settings with :class:`CascadeSettings`.
SECTION = "cascade"


@dataclass(frozen=True)
class CascadeSettings:
    """What goes down the chain, and what is believed at its end. All of it may change at run time.

    :param hypotheses: places that the coarse localizer proposes to the judge, at most.
    :param max_sigma_m: coarse estimates whose position is less sure than this (largest axis) are not refined: the
        refinement would converge to some other place.
    :param refine_lost: refine also what the coarse localizer itself gives up.
    :param rivals: without a prior, the judge looks for the place in all of its map, whatever is proposed: a place
        that looks the same elsewhere is found only so.
    :param rescue: proposals that the judge finds nothing at are refined by the fine localizer and judged again.
    :param fine_pose: what the fine localizer's pose is worth beside that of the matched points: ``combine`` weighs the
        two by their covariances, ``better`` takes the one with the better evidence, ``never`` asks no fine localizer
        about a pose that the judge supports.
    :param fine_evidence: share of the matched points that must still agree at the fine localizer's pose.
    :param unjudged: the best state without a judge: ``familiar``: what the localizer whose pose it is says, where the
        image looks like the coarse map, ``degraded``: never better than DEGRADED.
    :param gate_sigmas: a refined pose farther from the one it began with than this many standard deviations
        (position and rotation, each by its own) is not believed.
    :param gate_floor_m: displacements up to this pass the gate whatever the covariance says.
    :param gate_floor_deg: the same for turns.
    :param keep_surer: without a judge: keep the coarse estimate where the refined one is less sure of its position.
    :param coarse: settings of the coarse localizer to change, by name.
    :param features: settings of the judge to change, by name.
    :param fine: settings of the fine localizer to change, by name.
    """

    hypotheses: int = ranged(5, minimum=1, maximum=64)
    max_sigma_m: float = ranged(10.0, minimum=0.0)
    refine_lost: bool = False
    rivals: bool = True
    rescue: bool = True
    fine_pose: Literal["combine", "better", "never"] = "combine"
    fine_evidence: float = ranged(0.8, minimum=0.0, maximum=1.0)
    unjudged: Literal["familiar", "degraded"] = "familiar"
    gate_sigmas: float = ranged(4.0, minimum=0.1, maximum=100.0)
    gate_floor_m: float = ranged(0.5, minimum=0.0)
    gate_floor_deg: float = ranged(2.0, minimum=0.0, maximum=180.0)
    keep_surer: bool = True
    coarse: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    fine: dict[str, Any] = field(default_factory=dict)
