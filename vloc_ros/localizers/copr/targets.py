"""Where descriptors are regressed to: between references, or on grids around them (Section III-B).

Ground plane and heading are the map's: x and y, and the turn about z. References are in the order of their trajectory,
one trajectory after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError, GeometryError, InterpolationError
from vloc_ros.geometry.rotations import quaternion_multiply, quaternion_to_matrix, slerp
from vloc_ros.localizers.copr.settings import TargetSettings
from vloc_ros.types import Array

__all__ = [
    "Targets",
    "extrapolation_targets",
    "gap_limit",
    "interpolation_targets",
    "span_of",
    "targets_of",
    "trajectories",
]

Rows = npt.NDArray[np.int64]

#: Nearer to a reference than this (m), with its orientation, a target would be the reference again.
_SAME_M = 1e-6
#: Gaps beyond this many median distances are gaps, where no limit is given.
_GAP_FACTOR = 3.0
#: Pairs of a reference and a grid point at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Targets:
    """T poses to regress descriptors for.

    ``poses`` (T, 7) float64 of T_map_cam; ``anchors`` (T, 1) or (T, 2) reference rows: the one it lies around, or the
    two it lies between, the nearer first.
    """

    poses: Array
    anchors: Rows

    def __len__(self) -> int:
        return len(self.poses)


def gap_limit(poses: Array, settings: TargetSettings) -> float:
    """The distance from which on consecutive references are on different trajectories."""
    if settings.max_gap_m is not None:
        return settings.max_gap_m
    apart = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1)
    apart = apart[apart > _SAME_M]
    return _GAP_FACTOR * float(np.median(apart)) if len(apart) else np.inf


def trajectories(poses: Array, settings: TargetSettings) -> Rows:
    """``(M,)`` the number of the trajectory that each reference is on."""
    apart = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1)
    return np.concatenate(([0], np.cumsum(apart > gap_limit(poses, settings)))).astype(np.int64)[: len(poses)]


def span_of(poses: Array, settings: TargetSettings) -> float:
    """How far extrapolation reaches. :raises ConfigError: it is not given and does not follow from the references."""
    if settings.span_m is not None:
        return settings.span_m
    apart = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1)
    apart = apart[(apart > _SAME_M) & (apart <= gap_limit(poses, settings))]
    if not len(apart):
        raise ConfigError(
            f"span: expected a span, found none, and {len(poses)} reference(s) at one place to derive one from; "
            "give --span"
        )
    return 0.5 * float(apart.max())


def targets_of(poses: Array, settings: TargetSettings, dropped: Array | None = None) -> Targets:
    """The targets that the settings ask for.

    :param poses: ``(M, 7)`` of the references, float64.
    :param dropped: with ``at: dropped``: ``(L, 7 + 1)``, the pose of each reference that was left out, and the row of
        the last reference before it.
    :raises InterpolationError: nothing to interpolate between. :raises ConfigError: too many targets.
    """
    if not len(poses):
        raise InterpolationError("densify: expected at least one reference of an image, found none")
    if settings.scheme == "extrapolate":
        return extrapolation_targets(poses, settings)
    if settings.at == "dropped":
        assert dropped is not None
        return _turned(_dropped_targets(poses, dropped, settings), settings)
    return interpolation_targets(poses, settings)


def _check_count(count: float, settings: TargetSettings) -> None:
    if count > settings.max_targets:
        raise ConfigError(
            f"densify: expected at most max_targets = {settings.max_targets} targets, step and span make {count:.3g}; "
            "take a larger step, a smaller span, or raise max_targets"
        )


# -- interpolation --------------------------------------------------------------------------------


def interpolation_targets(poses: Array, settings: TargetSettings) -> Targets:
    """Poses every ``step_m`` (or a little less, so that they are even) between consecutive references.

    Positions lie on the line between the two, orientations on the shorter arc. Nothing is made across a gap, and
    nothing between the last reference of a trajectory and its first.

    :raises InterpolationError: fewer than two references that are consecutive and near enough.
    """
    apart = np.linalg.norm(np.diff(poses[:, :3], axis=0), axis=1)
    limit = gap_limit(poses, settings)
    usable = np.flatnonzero((apart <= limit) & (apart > _SAME_M))
    if not len(usable):
        raise InterpolationError(
            f"interpolate: expected two consecutive references at most {limit:.3g} m apart, found {len(poses)} "
            f"reference(s){' farther apart' if len(poses) > 1 and apart.min() > limit else ''}; a lone reference can "
            "be extrapolated from (--scheme extrapolate), a wider gap allowed with max_gap_m"
        )
    # Stored positions are rounded: a hair more than n steps is n steps.
    parts = np.ceil(apart[usable] / settings.step_m - 1e-3)
    _check_count(float((parts - 1).sum()) * len(settings.yaw_deg), settings)
    inner = parts.astype(np.int64) - 1
    first = np.repeat(usable, inner)
    number = np.arange(len(first)) - np.repeat(np.cumsum(inner) - inner, inner) + 1
    fraction = number / np.repeat(inner + 1, inner)
    a, b = poses[first], poses[first + 1]
    out = np.concatenate(
        (a[:, :3] + fraction[:, None] * (b[:, :3] - a[:, :3]), slerp(a[:, 3:], b[:, 3:], fraction)), axis=1
    )
    near = np.where(fraction[:, None] <= 0.5, [[0, 1]], [[1, 0]])
    return _turned(Targets(out, first[:, None] + near), settings)


def _dropped_targets(poses: Array, dropped: Array, settings: TargetSettings) -> Targets:
    """Targets at the references that were left out, between the kept ones before and after them."""
    before = dropped[:, 7].astype(np.int64)
    between = (before >= 0) & (before + 1 < len(poses))
    after = np.minimum(before + 1, len(poses) - 1)
    gap = np.linalg.norm(poses[after, :3] - poses[np.maximum(before, 0), :3], axis=1)
    kept = between & (gap <= gap_limit(poses, settings))
    if not kept.any():
        raise InterpolationError(
            f"interpolate: expected left-out references between kept ones, found none of {len(dropped)}; "
            "keep more (--every), or allow wider gaps with max_gap_m"
        )
    at, first = dropped[kept, :7], before[kept]
    ends = np.stack((first, first + 1), axis=1)
    apart = np.linalg.norm(poses[ends, :3] - at[:, None, :3], axis=2)
    return Targets(at, np.where(apart[:, :1] <= apart[:, 1:], ends, ends[:, ::-1]))


# -- extrapolation --------------------------------------------------------------------------------


def extrapolation_targets(poses: Array, settings: TargetSettings) -> Targets:
    """Positions around the references in the ground plane, with the references' orientation and height.

    :raises ConfigError: too many. :raises GeometryError: ``lateral`` beside a camera that has no sideways.
    """
    yaws = len(settings.yaw_deg)
    if settings.grid == "lateral":
        _check_count(len(poses) * len(settings.lateral_m) * yaws, settings)
        offsets = _sideways(poses)[:, None] * np.asarray(settings.lateral_m)[None, :, None]
        rows = np.repeat(np.arange(len(poses)), len(settings.lateral_m))
        return _turned(_around(poses, rows, offsets.reshape(-1, 2), settings), settings)
    step, span = settings.step_m, span_of(poses, settings)
    per_anchor = max(1.0, np.pi * (span / step) ** 2)
    if settings.grid == "anchor":
        _check_count(len(poses) * per_anchor * yaws, settings)
        offsets = _disc(step, span)
        offsets = offsets[np.linalg.norm(offsets, axis=1) > _SAME_M]
        rows = np.repeat(np.arange(len(poses)), len(offsets))
        around = np.tile(offsets, (len(poses), 1))
        kept = _on_the_road(poses, rows, around, settings)
        return _turned(_around(poses, rows[kept], around[kept], settings), settings)
    _check_count(per_anchor * yaws, settings)
    points, rows = _global_grid(poses[:, :2], step, span, settings)
    offsets = points - poses[rows, :2]
    kept = _on_the_road(poses, rows, offsets, settings)
    return _turned(_around(poses, rows[kept], offsets[kept], settings), settings)


def _on_the_road(poses: Array, rows: Rows, offsets: Array, settings: TargetSettings) -> npt.NDArray[np.bool_]:
    """Which ``(T, 2)`` offsets do not lead too far to the side of their reference."""
    if settings.side_m is None:
        return np.ones(len(rows), dtype=bool)
    sideways = (offsets * _sideways(poses)[rows]).sum(axis=1)
    return np.asarray(np.abs(sideways) <= settings.side_m * (1 + 1e-9))


def _disc(step: float, span: float) -> Array:
    """Offsets ``(K, 2)`` on a grid, at most ``span`` long."""
    count = int(np.floor(span / step + 1e-9))
    axis = step * np.arange(-count, count + 1)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(grid[np.linalg.norm(grid, axis=1) <= span * (1 + 1e-9)])


def _sideways(poses: Array) -> Array:
    """``(M, 2)`` unit vectors to the right of each camera in the ground plane."""
    right = quaternion_to_matrix(poses[:, 3:])[:, :2, 0]
    length = np.linalg.norm(right, axis=1, keepdims=True)
    if bool((length < 0.1).any()):
        raise GeometryError("to the side: expected cameras whose x axis lies level, found one that is vertical")
    return np.asarray(right / length)


def _global_grid(positions: Array, step: float, span: float, settings: TargetSettings) -> tuple[Array, Rows]:
    """Points ``(T, 2)`` of one grid through the origin within ``span`` of a reference, and the nearest reference's row.

    Of references that are equally near the first counts.
    """
    keys: Rows = np.empty(0, dtype=np.int64)
    nearest: Array = np.empty(0)
    rows: Rows = np.empty(0, dtype=np.int64)
    for i, j, row in _lattice(positions, step, span):
        apart = np.hypot(i * step - positions[row, 0], j * step - positions[row, 1])
        inside = apart <= span * (1 + 1e-9)
        key = (i[inside] << 32) + j[inside]
        keys, nearest = np.concatenate((keys, key)), np.concatenate((nearest, apart[inside]))
        rows = np.concatenate((rows, row[inside]))
        order = np.lexsort((rows, nearest, keys))
        keys, nearest, rows = keys[order], nearest[order], rows[order]
        first = np.concatenate(([True], keys[1:] != keys[:-1])) if len(keys) else np.empty(0, dtype=bool)
        keys, nearest, rows = keys[first], nearest[first], rows[first]
        _check_count(len(keys) * len(settings.yaw_deg), settings)
    new = nearest > _SAME_M  # a point at a reference would be the reference again
    keys, rows = keys[new], rows[new]
    i = (keys + (1 << 31)) >> 32  # the low half is signed
    j = keys - (i << 32)
    return np.asarray(np.stack((i, j), axis=1) * step, dtype=np.float64), rows


def _lattice(positions: Array, step: float, span: float) -> Iterator[tuple[Rows, Rows, Rows]]:
    """Numbers i, j of grid points in the squares around references, with the reference's row, some at a time."""
    count = int(np.ceil(span / step)) + 1
    axis = np.arange(-count, count + 1)
    di, dj = (d.ravel() for d in np.meshgrid(axis, axis, indexing="ij"))
    block = max(1, _BLOCK // len(di))
    for start in range(0, len(positions), block):
        row = np.arange(start, min(start + block, len(positions)))
        centre = np.round(positions[row] / step).astype(np.int64)
        i, j = (centre[:, k, None] + d for k, d in ((0, di), (1, dj)))
        yield i.ravel(), j.ravel(), np.repeat(row, len(di))


def _around(poses: Array, rows: Rows, offsets: Array, settings: TargetSettings) -> Targets:
    """Targets at ``(T, 2)`` offsets from references."""
    out = poses[rows].copy()
    out[:, :2] += offsets
    if settings.follow_trajectory and len(poses) > 1:
        out = _followed(poses, rows, offsets, out, settings)
    return Targets(out, rows[:, None].astype(np.int64))


def _followed(poses: Array, rows: Rows, offsets: Array, out: Array, settings: TargetSettings) -> Array:
    """The same targets with the orientation and height that the trajectory has beside them.

    A target ahead of its reference takes them from between it and the next reference, one behind from between it and
    the previous one, as far along as its offset is; beyond a gap or an end the reference's own stay.
    """
    number = trajectories(poses, settings)
    taken = np.zeros(len(rows), dtype=bool)
    for sign in (1, -1):
        other = np.clip(rows + sign, 0, len(poses) - 1)
        along = poses[other, :2] - poses[rows, :2]
        length = (along**2).sum(axis=1)
        usable = (other != rows) & (number[other] == number[rows]) & (length > _SAME_M**2)
        fraction = (offsets * along).sum(axis=1) / np.where(usable, length, 1.0)
        # A bend can have both neighbours on the side of a target: the next one decides.
        usable &= (fraction > 0) & ~taken
        taken |= usable
        f = np.minimum(fraction[usable], 1.0)
        a, b = poses[rows[usable]], poses[other[usable]]
        out[usable, 2] = a[:, 2] + f * (b[:, 2] - a[:, 2])
        out[usable, 3:] = slerp(a[:, 3:], b[:, 3:], f)
    return out


def _turned(targets: Targets, settings: TargetSettings) -> Targets:
    """Every target once for each yaw, those of one position together."""
    if settings.yaw_deg == (0.0,):
        return targets
    half = 0.5 * np.radians(np.asarray(settings.yaw_deg))
    turn = np.stack((0 * half, 0 * half, np.sin(half), np.cos(half)), axis=1)
    poses = np.repeat(targets.poses, len(half), axis=0)
    poses[:, 3:] = quaternion_multiply(np.tile(turn, (len(targets), 1)), poses[:, 3:])
    return Targets(poses, np.repeat(targets.anchors, len(half), axis=0))
