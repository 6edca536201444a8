"""The map of the backend ``features``: points with their descriptors in tiles, and what every image of the map saw.

``points.safetensors`` holds ``<scene>.points`` (P, 3) float32 m, ``<scene>.roots`` (P, 6) float16, the lower triangle
of a root of each point's covariance (m), ``<scene>.track_length`` (P,) int16 and ``<scene>.tile_ends`` (T,) int64:
tile t has the descriptors of points ``tile_ends[t - 1]`` to ``tile_ends[t]``. ``references.safetensors`` holds
``<scene>.poses`` (R, 7) float32, ``<scene>.stamps`` (R,) int64, ``<scene>.offsets`` (R + 1,) int64,
``<scene>.point_ids`` (O,) int32, and ``<scene>.depth`` (1,) float32, the median depth of all observations (m).
``tiles/<scene>-<n>.safetensors`` holds ``descriptors`` (M, D) uint8 or int8, ``owner`` (M,) int32, the row in the tile
of each, ``rounds`` (r,) int64, and ``extents`` (rows,) float16 (m; 0: unknown): first the main descriptor of every
point in order, then second ones of points that look different from different sides, then third ones.
"""

from __future__ import annotations

import itertools
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import KDTree
from torch import Tensor

from vloc_ros.errors import MapTensorError
from vloc_ros.features.base import decode_descriptors
from vloc_ros.features.points import MapPoints
from vloc_ros.geometry.vectors import from_vectors
from vloc_ros.maps import MapBundle
from vloc_ros.maps.tensors import expect
from vloc_ros.maps.tiles import Tile, TileCache
from vloc_ros.types import Array

__all__ = ["POINTS_FILE", "REFERENCES_FILE", "PointStore", "tile_name"]

POINTS_FILE = "points.safetensors"
REFERENCES_FILE = "references.safetensors"
Ints = npt.NDArray[np.int64]
#: A frame that looks further aside than this shows other things.
_MAX_TURN_DEG = 75.0
#: From so many images on (a km) the nearest are looked for in a tree.
_MANY = 2_000


def tile_name(scene: str, number: int) -> str:
    """The file of a tile."""
    return f"tiles/{scene}-{number}.safetensors"


class PointStore:
    """Points and images of one scene. Positions are in memory; descriptors come and go by tile.

    :ivar points: (P, 3) float64 m. :ivar track_length: (P,).
    :ivar T_map_cam: (R, 4, 4) of the images. :ivar stamps_ns: (R,).
    :ivar depth_m: median depth of what the images saw: the size of this scene.
    """

    def __init__(
        self, bundle: MapBundle, scene: str, device: torch.device, dimension: int, signed: bool, memory_mb: float
    ) -> None:
        """:param dimension: of a descriptor. :param signed: whether it is int8. :param memory_mb: bound on the tiles.

        :raises MapError: a tensor is missing or does not agree with the others, or a tile is not listed.
        """
        self.scene, self._device = scene, device
        where = str(bundle.path)
        stored = bundle.tensors(POINTS_FILE)
        points = expect(stored, f"{scene}.points", (None, 3), torch.float32, where)
        self._roots = expect(stored, f"{scene}.roots", (len(points), 6), torch.float16, where).numpy()
        self.track_length = expect(stored, f"{scene}.track_length", (len(points),), torch.int16, where).numpy()
        ends = expect(stored, f"{scene}.tile_ends", (None,), torch.int64, where).numpy()
        stored = bundle.tensors(REFERENCES_FILE)
        poses = expect(stored, f"{scene}.poses", (None, 7), torch.float32, where)
        self.stamps_ns = expect(stored, f"{scene}.stamps", (len(poses),), torch.int64, where).numpy()
        offsets = expect(stored, f"{scene}.offsets", (len(poses) + 1,), torch.int64, where).numpy()
        ids = expect(stored, f"{scene}.point_ids", (None,), torch.int32, where).numpy()
        depth = float(expect(stored, f"{scene}.depth", (1,), torch.float32, where)[0])
        where = f"{where}: scene {scene!r}"
        if not len(poses) or not len(points):
            raise MapTensorError(f"{where}: expected images and points, found {len(poses)} and {len(points)}")
        if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 0).any():
            raise MapTensorError(f"{where}: expected offsets that rise from 0 to {len(ids)}; make the map again")
        if len(ids) and (ids.min() < 0 or ids.max() >= len(points)):
            raise MapTensorError(f"{where}: expected point_ids in 0 .. {len(points) - 1}, found others")
        if not len(ends) or ends[-1] != len(points) or (np.diff(ends, prepend=0) <= 0).any():
            raise MapTensorError(f"{where}: expected tiles that end at rising points, the last at {len(points)}")
        if not depth > 0:
            raise MapTensorError(f"{where}: expected a positive depth, found {depth}")
        length = torch.linalg.vector_norm(poses[:, 3:], dim=1)
        if bool(((length - 1.0).abs() > 1e-3).any()):
            raise MapTensorError(f"{where}: expected poses with unit quaternions, found others")
        self.points, self.T_map_cam, self.depth_m = points.double().numpy(), from_vectors(poses), depth
        if len(poses) > _MANY:
            _ = self._tree  # now, and not while the first frame waits
        self._offsets, self._ids, self._ends = offsets, ids, ends
        self._first = np.concatenate([[0], ends[:-1]])
        names = [tile_name(scene, n) for n in range(len(ends))]
        # A tile that is not listed is missed at once. The bytes on the host count beside those on a device.
        sizes = [bundle.entry(name).bytes * (1 if device.type == "cpu" else 2) for name in names]

        def read(number: int) -> Tile:
            rows = int(ends[number] - self._first[number])
            return _read_tile(bundle, names[number], rows, dimension, signed, device)

        self._cache = TileCache(read, sizes.__getitem__, int(memory_mb * 1e6))

    def __len__(self) -> int:
        """Images."""
        return len(self.T_map_cam)

    @property
    def cache(self) -> TileCache:
        """The tiles in memory."""
        return self._cache

    def near(self, T_map_cam: Array, count: int) -> Ints:
        """At most ``count`` images that see what a camera at this pose sees, the best first.

        Ranked by distance plus what their turn moves a point at the scene's depth.
        """
        if len(self) <= _MANY:
            rows, cost = self._ranked(T_map_cam, np.arange(len(self)))
        else:
            # Farther than the radius nothing costs less than it.
            radius, rows, cost = self.depth_m, np.zeros(0, np.int64), np.zeros(0)
            while (cost <= radius).sum() < count:
                around = self._tree.query_ball_point(T_map_cam[:3, 3], radius, return_sorted=True)
                rows, cost = self._ranked(T_map_cam, np.asarray(around, dtype=np.int64))
                if len(around) == len(self):
                    break
                radius *= 2.0
        if len(rows) > count:
            chosen = np.argpartition(cost, count - 1)[:count]
            rows, cost = rows[chosen], cost[chosen]
        return np.asarray(rows[np.lexsort((rows, cost))], dtype=np.int64)

    def _ranked(self, T_map_cam: Array, rows: Ints) -> tuple[Ints, Array]:
        """Those of some images that look the same way, and what each costs."""
        offset = np.linalg.norm(self.T_map_cam[rows, :3, 3] - T_map_cam[:3, 3], axis=1)
        cosine = np.clip(self.T_map_cam[rows, :3, 2] @ T_map_cam[:3, 2], -1.0, 1.0)
        kept = np.flatnonzero(cosine >= np.cos(np.radians(_MAX_TURN_DEG)))
        return rows[kept], offset[kept] + self.depth_m * np.arccos(cosine[kept])

    @cached_property
    def _tree(self) -> KDTree:
        return KDTree(self.T_map_cam[:, :3, 3])

    def observed(self, images: Ints) -> tuple[Ints, Ints]:
        """Distinct points that these images saw, ascending, and how many of the images saw each."""
        if not len(images):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        parts = [self._ids[self._offsets[r] : self._offsets[r + 1]] for r in images]
        points, counts = np.unique(np.concatenate(parts), return_counts=True)
        return points.astype(np.int64), counts.astype(np.int64)

    def load(self, ids: Ints, on_host: bool = False) -> MapPoints:
        """Some points with their descriptors.

        :param ids: ascending, none twice. :param on_host: descriptors on the host rather than on the device.
        :raises MapError: a damaged tile.
        """
        name, device = ("bytes", torch.device("cpu")) if on_host else ("descriptors", self._device)
        tile_of = np.searchsorted(self._ends, ids, side="right")
        numbers = np.unique(tile_of)
        self._cache.need(int(n) for n in numbers)
        extents = np.full(len(ids), np.nan)
        owners, levels, stored = list[Ints](), list[Ints](), list[Tensor]()
        for number in numbers:
            tile = self._cache.get(int(number))
            mine = np.flatnonzero(tile_of == number)
            rows = ids[mine] - self._first[number]
            extents[mine] = tile["extents"].numpy()[rows]
            place = np.full(len(tile["extents"]), -1, dtype=np.int64)
            place[rows] = mine
            slots = place[tile["owner"].numpy()]
            kept = np.flatnonzero(slots >= 0)
            owners.append(slots[kept])
            levels.append(np.searchsorted(tile["rounds"].numpy(), kept, side="right"))
            stored.append(tile[name][torch.from_numpy(kept).to(device)])
        owner, level = (
            np.concatenate([np.zeros(0, np.int64), *owners]),
            np.concatenate([np.zeros(0, np.int64), *levels]),
        )
        prototypes = torch.cat(stored) if stored else torch.zeros(0, 1, device=device)
        if len(stored) > 1:  # the first descriptors of all tiles come before the second ones of any
            order = np.argsort(level, kind="stable")
            owner, prototypes = owner[order], prototypes[torch.from_numpy(order).to(device)]
        ends = tuple(int(end) for end in np.bincount(level, minlength=1).cumsum())
        lower = self._roots[ids].astype(np.float64)
        roots = np.zeros((len(ids), 3, 3))
        row, column = np.tril_indices(3)
        roots[:, row, column] = lower
        return MapPoints(
            ids, self.points[ids], roots, np.where(extents > 0, extents, np.nan),
            decode_descriptors(prototypes), owner, ends,
        )  # fmt: skip

    def close(self) -> None:
        """Let go of all tiles."""
        self._cache.close()


def _read_tile(bundle: MapBundle, name: str, rows: int, dimension: int, signed: bool, device: torch.device) -> Tile:
    where = f"{bundle.path}/{name}"
    stored = bundle.tensors(name)
    kind = torch.int8 if signed else torch.uint8
    descriptors = expect(stored, "descriptors", (None, dimension), kind, where)
    owner = expect(stored, "owner", (len(descriptors),), torch.int32, where)
    rounds = expect(stored, "rounds", (None,), torch.int64, where)
    extents = expect(stored, "extents", (rows,), torch.float16, where)
    ends = rounds.tolist()
    sound = bool(ends) and ends[0] == rows and ends[-1] == len(owner) and sorted(ends) == ends
    sound = sound and bool((owner[:rows] == torch.arange(rows)).all())
    sound = sound and bool(((owner >= 0) & (owner < rows)).all())
    sound = sound and all(bool((owner[a:b].diff() > 0).all()) for a, b in itertools.pairwise(ends))
    if not sound:
        raise MapTensorError(
            f"{where}: expected descriptors point by point in rounds, found others; make the map again"
        )
    # What is looked up by number stays with the host: which rows are wanted is known without asking the device.
    there = descriptors.to(device)
    return {"descriptors": there, "bytes": descriptors, "owner": owner, "extents": extents, "rounds": rounds}
