"""A drive as a route: metres along it, what lies near what, and runs of frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vloc_ros.types import Array

__all__ = ["Nearby", "extent", "metres_along", "runs", "turned_deg"]


#: Positions this close to the last one that counted add no road: the noise of a standing vehicle's would be metres.
#: Where a camera is carried through a room, it is this share of the room.
_NOISE_M, _NOISE_SHARE = 0.5, 0.02


def extent(positions: Array) -> float:
    """Diagonal (m) of the box around (N, 3) positions."""
    return float(np.linalg.norm(np.ptp(positions, axis=0))) if len(positions) else 0.0


def metres_along(T: Array) -> Array:
    """(N,) metres driven from the first of (N, 4, 4) poses to each, never decreasing.

    Measured from place to place at least half a metre apart (in a room less); in between by the distance from the last
    one.
    """
    noise = min(_NOISE_M, _NOISE_SHARE * extent(T[:, :3, 3]))
    out = np.zeros(len(T))
    road, here = 0.0, T[0, :3, 3] if len(T) else np.zeros(3)
    for index, place in enumerate(T[:, :3, 3]):
        moved = float(np.linalg.norm(place - here))
        out[index] = road + moved
        if moved >= noise:
            road, here = road + moved, place
    return np.asarray(np.maximum.accumulate(out)) if len(T) else out


def turned_deg(a: Array, b: Array) -> Array:
    """Angle between the rotations of poses (..., 4, 4), degrees."""
    trace = np.einsum("...ij,...ij->...", a[..., :3, :3], b[..., :3, :3])
    return np.asarray(np.degrees(np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0))))


def runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


class Nearby:
    """Finds which of (M, 4, 4) poses are near a place, by cells of the plan.

    :param near_m: how near in space. :param near_deg: and how much turned at most.
    """

    def __init__(self, T: Array, near_m: float, near_deg: float = 180.0) -> None:
        self._T, self._near_m, self._near_deg = T, near_m, near_deg
        self._cells: dict[tuple[int, int], list[int]] = {}
        for index, (x, y) in enumerate(np.floor(T[:, :2, 3] / near_m).astype(np.int64)):
            self._cells.setdefault((int(x), int(y)), []).append(index)

    def of(self, T: Array) -> npt.NDArray[np.int64]:
        """Rows near one (4, 4) pose, ascending."""
        x, y = (int(v) for v in np.floor(T[:2, 3] / self._near_m))
        found = [i for dx in (-1, 0, 1) for dy in (-1, 0, 1) for i in self._cells.get((x + dx, y + dy), ())]
        rows = np.array(sorted(found), dtype=np.int64)
        if not len(rows):
            return rows
        near = np.linalg.norm(self._T[rows, :3, 3] - T[:3, 3], axis=1) <= self._near_m
        if self._near_deg < 180.0:
            near &= turned_deg(self._T[rows], T) <= self._near_deg
        return np.asarray(rows[near], dtype=np.int64)
