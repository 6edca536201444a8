"""From recorded drives and a frozen extractor to a calibrated IRPNet map: describe once, train each pass, calibrate."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.vectors import to_vectors
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
from vloc_ros.maps import MapBundle, MapManifest, read_map, write_map
from vloc_ros.maps.writer import check_target
from vloc_train.irpnet.data import SceneDescriptors, poses_of, regressed_rows, stored_copies
from vloc_train.irpnet.module import RegressorModule
from vloc_train.irpnet.settings import TrainSettings
from vloc_train.retrieval.describe import describe_frames
from vloc_train.training.calibration import calibrate_scenes
from vloc_train.training.frames import FrameSet, cache_drives, hold_out, join
from vloc_train.training.module import Validate
from vloc_train.training.provenance import frame_id_of, provenance, scene_of
from vloc_train.training.registry import Trainer
from vloc_train.training.run import RunOptions, claim, fit, identity_of, training_device

__all__ = ["TRAINER", "train_irpnet"]

_log = logging.getLogger(__name__)

#: A finished pass in its working directory.
_FINISHED = "finished.safetensors"


def train_irpnet(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: TrainSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
) -> MapBundle:
    """Train, calibrate and write a map.

    :param scenes: drives by scene name; each scene gets its own regressors.
    :param out: the map to write; an existing one is replaced at the very end only.
    :param calibration: other drives by scene, for validation and calibration; without them every
        ``settings.hold_out``-th frame is kept out of training for it.
    :param work_dir: frames, descriptors, logs and checkpoints (default: ``<out>.work`` beside the map).
    :param about: more fields for the map's provenance.
    :param extractor: a map of any backend that holds the descriptor extractor; it stays as it is.
    :raises ConfigError: no extractor, or a densified map that does not fit.
    :raises TrainingError: the working directory belongs to a run with other settings.
    :raises DatasetError: no usable frames.
    :raises MapError: something else than a map is at ``out``.
    """
    options = options or RunOptions()
    device = training_device(options)
    check_target(out, overwrite=True)  # now, not after the training
    if extractor is None:
        raise ConfigError(
            "train irpnet: expected --extractor MAP, a map whose descriptor extractor to regress from, found none; "
            "make one with vloc train retrieval or vloc map build retrieval"
        )
    if options.devices > 1:
        raise ConfigError(f"train irpnet: expected one device for layers this small, found {options.devices}")
    work = work_dir or out.with_name(out.name + ".work")
    descriptor = Descriptor.from_bundle(read_map(extractor), device)
    training: list[list[FrameSet]] = []
    held_out: list[FrameSet] = []
    for name, sequences in scenes.items():
        drives = cache_drives(sequences, descriptor.preprocess, work, name)
        if calibration and calibration.get(name):
            training.append(drives)
            held_out.append(join(cache_drives(calibration[name], descriptor.preprocess, work, name)))
        else:
            split = [hold_out(drive, settings.hold_out) for drive in drives]
            training.append([kept for kept, _ in split if len(kept)])
            held_out.append(join([held for _, held in split]))
    if any(sum(map(len, t)) < 2 or len(h) < 2 for t, h in zip(training, held_out, strict=True)):
        raise DatasetError("expected at least 2 frames to train on and 2 to validate on in every scene")
    identity = identity_of(settings.to_mapping(), scenes, calibration, extractor=descriptor.identity)
    weights: dict[str, Tensor] = {}
    references: dict[str, Tensor] = {}
    seconds = {"describing": 0.0, "training": 0.0}
    passes = passes_of(settings.network)
    share = settings.max_minutes and settings.max_minutes / (len(passes) * len(training))
    for drives, held in zip(training, held_out, strict=True):
        described, took = _describe(descriptor, drives, held, settings, work)
        seconds["describing"] += took
        references.update(_references(descriptor, drives, described, settings))
        for name, kept in passes.items():
            place = work / f"{held.scene}-{name}"
            regressor, took = _train_pass(described, settings, kept, share, options, place, identity)
            seconds["training"] += took
            prefix = f"{held.scene}.{name}."
            weights.update({prefix + k: v for k, v in stored_weights(regressor.state_dict()).items()})
    manifest = MapManifest(
        backend="irpnet",
        scenes=tuple(
            scene_of(h.scene, np.concatenate([d.T_map_cam[:, :3, 3] for d in t]), frame_id_of(scenes))
            for t, h in zip(training, held_out, strict=True)
        ),
        camera=training[0][0].camera,
        preprocessing=descriptor.preprocess.settings(),
        settings=settings_mapping(descriptor, settings.network, settings.inference),
        provenance=provenance(
            scenes,
            settings.to_mapping(),
            frames={h.scene: sum(map(len, t)) for t, h in zip(training, held_out, strict=True)},
            calibration_data={n: [s.name for s in v] for n, v in (calibration or {}).items()} or "held-out frames",
            extractor={"map": extractor.name, "id": descriptor.identity},
            describing_minutes=round(seconds["describing"] / 60.0, 3),
            training_minutes=round(seconds["training"] / 60.0, 3),
            **(about or {}),
        ),
    )
    files = {EXTRACTOR_FILE: descriptor.tensors(), WEIGHTS_FILE: weights, REFERENCES_FILE: references}
    staged = work / "uncalibrated"
    bundle = write_map(staged, manifest, files, overwrite=staged.exists())
    sections, validation = _calibrate(bundle, device, held_out, settings)
    manifest = replace(manifest, calibration=sections, validation=validation)
    return write_map(out, manifest, files, overwrite=out.exists())


def _describe(
    descriptor: Descriptor, drives: Sequence[FrameSet], held: FrameSet, settings: TrainSettings, work: Path
) -> tuple[SceneDescriptors, float]:
    """A scene's stored descriptors and the seconds that describing the training images took."""
    copies, seconds = [], 0.0
    for index, drive in enumerate(drives):
        _log.info("describing %s, drive %d of %d: %d images", held.scene, index + 1, len(drives), len(drive))
        found, took = stored_copies(descriptor, drive, settings.copies, settings.augment, settings.seed, work)
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


def _train_pass(
    scene: SceneDescriptors,
    settings: TrainSettings,
    kept: tuple[Task, ...],
    max_minutes: float | None,
    options: RunOptions,
    work: Path,
    identity: Mapping[str, Any],
) -> tuple[Regressor, float]:
    """One training of one regressor, or what an earlier part of the run has finished; and the seconds it took."""
    claim(work, {**identity, "scene": scene.scene, "tasks": list(kept)}, options.resume)
    finished = work / _FINISHED
    if not options.resume:
        finished.unlink(missing_ok=True)
    if finished.exists():
        state = load_file(finished)
        took = float(state.pop("seconds"))
        regressor = Regressor(scene.dimension, settings.network, kept)
        regressor.load_state_dict(state)
        return regressor.eval(), took
    _log.info("training %s: %s", scene.scene, " and ".join(kept))
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    module = RegressorModule(scene, settings, kept)
    _, took = fit(
        module, module.data(), options, work, epochs=settings.epochs, max_minutes=max_minutes,
        callbacks=[Validate(settings.validate_every)],
    )  # fmt: skip
    regressor = module.result()
    partial = finished.with_suffix(".partial")
    save_file({**regressor.state_dict(), "seconds": torch.tensor(took)}, partial)
    partial.rename(finished)
    return regressor, took


def _calibrate(
    bundle: MapBundle, device: torch.device, held_out: Sequence[FrameSet], settings: TrainSettings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections of the manifest; each scene has models for both values of the setting ``covariance``."""
    wanted = settings.inference.covariance
    other = "dropout" if wanted == "residuals" else "residuals"
    with IRPNetLocalizer.from_map(bundle, device, {"covariance": wanted}) as localizer:
        sections, validation = calibrate_scenes(localizer, held_out, localizer.statistics)
    with IRPNetLocalizer.from_map(bundle, device, {"covariance": other}) as localizer:
        others, _ = calibrate_scenes(localizer, held_out, localizer.statistics)
    for name, found in others.items():
        sections[name][OTHER_COVARIANCE] = found["covariance"]
    return sections, validation


TRAINER = Trainer(tuple(TrainSettings.PRESETS), TrainSettings.preset, train_irpnet)
