"""A split's frames: which are the map and which ask, fold by fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vloc_ros.errors import ConfigError
from vloc_train.benchmark.drives import Drives, Part, check_datum, overlap
from vloc_train.benchmark.protocol import Split

__all__ = ["Fold", "folds_of"]


@dataclass(frozen=True)
class Fold:
    """Map frames and queries that belong together.

    ``left_out`` are the frames of the map's drives that are too close to the queries, ``query_left_out`` those of the
    query drives at the same moments that are no queries of this fold.
    """

    map: tuple[Part, ...]
    query: tuple[Part, ...]
    left_out: tuple[Part, ...] = ()
    query_left_out: tuple[Part, ...] = ()


def folds_of(name: str, split: Split, drives: Drives) -> list[Fold]:
    """The folds of a split.

    :raises ConfigError: map and queries share a frame, or nothing is left of one of them.
    """
    maps = drives.all_parts(split.map, name)
    queries = drives.all_parts(split.query, name)
    check_datum([*maps, *queries], f"split {name}")
    shared = overlap(maps, queries)
    if shared:
        raise ConfigError(f"split {name}: expected other queries than map frames, found frames of {shared} in both")
    out = []
    for number in range(split.folds):
        asked = _every(queries, number, split.folds)
        kept = [_apart(part, asked, split.apart_frames) for part in maps] if split.apart_frames else maps
        near = [_near(part, kept, split) for part in asked] if split.within_m or split.within_deg < 180 else asked
        left = [part.keep(~np.isin(part.rows, rest.rows)) for part, rest in zip(maps, kept, strict=True)]
        moments = np.concatenate([part.sequence.stamps_ns[part.rows] for part in left])
        others = [part.keep(~np.isin(part.rows, own.rows)) for part, own in zip(queries, asked, strict=True)]
        others = [part.keep(np.isin(part.sequence.stamps_ns[part.rows], moments)) for part in others]
        fold = Fold(*(tuple(p for p in parts if len(p)) for parts in (kept, near, left, others)))
        if not fold.map or not fold.query:
            raise ConfigError(f"split {name}, fold {number}: expected map frames and queries, found none left")
        out.append(fold)
    return out


def _every(parts: Sequence[Part], number: int, folds: int) -> list[Part]:
    """Every ``folds``-th frame from the ``number``-th on, counted through all parts."""
    out, before = [], 0
    for part in parts:
        out.append(part.keep((before + np.arange(len(part))) % folds == number))
        before += len(part)
    return out


def _apart(part: Part, queries: Sequence[Part], apart: int) -> Part:
    """Without the frames less than ``apart`` frames from the stamp of a query, if that lies in this drive's time.

    A query between two stamps counts as at both.
    """
    stamps = part.sequence.stamps_ns
    asked = np.concatenate([q.sequence.stamps_ns[q.rows] for q in queries])
    asked = asked[(asked >= stamps[0]) & (asked <= stamps[-1])]
    after = np.searchsorted(stamps, asked, side="left")
    before = np.searchsorted(stamps, asked, side="right") - 1
    taken = np.zeros(len(stamps), dtype=bool)
    for low, high in zip(np.minimum(before, after), np.maximum(before, after), strict=True):
        taken[max(low - apart + 1, 0) : high + apart] = True
    return part.keep(~taken[part.rows])


def _near(part: Part, maps: Sequence[Part], split: Split) -> Part:
    """The frames with a map frame close by that looks the same way."""
    if not len(part):
        return part
    T_query = part.sequence.T_map_cam[part.rows]
    T_map = np.concatenate([m.sequence.T_map_cam[m.rows] for m in maps])
    distance = np.linalg.norm(T_query[:, None, :3, 3] - T_map[None, :, :3, 3], axis=-1)
    cosine = np.clip(T_query[:, :3, 2] @ T_map[:, :3, 2].T, -1.0, 1.0)
    close = distance <= split.within_m if split.within_m else np.ones_like(distance, dtype=bool)
    return part.keep((close & (np.degrees(np.arccos(cosine)) <= split.within_deg)).any(axis=1))
