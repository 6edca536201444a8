"""An IRPNet map that learns a lap of :mod:`tiny_drive` in some seconds, from an extractor with random weights."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tiny_drive
import tiny_extractor
import torch

from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, Database
from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, Descriptor
from vloc_ros.maps import MapBundle, MapManifest, write_map
from vloc_train.irpnet.settings import TrainSettings
from vloc_train.irpnet.train import TRAINER
from vloc_train.retrieval.database import describe_frames
from vloc_train.training.provenance import scene_of
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)


@functools.cache
def folder() -> Path:
    """Where the maps of a test run lie."""
    made = Path(tempfile.mkdtemp(prefix="vloc-test-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@functools.cache
def descriptor(seed: int = 0) -> Descriptor:
    """Of random weights."""
    return tiny_extractor.descriptor(seed)


def descriptor_map(name: str, regressed: int = 0, seed: int = 0, count: int = 40) -> MapBundle:
    """A map with an extractor and a database of a lap, of which the last ``regressed`` rows count as regressed."""
    made, frames = descriptor(seed), tiny_drive.frames(count)
    origin = torch.zeros(count, dtype=torch.uint8)
    anchor = torch.arange(count, dtype=torch.int32)
    if regressed:
        origin[-regressed:] = 2
        anchor[-regressed:] = 0
    database = Database(
        describe_frames(made, frames).half(),
        torch.from_numpy(to_vectors(frames.T_map_cam)),
        origin,
        anchor,
        torch.from_numpy(frames.stamps_ns),
        made.metric,
        made.identity,
    )
    manifest = MapManifest(
        backend="retrieval",
        scenes=(scene_of("map", np.asarray(frames.T_map_cam[:, :3, 3])),),
        camera=tiny_drive.CAMERA,
        preprocessing=made.preprocess.settings(),
        settings={
            "extractor": made.settings_mapping(),
            "database": {"metric": made.metric, "extractor_id": made.identity},
        },
    )
    files = {EXTRACTOR_FILE: made.tensors(), DATABASE_FILE: database.tensors("map")}
    path = folder() / name
    return write_map(path, manifest, files, overwrite=path.exists())


@functools.cache
def extractor_map() -> Path:
    """The map whose extractor the others are trained from."""
    return descriptor_map("extractor").path


def settings(**changes: Any) -> TrainSettings:
    """The small preset, smaller."""
    base: dict[str, Any] = {
        "network": {"shared": 64, "widths": [64, 48, 32], "dropout": 0.05, **changes.pop("network", {})},
        "augment": {"photometric": 0.05}, "copies": 3, "epochs": 80, "batch_size": 16, "learning_rate": 3e-3,
        "validate_every": 3,
    }  # fmt: skip
    return TrainSettings.preset("small", {**base, **changes}, "test")


def train(name: str, made: TrainSettings | None = None, **more: Any) -> MapBundle:
    """A map of one lap, calibrated on another."""
    return TRAINER.run(
        {"map": [tiny_drive.drive(60)]},
        folder() / name,
        made or settings(),
        more.pop("options", OPTIONS),
        {"map": [tiny_drive.drive(40, name="calibration", phase=0.05)]},
        extractor=more.pop("extractor", extractor_map()),
        **more,
    )


@functools.cache
def trained_map() -> Path:
    """Made once in a test run."""
    return train("map").path
