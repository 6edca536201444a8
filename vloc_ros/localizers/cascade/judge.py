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

    def reduced_camera(self, camera: CameraModel) -> CameraModel:
        """The camera of the images that ``radius_px`` is of."""

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


def agreement(T_map_cam: Array, query: Query, matches: Matches, radius_px: float) -> Agreement:
    """How well the inliers among matched points fit a pose of the query's camera.

    :param query: whose images, distorted or not, the matches are in.
    """
    near = []
    for number, (camera, T_query_cam) in enumerate(
        ((query.camera, None), *((view.camera, view.T_query_cam) for view in query.others))
    ):
        mine = matches.of_view(number)
        points, pixels = mine.points[mine.inliers], mine.pixels[mine.inliers]
        T = inverse(T_map_cam if T_query_cam is None else T_map_cam @ T_query_cam)
        local = points @ T[:3, :3].T + T[:3, 3]
        seen, valid = project(camera, local)
        distance = np.where(valid & (local[:, 2] > 0.0), np.linalg.norm(seen - pixels, axis=1), np.inf)
        near.append(distance[distance <= radius_px])
    all_near = np.concatenate(near)
    return Agreement(len(all_near), float(np.median(all_near)) if len(all_near) else float("inf"))
