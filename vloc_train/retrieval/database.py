"""Descriptors of whole drives, as they are or under changes of light and colour, and the database of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, Database
from vloc_ros.localizers.retrieval.database import SECTION as DATABASE_SECTION
from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, SECTION, Descriptor
from vloc_ros.localizers.retrieval.localizer import RetrievalSettings
from vloc_ros.settings import settings_to_mapping
from vloc_train.training.augment import AugmentSettings, photometric
from vloc_train.training.frames import DatabaseChoice, FrameSet, keyed_rng, spaced
from vloc_train.training.recipe import Contents, Job

__all__ = ["database_of", "describe_augmented", "describe_frames", "extractor_of", "retrieval_contents"]


def extractor_of(job: Job[Any]) -> Descriptor:
    """The descriptor extractor of the map of ``--extractor``, noted in the provenance."""
    assert job.extractor is not None
    descriptor = Descriptor.from_bundle(job.extractor, job.device)
    job.notes["extractor"] = {"map": job.extractor.path.name, "id": descriptor.identity}
    return descriptor


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


def database_of(descriptor: Descriptor, drives: Sequence[FrameSet], choice: DatabaseChoice | None = None) -> Database:
    """Descriptors and poses of the frames of some drives of one scene."""
    chosen = [drive.select(spaced(drive.T_map_cam, choice or DatabaseChoice())) for drive in drives]
    return Database.of_images(
        torch.cat([describe_frames(descriptor, c) for c in chosen]),
        torch.from_numpy(np.concatenate([to_vectors(c.T_map_cam) for c in chosen])),
        torch.from_numpy(np.concatenate([c.stamps_ns for c in chosen])),
        descriptor.metric,
        descriptor.identity,
    )


def retrieval_contents(
    descriptor: Descriptor,
    drives: Sequence[FrameSet],
    retrieval: RetrievalSettings,
    choice: DatabaseChoice | None = None,
) -> Contents:
    """A retrieval map of drives: the extractor, and a database for each scene."""
    rows: dict[str, Tensor] = {}
    for name in dict.fromkeys(d.scene for d in drives):
        database = database_of(descriptor, [d for d in drives if d.scene == name], choice)
        rows.update(database.tensors(name))
    return Contents(
        {EXTRACTOR_FILE: descriptor.tensors(), DATABASE_FILE: rows},
        {
            SECTION: descriptor.settings_mapping(),
            DATABASE_SECTION: database.settings(),
            "retrieval": settings_to_mapping(retrieval),
        },
    )
