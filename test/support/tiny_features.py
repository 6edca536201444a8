"""A small map of the backend ``features``: the painted corner of :mod:`tiny_street`, built in some seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import tiny_street

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.features.base import FeatureSettings
from vloc_ros.maps import MapBundle
from vloc_train.features.build import BUILDER
from vloc_train.features.settings import BuildSettings
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)


def settings(**changes) -> BuildSettings:
    """Few features and words, so that it is quick."""
    quick = {"features": FeatureSettings(limit=400), "words": 8, "calibration_frames": 40, "widest_spacing_m": 0.2}
    return BuildSettings(**{**quick, **changes})


def lap(count: int = 14, **more) -> PosedSequence:
    """The map's drive."""
    return tiny_street.drive(count, T=tiny_street.path(count, step_m=0.3), **more)


def unseen(count: int = 6, camera=tiny_street.CAMERA) -> PosedSequence:
    """Between the frames of the map, a little higher and turned."""
    T = tiny_street.path(count, step_m=0.5, start_m=0.4, seed=7)
    T[:, :3, 3] += (0.15, 0.0, 0.1)
    return tiny_street.drive(count, camera, "unseen", T)


def built(
    folder: Path, sequences: dict[str, list[PosedSequence]] | None = None, cluster: str = "", **changes
) -> MapBundle:
    """A map of the lap, or of other drives."""
    options = replace(OPTIONS, cluster=cluster)
    return BUILDER.run(sequences or {"map": [lap()]}, folder / "features", settings(**changes), options)


def twins() -> PosedSequence:
    """Two streets a hundred metres apart that are painted the same."""
    here = tiny_street.path(8, step_m=0.3)
    there = here.copy()
    there[:, :3, 3] += (100.0, 0.0, 0.0)
    T = np.concatenate([here, there])
    drive = tiny_street.drive(16, T=T)
    views = tiny_street.Views(np.concatenate([here, here]))
    return replace(drive, source=views)
