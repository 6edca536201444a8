"""The settings of a cascade. All of it is our choice: ``README.md`` says why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vloc_ros.settings import ranged

__all__ = ["SECTION", "CascadeSettings"]

#: The part of a manifest's settings with :class:`CascadeSettings`.
SECTION = "cascade"


@dataclass(frozen=True)
class CascadeSettings:
    """When a coarse estimate is refined, and when the refinement is believed. All of it may change at run time.

    :param max_sigma_m: coarse estimates whose position is less sure than this (largest axis) are not refined: the
        refinement would converge to some other place.
    :param gate_sigmas: a refined pose farther from the coarse one than this many of the coarse estimate's standard
        deviations (position and rotation, each by its own) is not believed.
    :param gate_floor_m: displacements up to this pass the gate whatever the coarse covariance says.
    :param gate_floor_deg: the same for turns.
    :param refine_lost: refine also what the coarse localizer itself gives up.
    :param keep_surer: keep the coarse estimate where the refined one is less sure of its position.
    :param coarse: settings of the coarse localizer to change, by name.
    :param fine: settings of the fine localizer to change, by name.
    """

    max_sigma_m: float = ranged(10.0, minimum=0.0)
    gate_sigmas: float = ranged(4.0, minimum=0.1, maximum=100.0)
    gate_floor_m: float = ranged(0.5, minimum=0.0)
    gate_floor_deg: float = ranged(2.0, minimum=0.0, maximum=180.0)
    refine_lost: bool = False
    keep_surer: bool = True
    coarse: dict[str, Any] = field(default_factory=dict)
    fine: dict[str, Any] = field(default_factory=dict)
