"""The cameras of a query: where each is on the rig, which points of the map it may see, and what its image says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vloc_ros.geometry.se3 import inverse, largest_sigma
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.pixloc.features import PyramidScale
from vloc_ros.localizers.pixloc.selection import choose_points
from vloc_ros.localizers.pixloc.settings import PixLocSettings
from vloc_ros.localizers.pixloc.store import PointBatch, ReferenceStore
from vloc_ros.types import Array, CameraModel, Query, RgbImage

__all__ = ["Eye", "Lenses", "Surroundings", "eyes_of"]

#: Cameras whose preparation is kept.
_CAMERAS = 32


@dataclass(frozen=True)
class Eye:
    """One camera of a query.

    :ivar number: 0 the query's own, n the n-th of its others.
    :ivar image_rgb: as it came. :ivar preprocess: how it is prepared. :ivar camera: of the prepared image.
    :ivar T_query_cam: (4, 4) where it is from the query's own camera; None: it is that.
    :ivar batch: the points that it may see. :ivar nearest: the reference nearest to it; -1: none.
    :ivar pyramid: the features of its image.
    """

    number: int
    image_rgb: RgbImage
    preprocess: Preprocess
    camera: CameraModel
    T_query_cam: Array | None = None
    batch: PointBatch | None = None
    nearest: int = -1
    pyramid: tuple[PyramidScale, ...] = ()

    @property
    def points(self) -> PointBatch:
        """The batch of an eye that has one."""
        assert self.batch is not None
        return self.batch

    @property
    def T_cam_query(self) -> Array:
        return np.eye(4) if self.T_query_cam is None else inverse(self.T_query_cam)

    def placed(self, T_map_query: Array) -> Array:
        """Its pose when the query's camera is there."""
        return T_map_query if self.T_query_cam is None else T_map_query @ self.T_query_cam


class Lenses:
    """How images of cameras are prepared: another lens than the map's has as many pixels a degree."""

    def __init__(self, camera: CameraModel, preprocess: Preprocess) -> None:
        self._camera, self._preprocess = camera, preprocess
        self._known: dict[CameraModel, Preprocess] = {}

    def of(self, camera: CameraModel) -> Preprocess:
        """Made once for a camera."""
        if camera not in self._known:
            if len(self._known) >= _CAMERAS:
                self._known.clear()
            self._known[camera] = self._preprocess.like(camera, self._camera)
        return self._known[camera]


def eyes_of(query: Query, lenses: Lenses) -> list[Eye]:
    """The cameras of a query, its own first."""
    seen = [
        (query.image_rgb, query.camera, None),
        *((view.image_rgb, view.camera, view.T_query_cam) for view in query.others),
    ]
    out = []
    for number, (image, camera, T_query_cam) in enumerate(seen):
        preprocess = lenses.of(camera)
        out.append(Eye(number, image, preprocess, preprocess.camera(camera), T_query_cam))
    return out


class Surroundings:
    """The points of a scene that cameras may see, with their features."""

    def __init__(self, store: ReferenceStore, settings: PixLocSettings) -> None:
        self._store, self._settings = store, settings
        self._last: Array | None = None

    def seen(
        self, eyes: Sequence[Eye], T_map_query: Array, covariance: Array, stamp_ns: int
    ) -> tuple[list[Eye], int, str]:
        """The eyes that may see points when the query's camera is about there.

        :returns: also the nearest reference of the first of all, and why there are none.
        """
        out, first = [], (-1, "")
        for eye in eyes:
            batch, nearest, failure = self._points(eye, eye.placed(T_map_query), covariance, stamp_ns)
            if eye is eyes[0]:
                first = (nearest, failure)
            if batch is not None:
                out.append(replace(eye, batch=batch, nearest=nearest))
        if out:
            if self._settings.prefetch_m > 0:
                self._look_ahead(out, T_map_query)
            return out, out[0].nearest, "none"
        return out, *first

    def _points(
        self, eye: Eye, T_map_cam: Array, covariance: Array, stamp_ns: int
    ) -> tuple[PointBatch | None, int, str]:
        """The points to align with their features, the nearest reference, and why there are none."""
        settings, store = self._settings, self._store
        allowed = None
        if settings.exclude_s > 0:
            allowed = np.abs(store.stamps_ns - stamp_ns) > settings.exclude_s * 1e9
        radius = max(settings.radius_m, 3.0 * largest_sigma(covariance[:3, :3]))
        ids = store.near(T_map_cam, settings.references, radius, allowed)
        if not len(ids):
            return None, -1, "no_references"
        seen, observers = store.observed(ids)
        # Long tracks first among those that equally many of these references see.
        priority = observers.astype(np.int64) * 100_000 + store.track_length[seen]
        rows = choose_points(store.points[seen], priority, T_map_cam, eye.camera, settings.max_points)
        if len(rows) < settings.optimizer.minimum_points:
            return None, int(ids[0]), "few_points"
        return store.load(ids, seen[rows]), int(ids[0]), "none"

    def _look_ahead(self, eyes: Sequence[Eye], T_map_query: Array) -> None:
        """Fetch the tiles ahead: the way the vehicle has come says where that is, at first the cameras do."""
        position, heading = T_map_query[:3, 3].copy(), None
        way = position - (position if self._last is None else self._last)
        length = float(np.linalg.norm(way))
        if self._last is None or length > 0.2:  # less is noise, more than a jump no drive
            heading = way if 0.2 < length < 20.0 else None
            self._last = position
        for eye in eyes:
            self._store.prefetch(eye.placed(T_map_query), heading, self._settings.prefetch_m)
