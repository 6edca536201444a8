"""What a chain asks of the member that judges, and how well matched points fit a pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, CameraModel, Estimate, Matches, PosePrior, Query

__all__ = ["Agreement", "Judge", "JudgeKnobs", "JudgeLimits", "agreement"]


class JudgeLimits(Protocol):
    """``radius_px``: how far a point may be from where a pose has it. ``rival``: share of the best pose's evidence
    that makes another place as good."""

    radius_px: float
    rival: float


class JudgeKnobs(Protocol):
    """The judge's settings, as far as the chain reads them."""

    judge: JudgeLimits


class Judge(Protocol):
    """What the chain asks of the member that judges, beside what every localizer has."""

    @property
    def settings(self) -> JudgeKnobs: ...

    @property
    def shared_floor(self) -> Array | None: ...

    def localize_from(
        self, query: Query, proposals: Sequence[PosePrior], keep_candidates: bool = False, search: bool = False
    ) -> Estimate:
        """The best supported of some proposed poses, with its ``matches`` and the diagnostic ``rivalry``; LOST where
        none is supported, or another place as well. ``search``: also of places that look like the image."""


@dataclass(frozen=True)
class Agreement:
    """How matched points fit a pose: ``count`` of them within a radius, ``error_px`` their median distance."""

    count: int
    error_px: float


def agreement(T_map_cam: Array, camera: CameraModel, matches: Matches, radius_px: float) -> Agreement:
    """How well the inliers among matched points fit a pose.

    :param camera: of the image that the matches are in, distorted or not.
    """
    points, pixels = matches.points[matches.inliers], matches.pixels[matches.inliers]
    T = inverse(T_map_cam)
    local = points @ T[:3, :3].T + T[:3, 3]
    seen, valid = project(camera, local)
    distance = np.where(valid & (local[:, 2] > 0.0), np.linalg.norm(seen - pixels, axis=1), np.inf)
    near = distance[distance <= radius_px]
    return Agreement(len(near), float(np.median(near)) if len(near) else float("inf"))
