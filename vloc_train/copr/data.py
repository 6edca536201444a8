"""Descriptor pairs for H: an anchor, a target nearby, and the pose that leads from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_train.copr.settings import PairSettings
from vloc_train.retrieval.database import describe_frames
from vloc_train.training.frames import FrameSet, keyed_rng
from vloc_train.training.sampling import Item, KeyedDataset

__all__ = ["Described", "KeyedPairs", "Pairs", "describe_drives"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Described:
    """Frames of drives by their descriptors: ``descriptors`` (M, N) float32, ``poses`` (M, 7) float32, and the
    ``drive`` (M,) and ``place`` (M,) that each is of."""

    descriptors: Tensor
    poses: Tensor
    drive: Rows
    place: Rows

    def __len__(self) -> int:
        return len(self.poses)


def describe_drives(descriptor: Descriptor, drives: Sequence[FrameSet]) -> Described:
    """Describe the frames of drives; those of one scene are of one place."""
    names = sorted({d.scene for d in drives})
    return Described(
        torch.cat([describe_frames(descriptor, d) for d in drives]).float(),
        torch.from_numpy(np.concatenate([to_vectors(d.T_map_cam) for d in drives])),
        np.concatenate([np.full(len(d), i) for i, d in enumerate(drives)]).astype(np.int64),
        np.concatenate([np.full(len(d), names.index(d.scene)) for d in drives]).astype(np.int64),
    )


class Pairs:
    """All pairs (anchor, target) that the settings allow, as rows of targets for every anchor.

    :raises DatasetError: there is none.
    """

    def __init__(self, described: Described, settings: PairSettings) -> None:
        position = described.poses[:, :3].double().numpy()
        quaternion = described.poses[:, 3:].double().numpy()
        least = np.cos(0.5 * np.radians(settings.max_angle_deg))
        self.targets: list[Rows] = []
        for row in range(len(described)):
            near = np.linalg.norm(position - position[row], axis=1) <= settings.radius_m
            near &= np.abs(quaternion @ quaternion[row]) >= least - 1e-12
            near &= described.place == described.place[row]
            if not settings.across_drives:
                near &= described.drive == described.drive[row]
            near[row] = False
            self.targets.append(np.flatnonzero(near))
        self.anchors: Rows = np.flatnonzero([len(t) > 0 for t in self.targets])
        if not len(self.anchors):
            raise DatasetError(
                f"expected frames within {settings.radius_m:g} m of each other to learn from, found none among "
                f"{len(described)}; raise pairs.radius_m, or give more drives"
            )

    def draw(self, anchors: Rows, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """``(B, 2)`` rows: each anchor with one of its targets."""
        return np.stack([anchors, [self.targets[a][rng.integers(len(self.targets[a]))] for a in anchors]], axis=1)


class KeyedPairs(KeyedDataset[Tensor]):
    """Batches of pairs ``(B, 2)``; in an epoch every anchor stands ``repeats`` times, with targets drawn anew."""

    def __init__(self, pairs: Pairs, batch_size: int, repeats: int, seed: int) -> None:
        super().__init__(batch_size, seed)
        self.pairs, self.repeats = pairs, repeats

    def sizes(self) -> list[int]:
        """See :class:`KeyedDataset`."""
        return [len(self.pairs.anchors) * self.repeats]

    def __getitems__(self, items: Sequence[Item]) -> Tensor:
        """The pairs of ``(epoch, step, _, number)``."""
        anchors = self.pairs.anchors[[item[3] % len(self.pairs.anchors) for item in items]]
        return torch.from_numpy(self.pairs.draw(anchors, keyed_rng(self.seed, 11, items[0][0], items[0][1])))

    def collate(self, rows: Any) -> Tensor:
        """:meth:`__getitems__` makes whole batches."""
        return cast(Tensor, rows)
