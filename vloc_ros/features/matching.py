"""Which features are the same: by descriptor alone, or near where geometry says they must be. On torch, any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.features.base import Described
from vloc_ros.features.points import MapPoints
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, CameraModel

__all__ = ["Candidates", "alike_pairs", "match_descriptors", "match_points"]

Ints = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
#: Distances of unit vectors below this are rounding, of float32 and of bytes.
_ROUNDING = 2e-3


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
        pairs, quotients = _mutual(_similarity(query, part), ratio, -1.0)
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
        # Two that are the same but for rounding are not told apart.
        quotient = (distance[:, 0] + _ROUNDING) / (distance[:, 1] + _ROUNDING)
    else:
        quotient = torch.zeros_like(distance[:, 0])
    good &= quotient < ratio
    order = torch.argsort(quotient[good], stable=True)
    pairs = torch.stack([rows[good], columns[good, 0]], dim=1)[order]
    return pairs.cpu().numpy().astype(np.int64), quotient[good][order].cpu().numpy()


@dataclass(frozen=True)
class Candidates:
    """Points and features of an image that look alike, wherever they are: rows of both (K,), and cosines (K,)."""

    rows: Ints
    features: Ints
    cosines: F32

    def near(
        self,
        T_map_cam: Array,
        camera: CameraModel,
        query: Described,
        points: MapPoints,
        radius_px: float | Array,
        octaves: float,
    ) -> tuple[Ints, Array, F32]:
        """Those that are near each other when the camera is at this pose, each in one pair at most.

        A point takes the feature most like it, and a feature keeps the point most like it.

        :param radius_px: how far a feature may be from where its point projects, for all points or each (N,).
        :param octaves: how far its size may be from the size that the point should have.
        :returns: pairs (M, 2) of a point and a feature, points ascending; their distances, pixels, and cosines (M,).
        """
        T = inverse(T_map_cam)
        # Of every point once: a point has many candidates.
        local = points.points @ T[:3, :3].T + T[:3, 3]
        projected, valid = project(camera, local)
        reach = np.where(valid, radius_px, -1.0)
        offset = projected[self.rows] - query.features.pixels[self.features]
        distance = np.hypot(offset[:, 0], offset[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            size = points.extents * (0.5 * (camera.fx + camera.fy)) / local[:, 2]
            apart = np.abs(np.log2(size[self.rows] / query.features.sizes[self.features]))
            kept = np.flatnonzero((distance <= reach[self.rows]) & ~(apart > octaves))  # unknown sizes are allowed
        rows, features, cosines = self.rows[kept], self.features[kept], self.cosines[kept]
        order = np.lexsort((features, -cosines, rows))
        order = order[_first_of_runs(rows[order])]
        order = order[np.lexsort((rows[order], -cosines[order], features[order]))]
        order = order[_first_of_runs(features[order])]
        order = order[np.argsort(rows[order], kind="stable")]
        pairs = np.stack([rows[order], features[order]], axis=1).astype(np.int64)
        return pairs, distance[kept[order]], cosines[order]


def alike_pairs(query: Described, points: MapPoints, least_cosine: float) -> Candidates:
    """All points and features whose descriptors have at least this cosine."""
    if not len(query) or not len(points):
        return Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    similarity = _similarity(query, points)
    features, rows = torch.nonzero(similarity >= least_cosine, as_tuple=True)
    cosines = similarity[features, rows]
    return Candidates(rows.cpu().numpy(), features.cpu().numpy(), cosines.cpu().numpy())


def _similarity(query: Described, points: MapPoints) -> Tensor:
    """(N, M) cosines of N features and M points, of a point's descriptors the most alike."""
    out = query.unit @ points.prototypes[: len(points)].T
    for start, end in points.further():
        owners = points.owner[start:end]  # none twice
        out[:, owners] = torch.maximum(out[:, owners], query.unit @ points.prototypes[start:end].T)
    return out


def _first_of_runs(sorted_values: Ints) -> npt.NDArray[np.bool_]:
    first = np.ones(len(sorted_values), dtype=bool)
    first[1:] = sorted_values[1:] != sorted_values[:-1]
    return first
