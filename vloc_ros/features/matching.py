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
from vloc_ros.transfer import read_back, true_entries
from vloc_ros.types import Array, CameraModel

__all__ = [
    "Candidates",
    "alike_in_all",
    "alike_pairs",
    "match_descriptors",
    "match_points",
    "near_pairs",
]

Ints = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
#: Distances of unit vectors below this are rounding, of float32 and of bytes.
_ROUNDING = 2e-3
#: Pairs for each feature and point that a device keeps places for, so that nobody has to wait for their number.
_PLACES = 8


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
    return _clearest(*read_back(*_mutual(first @ second.T, ratio, least_cosine)))


def match_points(
    queries: Sequence[tuple[Described, MapPoints, Sequence[Ints]]], ratio: float
) -> list[list[tuple[Ints, F32]]]:
    """Matches of queries' features with several groups of points, each group by itself; the host waits once for all.

    The ratio is that of two *points*, however many descriptors each has. Places that look the same stand in different
    groups, where they do not spoil each other's ratios.

    :param queries: features, points, and the groups: rows of the points, ascending.
    :returns: of each query for each group pairs (K, 2) of a feature and a row of the points, the clearest first; and
        their ratios.
    """
    out = [[(np.zeros((0, 2), np.int64), np.zeros(0, np.float32)) for _ in groups] for _, _, groups in queries]
    asked = []
    for number, (query, points, groups) in enumerate(queries):
        for group, rows in enumerate(groups):
            part = points if len(rows) == len(points) else points.select(rows)
            if len(query) and len(part):
                asked.append((number, group, _mutual(_similarity(query, part), ratio, -1.0)))
    host = read_back(*(x for *_, found in asked for x in found))
    for at, (number, group, _) in enumerate(asked):
        pairs, quotients = _clearest(*host[3 * at : 3 * at + 3])
        pairs[:, 1] = queries[number][2][group][pairs[:, 1]]
        out[number][group] = (pairs, quotients)
    return out


def _mutual(similarity: Tensor, ratio: float, least_cosine: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row (N,) whether it has a match, in which column, and its ratio; on the device, and nothing waits."""
    values, columns = similarity.topk(min(2, similarity.shape[1]), dim=1)
    # The best of a column is told by its value: looking for its row takes five times as long.
    best = similarity.amax(dim=0)
    good = (values[:, 0] >= best[columns[:, 0]]) & (values[:, 0] >= least_cosine)
    distance = (2.0 - 2.0 * values).clamp_min(0.0).sqrt()
    if similarity.shape[1] > 1:
        # Two that are the same but for rounding are not told apart.
        quotient = (distance[:, 0] + _ROUNDING) / (distance[:, 1] + _ROUNDING)
    else:
        quotient = torch.zeros_like(distance[:, 0])
    return good & (quotient < ratio), columns[:, 0], quotient


def _clearest(good: Tensor, column: Tensor, quotient: Tensor) -> tuple[Ints, F32]:
    """Pairs (K, 2) and their ratios, the smallest first, of what :func:`_mutual` gave, on the host."""
    rows = np.flatnonzero(good.numpy())
    ratios = quotient.numpy()[rows]
    order = np.argsort(ratios, kind="stable")
    return np.stack([rows, column.numpy()[rows]], axis=1)[order].astype(np.int64), ratios[order]


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
        found = _projected(T_map_cam, camera, points, radius_px)
        return _one_each(found, query, points, self.rows, self.features, octaves, self.cosines)


def near_pairs(
    T_map_cam: Array,
    camera: CameraModel,
    query: Described,
    points: MapPoints,
    radius_px: float | Array,
    octaves: float,
    least_cosine: float,
) -> tuple[Ints, Array, F32]:
    """What :meth:`Candidates.near` finds among all that have this cosine, by the host alone: only what is near each
    other is compared, a small share of all pairs unless radii are wide."""
    found = _projected(T_map_cam, camera, points, radius_px)
    asked = np.flatnonzero(found.reach >= 0.0)
    if not len(query) or not len(asked):
        nothing = np.zeros(0, dtype=np.int64)
        return _one_each(found, query, points, nothing, nothing, octaves, least_cosine)
    # A little farther than asked: the distances are measured again.
    near = query.places.query_ball_point(found.pixels[asked], found.reach[asked] + 1e-3, return_sorted=False)
    rows = np.repeat(asked, [len(some) for some in near])
    features = np.concatenate([np.asarray(some, dtype=np.int64) for some in near])
    return _one_each(found, query, points, rows, features, octaves, least_cosine)


@dataclass(frozen=True)
class _Projected:
    """Where points are in an image (N, 2), their focal length over depth (N,), and how far off a feature may be (N,);
    negative where a point is not in view."""

    pixels: Array
    scale: Array
    reach: Array


def _projected(T_map_cam: Array, camera: CameraModel, points: MapPoints, radius_px: float | Array) -> _Projected:
    T = inverse(T_map_cam)
    # Of every point once: a point has many candidates.
    local = points.points @ T[:3, :3].T + T[:3, 3]
    pixels, valid = project(camera, local)
    with np.errstate(divide="ignore"):
        scale = (0.5 * (camera.fx + camera.fy)) / local[:, 2]
    return _Projected(pixels, scale, np.where(valid, radius_px, -1.0))


def _one_each(
    found: _Projected,
    query: Described,
    points: MapPoints,
    rows: Ints,
    features: Ints,
    octaves: float,
    cosines: F32 | float,
) -> tuple[Ints, Array, F32]:
    """Of pairs of rows and features those within reach and of a fitting size, each point and feature in one at most.

    :param cosines: of the pairs; or the least one, where they are not known yet.
    """
    offset = found.pixels[rows] - query.features.pixels[features]
    distance = np.hypot(offset[:, 0], offset[:, 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        size = points.extents * found.scale
        apart = np.abs(np.log2(size[rows] / query.features.sizes[features]))
        kept = np.flatnonzero((distance <= found.reach[rows]) & ~(apart > octaves))  # unknown sizes are allowed
    rows, features, distance = rows[kept], features[kept], distance[kept]
    if isinstance(cosines, float):
        least, cosines = cosines, _cosines(query, points, rows, features)
        alike = np.flatnonzero(cosines >= least)
        rows, features, distance, cosines = rows[alike], features[alike], distance[alike], cosines[alike]
    else:
        cosines = cosines[kept]
    order = np.lexsort((features, -cosines, rows))
    order = order[_first_of_runs(rows[order])]
    order = order[np.lexsort((rows[order], -cosines[order], features[order]))]
    order = order[_first_of_runs(features[order])]
    order = order[np.argsort(rows[order], kind="stable")]
    pairs = np.stack([rows[order], features[order]], axis=1).astype(np.int64)
    return pairs, distance[order], cosines[order]


def _cosines(query: Described, points: MapPoints, rows: Ints, features: Ints) -> F32:
    """Of pairs; of a point's descriptors the most alike counts."""
    unit, prototypes = query.on_host, points.on_host
    out = np.einsum("kd,kd->k", unit[features], prototypes[rows])
    for start, end in points.further():
        place = np.full(len(points), -1, dtype=np.int64)
        place[points.owner[start:end]] = np.arange(start, end)
        pairs = np.flatnonzero(place[rows] >= 0)
        further = np.einsum("kd,kd->k", unit[features[pairs]], prototypes[place[rows[pairs]]])
        out[pairs] = np.maximum(out[pairs], further)
    return np.asarray(out, dtype=np.float32)


def alike_pairs(query: Described, points: MapPoints, least_cosine: float) -> Candidates:
    """All points and features whose descriptors have at least this cosine."""
    return alike_in_all([(query, points)], least_cosine)[0]


def alike_in_all(asked: Sequence[tuple[Described, MapPoints]], least_cosine: float) -> list[Candidates]:
    """:func:`alike_pairs` of several queries and points, for which the host waits once."""
    out = [Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in asked]
    far: list[tuple[int, Tensor, tuple[Tensor, Tensor, Tensor]]] = []
    for number, (query, points) in enumerate(asked):
        if not len(query) or not len(points):
            continue
        similarity = _similarity(query, points)
        if similarity.device.type == "cpu":
            flat = similarity.reshape(-1)
            places = torch.nonzero(flat >= least_cosine)[:, 0]
            out[number] = _candidates(places, flat[places], similarity.shape[1])
            continue
        places, count = true_entries(similarity >= least_cosine, _PLACES * sum(similarity.shape))
        far.append((number, similarity, (places, count, similarity.reshape(-1)[places])))
    host = read_back(*(x for _, _, found in far for x in found))
    for at, (number, similarity, (room, _, _)) in enumerate(far):
        places, count, cosines = host[3 * at : 3 * at + 3]
        if int(count) > len(room):  # more alike than there was room for: look again, with as many places as it takes
            places, _ = true_entries(similarity >= least_cosine, int(count))
            places, cosines = read_back(places, similarity.reshape(-1)[places])
        out[number] = _candidates(places[: int(count)], cosines[: int(count)], similarity.shape[1])
    return out


def _candidates(places: Tensor, cosines: Tensor, columns: int) -> Candidates:
    features, rows = np.divmod(places.numpy(), columns)
    return Candidates(rows, features, cosines.numpy())


def _similarity(query: Described, points: MapPoints) -> Tensor:
    """(N, M) cosines of N features and M points, of a point's descriptors the most alike."""
    out = query.unit @ points.prototypes[: len(points)].T
    if len(points.prototypes) > len(points):
        owner = torch.from_numpy(points.owner[len(points) :]).to(out.device)
        for start, end in points.further():
            owners = owner[start - len(points) : end - len(points)]  # none twice
            out[:, owners] = torch.maximum(out[:, owners], query.unit @ points.prototypes[start:end].T)
    return out


def _first_of_runs(sorted_values: Ints) -> npt.NDArray[np.bool_]:
    first = np.ones(len(sorted_values), dtype=bool)
    first[1:] = sorted_values[1:] != sorted_values[:-1]
    return first
