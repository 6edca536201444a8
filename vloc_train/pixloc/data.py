"""Training data of PixLoc: a pair of frames with their points an item, every random number by (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, CameraModel
from vloc_train.mapping.frame_points import FramePoints
from vloc_train.pixloc.pairs import PairTable
from vloc_train.pixloc.settings import TrainSettings
from vloc_train.training.augment import photometric
from vloc_train.training.frames import FrameSet, keyed_rng
from vloc_train.training.sampling import HostBatch, Item, KeyedDataset

__all__ = ["Batch", "KeyedPairs", "Place", "random_motion"]


@dataclass(frozen=True)
class Place:
    """A scene to train in: frames, the points that each sees, and the pairs among them."""

    frames: FrameSet
    points: FramePoints
    pairs: PairTable


@dataclass
class Batch(HostBatch):
    """B pairs of frames of one scene; index 0 of the second axis is the anchor, 1 its partner.

    ``images`` (B, 2, 3, h, w) uint8; ``pixels`` (B, 2, N, 2) of the points in them; ``points`` (B, 2, N, 3) in the
    axes of the camera that sees them; ``mask`` (B, 2, N) points that are there; ``T_other`` (B, 2, 4, 4) maps points of
    camera k into the other camera, its true pose; ``T_start`` (B, 2, 4, 4): where the optimisation of that pose begins;
    ``frames`` (B, 2) numbers in the scene; ``scale``: the images are to be shrunk by this.
    """

    images: Tensor
    pixels: Tensor
    points: Tensor
    mask: Tensor
    T_other: Tensor
    T_start: Tensor
    frames: Tensor
    scene: int
    scale: float


Row = tuple[Item, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def random_motion(rng: np.random.Generator, distance_m: float, angle_deg: float) -> Array:
    """A transform (4, 4): distance and angle uniform up to these, direction and axis uniform on the sphere."""

    def direction() -> Array:
        v = rng.standard_normal(3)
        return np.asarray(v / max(float(np.linalg.norm(v)), 1e-9))

    T = np.eye(4)
    T[:3, :3] = so3_exp(direction() * np.radians(angle_deg) * rng.random())
    T[:3, 3] = direction() * distance_m * rng.random()
    return T


class KeyedPairs(KeyedDataset[Batch]):
    """Pairs with augmented images; an item is ``(epoch, step, scene, anchor)``."""

    def __init__(self, places: Sequence[Place], settings: TrainSettings) -> None:
        super().__init__(settings.batch_size, settings.seed)
        self.places, self.settings = list(places), settings

    def sizes(self) -> list[int]:
        """See :class:`KeyedDataset`."""
        return [len(place.pairs) for place in self.places]

    def camera(self, scene: int) -> CameraModel:
        """The camera of a scene's cached images."""
        return self.places[scene].frames.camera

    def scale(self, epoch: int, step: int) -> float:
        """By what a batch's images are shrunk: all by the same."""
        scales = self.settings.scales
        return float(scales[int(keyed_rng(self.settings.seed, 55, epoch, step).integers(len(scales)))])

    def __getitem__(self, item: Item) -> Row:
        epoch, _, scene, number = item
        place = self.places[scene]
        anchor = int(place.pairs.anchors[number])
        rng = keyed_rng(self.settings.seed, 54, epoch, scene, anchor)
        pair = [anchor, place.pairs.draw(number, self.settings.pairs.cross_drive, rng)]
        images, drawn = [], []
        for frame in pair:
            image = np.array(place.frames.images[frame])
            tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
            images.append(photometric(tensor, self.settings.augment, rng))
            drawn.append(self._points(place.points, frame, rng))
        pixels, points, mask = (torch.stack(list(part)) for part in zip(*drawn, strict=True))
        T_map_cam = place.frames.T_map_cam[pair]
        T_other = inverse(T_map_cam[::-1]) @ T_map_cam
        T_start = np.stack([self._start(T, rng) for T in T_other])
        return (
            item, torch.stack(images), pixels, points, mask, torch.from_numpy(T_other).float(),
            torch.from_numpy(T_start).float(), torch.tensor(pair),
        )  # fmt: skip

    def _points(self, points: FramePoints, frame: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        count = self.settings.points.drawn
        uv, xyz = points.of(frame)
        if len(uv) > count:
            rows = rng.choice(len(uv), count, replace=False)
            uv, xyz = uv[rows], xyz[rows]
        mask = np.arange(count) < len(uv)
        # What is not there gets a place that no arithmetic minds.
        pixels, cam = np.zeros((count, 2), np.float32), np.tile(np.array([0, 0, 1], np.float32), (count, 1))
        pixels[: len(uv)], cam[: len(uv)] = uv, xyz
        return torch.from_numpy(pixels), torch.from_numpy(cam), torch.from_numpy(mask)

    def _start(self, T_true: Array, rng: np.random.Generator) -> Array:
        prior = self.settings.prior
        at_reference = prior.kind == "reference" or (prior.kind == "mixed" and rng.random() < 0.5)
        motion = random_motion(rng, prior.distance_m, prior.angle_deg)
        return np.eye(4) if at_reference else np.asarray(motion @ T_true)

    def collate(self, rows: list[Row]) -> Batch:
        """Rows of one scene to a batch."""
        items = [row[0] for row in rows]
        epoch, step, scene, _ = items[0]
        images, pixels, points, mask, T_other, T_start, frames = (
            torch.stack([cast(Tensor, row[part]) for row in rows]) for part in range(1, 8)
        )
        return Batch(images, pixels, points, mask, T_other, T_start, frames, scene, self.scale(epoch, step))
