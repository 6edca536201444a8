"""Fewer points for a smaller map: those that many frames see, spread over each image and over its depths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.settings import ranged
from vloc_train.mapping.points import SparseModel

__all__ = ["SubsampleSettings", "subsample"]


@dataclass(frozen=True)
class SubsampleSettings:
    """What a map keeps of its points.

    :param per_frame: observations that a frame keeps at most; 0 keeps all.
    :param minimum_track: points that fewer frames saw are left out.
    :param maximum_error_px: points of a larger reprojection error are left out.
    :param columns: of the grid over the image that the observations are spread over.
    :param rows: of that grid.
    :param depths: classes of depth that every cell is split into. Far points are seen longest but say little about
        the position, so track length alone would keep too many of them.
    """

    per_frame: int = ranged(1000, minimum=0)
    minimum_track: int = ranged(3, minimum=2)
    maximum_error_px: float = ranged(3.0, minimum=0.0)
    columns: int = ranged(8, minimum=1)
    rows: int = ranged(4, minimum=1)
    depths: int = ranged(3, minimum=1)


def subsample(model: SparseModel, settings: SubsampleSettings | None = None) -> SparseModel:
    """Keep points by track length and coverage.

    Points are taken in the order of track length, then error. In a first pass a frame keeps an observation while its
    cell (of image and depth) has room, in a second one while the frame has room at all; a point none of whose
    observations is kept is dropped.
    """
    settings = settings or SubsampleSettings()
    good = (model.track_length >= settings.minimum_track) & (model.error <= settings.maximum_error_px)
    allowed = good[model.point_ids]
    counts = np.bincount(model.frame_of[allowed], minlength=len(model))
    if settings.per_frame == 0 or int(counts.max(initial=0)) <= settings.per_frame:
        return model.keep(allowed)
    cell, cells = _cells(model, settings)
    quota = max(settings.per_frame // cells, 1)
    in_cell = np.zeros(len(model) * cells, dtype=np.int64)
    in_frame = np.zeros(len(model), dtype=np.int64)
    kept = np.zeros(len(model.point_ids), dtype=bool)
    frame_of = model.frame_of
    offsets, by_point = model.by_point
    order = np.flatnonzero(good)
    order = order[np.lexsort((order, model.error[order], -model.track_length[order]))]
    for limited in (True, False):
        for point in order:
            mine = by_point[offsets[point] : offsets[point + 1]]
            frames, places = frame_of[mine], cell[mine]
            room = ~kept[mine] & (in_frame[frames] < settings.per_frame)
            if limited:
                room &= in_cell[places] < quota
            taken = mine[room]
            kept[taken] = True
            # A point is at most once in a frame, so that no index repeats here.
            in_frame[frames[room]] += 1
            in_cell[places[room]] += 1
    return model.keep(kept)


def _cells(model: SparseModel, settings: SubsampleSettings) -> tuple[npt.NDArray[np.int64], int]:
    """(O,) the cell of each observation, numbered through all frames; and how many a frame has."""
    sizes = np.array([c.size for c in model.cameras], dtype=np.float64)[model.camera_index[model.frame_of]]
    grid = np.array([settings.columns, settings.rows])
    place = np.clip(((model.pixels + 0.5) / sizes * grid).astype(np.int64), 0, grid - 1)
    depth = model.points_cam()[:, 2]
    by_depth = np.lexsort((depth, model.frame_of))
    rank = np.empty(len(depth))
    rank[by_depth] = np.arange(len(depth)) - model.offsets[:-1][model.frame_of[by_depth]]
    share = rank / np.maximum(np.diff(model.offsets)[model.frame_of], 1)
    layer = np.minimum((share * settings.depths).astype(np.int64), settings.depths - 1)
    cells = settings.columns * settings.rows * settings.depths
    number = (layer * settings.rows + place[:, 1]) * settings.columns + place[:, 0]
    return model.frame_of * cells + number, cells
