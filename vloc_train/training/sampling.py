"""Batches by key: what stands in a batch, and every random number in it, depends on (seed, epoch, step, sample) alone.

A data set says what its items are and which sampler draws them; :class:`TrainingData` is what Lightning wants of it.
Any process can make any item, and a run that is resumed in the middle of an epoch goes on with the batch that came
next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar

import lightning
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vloc_ros.errors import DatasetError
from vloc_train.training.frames import keyed_rng, one_thread

__all__ = ["BatchSampler", "HostBatch", "Item", "KeyedDataset", "KeyedSampler", "TrainingData"]

Item = tuple[int, int, int, int]  # epoch, global step, scene, frame

Key = TypeVar("Key")
Batch = TypeVar("Batch")


class BatchSampler(Sampler[list[Key]]):
    """Global batches in an order keyed by (seed, epoch), of which every process takes its share.

    :param position: steps that the whole run has taken so far; they decide where an iteration begins. (The trainer
        calls ``set_epoch`` of plain samplers only, never of one that makes batches.) Without it ``epoch`` counts.
    """

    def __init__(self, seed: int, rank: int = 0, world: int = 1, position: Callable[[], int] | None = None) -> None:
        self.seed, self.rank, self.world, self.position = seed, rank, world, position
        self.epoch = 0

    def __len__(self) -> int:
        """Batches of an epoch."""
        raise NotImplementedError

    def batches(self, epoch: int, first: int = 0) -> Iterator[list[Key]]:
        """This process's share of every batch of an epoch, from the batch number ``first`` on."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """The epoch to iterate over next, where no ``position`` decides."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, done = divmod(self.position(), len(self)) if self.position else (self.epoch, 0)
        yield from self.batches(epoch, done)


class KeyedSampler(BatchSampler[Item]):
    """Batches of one scene each; the last, smaller one of a scene is filled up from its beginning, so that all
    processes do equal work.

    :param sizes: number of frames of each scene.
    :param batch_size: over all processes together.
    :raises DatasetError: the processes cannot share a batch.
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
        super().__init__(seed, rank, world, position)
        self.sizes, self.batch_size = list(sizes), batch_size

    def __len__(self) -> int:
        return sum(-(-n // self.batch_size) for n in self.sizes)

    def batches(self, epoch: int, first: int = 0) -> Iterator[list[Item]]:
        """See :class:`BatchSampler`."""
        rng = keyed_rng(self.seed, 0, epoch)
        batches: list[tuple[int, npt.NDArray[np.int64]]] = []
        for scene, n in enumerate(self.sizes):
            frames = np.resize(rng.permutation(n), -(-n // self.batch_size) * self.batch_size)
            batches += [(scene, frames[i : i + self.batch_size]) for i in range(0, len(frames), self.batch_size)]
        order = rng.permutation(len(batches))
        for step in range(first, len(order)):
            scene, frames = batches[order[step]]
            yield [(epoch, step, scene, int(f)) for f in frames[self.rank :: self.world]]


class HostBatch:
    """A batch as a dataclass of tensors, which a loader may pin: pinned memory is copied to a GPU while it computes."""

    def pin_memory(self) -> Any:
        """The same with every tensor pinned."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        tensors = {name: value.pin_memory() for name, value in found.items() if isinstance(value, Tensor)}
        return type(self)(**{**found, **tensors})


class KeyedDataset(Dataset[Any], Generic[Batch]):
    """Items by key: the same key gives the same item, whatever process asks for it.

    A subclass gives ``__getitem__``, :meth:`collate` and, unless it overrides :meth:`sampler`, :meth:`sizes`.

    :param batch_size: items in one step, over all processes together.
    """

    def __init__(self, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed

    def sizes(self) -> list[int]:
        """Number of items of each scene."""
        raise NotImplementedError

    def __len__(self) -> int:
        return sum(self.sizes())

    def collate(self, rows: list[Any]) -> Batch:
        """Items to a batch."""
        raise NotImplementedError

    def sampler(self, rank: int = 0, world: int = 1, position: Callable[[], int] | None = None) -> BatchSampler[Any]:
        """Batches of items; see :class:`BatchSampler`."""
        # Fewer items than a batch wants are no reason to take each several times.
        size = min(self.batch_size, max(world, max(self.sizes()) // world * world))
        return KeyedSampler(self.sizes(), size, self.seed, rank, world, position)


class TrainingData(lightning.LightningDataModule):
    """A data set as Lightning wants it.

    :param workers: processes that make items; 0: the training process itself.
    """

    def __init__(self, data: KeyedDataset[Any], workers: int = 0) -> None:
        super().__init__()
        self.data, self.workers = data, workers

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        position = (lambda: int(trainer.global_step)) if trainer else None
        return DataLoader(
            self.data,
            batch_sampler=self.data.sampler(rank, world, position),
            collate_fn=self.data.collate,
            num_workers=self.workers,
            worker_init_fn=one_thread,
            # Never fork: OpenCV's and OpenMP's threads do not exist in the copy, which then waits for them forever.
            multiprocessing_context="spawn" if self.workers else None,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
