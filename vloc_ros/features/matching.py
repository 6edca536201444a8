"""Which features are the same: by descriptor alone, or near where geometry says they must be. On torch, any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.features.base import Described
from vloc_ros.features.points import MapPoints
from vloc_ros.types import Array

__all__ = ["Candidates", "match_descriptors", "match_points", "near_candidates", "near_pairs"]

Ints = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


def match_descriptors(
    first: Tensor, second: Tensor, ratio: float = 0.9, least_cosine: float = -1.0
) -> tuple[Ints, F32]:
    """Mutual nearest neighbours whose distance is below ``ratio`` times that of the second nearest (Lowe 2004).

    :param first: (N, D) unit vectors. :param second: (M, D), on the same device.
    :param least_cosine: pairs less alike than this are none.
    :returns: pairs (K, 2), the clearest first, and their ratios (K,).
    """
    if not len(first) or not len(second):
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32)
    return _mutual(first @ second.T, ratio, least_cosine)


def match_points(query: Described, points: MapPoints, ratio: float, groups: Sequence[Ints]) -> list[tuple[Ints, F32]]:
    """Matches of a query's features with several groups of points, each group by itself.

    The ratio is that of two *points*, however many descriptors each has. Places that look the same stand in different
    groups, where they do not spoil each other's ratios.

    :param groups: rows of ``points``, ascending.
    :returns: for each group pairs (K, 2) of a feature and a row of ``points``, the clearest first; and their ratios.
    """
    out = []
    for rows in groups:
        part = points if len(rows) == len(points) else points.select(rows)
        if not len(query) or not len(part):
            out.append((np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32)))
            continue
        similarity = query.unit @ part.prototypes[: len(part)].T
        for start, end in part.further():
            owners = part.owner[start:end]  # none twice
            found = query.unit @ part.prototypes[start:end].T
            similarity[:, owners] = torch.maximum(similarity[:, owners], found)
        pairs, quotients = _mutual(similarity, ratio, -1.0)
        pairs[:, 1] = rows[pairs[:, 1]]
        out.append((pairs, quotients))
    return out


def _mutual(similarity: Tensor, ratio: float, least_cosine: float) -> tuple[Ints, F32]:
    values, columns = similarity.topk(min(2, similarity.shape[1]), dim=1)
    # The best of a column is told by its value: looking for its row takes five times as long.
    best = similarity.amax(dim=0)
    rows = torch.arange(len(similarity), device=similarity.device)
    good = (values[:, 0] >= best[columns[:, 0]]) & (values[:, 0] >= least_cosine)
    distance = (2.0 - 2.0 * values).clamp_min(0.0).sqrt()
    if similarity.shape[1] > 1:
        quotient = distance[:, 0] / distance[:, 1].clamp_min(1e-6)
    else:
        quotient = torch.zeros_like(distance[:, 0])
    good &= quotient < ratio
    order = torch.argsort(quotient[good], stable=True)
    pairs = torch.stack([rows[good], columns[good, 0]], dim=1)[order]
    return pairs.cpu().numpy().astype(np.int64), quotient[good][order].cpu().numpy()


def near_pairs(first: Array, second: Array, radius: float | Array) -> tuple[Ints, Ints, Array]:
    """All pairs of positions (N, 2) and (M, 2) that are near each other: rows of both (K,), and the distances (K,).

    :param radius: for all, or for each of the first (N,).
    """
    reach = np.broadcast_to(np.asarray(radius, dtype=np.float64), (len(first),))
    nothing = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    if not len(first) or not len(second):
        return nothing
    # Cells of a common grid; the width is that of the middle radius, so that one wide one does not blow up all.
    cell = max(float(np.median(reach)), 1.0)
    lowest = second.min(axis=0)
    extent = (np.floor((second.max(axis=0) - lowest) / cell).astype(np.int64) + 1).tolist()
    place = np.floor((second - lowest) / cell).astype(np.int64)
    key = place[:, 1] * extent[0] + place[:, 0]
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    low = np.clip(np.floor((first - reach[:, None] - lowest) / cell), -1, 2**31).astype(np.int64)
    high = np.clip(np.floor((first + reach[:, None] - lowest) / cell), -1, 2**31).astype(np.int64)
    low, high = np.maximum(low, 0), np.minimum(high, np.array(extent) - 1)
    inside = np.flatnonzero((low <= high).all(axis=1))
    if not len(inside):
        return nothing
    # A run of cells in a row of the grid is a run of sorted features.
    lines = (high - low + 1)[inside, 1]
    point = np.repeat(inside, lines)
    line = low[point, 1] + _counted(lines)
    begin = np.searchsorted(sorted_key, line * extent[0] + low[point, 0], side="left")
    end = np.searchsorted(sorted_key, line * extent[0] + high[point, 0], side="right")
    counts = end - begin
    rows = np.repeat(point, counts)
    columns = order[np.repeat(begin, counts) + _counted(counts)]
    distance = np.hypot(*(first[rows] - second[columns]).T)
    kept = distance <= reach[rows]
    return rows[kept], columns[kept], distance[kept]


def _counted(counts: Ints) -> Ints:
    """0 .. n - 1 for each n, one after another."""
    total = int(counts.sum())
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return np.arange(total) - starts


@dataclass(frozen=True)
class Candidates:
    """Features near projected points that look like them: rows of both (K,), and their cosines (K,)."""

    rows: Ints
    features: Ints
    cosines: F32

    def best(self, distance: Array, radius_px: float | Array) -> tuple[Ints, Array]:
        """Pairs (M, 2) of a point and a feature, each in one pair at most, points ascending; and their distances (M,).

        A point takes the feature most like it, and a feature keeps the point most like it.

        :param distance: (K,) pixels between them now. :param radius_px: what is farther is none; for all or each (K,).
        """
        near = np.flatnonzero(distance <= radius_px)
        rows, features, cosines = self.rows[near], self.features[near], self.cosines[near]
        order = np.lexsort((features, -cosines, rows))
        order = order[_first_of_runs(rows[order])]
        order = order[np.lexsort((rows[order], -cosines[order], features[order]))]
        order = order[_first_of_runs(features[order])]
        order = order[np.argsort(rows[order], kind="stable")]
        return np.stack([rows[order], features[order]], axis=1).astype(np.int64), distance[near[order]]


def near_candidates(
    projected: Array,
    rows: Ints,
    points: MapPoints,
    query: Described,
    radius_px: float | Array,
    least_cosine: float,
    sizes_px: npt.NDArray[np.floating[Any]] | None = None,
    octaves: float = 1.0,
) -> Candidates:
    """Which features may be the projected points.

    :param projected: (N, 2) where points should be. :param rows: (N,) which of ``points`` they are.
    :param radius_px: how far off a feature may be, for all points or each (N,).
    :param least_cosine: how like it must be.
    :param sizes_px: (N,) how large the points should look; NaN: unknown.
    :param octaves: how far that may be off.
    """
    at, columns, _ = near_pairs(projected, query.features.pixels.astype(np.float64), radius_px)
    if sizes_px is not None and len(at):
        with np.errstate(divide="ignore", invalid="ignore"):
            apart = np.abs(np.log2(sizes_px[at] / query.features.sizes[columns]))
        kept = ~(apart > octaves)  # what is not known is allowed
        at, columns = at[kept], columns[kept]
    point = rows[at]
    device = points.prototypes.device
    r, c = torch.from_numpy(point).to(device), torch.from_numpy(columns).to(device)
    cosine = (points.prototypes[r] * query.unit[c]).sum(dim=1)
    # Further descriptors of a point: the most alike counts.
    for start, end in points.further():
        slot = torch.full((len(points),), -1, dtype=torch.int64, device=device)
        slot[points.owner[start:end]] = torch.arange(start, end, device=device)
        more = slot[r]
        has = torch.nonzero(more >= 0)[:, 0]
        found = (points.prototypes[more[has]] * query.unit[c[has]]).sum(dim=1)
        cosine[has] = torch.maximum(cosine[has], found)
    value = cosine.cpu().numpy()
    good = value >= least_cosine
    return Candidates(point[good], columns[good], value[good])


def _first_of_runs(sorted_values: Ints) -> npt.NDArray[np.bool_]:
    first = np.ones(len(sorted_values), dtype=bool)
    first[1:] = sorted_values[1:] != sorted_values[:-1]
    return first
