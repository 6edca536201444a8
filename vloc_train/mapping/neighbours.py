"""Which frames may see the same: by their poses, so that a drive of N frames has about N pairs times a constant."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vloc_ros.types import Array

__all__ = ["blocks", "neighbour_pairs"]

Ints = npt.NDArray[np.int64]
_CHUNK = 512


def neighbour_pairs(
    T_map_cam: Array, drive: Ints, count: int, reach_m: float, reach_deg: float, minimum_m: float
) -> Ints:
    """Pairs (M, 2) of frames, the smaller number first, sorted.

    Every frame asks for ``count`` others between ``minimum_m`` and ``reach_m`` away whose viewing direction differs by
    at most ``reach_deg``, an equal share from every drive: the nearest half, and the other half spread over the rest,
    because the nearest alone see hardly any parallax.

    :param T_map_cam: (R, 4, 4). :param drive: (R,).
    """
    t, axis = T_map_cam[:, :3, 3], T_map_cam[:, :3, 2]
    pairs: list[Ints] = []
    for frames, distance, angle in _distances(t, axis):
        for row, frame in enumerate(frames):
            near = (distance[row] >= minimum_m) & (distance[row] <= reach_m) & (angle[row] <= reach_deg)
            found = np.flatnonzero(near)
            if not len(found):
                continue
            cost = distance[row, found] / reach_m + angle[row, found] / max(reach_deg, 1e-9)
            found = found[np.argsort(cost, kind="stable")]
            drives = np.unique(drive[found])
            share = -(-count // len(drives))
            chosen = np.concatenate([_spread(found[drive[found] == d], share) for d in drives])
            pairs.append(np.stack([np.full(len(chosen), frame), chosen], axis=1))
    if not pairs:
        return np.zeros((0, 2), dtype=np.int64)
    return np.asarray(np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0), dtype=np.int64)


def _distances(t: Array, axis: Array) -> Iterator[tuple[Ints, Array, Array]]:
    """Distances (m) and angles (deg) of some frames to all, a few hundred rows at a time."""
    for start in range(0, len(t), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(t)))
        distance = np.linalg.norm(t[rows, None] - t[None], axis=-1)
        angle = np.degrees(np.arccos(np.clip(axis[rows] @ axis.T, -1.0, 1.0)))
        yield rows, distance, angle


def _spread(found: Ints, count: int) -> Ints:
    """The first half of ``count``, and the rest at equal steps behind it."""
    if len(found) <= count:
        return found
    nearest = -(-count // 2)
    steps = np.linspace(nearest, len(found) - 1, count - nearest + 1)[1:]
    ranks = np.concatenate([np.arange(nearest), np.round(steps).astype(np.int64)])
    return np.asarray(found[ranks], dtype=np.int64)


def blocks(positions: Array, largest: int) -> list[Ints]:
    """Frames (R, 3) in groups of at most ``largest``, halved along the longest side again and again."""
    out, waiting = [], [np.arange(len(positions))]
    while waiting:
        group = waiting.pop()
        if len(group) <= largest:
            out.append(group)
            continue
        extent = np.ptp(positions[group], axis=0)
        order = group[np.argsort(positions[group, int(extent.argmax())], kind="stable")]
        half = len(order) // 2
        waiting += [np.sort(order[half:]), np.sort(order[:half])]
    return out
