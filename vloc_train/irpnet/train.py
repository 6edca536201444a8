"""What IRPNet brings to a training run: stored descriptors, its passes, and two ways to a covariance."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.irpnet.localizer import (
    OTHER_COVARIANCE,
    WEIGHTS_FILE,
    IRPNetLocalizer,
    passes_of,
    settings_mapping,
)
from vloc_ros.localizers.irpnet.network import Regressor, Task
from vloc_ros.localizers.irpnet.references import REFERENCES_FILE, typical_distance
from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, Descriptor
from vloc_ros.localizers.weights import stored_weights
from vloc_ros.maps import MapBundle
from vloc_ros.staging import replacing
from vloc_train.irpnet.data import SceneDescriptors, poses_of, regressed_rows, stored_copies
from vloc_train.irpnet.module import RegressorModule
from vloc_train.irpnet.settings import TrainSettings
from vloc_train.retrieval.database import describe_frames, extractor_of
from vloc_train.training.calibration import calibrate_scenes
from vloc_train.training.frames import FrameSet, join
from vloc_train.training.recipe import Contents, Job, Trainer
from vloc_train.training.run import claim

__all__ = ["TRAINER"]

_log = logging.getLogger(__name__)

#: A finished pass in its working directory.
_FINISHED = "finished.safetensors"


class IRPNetTrainer(Trainer[TrainSettings]):
    """Describe once, then train each scene's passes; the extractor stays as it is."""

    backend = "irpnet"
    settings_class = TrainSettings
    needs = "a map whose descriptors to regress from (make one with vloc train retrieval or vloc map build retrieval)"
    takes = "any"
    several_devices = False

    def prepare(self, job: Job[TrainSettings]) -> Preprocess:
        return extractor_of(job).preprocess

    def make(self, job: Job[TrainSettings]) -> Contents:
        settings, descriptor = job.settings, extractor_of(job)
        weights: dict[str, Tensor] = {}
        references: dict[str, Tensor] = {}
        describing = 0.0
        for held in job.held_by_scene:
            drives = [d for d in job.training if d.scene == held.scene]
            described, took = _describe(descriptor, drives, held, job)
            describing += took
            references.update(_references(descriptor, drives, described, settings))
            for name, kept in passes_of(settings.network).items():
                regressor = _train_pass(described, kept, job, job.work / f"{held.scene}-{name}")
                prefix = f"{held.scene}.{name}."
                weights.update({prefix + k: v for k, v in stored_weights(regressor.state_dict()).items()})
        job.notes["describing_minutes"] = round(describing / 60.0, 3)
        files = {EXTRACTOR_FILE: descriptor.tensors(), WEIGHTS_FILE: weights, REFERENCES_FILE: references}
        return Contents(files, settings_mapping(descriptor, settings.network, settings.inference))

    def calibrate(
        self, job: Job[TrainSettings], bundle: MapBundle, contents: Contents
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Each scene has models for both values of the setting ``covariance``."""
        wanted = job.settings.inference.covariance
        other = "dropout" if wanted == "residuals" else "residuals"
        with IRPNetLocalizer.from_map(bundle, job.device, {"covariance": wanted}) as localizer:
            sections, validation = calibrate_scenes(localizer, job.held_by_scene)
        with IRPNetLocalizer.from_map(bundle, job.device, {"covariance": other}) as localizer:
            others, _ = calibrate_scenes(localizer, job.held_by_scene)
        for name, found in others.items():
            sections[name][OTHER_COVARIANCE] = found["covariance"]
        return sections, validation


def _describe(
    descriptor: Descriptor, drives: Sequence[FrameSet], held: FrameSet, job: Job[TrainSettings]
) -> tuple[SceneDescriptors, float]:
    """A scene's stored descriptors and the seconds that describing the training images took."""
    settings, copies, seconds = job.settings, [], 0.0
    for index, drive in enumerate(drives):
        _log.info("describing %s, drive %d of %d: %d images", held.scene, index + 1, len(drives), len(drive))
        found, took = stored_copies(descriptor, drive, settings.copies, settings.augment, settings.seed, job.work)
        copies.append(found)
        seconds += took
    extra = regressed_rows(Path(settings.densified), held.scene, descriptor) if settings.densified else None
    validation = describe_frames(descriptor, held)
    truth = torch.from_numpy(to_vectors(held.T_map_cam))
    return SceneDescriptors(held.scene, copies, poses_of(drives), validation, truth, extra), seconds


def _references(
    descriptor: Descriptor, drives: Sequence[FrameSet], described: SceneDescriptors, settings: TrainSettings
) -> dict[str, Tensor]:
    """Some training images' descriptors as they are, evenly chosen, and their poses, for the map."""
    frames = join(drives)
    count = min(len(frames), settings.references)
    kept = frames.select(np.unique(np.linspace(0, len(frames) - 1, count).round().astype(np.int64)))
    plain = describe_frames(descriptor, kept).half()
    scene = described.scene
    return {
        f"{scene}.poses": torch.from_numpy(to_vectors(kept.T_map_cam)),
        f"{scene}.descriptors": plain,
        f"{scene}.typical": torch.tensor(typical_distance(plain, described.sample(512))),
    }


def _train_pass(scene: SceneDescriptors, kept: tuple[Task, ...], job: Job[TrainSettings], work: Path) -> Regressor:
    """One training of one regressor, or what an earlier part of the run has finished."""
    settings = job.settings
    claim(work, {**job.identity, "scene": scene.scene, "tasks": list(kept)}, job.options.resume)
    finished = work / _FINISHED
    if not job.options.resume:
        finished.unlink(missing_ok=True)
    if finished.exists():
        state = load_file(finished)
        job.note_training(float(state.pop("seconds")))
        regressor = Regressor(scene.dimension, settings.network, kept)
        regressor.load_state_dict(state)
        return regressor.eval()
    _log.info("training %s: %s", scene.scene, " and ".join(kept))
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    module = RegressorModule(scene, settings, kept)
    share = settings.max_minutes and settings.max_minutes / (len(passes_of(settings.network)) * len(job.splits))
    took = job.fit(module, module.data(), work, share)
    regressor = module.result()
    with replacing(finished) as stream:
        stream.write(save({**regressor.state_dict(), "seconds": torch.tensor(took)}))
    return regressor


TRAINER = IRPNetTrainer()
