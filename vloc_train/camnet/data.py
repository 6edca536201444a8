"""Training data of CamNet: an anchor and three partners an item, every random number by (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.types import Array, CameraModel, RgbImage
from vloc_train.camnet.mining import PairTable
from vloc_train.camnet.settings import TrainSettings
from vloc_train.training.augment import augment
from vloc_train.training.frames import FrameSet, keyed_rng
from vloc_train.training.sampling import HostBatch, Item, KeyedDataset

__all__ = ["Batch", "KeyedGroups", "Place", "mirrored_image", "mirrored_transform"]

#: diag(-1, 1, 1, 1): see :func:`vloc_ros.localizers.camnet.relative.mirrored_poses`.
_MIRROR = np.array([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Place:
    """A scene to train in: its frames, the drive that each is of ``(N,)``, and the pairs among them."""

    frames: FrameSet
    drive: npt.NDArray[np.int64]
    pairs: PairTable


@dataclass
class Batch(HostBatch):
    """N anchors of one scene with an easy, a moderate and a hard partner each.

    ``images`` (N, 4, 3, h, w) uint8, the anchor first; ``poses`` (N, 4, 7); ``overlap`` (N, 3, 2) similarities of
    anchor in partner and partner in anchor; ``valid`` (N, 3): the partner is of its category; ``frames`` (N, 4)
    int64 numbers in the scene, which stay with the host; ``mirrored``: images and poses are those of the mirrored
    world; ``key`` (epoch, step) of its random numbers.
    """

    images: Tensor
    poses: Tensor
    overlap: Tensor
    valid: Tensor
    frames: npt.NDArray[np.int64]
    scene: int
    mirrored: bool
    key: tuple[int, int]


Row = tuple[Item, Tensor, Tensor, Tensor, Tensor, Tensor]


def mirrored_image(image: RgbImage, camera: CameraModel) -> RgbImage:
    """The image mirrored about the column of the principal point, so that the camera stays the same."""
    offset = camera.cx - (camera.width - 1) / 2
    if abs(offset) < 1e-6:
        return np.ascontiguousarray(image[:, ::-1])
    flip = np.array([[-1.0, 0.0, 2.0 * camera.cx], [0.0, 1.0, 0.0]])
    size = (camera.width, camera.height)
    out = cv2.warpAffine(image, flip, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, dtype=np.uint8)


def mirrored_transform(T_map_cam: Array) -> Array:
    """``S T S``: the pose that belongs to the mirrored image, in the mirrored world; ``(..., 4, 4)``."""
    return np.asarray(_MIRROR[:, None] * T_map_cam * _MIRROR)


class KeyedGroups(KeyedDataset[Batch]):
    """Augmented groups; an item is ``(epoch, step, scene, anchor)``."""

    def __init__(self, places: Sequence[Place], settings: TrainSettings) -> None:
        super().__init__(settings.batch_size, settings.seed)
        self.places, self.settings = list(places), settings
        self.anchors = [place.pairs.anchors for place in places]

    def sizes(self) -> list[int]:
        """See :class:`KeyedDataset`."""
        return [len(a) for a in self.anchors]

    def mirrors(self, epoch: int, step: int) -> bool:
        """Whether the images of a batch are mirrored: all or none, because a pair has one world."""
        return self.settings.flip and bool(keyed_rng(self.settings.seed, 42, epoch, step).random() < 0.5)

    def image(self, scene: int, frame: int, mirrored: bool, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """An augmented image ``(3, h, w)`` uint8 and its pose ``(7,)``."""
        frames = self.places[scene].frames
        image, T = np.asarray(frames.images[frame]), frames.T_map_cam[frame]
        if mirrored:
            image, T = mirrored_image(image, frames.camera), mirrored_transform(T)
        tensor, T = augment(image, T, frames.camera, self.settings.augment, rng)
        return tensor, torch.from_numpy(to_vectors(T))

    def __getitem__(self, item: Item) -> Row:
        epoch, step, scene, number = item
        place, seed = self.places[scene], self.settings.seed
        anchor = int(self.anchors[scene][number])
        rng = keyed_rng(seed, 41, epoch, scene, anchor)
        rows, valid = place.pairs.draw(anchor, rng)
        group = [anchor, *place.pairs.pairs[rows, 1].tolist()]
        made = [self.image(scene, frame, self.mirrors(epoch, step), rng) for frame in group]
        images, poses = (torch.stack(list(part)) for part in zip(*made, strict=True))
        overlap = torch.from_numpy(place.pairs.overlap[rows])
        return item, images, poses, overlap, torch.from_numpy(valid), torch.tensor(group)

    def collate(self, rows: list[Row]) -> Batch:
        """Rows of one scene to a batch."""
        items, images, poses, overlap, valid, frames = zip(*rows, strict=True)
        epoch, step, scene, _ = items[0]
        return Batch(
            torch.stack(images), torch.stack(poses), torch.stack(overlap), torch.stack(valid),
            torch.stack(frames).numpy(), scene, self.mirrors(epoch, step), (epoch, step),
        )  # fmt: skip
