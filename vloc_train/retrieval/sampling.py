"""Batches of neighbours: which images stand in a batch, and which pairs and triplets of them a loss sees.

The paper draws pairs and triplets at random. Encoding an image costs far more than comparing two descriptors, so that
by default a batch is a few neighbourhoods of several images each, and every valid pair or triplet in it counts.
Every random number is keyed by (seed, epoch, ...): a batch is the same whichever process makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.torch_ops import rotation_angle_quaternion
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.settings import ranged
from vloc_train.training.augment import AugmentSettings, augment
from vloc_train.training.frames import FrameSet, keyed_rng
from vloc_train.training.sampling import BatchSampler, HostBatch, KeyedDataset

__all__ = ["Batch", "GroupSampler", "KeyedImages", "SamplingSettings", "pairs_of", "triplets_of"]


@dataclass(frozen=True)
class SamplingSettings:
    """What stands in a batch, and what is compared.

    :param batch_size: images in one step, over all devices together.
    :param group_size: images of one neighbourhood in a batch; 2 are a query and its positive.
    :param near_m: images of a neighbourhood lie within this of its first; None: anywhere in the same place, as the
        paper's rooms of a few metres.
    :param vary_near: draw the size of each neighbourhood, uniform in area up to ``near_m``: there are as many near
        pairs as far ones then.
    :param near_deg: and look within this of where it looks; None: anywhere.
    :param across_drives: take the images of a neighbourhood from as many drives as there are, so that light differs.
    :param compare: ``group`` compares images of one neighbourhood (the paper's pairs), and each query and positive with
        one negative; ``batch`` compares everything in the batch.
    :param positive_m: images of one place within this are a positive pair of a triplet; None: all of that place.
    :param positive_deg: and within this angle; None: any.
    :param negative_m: images of one place beyond this are a negative pair; None: none are, and negatives are of other
        places only, as the paper's.
    """

    batch_size: int = ranged(32, minimum=2)
    group_size: int = ranged(2, minimum=2)
    near_m: float | None = ranged(None, minimum=0.0)
    vary_near: bool = False
    near_deg: float | None = ranged(None, minimum=0.0, maximum=180.0)
    across_drives: bool = True
    compare: Literal["group", "batch"] = "group"
    positive_m: float | None = ranged(None, minimum=0.0)
    positive_deg: float | None = ranged(None, minimum=0.0, maximum=180.0)
    negative_m: float | None = ranged(None, minimum=0.0)

    def __post_init__(self) -> None:
        if self.batch_size % self.group_size:
            raise ConfigError(
                f"sampling: expected a batch_size that is a multiple of group_size {self.group_size}, "
                f"found {self.batch_size}"
            )
        if self.negative_m is not None and self.positive_m is not None and self.negative_m < self.positive_m:
            raise ConfigError(
                f"sampling: expected negative_m of at least positive_m {self.positive_m:g}, found {self.negative_m:g}"
            )


@dataclass
class Batch(HostBatch):
    """``images`` (B, 3, h, w) uint8; ``poses`` (B, 7); ``place`` and ``group`` (B,) int64."""

    images: Tensor
    poses: Tensor
    place: Tensor
    group: Tensor


@dataclass(frozen=True)
class Item:
    """One image of one batch: where it stands, and which frame of which drive it is."""

    epoch: int
    step: int
    slot: int
    group: int
    drive: int
    frame: int


class KeyedImages(KeyedDataset[Batch]):
    """Augmented frames of drives; a key is an :class:`Item`.

    :param drives: frames of each drive; drives of one place have the same ``scene``.
    """

    def __init__(
        self, drives: Sequence[FrameSet], sampling: SamplingSettings, augmentation: AugmentSettings, seed: int
    ) -> None:
        super().__init__(sampling.batch_size, seed)
        self.drives, self.sampling, self.augmentation = list(drives), sampling, augmentation
        names = sorted({d.scene for d in drives})
        self.places = [names.index(d.scene) for d in drives]

    def sizes(self) -> list[int]:
        """See :class:`KeyedDataset`."""
        return [len(d) for d in self.drives]

    def __getitem__(self, item: Item) -> tuple[Tensor, Tensor, int, int]:
        rng = keyed_rng(self.seed, 1, item.epoch, item.step, item.slot)
        drive = self.drives[item.drive]
        image, T = augment(
            np.asarray(drive.images[item.frame]), drive.T_map_cam[item.frame], drive.camera, self.augmentation, rng
        )
        return image, torch.from_numpy(to_vectors(T)), self.places[item.drive], item.group

    def collate(self, rows: list[tuple[Tensor, Tensor, int, int]]) -> Batch:
        """Rows to a batch."""
        images, poses, places, groups = zip(*rows, strict=True)
        return Batch(torch.stack(images), torch.stack(poses), torch.tensor(places), torch.tensor(groups))

    def sampler(self, rank: int = 0, world: int = 1, position: Callable[[], int] | None = None) -> GroupSampler:
        """See :class:`KeyedDataset`."""
        return GroupSampler(self.drives, self.sampling, self.seed, rank, world, position)


class GroupSampler(BatchSampler[Item]):
    """Batches of neighbourhoods: frames in an order keyed by (seed, epoch), each with some neighbours.

    An epoch is as many images as there are frames, each frame being the first of its neighbourhood at most once.
    Processes that share a batch take whole neighbourhoods.

    :raises DatasetError: the processes cannot share a batch.
    """

    def __init__(
        self,
        drives: Sequence[FrameSet],
        settings: SamplingSettings,
        seed: int,
        rank: int = 0,
        world: int = 1,
        position: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(seed, rank, world, position)
        self.settings, self.groups = settings, settings.batch_size // settings.group_size
        if self.groups % world:
            raise DatasetError(
                f"expected a multiple of the {world} processes as neighbourhoods in a batch, found {self.groups}; "
                "change batch_size or group_size"
            )
        names = sorted({d.scene for d in drives})
        self._drive = np.concatenate([np.full(len(d), i) for i, d in enumerate(drives)])
        self._frame = np.concatenate([np.arange(len(d)) for d in drives])
        self._place = np.concatenate([np.full(len(d), names.index(d.scene)) for d in drives])
        T = np.concatenate([d.T_map_cam for d in drives])
        self._position, self._rotation = T[:, :3, 3], T[:, :3, :3]

    def __len__(self) -> int:
        return max(1, -(-len(self._drive) // self.settings.batch_size))

    def batches(self, epoch: int, first: int = 0) -> Iterator[list[Item]]:
        """See :class:`BatchSampler`."""
        order = keyed_rng(self.seed, 0, epoch).permutation(len(self._drive))
        anchors = np.resize(order, len(self) * self.groups)
        for step in range(first, len(self)):
            items: list[Item] = []
            for group in range(self.rank, self.groups, self.world):
                rng = keyed_rng(self.seed, 2, epoch, step, group)
                rows = self.neighbourhood(int(anchors[step * self.groups + group]), rng)
                slot = group * self.settings.group_size
                items += [
                    Item(epoch, step, slot + i, group, int(self._drive[row]), int(self._frame[row]))
                    for i, row in enumerate(rows)
                ]
            yield items

    def neighbourhood(self, anchor: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Rows of a frame and ``group_size - 1`` others near it; a lone frame stands there more than once."""
        s = self.settings
        near = self._place == self._place[anchor]
        near[anchor] = False
        if s.near_m is not None:
            radius = s.near_m * (float(np.sqrt(rng.random())) if s.vary_near else 1.0)
            near &= np.linalg.norm(self._position - self._position[anchor], axis=1) <= radius
        candidates = np.flatnonzero(near)
        if s.near_deg is not None and len(candidates):
            trace = np.einsum("nij,ij->n", self._rotation[candidates], self._rotation[anchor])
            candidates = candidates[trace >= 1.0 + 2.0 * np.cos(np.radians(s.near_deg)) - 1e-9]
        candidates = rng.permutation(candidates)
        if s.across_drives:
            # The first of every drive, then the second of every drive; the anchor is the first of its own.
            drives = self._drive[candidates]
            turn = np.zeros(len(candidates), np.int64)
            for drive in np.unique(drives):
                mine = drives == drive
                turn[mine] = np.arange(mine.sum()) + (drive == self._drive[anchor])
            candidates = candidates[np.argsort(turn, kind="stable")]
        chosen = candidates[: s.group_size - 1]
        return np.resize(np.concatenate([[anchor], chosen]), s.group_size).astype(np.int64)


def pairs_of(place: Tensor, group: Tensor, compare: str) -> tuple[Tensor, Tensor]:
    """Pairs to compare, each once: rows ``(P, 2)`` with the first before the second, and which are of different places.

    :param compare: ``group`` or ``batch``, see :class:`SamplingSettings`.
    """
    rows = torch.triu_indices(len(place), len(place), 1, device=place.device).T
    if compare == "group":
        rows = rows[group[rows[:, 0]] == group[rows[:, 1]]]
    return rows, place[rows[:, 0]] != place[rows[:, 1]]


def triplets_of(poses: Tensor, place: Tensor, group: Tensor, settings: SamplingSettings) -> Tensor:
    """Valid triplets ``(P, 3)`` of query, positive, negative rows; none where a batch holds no negatives."""
    s = settings
    count = len(place)
    distance = torch.linalg.vector_norm(poses[:, None, :3] - poses[None, :, :3], dim=-1)
    same = place[:, None] == place[None, :]
    positive = same & ~torch.eye(count, dtype=torch.bool, device=place.device)
    if s.positive_m is not None:
        positive &= distance <= s.positive_m
    if s.positive_deg is not None:
        angle = rotation_angle_quaternion(poses[:, None, 3:], poses[None, :, 3:])
        positive &= angle <= float(np.radians(s.positive_deg))
    negative = ~same
    if s.negative_m is not None:
        negative |= distance > s.negative_m
    if s.compare == "batch":
        return torch.nonzero(positive[:, :, None] & negative[:, None, :])
    # The paper's: each query with its positive of the neighbourhood, and one negative. Groups stand in random order,
    # so that the next valid image in the batch is a random one.
    positive &= group[:, None] == group[None, :]
    q, p = torch.nonzero(positive, as_tuple=True)
    if not len(q):
        return torch.zeros((0, 3), dtype=torch.int64, device=place.device)
    turned = (torch.arange(count, device=place.device)[None, :] + q[:, None]) % count
    valid = negative[q[:, None], turned]
    n = turned.gather(1, valid.int().argmax(dim=1, keepdim=True))[:, 0]
    return torch.stack([q, p, n], dim=-1)[valid.any(dim=1)]
