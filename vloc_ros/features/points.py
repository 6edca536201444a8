"""Points of a map as a query meets them: where they are, how well that is known, and what they look like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse
from vloc_ros.transfer import read_back
from vloc_ros.types import Array, CameraModel

__all__ = ["MapPoints", "in_view"]

#: Nearer to the camera than this (m) nothing is in view.
_LEAST_DEPTH = 0.02


@dataclass(frozen=True)
class MapPoints:
    """N points of one scene with their descriptors.

    :ivar ids: (N,) rows of the scene's points, ascending.
    :ivar points: (N, 3) float64 m, map frame.
    :ivar roots: (N, 3, 3) roots L of the covariances L L^T of their positions, m.
    :ivar extents: (N,) diameter of what a descriptor describes, m; NaN where features have no scale.
    :ivar prototypes: (M, D) unit vectors, on the device or the host, M >= N: first one of every point in order, then
        second ones, then third ones.
    :ivar owner: (M,) int64, the point of each.
    :ivar rounds: ends of the first ones, the second ones, ...: rising from N to M.
    """

    ids: npt.NDArray[np.int64]
    points: Array
    roots: Array
    extents: Array
    prototypes: Tensor
    owner: npt.NDArray[np.int64]
    rounds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def on_host(self) -> npt.NDArray[np.float32]:
        """The prototypes on the host; one wait where they lie on a device."""
        return np.asarray(read_back(self.prototypes)[0].numpy(), dtype=np.float32)

    def further(self) -> Iterator[tuple[int, int]]:
        """Begin and end of the second descriptors, of the third ones, ...; a point is in none of them twice."""
        yield from zip(self.rounds[:-1], self.rounds[1:], strict=True)

    def select(self, rows: npt.NDArray[np.int64]) -> MapPoints:
        """Some of them, rows ascending."""
        place = np.full(len(self), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        owner = place[self.owner]
        kept = np.flatnonzero(owner >= 0)
        return MapPoints(
            self.ids[rows], self.points[rows], self.roots[rows], self.extents[rows],
            self.prototypes[torch.from_numpy(kept).to(self.prototypes.device)], owner[kept],
            tuple(int(end) for end in np.searchsorted(kept, self.rounds)),
        )  # fmt: skip


def in_view(T_map_cam: Array, camera: CameraModel, points: Array) -> npt.NDArray[np.int64]:
    """Rows of the points (N, 3) that project into the image of a camera at this pose."""
    T = inverse(T_map_cam)
    local = points @ T[:3, :3].T + T[:3, 3]
    return np.flatnonzero(project(camera, local)[1] & (local[:, 2] > _LEAST_DEPTH))
