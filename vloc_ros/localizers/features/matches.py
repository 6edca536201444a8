"""Which features of a query are which points of the places that similar images show: by neighbours or by a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.features.base import Described
from vloc_ros.features.matching import match_points
from vloc_ros.features.points import MapPoints
from vloc_ros.features.view_matching import View, ViewMatcher, merged, seen_from
from vloc_ros.localizers.features.store import PointStore
from vloc_ros.types import CameraModel

__all__ = ["match_nearest", "match_views"]

Ints = npt.NDArray[np.int64]
Matched = tuple[MapPoints, list[tuple[Ints, npt.NDArray[np.float32]]]]


def match_nearest(
    asked: Sequence[tuple[Described, PointStore, Sequence[Ints]]], ratio: float, most: int
) -> list[Matched]:
    """Nearest neighbours of queries' features among the points that the images of each of their places saw.

    :param asked: queries, each with the scene and rows of images of its places.
    :param most: points of a place, those that most of its images saw.
    :returns: of each query points, and for each place pairs (K, 2) of a feature and a row of the points, the clearest
        first. The host waits once for all.
    """
    queries = []
    for query, store, places in asked:
        seen = [_most_observed(store, images, most) for images in places]
        points = store.load(np.unique(np.concatenate(seen)))
        queries.append((query, points, [np.searchsorted(points.ids, s) for s in seen]))
    found = match_points(queries, ratio)
    return [(points, pairs) for (_, points, _), pairs in zip(queries, found, strict=True)]


def match_views(
    matcher: ViewMatcher,
    query: Described,
    camera: CameraModel,
    store: PointStore,
    places: Sequence[Ints],
    map_camera: CameraModel,
    images: int,
) -> Matched:
    """What a network matches with the map's points as the most similar images of each place see them.

    :param camera: of the query. :param places: rows of images, the most similar first.
    :param map_camera: that the points are projected by. :param images: of each place, at most.
    :returns: as :func:`match_nearest` of one query.
    """
    chosen = [rows[:images] for rows in places]
    points = store.load(store.observed(np.concatenate(chosen))[0])
    first = View(query.features.pixels + 0.5, query.unit, (float(camera.width), float(camera.height)))
    out = []
    for place in chosen:
        found = []
        for image in place:
            rows = np.searchsorted(points.ids, store.observed(np.array([image], dtype=np.int64))[0])
            unit = points.prototypes[torch.from_numpy(rows).to(points.prototypes.device)]
            view, seen = seen_from(store.T_map_cam[image], map_camera, points.points[rows], unit)
            pairs, scores = matcher.match(first, view)
            found.append((np.stack([pairs[:, 0], rows[seen[pairs[:, 1]]]], axis=1), scores))
        out.append(merged(found))
    return points, out


def _most_observed(store: PointStore, images: Ints, most: int) -> Ints:
    """Points that most of some images saw, so many of them; ascending."""
    ids, observers = store.observed(images)
    if len(ids) <= most:
        return ids
    order = np.lexsort((ids, -store.track_length[ids], -observers))[:most]
    return np.sort(ids[order])
