"""One training run of an extractor, from recorded drives to a calibrated retrieval map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vloc_ros.datasets import PosedSequence
from vloc_ros.localizers.retrieval.descriptor import Descriptor, preprocess_for
from vloc_ros.localizers.retrieval.extractors import Extractor
from vloc_ros.maps import MapBundle, read_map
from vloc_ros.maps.writer import check_target
from vloc_train.retrieval.build import build_retrieval_map, check_cameras
from vloc_train.retrieval.fitting import HeldOut, check_trainable, train_extractor
from vloc_train.retrieval.settings import TrainSettings
from vloc_train.training.frames import FrameSet, cache_drives, hold_out, join
from vloc_train.training.provenance import frame_id_of, provenance
from vloc_train.training.registry import Trainer
from vloc_train.training.run import RunOptions, claim, identity_of, training_device

__all__ = ["TRAINER", "train_retrieval"]


def train_retrieval(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: TrainSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
) -> MapBundle:
    """Train an extractor and write a map whose database holds the training drives.

    :param scenes: drives by scene name; the first scene's camera is the map's. Images of different scenes are taken to
        share nothing.
    :param out: the map to write; an existing one is replaced at the very end only.
    :param calibration: other drives by scene, for validation and calibration; without them every
        ``settings.hold_out``-th frame is kept out of training for it.
    :param work_dir: caches, logs and checkpoints (default: ``<out>.work`` beside the map).
    :param about: more fields for the map's provenance.
    :param extractor: a map with the extractor to start from; its network takes the place of ``settings.extractor``.
    :raises TrainingError: the working directory belongs to a run with other settings.
    :raises DatasetError: no usable frames, or nothing to make triplets of.
    :raises MapError: something else than a map is at ``out``.
    """
    options = options or RunOptions()
    device = training_device(options)
    check_target(out, overwrite=True)  # now, not after the training
    work = work_dir or out.with_name(out.name + ".work")
    start: Extractor | None = None
    preprocess = preprocess_for(settings.extractor)
    origin: dict[str, str] = {}
    if extractor is not None:
        bundle = read_map(extractor)
        stored = Descriptor.from_bundle(bundle, torch.device("cpu"))
        start = stored.trainable_copy()
        # The loss decides whether descriptors are of unit length; the weights are the same either way.
        start.settings = replace(stored.settings, normalise=settings.extractor.normalise)
        settings, preprocess = replace(settings, extractor=start.settings), stored.preprocess
        origin = {"map": bundle.path.name, "extractor": stored.identity}
    claim(work, identity_of(settings.to_mapping(), scenes, calibration, started_from=origin), options.resume)
    training: list[FrameSet] = []
    held_out: list[HeldOut] = []
    for name, sequences in scenes.items():
        drives = cache_drives(sequences, preprocess, work, name)
        if calibration and calibration.get(name):
            training += drives
            held_out += [HeldOut(d) for d in cache_drives(calibration[name], preprocess, work, name)]
        else:
            for drive in drives:
                kept, held = hold_out(drive, settings.hold_out)
                training.append(kept)
                held_out.append(HeldOut(held, len(training) - 1))
    check_cameras([*training, *(h.frames for h in held_out)], preprocess)
    check_trainable(training, settings)
    trained, seconds = train_extractor(training, held_out, settings, preprocess, options, work, start)
    if trained is None:  # another process than the first of a distributed run
        raise SystemExit(0)
    made = provenance(
        scenes,
        settings.to_mapping(),
        frames={name: sum(len(d) for d in training if d.scene == name) for name in scenes},
        calibration_data={n: [s.name for s in v] for n, v in (calibration or {}).items()} or "held-out frames",
        training_minutes=round(seconds / 60.0, 2),
        **({"started_from": origin} if origin else {}),
        **(about or {}),
    )
    return build_retrieval_map(
        out,
        Descriptor(trained.to(device), preprocess, device),
        training,
        [join([h.frames for h in held_out if h.frames.scene == name]) for name in scenes],
        settings.database,
        settings.retrieval,
        provenance=made,
        frame_id=frame_id_of(scenes),
        work=work,
    )


TRAINER = Trainer(tuple(TrainSettings.PRESETS), TrainSettings.preset, train_retrieval)
