"""One training run from recorded drives to a calibrated map, which can be interrupted and resumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.backbones import preprocess_of
from vloc_ros.localizers.imposing.localizer import ImPosingLocalizer
from vloc_ros.maps import MapBundle
from vloc_ros.maps.writer import check_target
from vloc_train.imposing.data import KeyedFrames
from vloc_train.imposing.export import export_map
from vloc_train.imposing.module import ImPosingModule
from vloc_train.imposing.settings import TrainSettings
from vloc_train.training.calibration import calibrate_scenes
from vloc_train.training.frames import FrameSet, cache_frames, hold_out
from vloc_train.training.module import Validate
from vloc_train.training.provenance import frame_id_of, provenance
from vloc_train.training.registry import Trainer
from vloc_train.training.run import RunOptions, checked_pretrained, claim, fit, identity_of, training_device, use_half
from vloc_train.training.sampling import TrainingData

__all__ = ["TRAINER", "train_imposing"]

_log = logging.getLogger(__name__)


def train_imposing(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: TrainSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> MapBundle:
    """Train, calibrate and write a map.

    :param scenes: drives by scene name; the first scene's camera is the map's.
    :param out: the map to write; an existing one is replaced at the very end only.
    :param calibration: other drives by scene, for validation and calibration; without them every
        ``settings.hold_out``-th training frame is kept out of training for it.
    :param about: more fields for the map's provenance.
    :param work_dir: caches, logs and checkpoints (default: ``<out>.work`` beside the map).
    :raises TrainingError: the working directory belongs to a run with other settings.
    :raises DatasetError: no usable frames.
    :raises MapError: something else than a map is at ``out``.
    """
    options = options or RunOptions()
    device = training_device(options)
    check_target(out, overwrite=True)  # now, not after the training
    work = work_dir or out.with_name(out.name + ".work")
    claim(work, identity_of(settings.to_mapping(), scenes, calibration), options.resume)
    preprocess = preprocess_of(settings.network.backbone, settings.image_width, settings.image_height)
    training: list[FrameSet] = []
    held_out: list[FrameSet] = []
    for name, sequences in scenes.items():
        frames = cache_frames(sequences, preprocess, work, name)
        if calibration and calibration.get(name):
            training.append(frames)
            held_out.append(cache_frames(calibration[name], preprocess, work, name))
        else:
            kept, held = hold_out(frames, settings.hold_out)
            training.append(kept)
            held_out.append(held)
    if training and any(len(f) < 2 for f in (*training, *held_out)):
        raise DatasetError("expected at least 2 frames to train on and 2 to validate on in every scene")
    network, seconds = _fit(training, held_out, settings, preprocess, options, work)
    if network is None:  # another process than the first of a distributed run
        raise SystemExit(0)
    made = provenance(
        scenes,
        frames={f.scene: len(f) for f in training},
        calibration_data={n: [s.name for s in v] for n, v in (calibration or {}).items()} or "held-out frames",
        training_minutes=round(seconds / 60.0, 2),
        **(about or {}),
    )
    common: dict[str, Any] = {"provenance": made, "frame_id": frame_id_of(scenes)}
    staged = work / "uncalibrated"
    bundle = export_map(network, training, settings, preprocess, staged, validation={}, **common)
    with ImPosingLocalizer.from_map(bundle, device) as localizer:
        sections, validation = calibrate_scenes(localizer, held_out, localizer.statistics, prior=True)
    return export_map(
        network, training, settings, preprocess, out, validation=validation, calibration=sections, **common
    )


def _fit(
    training: Sequence[FrameSet],
    held_out: Sequence[FrameSet],
    settings: TrainSettings,
    preprocess: Preprocess,
    options: RunOptions,
    work: Path,
) -> tuple[Any, float]:
    """Run Lightning; the network to export (None in every process but the first) and the seconds it took."""
    half = use_half(settings.precision, training_device(options))
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    last = work / "last.ckpt"
    pretrained = False if last.exists() and options.resume else settings.pretrained
    module = ImPosingModule(settings, training, held_out, preprocess, checked_pretrained(pretrained))
    data = TrainingData(KeyedFrames(training, settings), options.workers)
    first, seconds = fit(
        module, data, options, work, epochs=settings.epochs, max_minutes=settings.max_minutes, half=half,
        callbacks=[Validate(settings.validate_every)],
    )  # fmt: skip
    return (module.best().to(training_device(options)) if first else None), seconds


def _run(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: TrainSettings,
    options: RunOptions,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
) -> MapBundle:
    if extractor is not None:
        raise ConfigError("train imposing: has no extractor; leave out --extractor")
    return train_imposing(scenes, out, settings, options, calibration, work_dir, about)


TRAINER = Trainer(tuple(TrainSettings.PRESETS), TrainSettings.preset, _run)
