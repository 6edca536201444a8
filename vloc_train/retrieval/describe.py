"""Descriptors of whole drives, as they are or under changes of light and colour."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_train.training.augment import AugmentSettings, photometric
from vloc_train.training.frames import FrameSet, keyed_rng

__all__ = ["describe_augmented", "describe_frames"]


def describe_frames(descriptor: Descriptor, frames: FrameSet, batch: int = 32) -> Tensor:
    """``(N, D)`` float32 descriptors of a drive's frames, on the CPU.

    :param frames: preprocessed as the descriptor's network wants them.
    """
    rows = [
        descriptor.describe_images(torch.from_numpy(np.array(frames.images[start : start + batch]))).cpu()
        for start in range(0, len(frames), batch)
    ]
    return torch.cat(rows) if rows else torch.zeros((0, descriptor.dimension))


def describe_augmented(
    descriptor: Descriptor,
    frames: FrameSet,
    copies: int,
    settings: AugmentSettings | None = None,
    seed: int = 0,
    batch: int = 32,
) -> Tensor:
    """``(N, copies, D)`` float32 descriptors of each frame under ``copies`` changes of light and colour, on the CPU.

    IRPNet stores m of them for each training image, so that its regressors see a descriptor's spread without images.

    :param settings: how strong the changes are; geometry is left alone, the poses stay.
    """
    settings = settings or AugmentSettings(blur=0.0, erase=0.0)
    total = len(frames) * copies
    out = torch.empty((total, descriptor.dimension))
    for start in range(0, total, batch):
        rows = range(start, min(start + batch, total))
        images = []
        for row in rows:
            frame, copy = divmod(row, copies)
            image = torch.from_numpy(np.array(frames.images[frame])).permute(2, 0, 1).contiguous()
            images.append(photometric(image, settings, keyed_rng(seed, 3, frame, copy)).permute(1, 2, 0))
        out[rows.start : rows.stop] = descriptor.describe_images(torch.stack(images).contiguous()).cpu()
    return out.reshape(len(frames), copies, descriptor.dimension)
