"""Stored descriptors: computed once for each drive under changing light, kept on disk, drawn from in batches."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.errors import ConfigError, MapBackendError
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, IMAGE, Database
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_ros.maps import read_map
from vloc_ros.staging import write_text
from vloc_train.irpnet.settings import TrainSettings
from vloc_train.retrieval.database import describe_augmented
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.disk import new_array
from vloc_train.training.frames import FrameSet, keyed_rng
from vloc_train.training.sampling import Item, KeyedDataset

__all__ = [
    "Batch",
    "KeyedDescriptors",
    "Regressions",
    "SceneDescriptors",
    "regressed_rows",
    "stored_copies",
]

#: Frames that are described between two notes of how far the cache is.
_CHUNK = 32

Batch = tuple[Tensor, Tensor]  # descriptors (B, D) float32, poses (B, 7)


def _digest(descriptor: Descriptor, frames: FrameSet, copies: int, augment: AugmentSettings, seed: int) -> str:
    digest = hashlib.sha256(repr((descriptor.identity, len(frames), copies, augment, seed)).encode())
    digest.update(frames.T_map_cam.tobytes() + frames.stamps_ns.tobytes())
    for index in sorted({0, len(frames) - 1}) if len(frames) else ():
        digest.update(np.ascontiguousarray(frames.images[index]).tobytes())
    return digest.hexdigest()[:16]


def stored_copies(
    descriptor: Descriptor, frames: FrameSet, copies: int, augment: AugmentSettings, seed: int, folder: Path
) -> tuple[npt.NDArray[np.float16], float]:
    """``(N, copies, D)`` float16 descriptors of a drive under ``copies`` changes of light, memory-mapped, and the
    seconds that describing took.

    The file lies in ``folder`` under a name that says what it was made from. It is filled in chunks: an interrupted run
    goes on where it was.
    """
    name = f"descriptors-{_digest(descriptor, frames, copies, augment, seed)}"
    file, note, partial = folder / f"{name}.npy", folder / f"{name}.json", folder / f"{name}.partial.npy"
    shape = (len(frames), copies, descriptor.dimension)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        done, seconds = 0, 0.0
        if partial.exists() and note.exists():
            found = json.loads(note.read_text())
            done, seconds = int(found["frames"]), float(found["seconds"])
        out = np.lib.format.open_memmap(partial, mode="r+") if done else new_array(partial, np.float16, shape)
        for start in range(done, len(frames), _CHUNK):
            began = time.perf_counter()
            rows = np.arange(start, min(start + _CHUNK, len(frames)))
            # Seeded by place in the drive: an interrupted run draws the same changes.
            found = describe_augmented(descriptor, frames.select(rows), copies, augment, (seed << 32) + start)
            out[rows] = found.numpy().astype(np.float16)
            out.flush()
            seconds += time.perf_counter() - began
            write_text(note, json.dumps({"frames": int(rows[-1]) + 1, "seconds": seconds}))
        del out
        partial.rename(file)
    seconds = float(json.loads(note.read_text())["seconds"]) if note.exists() else 0.0
    return np.load(file, mmap_mode="r"), seconds


@dataclass(frozen=True)
class Regressions:
    """Descriptors that no image was taken for, with their poses: ``(R, D)`` float32 and ``(R, 7)``."""

    descriptors: Tensor
    poses: Tensor

    def __len__(self) -> int:
        return len(self.poses)


def regressed_rows(path: Path, scene: str, descriptor: Descriptor) -> Regressions:
    """The regressed rows of a densified map's scene.

    :raises MapBackendError: the map has no descriptor database.
    :raises ConfigError: another extractor's descriptors, or none that were regressed.
    """
    bundle = read_map(path)
    if bundle.manifest.file(DATABASE_FILE) is None:
        raise MapBackendError(
            f"{path}: expected a map with a descriptor database, found one of backend {bundle.manifest.backend!r} "
            "without; make it with vloc map densify"
        )
    names = [s.name for s in bundle.manifest.scenes]
    if scene not in names:
        raise ConfigError(f"{path}: expected a scene {scene!r}, found {', '.join(names)}")
    database = Database.read(bundle, scene)
    if database.extractor_id != descriptor.identity:
        raise ConfigError(
            f"{path}: expected descriptors of extractor {descriptor.identity[:16]}..., found those of "
            f"{database.extractor_id[:16]}...; densify a map of the extractor that is trained on"
        )
    rows = torch.nonzero(database.origin != IMAGE).flatten()
    if not len(rows):
        raise ConfigError(f"{path}: expected regressed descriptors in scene {scene!r}, found images alone; densify it")
    return Regressions(database.descriptors[rows].float(), database.poses[rows].float())


@dataclass(frozen=True)
class SceneDescriptors:
    """What a scene's regressors are trained and validated on.

    :ivar copies: for each drive ``(N, m, D)`` float16.
    :ivar poses: ``(sum N, 7)`` float32, of all drives one after the other.
    :ivar held_out: ``(V, D)`` float32 descriptors of the validation frames as they are, ``held_out_poses`` theirs.
    """

    scene: str
    copies: Sequence[npt.NDArray[np.float16]]
    poses: Tensor
    held_out: Tensor
    held_out_poses: Tensor
    regressions: Regressions | None = None

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.copies[0].shape[2])

    def sample(self, most: int = 4096) -> Tensor:
        """``(n, D)`` float32 of training descriptors, evenly chosen."""
        flat = [drive.reshape(-1, drive.shape[2]) for drive in self.copies]
        step = max(1, sum(len(f) for f in flat) // most)
        return torch.from_numpy(np.concatenate([f[::step] for f in flat]).astype(np.float32))


class KeyedDescriptors(KeyedDataset[Batch]):
    """Batches of descriptors: one of each image's, by (seed, epoch, step) alone."""

    def __init__(self, scene: SceneDescriptors, settings: TrainSettings) -> None:
        super().__init__(settings.batch_size, settings.seed)
        self.scene, self.settings = scene, settings
        self._ends = np.cumsum([len(drive) for drive in scene.copies])

    def sizes(self) -> list[int]:
        """See :class:`KeyedDataset`."""
        return [len(self.scene)]

    def collate(self, rows: Any) -> Batch:
        """:meth:`__getitems__` makes whole batches."""
        return cast(Batch, rows)

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """The descriptors and poses of ``(epoch, step, _, frame)``."""
        rng = keyed_rng(self.settings.seed, 4, items[0][0], items[0][1])
        frames = np.asarray([item[3] for item in items])
        copies = rng.integers(0, self.settings.copies, len(frames))
        drives = np.searchsorted(self._ends, frames, side="right")
        rows = frames - np.concatenate(([0], self._ends))[drives]
        picked = [self.scene.copies[d][r, c] for d, r, c in zip(drives, rows, copies, strict=True)]
        descriptors = torch.from_numpy(np.stack(picked).astype(np.float32))
        poses = self.scene.poses[torch.from_numpy(frames)]
        extra = self.scene.regressions
        if extra is not None:
            replaced = torch.from_numpy(rng.random(len(frames)) < self.settings.densified_share)
            chosen = torch.from_numpy(rng.integers(0, len(extra), len(frames)))
            descriptors = torch.where(replaced[:, None], extra.descriptors[chosen], descriptors)
            poses = torch.where(replaced[:, None], extra.poses[chosen], poses)
        return descriptors, poses


def poses_of(frames: Sequence[FrameSet]) -> Tensor:
    """``(N, 7)`` float32 of all frames."""
    return torch.from_numpy(np.concatenate([to_vectors(f.T_map_cam) for f in frames]))
