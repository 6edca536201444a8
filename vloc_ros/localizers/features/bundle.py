"""How a map of the backend ``features`` is written: tile by tile, one in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.errors import MapTensorError
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.features.store import POINTS_FILE, REFERENCES_FILE, tile_name
from vloc_ros.maps import MapBundle, MapManifest, write_map
from vloc_ros.maps.reader import files_below
from vloc_ros.maps.tensors import encode_tensors
from vloc_ros.staging import staging_beside, writing
from vloc_ros.types import Array

__all__ = ["PointModel", "TileContent", "write_features_map"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PointModel:
    """The points of one scene, in the order of their tiles, and the images that saw them.

    :ivar points: (P, 3) m. :ivar roots: (P, 3, 3) lower triangular roots of their covariances, m.
    :ivar track_length: (P,). :ivar offsets: (R + 1,). :ivar point_ids: (O,): image r saw
        ``point_ids[offsets[r]:offsets[r + 1]]``.
    :ivar T_map_cam: (R, 4, 4). :ivar stamps_ns: (R,). :ivar depth_m: median depth of the observations.
    """

    points: Array
    roots: Array
    track_length: npt.NDArray[Any]
    offsets: Ints
    point_ids: Ints
    T_map_cam: Array
    stamps_ns: Ints
    depth_m: float


@dataclass(frozen=True)
class TileContent:
    """Descriptors of N points: see :mod:`vloc_ros.localizers.features.store`. ``extents`` (N,) m, 0 where unknown."""

    descriptors: npt.NDArray[Any]
    owner: Ints
    rounds: tuple[int, ...]
    extents: Array

    def tensors(self) -> dict[str, Tensor]:
        """As the file holds them."""
        largest = float(np.finfo(np.float16).max)
        return {
            "descriptors": torch.from_numpy(np.ascontiguousarray(self.descriptors)),
            "owner": torch.from_numpy(self.owner.astype(np.int32)),
            "rounds": torch.tensor(self.rounds, dtype=torch.int64),
            "extents": torch.from_numpy(np.minimum(self.extents, largest).astype(np.float16)),
        }


def write_features_map(
    out: str | os.PathLike[str],
    models: Mapping[str, PointModel],
    content: Callable[[str, int, int], TileContent],
    manifest: MapManifest,
    tensors: Mapping[str, Mapping[str, Tensor]],
    tile_points: int = 20_000,
    *,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> MapBundle:
    """Write a map.

    :param models: by scene, in the order of the manifest.
    :param content: ``content(scene, begin, end)``: descriptors of these points; asked for once, in order.
    :param tensors: more files: extractor or vocabulary, and the database.
    :param tile_points: points of a tile.
    :param progress: called with (scene, points done, points).
    :raises MapTensorError: descriptors that do not agree with the points, or values that are not finite.
    :raises MapError: as :func:`vloc_ros.maps.write_map`.
    """
    points: dict[str, Tensor] = {}
    references: dict[str, Tensor] = {}
    names: list[str] = []
    low = np.tril_indices(3)
    with writing(Path(out)), staging_beside(Path(out), folder=True) as folder:
        (folder / "tiles").mkdir()
        for scene, model in models.items():
            count = len(model.points)
            if not count or not len(model.T_map_cam):
                raise MapTensorError(
                    f"scene {scene!r}: expected points and images, found {count} and {len(model.T_map_cam)}"
                )
            ends = np.append(np.arange(tile_points, count, tile_points), count).astype(np.int64)
            roots = np.clip(model.roots[:, low[0], low[1]], -6e4, 6e4)
            points[f"{scene}.points"] = torch.from_numpy(np.asarray(model.points, dtype=np.float32))
            points[f"{scene}.roots"] = torch.from_numpy(roots.astype(np.float16))
            track = np.minimum(model.track_length, np.iinfo(np.int16).max).astype(np.int16)
            points[f"{scene}.track_length"] = torch.from_numpy(track)
            points[f"{scene}.tile_ends"] = torch.from_numpy(ends)
            references[f"{scene}.poses"] = torch.from_numpy(to_vectors(np.asarray(model.T_map_cam)))
            references[f"{scene}.stamps"] = torch.from_numpy(np.asarray(model.stamps_ns, dtype=np.int64))
            references[f"{scene}.offsets"] = torch.from_numpy(np.asarray(model.offsets, dtype=np.int64))
            references[f"{scene}.point_ids"] = torch.from_numpy(np.asarray(model.point_ids, dtype=np.int32))
            references[f"{scene}.depth"] = torch.tensor([model.depth_m], dtype=torch.float32)
            for number, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                found = content(scene, int(begin), int(end))
                if len(found.extents) != end - begin or found.rounds[0] != end - begin:
                    raise MapTensorError(
                        f"scene {scene!r}: expected descriptors of {end - begin} points, found {found.rounds[0]}"
                    )
                names.append(tile_name(scene, number))
                (folder / names[-1]).write_bytes(encode_tensors(found.tensors(), names[-1]))
                if progress is not None:
                    progress(scene, int(end), count)
        files = {POINTS_FILE: points, REFERENCES_FILE: references, **tensors}
        return write_map(out, manifest, files, extra_files=files_below(folder, names), overwrite=overwrite)
