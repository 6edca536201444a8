"""Training data: posed images in a memory-mapped cache, and every random number keyed by (seed, epoch, sample)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import lightning
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.types import Array, CameraModel
from vloc_train.imposing.augment import augment
from vloc_train.imposing.settings import TrainSettings

__all__ = ["Batch", "FrameSet", "KeyedSampler", "TrainingData", "cache_frames", "pose_vectors"]


def pose_vectors(T_map_cam: Array) -> npt.NDArray[np.float32]:
    """``(N, 4, 4)`` transforms as ``(N, 7)`` float32 vectors (tx, ty, tz, qx, qy, qz, qw)."""
    q = matrix_to_quaternion(T_map_cam[..., :3, :3])
    return np.concatenate((T_map_cam[..., :3, 3], q), axis=-1).astype(np.float32)


class MappedImages:
    """Some rows of an (N, h, w, 3) uint8 file, read when asked for.

    A drive's images need not fit into memory, and a worker process receives the name of the file and not a copy of it.
    """

    def __init__(self, file: Path, rows: npt.NDArray[np.int64] | None = None) -> None:
        self._file = file
        self._array = np.load(file, mmap_mode="r")
        self._rows = np.arange(len(self._array)) if rows is None else rows

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's."""
        return (len(self._rows), *self._array.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return np.asarray(self._array[self._rows[index]])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.uint8]:
        return self[:]

    def __reduce__(self) -> tuple[type[MappedImages], tuple[Path, npt.NDArray[np.int64]]]:
        return MappedImages, (self._file, self._rows)

    def select(self, indices: npt.NDArray[np.int64]) -> MappedImages:
        """The images at these places among this object's rows."""
        return MappedImages(self._file, self._rows[indices])


@dataclass(frozen=True)
class FrameSet:
    """Preprocessed frames of one scene: ``images`` (N, h, w, 3) uint8, ``T_map_cam`` (N, 4, 4), their stamps."""

    images: npt.NDArray[np.uint8] | MappedImages
    T_map_cam: Array
    stamps_ns: npt.NDArray[np.int64]
    camera: CameraModel
    scene: str = "map"

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: npt.NDArray[np.int64]) -> FrameSet:
        """The frames with these numbers."""
        images = self.images
        images = images.select(indices) if isinstance(images, MappedImages) else images[indices]
        return FrameSet(images, self.T_map_cam[indices], self.stamps_ns[indices], self.camera, self.scene)


def cache_frames(
    sequences: Sequence[PosedSequence], preprocess: Preprocess, folder: Path, scene: str = "map"
) -> FrameSet:
    """Decode, rectify and fit every frame once, into a memory-mapped file that a resumed run uses again.

    :param folder: where the cache lies; its name holds a digest of what was asked for.
    :raises DatasetError: no frames, or a non-finite pose.
    :raises CameraMismatchError: the drives were recorded with different cameras.
    """
    total = sum(len(s) for s in sequences)
    if total == 0:
        names = ", ".join(s.name for s in sequences) or "nothing"
        raise DatasetError(f"expected frames with images and reference poses to train on, found none in {names}")
    poses = np.concatenate([s.T_map_cam for s in sequences])
    stamps = np.concatenate([s.stamps_ns for s in sequences])
    if not np.isfinite(poses).all():
        bad = int(np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)))[0])
        raise DatasetError(f"expected finite reference poses, found NaN at frame {bad}; drop frames without a pose")
    rectifiers = [Rectifier(sequence.camera) for sequence in sequences]
    camera = rectifiers[0].target
    for rectifier in rectifiers[1:]:
        preprocess.check(rectifier.target, camera)
    file = folder / f"frames-{_digest(sequences, preprocess, poses, stamps)}.npy"
    shape = (total, preprocess.height, preprocess.width, 3)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Processes that start together each write their own and rename the same content.
        partial = file.with_suffix(f".partial-{os.getpid()}.npy")
        images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)  # type: ignore[no-untyped-call]
        try:
            row = 0
            for sequence, rectifier in zip(sequences, rectifiers, strict=True):
                for _, image in sequence.frames():
                    images[row] = preprocess.apply_uint8(rectifier.rectify(image)[0])
                    row += 1
            images.flush()
            partial.rename(file)
        finally:
            partial.unlink(missing_ok=True)
    return FrameSet(MappedImages(file), poses, stamps, preprocess.camera(camera), scene)


def _digest(
    sequences: Sequence[PosedSequence], preprocess: Preprocess, poses: Array, stamps: npt.NDArray[np.int64]
) -> str:
    """What a cache was made from: preprocessing, poses, stamps, cameras, and the first and last image of every drive.

    The images are in it because a drive that was rendered or recorded anew can have the poses of the old one.
    """
    digest = hashlib.sha256(poses.tobytes() + stamps.tobytes() + repr(preprocess).encode())
    for sequence in sequences:
        digest.update(repr((len(sequence), sequence.camera)).encode())
        for index in sorted({0, len(sequence) - 1}) if len(sequence) else ():
            digest.update(np.ascontiguousarray(sequence.image(index)).tobytes())
    return digest.hexdigest()[:16]


@dataclass
class Batch:
    """What one training step needs. The first candidates are shared by the batch, the rest belongs to an image.

    ``images`` (B, 3, h, w) uint8; ``truth`` (B, 7); ``initial`` (N0, 7) training poses; ``initial_noise`` (N0, 6) in
    [-1, 1]; ``normal`` (B, K - 1, N, 6); ``uniform`` (B, K - 1, N); ``scene`` index; with several scenes
    ``rival_poses`` (N0, 7) of another scene, ``rival``, in which none of the images was taken.
    """

    images: Tensor
    truth: Tensor
    initial: Tensor
    initial_noise: Tensor
    normal: Tensor
    uniform: Tensor
    scene: int
    rival: int | None = None
    rival_poses: Tensor | None = None


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _one_thread(_worker: int) -> None:
    """Workers share the cores: one OpenCV thread each (torch sees to its own)."""
    cv2.setNumThreads(1)


Item = tuple[int, int, int, int]  # epoch, global step, scene, frame


class KeyedFrames(Dataset[tuple[Item, Tensor, Tensor, Tensor, Tensor]]):
    """Augmented frames; item ``(epoch, step, scene, frame)`` is always the same, whatever process asks for it."""

    def __init__(self, scenes: Sequence[FrameSet], settings: TrainSettings) -> None:
        self.scenes, self.settings = list(scenes), settings

    def __len__(self) -> int:
        return sum(len(s) for s in self.scenes)

    def __getitem__(self, item: Item) -> tuple[Item, Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        epoch, _, scene, frame = item
        frames, s = self.scenes[scene], self.settings
        rng = _generator(s.seed, 1, epoch, scene, frame)
        image, T = augment(np.asarray(frames.images[frame]), frames.T_map_cam[frame], frames.camera, s.augment, rng)
        shape = (s.search.refinements - 1, s.train_candidates)
        normal = torch.from_numpy(rng.standard_normal((*shape, 6), dtype=np.float32))
        uniform = torch.from_numpy(rng.random(shape, dtype=np.float32))
        return item, image, torch.from_numpy(pose_vectors(T)), normal, uniform

    def collate(self, rows: list[tuple[Item, Tensor, Tensor, Tensor, Tensor]]) -> Batch:
        """Rows of one scene to a batch; the first candidates depend on the step alone, so all processes share them."""
        items, images, truth, normal, uniform = zip(*rows, strict=True)
        epoch, step, scene, _ = items[0]
        rng = _generator(self.settings.seed, 2, epoch, step)
        frames = self.scenes[scene]
        chosen = rng.integers(0, len(frames), self.settings.train_initial)
        noise = rng.uniform(-1.0, 1.0, (self.settings.train_initial, 6)).astype(np.float32)
        rival, rival_poses = None, None
        if len(self.scenes) > 1:
            rival = (scene + int(rng.integers(1, len(self.scenes)))) % len(self.scenes)
            others = self.scenes[rival].T_map_cam
            rival_poses = torch.from_numpy(
                pose_vectors(others[rng.integers(0, len(others), self.settings.train_initial)])
            )
        return Batch(
            torch.stack(images),
            torch.stack(truth),
            torch.from_numpy(pose_vectors(frames.T_map_cam[chosen])),
            torch.from_numpy(noise),
            torch.stack(normal),
            torch.stack(uniform),
            scene,
            rival,
            rival_poses,
        )


class KeyedSampler(Sampler[list[Item]]):
    """Global batches of one scene each, in an order keyed by (seed, epoch); every process takes its share of each.

    The last, smaller batch of a scene is filled up from its beginning, so that all processes do equal work.

    :param position: steps that the whole run has taken so far. It decides where an iteration begins, so that a run
        resumed in the middle of an epoch goes on with the batch that came next. (The trainer calls ``set_epoch`` of
        plain samplers only, never of one that makes batches.) Without it ``epoch`` counts.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        position: Callable[[], int] | None = None,
    ) -> None:
        if batch_size % world:
            raise DatasetError(f"batch_size: expected a multiple of the {world} processes, found {batch_size}")
        self.sizes, self.batch_size, self.seed, self.rank, self.world = list(sizes), batch_size, seed, rank, world
        self.position = position
        self.epoch = 0

    def __len__(self) -> int:
        return sum(-(-n // self.batch_size) for n in self.sizes)

    def set_epoch(self, epoch: int) -> None:
        """The epoch to iterate over next, where no ``position`` decides."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Item]]:
        epoch, done = divmod(self.position(), len(self)) if self.position else (self.epoch, 0)
        rng = _generator(self.seed, 0, epoch)
        batches: list[tuple[int, npt.NDArray[np.int64]]] = []
        for scene, n in enumerate(self.sizes):
            order = rng.permutation(n)
            order = np.resize(order, -(-n // self.batch_size) * self.batch_size)
            batches += [(scene, order[i : i + self.batch_size]) for i in range(0, len(order), self.batch_size)]
        for step, index in enumerate(rng.permutation(len(batches))):
            if step < done:
                continue
            scene, frames = batches[index]
            yield [(epoch, step, scene, int(f)) for f in frames[self.rank :: self.world]]


class TrainingData(lightning.LightningDataModule):
    """The training frames of all scenes as Lightning wants them."""

    def __init__(self, scenes: Sequence[FrameSet], settings: TrainSettings, workers: int = 0) -> None:
        super().__init__()
        self.frames, self.settings, self.workers = KeyedFrames(scenes, settings), settings, workers

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        sizes = [len(s) for s in self.frames.scenes]
        position = (lambda: int(trainer.global_step)) if trainer else None
        sampler = KeyedSampler(sizes, self.settings.batch_size, self.settings.seed, rank, world, position)
        return DataLoader(
            self.frames,
            batch_sampler=sampler,
            collate_fn=self.frames.collate,
            num_workers=self.workers,
            worker_init_fn=_one_thread,
            # Never fork: OpenCV's and OpenMP's threads do not exist in the copy, which then waits for them forever.
            multiprocessing_context="spawn" if self.workers else None,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
