"""A drive as a route: metres along it, what lies near what, and runs of frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.types import Array

__all__ = ["MOMENT_NS", "Nearby", "extent", "metres_along", "nearest_in_time", "recordings", "runs", "turned_deg"]


#: Positions this close to the last one that counted add no road: the noise of a standing vehicle's would be metres.
#: Where a camera is carried through a room, it is this share of the room.
_NOISE_M, _NOISE_SHARE = 0.5, 0.02


#: Images of one recording this near to each other (ns) are of one moment.
MOMENT_NS = 30_000_000
#: The cameras of a rig keep their places on it: so much (m, deg) is the noise of poses and of stamps that differ.
_RIGID_M, _RIGID_DEG = 0.5, 3.0


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


def nearest_in_time(stamps_ns: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each stamp (M,) of ``of`` the row of the nearest one of ``stamps_ns`` (N,), at least two that rise."""
    after = np.clip(np.searchsorted(stamps_ns, of), 1, len(stamps_ns) - 1)
    return np.asarray(after - (of - stamps_ns[after - 1] <= stamps_ns[after] - of))


def recordings(drives: Sequence[PosedSequence]) -> list[int]:
    """Which recording each of some drives is of: the cameras of one rig are drives of one time that move together.

    :returns: for each drive the number of the first one of its recording.
    """
    out: list[int] = []
    for number, mine in enumerate(drives):
        found = (out[other] for other in range(number) if _of_one_rig(drives[other], mine))
        out.append(next(found, number))
    return out


def _of_one_rig(one: PosedSequence, other: PosedSequence) -> bool:
    a, b = one.stamps_ns, other.stamps_ns
    if min(len(a), len(b)) < 2:
        return False
    together = min(a[-1], b[-1]) - max(a[0], b[0])
    if together <= 0.5 * min(a[-1] - a[0], b[-1] - b[0]):
        return False
    # Data sets whose stamps only count frames have many drives of one time, which do not move together.
    row = nearest_in_time(a, b)
    same = np.abs(a[row] - b) <= max(2 * MOMENT_NS, int(np.median(np.diff(a))))
    if not same.any():
        return False
    T = np.linalg.inv(one.T_map_cam[row[same]]) @ other.T_map_cam[same]
    middle = T[int(np.argmin(np.linalg.norm(T[:, :3, 3] - np.median(T[:, :3, 3], axis=0), axis=1)))]
    apart = np.linalg.norm(T[:, :3, 3] - middle[:3, 3], axis=1)
    return bool(np.median(apart) <= _RIGID_M and np.median(turned_deg(T, middle)) <= _RIGID_DEG)


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
