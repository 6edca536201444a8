"""Descriptors to search among and to search for: of a map and a drive, or made up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vloc_ros.datasets import open_sequence
from vloc_ros.errors import ConfigError, DatasetError, MapError
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.retrieval.database import IMAGE, INTERPOLATED, Database
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_ros.maps import MapBundle, read_map

__all__ = ["Inputs", "made_up", "of_map"]


#: How far a made-up query lies from the descriptor of its place, as a share of its length.
_APART = 0.2


@dataclass(frozen=True)
class Inputs:
    """A database, queries ``(Q, D)`` float32 and where they were seen from, ``(Q, 3)`` metres."""

    name: str
    queries_name: str
    database: Database
    queries: Tensor
    positions: Tensor


def of_map(map_path: Path, queries: Path, device: torch.device, scene: str | None = None, most: int = 200) -> Inputs:
    """The database of a map's scene, and images to look for in it.

    :param queries: a drive that the map does not hold, or a map of it with the same extractor: the rows of its images.
    :param scene: of ``map_path``; default: the first.
    :param most: queries at most, evenly chosen.
    :raises MapError: no database, or queries of another extractor. :raises DatasetError: no queries.
    """
    bundle = read_map(map_path)
    names = [s.name for s in bundle.manifest.scenes]
    if scene is not None and scene not in names:
        raise ConfigError(f"scene: expected one of {', '.join(names)}, found {scene!r}")
    database = Database.read(bundle, scene or names[0])
    if queries.suffix == ".vmap" or (queries / "map.yaml").is_file():
        found, positions = _of_images(queries, database, most)
    else:
        found, positions = _described(bundle, queries, device, most)
    if not len(found):
        raise DatasetError(f"{queries}: expected images with reference poses, found none")
    return Inputs(map_path.name, queries.name, database, found, positions)


def _even(count: int, most: int) -> torch.Tensor:
    return torch.from_numpy(np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)))


def _of_images(path: Path, database: Database, most: int) -> tuple[Tensor, Tensor]:
    bundle = read_map(path)
    other = Database.read(bundle, bundle.manifest.scenes[0].name)
    if (other.extractor_id, other.metric) != (database.extractor_id, database.metric):
        raise MapError(
            f"{path}: expected descriptors of extractor {database.extractor_id[:16]}..., found "
            f"{other.extractor_id[:16]}...; make the map of the queries with --extractor"
        )
    images = torch.nonzero(other.origin == IMAGE)[:, 0]
    chosen = images[_even(len(images), most)]
    return other.descriptors[chosen].float(), other.poses[chosen, :3]


def _described(bundle: MapBundle, path: Path, device: torch.device, most: int) -> tuple[Tensor, Tensor]:
    drive = open_sequence(path)
    descriptor = Descriptor.from_bundle(bundle, device)
    rectifier = Rectifier(drive.camera)
    descriptor.preprocess.check(rectifier.target, bundle.manifest.camera)
    chosen = _even(len(drive), most)
    found = [descriptor.describe(rectifier.rectify(drive.image(int(i)))[0]).cpu() for i in chosen]
    positions = torch.from_numpy(to_vectors(drive.T_map_cam[chosen.numpy()])[:, :3])
    return torch.stack(found) if found else torch.empty(0, descriptor.dimension), positions


def made_up(rows: int, dimension: int = 256, queries: int = 200, seed: int = 0) -> Inputs:
    """Descriptors that change smoothly along a street of 2 km, as regressed ones do; queries lie :data:`_APART` of
    their length off, as images of another day do. They show what searching costs; what it finds is measured with a map.
    """
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(2, dimension, generator=generator) / torch.linspace(3.0, 30.0, dimension)
    phases = 2 * torch.pi * torch.rand(dimension, generator=generator)
    # Few directions hold most of what changes, as in descriptors that were learned.
    sizes = torch.linspace(1.0, dimension, dimension).pow(-0.5)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        poses = torch.zeros(count, 7)
        poses[:, 0] = 2000.0 * torch.rand(count, generator=generator)
        poses[:, 1] = 8.0 * torch.rand(count, generator=generator) - 4.0
        poses[:, 6] = 1.0
        return poses, poses[:, :2]

    poses, places = drawn(rows)
    descriptors = torch.cat([((part @ waves + phases).cos() * sizes).half() for part in torch.split(places, 1 << 16)])
    seen, seen_places = drawn(queries)
    clean = (seen_places @ waves + phases).cos() * sizes
    noise = torch.randn(clean.shape, generator=generator) * sizes
    noise *= (
        _APART
        * torch.linalg.vector_norm(clean, dim=1, keepdim=True)
        / torch.linalg.vector_norm(noise, dim=1, keepdim=True)
    )
    database = Database(
        descriptors, poses, torch.full((rows,), INTERPOLATED, dtype=torch.uint8),
        torch.zeros(rows, dtype=torch.int32), torch.zeros(rows, dtype=torch.int64), "l2", "made up",
    )  # fmt: skip
    return Inputs("made-up descriptors (no map given)", "made up", database, clean + noise, seen[:, :3])
