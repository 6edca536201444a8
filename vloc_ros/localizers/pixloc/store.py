"""The map of PixLoc: points, what every reference observes, and the features at those observations, in tiles.

``points.safetensors`` holds ``<scene>.points`` (P, 3) float32 and ``<scene>.track_length`` (P,) int16;
``references.safetensors`` holds ``<scene>.poses`` (R, 7) float32, ``<scene>.stamps`` (R,) int64, ``<scene>.offsets``
(R + 1,) int64, ``<scene>.point_ids`` (O,) int32 and ``<scene>.tile`` (R,) int32: reference r observes the points
``point_ids[offsets[r]:offsets[r + 1]]``, and their features lie in tile ``tile[r]``. ``tiles/<scene>-<n>.safetensors``
holds, for every scale p of the image pyramid and level l (coarse to fine), ``features.<p>.<l>`` (rows, C) float16, or
int8 with ``scale.<p>.<l>`` (rows,) float16, and ``confidence.<p>.<l>`` (rows,) float16, in the order of the references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.errors import MapTensorError
from vloc_ros.geometry.vectors import from_vectors
from vloc_ros.maps import MapBundle
from vloc_ros.maps.tensors import expect
from vloc_ros.maps.tiles import Tile, TileCache, TileCounters
from vloc_ros.types import Array

__all__ = [
    "NETWORK_FILE",
    "POINTS_FILE",
    "REFERENCES_FILE",
    "LevelFeatures",
    "PointBatch",
    "ReferenceStore",
    "tile_name",
]

NETWORK_FILE = "network.safetensors"
POINTS_FILE = "points.safetensors"
REFERENCES_FILE = "references.safetensors"
#: Metres in front of the camera whose displacement stands for a turn of it, when references are ranked.
_DEPTH_M = 10.0
#: A reference that looks further aside than this shows other things.
_MAX_TURN_DEG = 75.0


def tile_name(scene: str, number: int) -> str:
    """The file of a tile."""
    return f"tiles/{scene}-{number}.safetensors"


@dataclass(frozen=True)
class LevelFeatures:
    """Features of N observations at one scale and level: ``features`` (N, C), ``confidence`` (N,) in [0, 1]."""

    features: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class PointBatch:
    """N distinct points that some references observe, with their features (Section 4, "3D structure").

    :ivar ids: (N,) rows of the scene's points, ascending.
    :ivar points: (N, 3) float64 metres in the map frame, on the CPU.
    :ivar observers: (N,) how many of the references observe each.
    :ivar levels: for each scale of the pyramid (low to high), for each level (coarse to fine), float32 on the device:
        features averaged over the observations by their confidence, and the mean confidence, weighted alike.
    """

    ids: npt.NDArray[np.int64]
    points: Array
    observers: npt.NDArray[np.int64]
    levels: tuple[tuple[LevelFeatures, ...], ...]

    def __len__(self) -> int:
        return len(self.ids)


class ReferenceStore:
    """The references of one scene. Poses and observations are in memory, features come and go by tile."""

    def __init__(
        self,
        scene: str,
        points: Array,
        track_length: npt.NDArray[np.int16],
        T_map_cam: Array,
        stamps_ns: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        point_ids: npt.NDArray[np.int32],
        tile: npt.NDArray[np.int32],
        cache: TileCache,
        device: torch.device,
        pyramid: int,
        levels: int,
    ) -> None:
        self.scene, self.points, self.track_length = scene, points, track_length
        self.T_map_cam, self.stamps_ns = T_map_cam, stamps_ns
        self._offsets, self._point_ids, self._tile = offsets, point_ids, tile
        self._cache, self._device = cache, device
        self._pyramid, self._levels = pyramid, levels
        self._first_row = _first_rows(offsets, tile)

    @classmethod
    def from_bundle(
        cls,
        bundle: MapBundle,
        scene: str,
        device: torch.device,
        memory_mb: float = 512.0,
        pyramid: int = 1,
        dimensions: Sequence[int] = (),
    ) -> ReferenceStore:
        """From a map.

        :param memory_mb: bound on the tiles that are held on ``device``.
        :param pyramid: scales of the image pyramid that the map holds.
        :param dimensions: channels of each level, coarse to fine.
        :raises MapError: a tensor is missing or does not agree with the others, or a tile is not listed.
        """
        where = str(bundle.path)
        stored = bundle.tensors(POINTS_FILE)
        points = expect(stored, f"{scene}.points", (None, 3), torch.float32, where)
        track = expect(stored, f"{scene}.track_length", (len(points),), torch.int16, where)
        stored = bundle.tensors(REFERENCES_FILE)
        poses = expect(stored, f"{scene}.poses", (None, 7), torch.float32, where)
        count = len(poses)
        stamps = expect(stored, f"{scene}.stamps", (count,), torch.int64, where)
        offsets = expect(stored, f"{scene}.offsets", (count + 1,), torch.int64, where).numpy()
        ids = expect(stored, f"{scene}.point_ids", (None,), torch.int32, where).numpy()
        tile = expect(stored, f"{scene}.tile", (count,), torch.int32, where).numpy()
        where = f"{where}: scene {scene!r}"
        if not count or not len(points):
            raise MapTensorError(f"{where}: expected references and points, found {count} and {len(points)}")
        if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 0).any():
            raise MapTensorError(f"{where}: expected offsets that rise from 0 to {len(ids)}; make the map again")
        if len(ids) and (ids.min() < 0 or ids.max() >= len(points)):
            raise MapTensorError(f"{where}: expected point_ids in 0 .. {len(points) - 1}, found others")
        # A number beyond the files would only be missed after a table of so many tiles was made.
        if tile.min() < 0 or tile.max() >= len(bundle.manifest.files) or (np.diff(tile) < 0).any():
            raise MapTensorError(f"{where}: expected references in the order of their tiles, numbered from 0")
        length = torch.linalg.vector_norm(poses[:, 3:], dim=1)
        if bool(((length - 1.0).abs() > 1e-3).any()):
            raise MapTensorError(f"{where}: expected poses with unit quaternions, found others")
        rows = np.bincount(tile, weights=np.diff(offsets)).astype(np.int64)
        names = [tile_name(scene, n) for n in range(len(rows))]
        sizes = [bundle.entry(name).bytes for name in names]  # a tile that is not listed is missed at once

        def read(number: int) -> Tile:
            return _read_tile(bundle, names[number], int(rows[number]), pyramid, dimensions, device)

        cache = TileCache(read, sizes.__getitem__, int(memory_mb * 1e6))
        return cls(
            scene, points.double().numpy(), track.numpy(), from_vectors(poses), stamps.numpy(), offsets, ids, tile,
            cache, device, pyramid, len(dimensions),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.T_map_cam)

    @property
    def counters(self) -> TileCounters:
        """What has been read, held and let go."""
        return self._cache.counters

    @property
    def held_bytes(self) -> int:
        """Memory of the tiles on the device."""
        return self._cache.held_bytes

    @property
    def observations(self) -> int:
        """O, of all references together."""
        return len(self._point_ids)

    def busiest(self) -> int:
        """The reference that observes most points."""
        return int(np.argmax(np.diff(self._offsets)))

    def near(
        self,
        T_map_cam: Array,
        k: int,
        radius_m: float = np.inf,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> npt.NDArray[np.int64]:
        """At most k references that see what a camera at this pose sees, the best first.

        Ranked by distance plus what their turn moves a point ten metres ahead; those that look aside are left out.

        :param radius_m: only references this near.
        :param allowed: (R,) which references may be used at all.
        """
        offset = np.linalg.norm(self.T_map_cam[:, :3, 3] - T_map_cam[:3, 3], axis=1)
        cosine = np.clip(self.T_map_cam[:, :3, 2] @ T_map_cam[:3, 2], -1.0, 1.0)
        usable = (offset <= radius_m) & (cosine >= np.cos(np.radians(_MAX_TURN_DEG)))
        if allowed is not None:
            usable &= allowed
        rows = np.flatnonzero(usable)
        cost = offset[rows] + _DEPTH_M * np.arccos(cosine[rows])
        if len(rows) > k:
            chosen = np.argpartition(cost, k - 1)[:k]
            rows, cost = rows[chosen], cost[chosen]
        return np.asarray(rows[np.lexsort((rows, cost))], dtype=np.int64)

    def observed(self, ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Distinct points that these references observe, ascending, and how many of them observe each."""
        if not len(ids):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        parts = [self._point_ids[self._offsets[r] : self._offsets[r + 1]] for r in ids]
        points, counts = np.unique(np.concatenate(parts), return_counts=True)
        return points.astype(np.int64), counts.astype(np.int64)

    def load(self, ids: npt.NDArray[np.int64], keep: npt.NDArray[np.int64] | None = None) -> PointBatch:
        """The points that these references observe, with the averages of their features.

        :param keep: only these points, ascending.
        :raises MapError: a tile is missing or altered.
        """
        distinct, counts = self.observed(ids)
        if keep is not None:
            mask = np.isin(distinct, keep, assume_unique=True)
            distinct, counts = distinct[mask], counts[mask]
        ids = np.sort(ids)  # the order of the tiles: each is visited once, and sums do not depend on the ranking
        self._cache.need(int(n) for n in np.unique(self._tile[ids]))
        sums: list[list[_Average]] = []
        for number in np.unique(self._tile[ids]):
            rows, slots = self._rows_of(ids[self._tile[ids] == number], distinct)
            if not len(rows):
                continue
            tile = self._cache.get(int(number))
            if not sums:
                sums = self._averages(tile, len(distinct))
            on_device = torch.from_numpy(rows).to(self._device)
            target = torch.from_numpy(slots).to(self._device)
            for p, level_sums in enumerate(sums):
                for level, average in enumerate(level_sums):
                    average.add(_rows(tile, p, level, on_device), target)
        levels = tuple(tuple(average.result() for average in level_sums) for level_sums in sums)
        return PointBatch(distinct, self.points[distinct], counts, levels)

    def prefetch(self, T_map_cam: Array, heading: Array | None = None, ahead_m: float = 30.0) -> None:
        """Read the tiles ahead of a vehicle in the background, the nearest first.

        :param heading: its direction of travel in the map frame; default: where the camera looks.
        :param ahead_m: how far ahead.
        """
        direction = np.asarray(T_map_cam[:3, 2] if heading is None else heading, dtype=np.float64)
        norm = float(np.linalg.norm(direction))
        if not np.isfinite(norm) or norm == 0.0:
            return
        offset = self.T_map_cam[:, :3, 3] - T_map_cam[:3, 3]
        along = offset @ (direction / norm)
        across = np.linalg.norm(offset - along[:, None] * (direction / norm), axis=1)
        # A road may bend: what is farther ahead may lie farther aside.
        ahead = (along >= 0.0) & (along <= ahead_m) & (across <= np.maximum(0.5 * along, _DEPTH_M))
        ahead &= self.T_map_cam[:, :3, 2] @ T_map_cam[:3, 2] >= np.cos(np.radians(_MAX_TURN_DEG))
        rows = np.flatnonzero(ahead)
        self._cache.prefetch(dict.fromkeys(self._tile[rows[np.argsort(along[rows])]].tolist()))

    def wait(self) -> None:
        """Until the tiles that are being read ahead are there."""
        self._cache.wait()

    def close(self) -> None:
        """Let go of all tiles."""
        self._cache.close()

    def _rows_of(
        self, ids: npt.NDArray[np.int64], distinct: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows of a tile that these references own, and the places of their points among ``distinct``."""
        rows = [self._first_row[r] + np.arange(self._offsets[r + 1] - self._offsets[r]) for r in ids]
        points = np.concatenate([self._point_ids[self._offsets[r] : self._offsets[r + 1]] for r in ids])
        if not len(distinct):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        slots = np.minimum(np.searchsorted(distinct, points), len(distinct) - 1)
        wanted = distinct[slots] == points
        return np.concatenate(rows)[wanted], slots[wanted]

    def _averages(self, tile: Tile, count: int) -> list[list[_Average]]:
        return [
            [
                _Average(count, int(tile[f"features.{p}.{level}"].shape[1]), self._device)
                for level in range(self._levels)
            ]
            for p in range(self._pyramid)
        ]


class _Average:
    """Sums of features by confidence, of one scale and level."""

    def __init__(self, count: int, channels: int, device: torch.device) -> None:
        self._features = torch.zeros(count, channels, device=device)
        self._weights = torch.zeros(count, device=device)
        self._squares = torch.zeros(count, device=device)

    def add(self, found: LevelFeatures, target: Tensor) -> None:
        # A point that every reference distrusts still has a mean; its confidence tells the optimiser.
        weight = found.confidence + 1e-6
        self._features.index_add_(0, target, found.features * weight[:, None])
        self._weights.index_add_(0, target, weight)
        self._squares.index_add_(0, target, weight * found.confidence)

    def result(self) -> LevelFeatures:
        return LevelFeatures(self._features / self._weights[:, None], self._squares / self._weights)


def _rows(tile: Tile, p: int, level: int, rows: Tensor) -> LevelFeatures:
    features = tile[f"features.{p}.{level}"][rows].float()
    scale = tile.get(f"scale.{p}.{level}")
    if scale is not None:
        features = features * scale[rows].float()[:, None]
    return LevelFeatures(features, tile[f"confidence.{p}.{level}"][rows].float())


def _first_rows(offsets: npt.NDArray[np.int64], tile: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The row of each reference's first observation in its tile."""
    first_of_tile = np.searchsorted(tile, tile, side="left")
    return np.asarray(offsets[:-1] - offsets[first_of_tile], dtype=np.int64)


def _read_tile(
    bundle: MapBundle, name: str, rows: int, pyramid: int, dimensions: Sequence[int], device: torch.device
) -> Tile:
    where = f"{bundle.path}/{name}"
    stored = bundle.tensors(name)
    tile: dict[str, Tensor] = {}
    for p in range(pyramid):
        for level, channels in enumerate(dimensions):
            key = f"features.{p}.{level}"
            tile[key] = expect(stored, key, (rows, channels), (torch.float16, torch.int8), where)
            if tile[key].dtype == torch.int8:
                scale = f"scale.{p}.{level}"
                tile[scale] = expect(stored, scale, (rows,), torch.float16, where)
            confidence = f"confidence.{p}.{level}"
            tile[confidence] = expect(stored, confidence, (rows,), torch.float16, where)
    if device.type == "cuda":
        tile = {key: value.pin_memory() for key, value in tile.items()}
    return {key: value.to(device, non_blocking=True) for key, value in tile.items()}
