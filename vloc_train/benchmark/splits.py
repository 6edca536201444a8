"""What is the map and what is asked: splits of drives, fold by fold, and what each query is told about its pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.settings import ranged
from vloc_ros.types import Array
from vloc_train.benchmark.drives import Drives, Part, check_datum, overlap
from vloc_train.training.frames import keyed_rng

__all__ = ["Fold", "Near", "Prior", "ReferencePrior", "Split", "folds_of"]

#: Keeps these random numbers apart from others of the same seed.
_STREAM = 71
#: Nobody is surer than this, whatever the protocol says: a covariance must not be singular (m, degrees).
_LEAST = (1e-3, 1e-2)


@dataclass(frozen=True)
class ReferencePrior:
    """The pose of a frame that the split names for its map, drawn from those at such a distance from the query.

    Frames that a fold leaves out of its map count, too: their pose is all that is used, so that priors are the same
    with and without the exclusion.

    :param between_m: nearest and farthest distance.
    :param within_deg: largest angle between the viewing directions.
    :param sigma_deg: standard deviation of the rotation that the prior states, about each axis.
    """

    between_m: tuple[float, float] = ranged((2.0, 4.0), minimum=0.0)
    within_deg: float = ranged(180.0, minimum=0.0, maximum=180.0)
    sigma_deg: float = ranged(3.0, minimum=0.0, maximum=90.0)

    def __post_init__(self) -> None:
        _rising("between_m", self.between_m)


@dataclass(frozen=True)
class Prior:
    """What a query is told about its pose. Its covariance is that of the distribution that it is drawn from.

    :param offset_m: the truth moved by a distance uniform between these two, in a direction uniform on the sphere.
    :param offset_deg: and turned by an angle uniform between these two, about an axis uniform on the sphere.
    :param reference: a map frame's pose instead.
    :param seed: of what is drawn; none: the protocol's.
    :param repeats: every query is asked so often, each time from a prior of its own.
    """

    offset_m: tuple[float, float] | None = ranged(None, minimum=0.0)
    offset_deg: tuple[float, float] | None = ranged(None, minimum=0.0, maximum=180.0)
    reference: ReferencePrior | None = None
    seed: int | None = ranged(None, minimum=0)
    repeats: int = ranged(1, minimum=1, maximum=1000)

    def __post_init__(self) -> None:
        moved = self.offset_m is not None or self.offset_deg is not None
        if moved == (self.reference is not None):
            raise ConfigError("prior: expected either offset_m and offset_deg, or reference")
        for name in ("offset_m", "offset_deg"):
            if getattr(self, name) is not None:
                _rising(name, getattr(self, name))

    @property
    def covariance(self) -> Array:
        """(6, 6) of what :meth:`poses` gives, as :mod:`vloc_ros.types` defines it.

        A distance d in a uniform direction has the variance E[d^2] / 3 along every axis. Nothing is said about the
        road's direction, which a reference's offset mostly has: who localizes does not know it either.
        """
        if self.reference is not None:
            sigma_m, sigma_deg = np.sqrt(_square(self.reference.between_m) / 3.0), self.reference.sigma_deg
        else:
            sigma_m, sigma_deg = (np.sqrt(_square(limits or (0.0, 0.0)) / 3.0)
                                  for limits in (self.offset_m, self.offset_deg))  # fmt: skip
        sigmas = (max(float(sigma_m), _LEAST[0]), np.radians(max(float(sigma_deg), _LEAST[1])))
        return np.diag([sigmas[0] ** 2] * 3 + [sigmas[1] ** 2] * 3)

    def poses(
        self, truth: Array, stamps_ns: npt.NDArray[np.int64], references: Array, seed: int, repeat: int, where: str = ""
    ) -> Array:
        """``T_map_cam`` (N, 4, 4) to begin with, for N queries.

        The numbers of a query depend on the seed, its stamp and the repeat alone: not on what else is asked.

        :param truth: (N, 4, 4). :param stamps_ns: (N,).
        :param references: (M, 4, 4) poses of the map drives' frames.
        :param seed: the protocol's, for a prior without its own.
        :param where: the place to name in messages.
        :raises ConfigError: a query has no reference so far away.
        """
        seed = seed if self.seed is None else self.seed
        out = np.array(truth, dtype=np.float64)
        for row, stamp in enumerate(stamps_ns.tolist()):
            rng = keyed_rng(seed, _STREAM, repeat, stamp)
            if self.reference is None:
                out[row] = self._moved(truth[row], rng)
            else:
                rows = _around(truth[row], references, self.reference)
                if not len(rows):
                    low, high = self.reference.between_m
                    raise ConfigError(
                        f"{where}: prior: expected map frames {low:g} to {high:g} m from every query that look within "
                        f"{self.reference.within_deg:g} degrees of it, found none for the query at {stamp} ns"
                    )
                out[row] = references[rng.choice(rows)]
        return out

    def _moved(self, T: Array, rng: np.random.Generator) -> Array:
        # Both are always drawn, so that the distances are the same ones without a turn.
        metres, degrees = (rng.uniform(*(limits or (0.0, 0.0))) for limits in (self.offset_m, self.offset_deg))
        way, axis = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
        out = np.array(T, dtype=np.float64)
        out[:3, 3] += metres * way
        out[:3, :3] = so3_exp(np.radians(degrees) * axis) @ T[:3, :3]
        return out


def _around(T: Array, references: Array, wanted: ReferencePrior) -> npt.NDArray[np.int64]:
    distance = np.linalg.norm(references[:, :3, 3] - T[:3, 3], axis=1)
    cosine = np.clip(references[:, :3, 2] @ T[:3, 2], -1.0, 1.0)
    near = (distance >= wanted.between_m[0]) & (distance <= wanted.between_m[1])
    return np.flatnonzero(near & (np.degrees(np.arccos(cosine)) <= wanted.within_deg)).astype(np.int64)


def _square(limits: tuple[float, float]) -> float:
    """E[d^2] of a d that is uniform between the limits."""
    a, b = limits
    return (a * a + a * b + b * b) / 3.0


def _rising(name: str, limits: tuple[float, float]) -> None:
    if limits[0] > limits[1]:
        raise ConfigError(f"{name}: expected two numbers that do not fall, found {list(limits)}")


@dataclass(frozen=True)
class Near:
    """Only queries that have a frame this near, which is judged by the poses of both.

    :param of: selections of drives; none: the map's frames.
    :param within_m: distance to it.
    :param turned_deg: angle of the rotation between the two.
    """

    of: tuple[str, ...] = ()
    within_m: float = ranged(float("inf"), minimum=0.0)
    turned_deg: float = ranged(180.0, minimum=0.0, maximum=180.0)


@dataclass(frozen=True)
class Split:
    """What the map is made from and what is localized in it.

    :param map: selections of drives.
    :param query: selections of drives.
    :param folds: with n above 1 there are n maps; fold r asks every n-th query from the r-th on.
    :param apart_frames: map frames less than so many frames from the stamp of one of the fold's queries are left out.
    :param within_m: only queries that come so close to a map frame; 0: all.
    :param within_deg: and look at most so far away from its viewing direction.
    :param near: conditions of this kind with other frames or the whole rotation; a query meets every one of them.
    :param prior: what the queries are told about their poses; none: nothing.
    :param submission: write the poses of its queries for the long-term visual localization benchmark.
    :param about: what it is, for the table.
    """

    map: tuple[str, ...]
    query: tuple[str, ...]
    folds: int = ranged(1, minimum=1, maximum=1000)
    apart_frames: int = ranged(0, minimum=0)
    within_m: float = ranged(0.0, minimum=0.0)
    within_deg: float = ranged(180.0, minimum=0.0, maximum=180.0)
    near: tuple[Near, ...] = ()
    prior: Prior | None = None
    submission: bool = False
    about: str = ""


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
        near = [_seen(part, kept, split) for part in asked] if split.within_m or split.within_deg < 180 else asked
        for condition in split.near:
            frames = drives.all_parts(condition.of, name) if condition.of else kept
            near = [_near(part, _poses(frames), condition) for part in near]
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


def _poses(parts: Sequence[Part]) -> Array:
    return np.concatenate([part.sequence.T_map_cam[part.rows] for part in parts])


def _near(part: Part, frames: Array, condition: Near) -> Part:
    """The frames with one of ``frames`` (M, 4, 4) as near as the condition says."""
    T = part.sequence.T_map_cam[part.rows]
    distance = np.linalg.norm(T[:, None, :3, 3] - frames[None, :, :3, 3], axis=-1)
    trace = np.einsum("qij,mij->qm", T[:, :3, :3], frames[:, :3, :3])
    turned = np.degrees(np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0)))
    return part.keep(((distance <= condition.within_m) & (turned <= condition.turned_deg)).any(axis=1))


def _seen(part: Part, maps: Sequence[Part], split: Split) -> Part:
    """The frames with a map frame close by that looks the same way."""
    T_query, T_map = part.sequence.T_map_cam[part.rows], _poses(maps)
    distance = np.linalg.norm(T_query[:, None, :3, 3] - T_map[None, :, :3, 3], axis=-1)
    cosine = np.clip(T_query[:, :3, 2] @ T_map[:, :3, 2].T, -1.0, 1.0)
    close = distance <= split.within_m if split.within_m else np.ones_like(distance, dtype=bool)
    return part.keep(np.asarray((close & (np.degrees(np.arccos(cosine)) <= split.within_deg)).any(axis=1)))
