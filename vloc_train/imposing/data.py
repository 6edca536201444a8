"""Training data of ImPosing: augmented frames in keyed batches, every random number by (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import lightning
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.vectors import to_vectors
from vloc_train.imposing.settings import TrainSettings
from vloc_train.training.augment import augment
from vloc_train.training.frames import FrameSet, keyed_rng, one_thread

__all__ = ["Batch", "KeyedFrames", "KeyedSampler", "TrainingData"]


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
        rng = keyed_rng(s.seed, 1, epoch, scene, frame)
        image, T = augment(np.asarray(frames.images[frame]), frames.T_map_cam[frame], frames.camera, s.augment, rng)
        shape = (s.search.refinements - 1, s.train_candidates)
        normal = torch.from_numpy(rng.standard_normal((*shape, 6), dtype=np.float32))
        uniform = torch.from_numpy(rng.random(shape, dtype=np.float32))
        return item, image, torch.from_numpy(to_vectors(T)), normal, uniform

    def collate(self, rows: list[tuple[Item, Tensor, Tensor, Tensor, Tensor]]) -> Batch:
        """Rows of one scene to a batch; the first candidates depend on the step alone, so all processes share them."""
        items, images, truth, normal, uniform = zip(*rows, strict=True)
        epoch, step, scene, _ = items[0]
        rng = keyed_rng(self.settings.seed, 2, epoch, step)
        frames = self.scenes[scene]
        chosen = rng.integers(0, len(frames), self.settings.train_initial)
        noise = rng.uniform(-1.0, 1.0, (self.settings.train_initial, 6)).astype(np.float32)
        rival, rival_poses = None, None
        if len(self.scenes) > 1:
            rival = (scene + int(rng.integers(1, len(self.scenes)))) % len(self.scenes)
            others = self.scenes[rival].T_map_cam
            rival_poses = torch.from_numpy(
                to_vectors(others[rng.integers(0, len(others), self.settings.train_initial)])
            )
        return Batch(
            torch.stack(images),
            torch.stack(truth),
            torch.from_numpy(to_vectors(frames.T_map_cam[chosen])),
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
        rng = keyed_rng(self.seed, 0, epoch)
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
            worker_init_fn=one_thread,
            # Never fork: OpenCV's and OpenMP's threads do not exist in the copy, which then waits for them forever.
            multiprocessing_context="spawn" if self.workers else None,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
