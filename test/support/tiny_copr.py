"""A street of descriptors that change with the pose in a known way, and maps of it."""

from __future__ import annotations

from pathlib import Path

import tiny_drive
import tiny_extractor
import tiny_job

from vloc_train.copr.settings import TrainSettings
from vloc_train.copr.train import TRAINER
from vloc_train.retrieval.build import BUILDER
from vloc_train.retrieval.settings import BuildSettings
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)


def settings(**changes) -> TrainSettings:
    """Seconds of training on a lap of :func:`tiny_drive.drive`."""
    base = {
        "regressor": {"layers": 3, "width": 64},
        "pairs": {"radius_m": 4.0, "batch_size": 32},
        "epochs": 40,
        "anchors_per_frame": 4,
    }
    return TrainSettings.preset("small", {**base, **changes})


def retrieval_map(folder: Path, count: int = 40):
    """A retrieval map of a lap, with an extractor of random weights."""
    source = tiny_job.descriptor_map(folder / "source", tiny_extractor.descriptor()).path
    return BUILDER.run(
        {"map": [tiny_drive.drive(count)]}, folder / "retrieval", BuildSettings(), OPTIONS,
        {"map": [tiny_drive.drive(30, "other", phase=0.07)]}, extractor=source,
    )  # fmt: skip


def regressor_map(folder: Path, extractor: Path, **changes):
    """A map with a trained H."""
    return TRAINER.run(
        {"map": [tiny_drive.drive(40)]}, folder / "copr", settings(**changes), OPTIONS,
        {"map": [tiny_drive.drive(30, "other", phase=0.07)]}, extractor=extractor,
    )  # fmt: skip
