"""A job of the recipe over frames that are there already, and its contents as a map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import tiny_drive
import torch

from vloc_ros.images.preprocess import Preprocess
from vloc_ros.maps import MapBundle, MapManifest, write_map
from vloc_train.frame_choice.settings import HoldOutSettings
from vloc_train.frame_choice.split import Split, split
from vloc_train.training.frames import FrameSet
from vloc_train.training.provenance import scene_of
from vloc_train.training.recipe import Contents, HeldOut, Job
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)


def every(drives: Sequence[Any], number: int) -> Split:
    """Every n-th frame of drives held out."""
    return split(drives, HoldOutSettings("every", number))


def job(
    settings: Any, training: Sequence[FrameSet], held: Sequence[HeldOut], preprocess: Preprocess, work: Path
) -> Job[Any]:
    """What :meth:`Trainer.make` gets, without drives."""
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    made: Job[Any] = Job(settings, OPTIONS, torch.device("cpu"), work / "map", work, {}, None)
    made.preprocess = preprocess
    made.training, made.held = list(training), list(held)  # type: ignore[misc]
    return made


def written(
    contents: Contents, backend: str, scenes: Sequence[FrameSet], preprocess: Preprocess, path: Path, **sections: Any
) -> MapBundle:
    """The map of some contents, whose areas are those of frames."""
    names = dict.fromkeys(frames.scene for frames in scenes)
    positions = {n: np.concatenate([f.T_map_cam[:, :3, 3] for f in scenes if f.scene == n]) for n in names}
    manifest = MapManifest(
        backend=backend, scenes=tuple(scene_of(n, p) for n, p in positions.items()), camera=scenes[0].camera,
        preprocessing=preprocess.settings(), settings=contents.settings, **sections,
    )  # fmt: skip
    return write_map(path, manifest, contents.files, overwrite=path.exists())


def descriptor_map(path: Path, descriptor: Any, scene: str = "map", paint: int = 0) -> MapBundle:
    """A retrieval map of a dozen frames, as a source of its extractor."""
    from vloc_ros.localizers.retrieval.localizer import RetrievalSettings
    from vloc_train.retrieval.database import retrieval_contents

    frames = [tiny_drive.frames(12, scene, paint=paint)]
    contents = retrieval_contents(descriptor, frames, RetrievalSettings())
    return written(contents, "retrieval", frames, descriptor.preprocess, path)
