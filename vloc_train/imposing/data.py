"""Training data of ImPosing: augmented frames in keyed batches, every random number by (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.vectors import to_vectors
from vloc_train.imposing.settings import TrainSettings
from vloc_train.training.augment import augment
from vloc_train.training.frames import FrameSet, keyed_rng
from vloc_train.training.sampling import HostBatch, Item, KeyedDataset

__all__ = ["Batch", "KeyedFrames"]


@dataclass
class Batch(HostBatch):
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


Row = tuple[Item, Tensor, Tensor, Tensor, Tensor]


class KeyedFrames(KeyedDataset[Batch]):
    """Augmented frames; an item is ``(epoch, step, scene, frame)``."""

    def __init__(self, scenes: Sequence[FrameSet], settings: TrainSettings) -> None:
        super().__init__(settings.batch_size, settings.seed)
        self.scenes, self.settings = list(scenes), settings

    def sizes(self) -> list[int]:
        """See :class:`KeyedDataset`."""
        return [len(s) for s in self.scenes]

    def __getitem__(self, item: Item) -> Row:
        epoch, _, scene, frame = item
        frames, s = self.scenes[scene], self.settings
        rng = keyed_rng(s.seed, 1, epoch, scene, frame)
        image, T = augment(np.asarray(frames.images[frame]), frames.T_map_cam[frame], frames.camera, s.augment, rng)
        shape = (s.search.refinements - 1, s.train_candidates)
        normal = torch.from_numpy(rng.standard_normal((*shape, 6), dtype=np.float32))
        uniform = torch.from_numpy(rng.random(shape, dtype=np.float32))
        return item, image, torch.from_numpy(to_vectors(T)), normal, uniform

    def collate(self, rows: list[Row]) -> Batch:
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
