"""From recorded drives and a frozen extractor to H, the regressor that densifies maps, in a map of those drives."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.localizers.copr.localizer import CoPRLocalizer
from vloc_ros.localizers.copr.network import REGRESSOR_FILE, SECTION, regressor_settings, regressor_tensors
from vloc_ros.localizers.retrieval.database import DATABASE_FILE
from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, Descriptor
from vloc_ros.localizers.retrieval.descriptor import SECTION as EXTRACTOR_SECTION
from vloc_ros.maps import MapBundle, MapManifest, read_map, write_map
from vloc_ros.maps.writer import check_target
from vloc_ros.settings import settings_to_mapping
from vloc_train.copr.data import KeyedPairs, Pairs, describe_drives
from vloc_train.copr.module import RegressorModule
from vloc_train.copr.settings import TrainSettings
from vloc_train.retrieval.build import database_of
from vloc_train.training.calibration import calibrate_scenes
from vloc_train.training.frames import FrameSet, cache_drives, hold_out
from vloc_train.training.module import Validate
from vloc_train.training.provenance import frame_id_of, provenance, scene_of
from vloc_train.training.registry import Trainer
from vloc_train.training.run import RunOptions, claim, fit, identity_of, training_device
from vloc_train.training.sampling import TrainingData

__all__ = ["TRAINER", "train_copr"]

_log = logging.getLogger(__name__)


def train_copr(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: TrainSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
) -> MapBundle:
    """Train H on the drives' descriptors and write it into a map.

    The map is a retrieval map of the drives with H beside it: it localizes as it is, can be densified itself, and lends
    its regressor to other maps of the same extractor (``vloc map densify OTHER --regressor MAP``). One H learns from
    all scenes: relative poses in the camera's axes mean the same everywhere.

    :param scenes: drives by scene name; they should contain steps like those that maps are to be extended by.
    :param out: the map to write; an existing one is replaced at the very end only.
    :param calibration: other drives by scene, for validation and calibration; without them every
        ``settings.hold_out``-th frame is kept out of training for it.
    :param work_dir: frames, logs and checkpoints (default: ``<out>.work`` beside the map).
    :param about: more fields for the map's provenance.
    :param extractor: a map of any backend that holds the descriptor extractor; it stays as it is.
    :raises ConfigError: no extractor. :raises DatasetError: no usable frames, or none near each other.
    :raises TrainingError: the working directory belongs to a run with other settings.
    :raises MapError: something else than a map is at ``out``.
    """
    options = options or RunOptions()
    device = training_device(options)
    check_target(out, overwrite=True)  # now, not after the training
    if extractor is None:
        raise ConfigError(
            "train copr: expected --extractor MAP, a map whose descriptors to regress, found none; "
            "make one with vloc train retrieval or vloc map build retrieval"
        )
    if options.devices > 1:
        raise ConfigError(f"train copr: expected one device for a network this small, found {options.devices}")
    work = work_dir or out.with_name(out.name + ".work")
    descriptor = Descriptor.from_bundle(read_map(extractor), device)
    known: list[FrameSet] = []
    held: list[FrameSet] = []
    for name, sequences in scenes.items():
        drives = cache_drives(sequences, descriptor.preprocess, work, name)
        if calibration and calibration.get(name):
            known += drives
            held += cache_drives(calibration[name], descriptor.preprocess, work, name)
        else:
            split = [hold_out(drive, settings.hold_out) for drive in drives]
            known += [kept for kept, _ in split]
            held += [rest for _, rest in split]
    if sum(map(len, known)) < 2 or sum(map(len, held)) < 2:
        raise DatasetError("expected at least 2 frames to train on and 2 to validate on")
    identity = identity_of(settings.to_mapping(), scenes, calibration, extractor=descriptor.identity)
    claim(work, identity, options.resume)
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    described = describe_drives(descriptor, known)
    module = RegressorModule(described, describe_drives(descriptor, held), settings)
    pairs = Pairs(described, settings.pairs)
    data = KeyedPairs(pairs, settings.pairs.batch_size, settings.anchors_per_frame, settings.seed)
    _, seconds = fit(
        module, TrainingData(data), options, work, epochs=settings.epochs, max_minutes=settings.max_minutes,
        callbacks=[Validate(settings.validate_every)],
    )  # fmt: skip
    _log.info("held-out descriptors: %.3f of their variance unexplained", module.best_error)
    network = module.best()
    files: dict[str, dict[str, torch.Tensor]] = {
        EXTRACTOR_FILE: descriptor.tensors(),
        REGRESSOR_FILE: regressor_tensors(network),
        DATABASE_FILE: {},
    }
    places = []
    for name in scenes:
        database = database_of(descriptor, [d for d in known if d.scene == name])
        files[DATABASE_FILE].update(database.tensors(name))
        places.append(scene_of(name, database.poses[:, :3].numpy(), frame_id_of(scenes)))
    manifest = MapManifest(
        backend="copr",
        scenes=tuple(places),
        camera=known[0].camera,
        preprocessing=descriptor.preprocess.settings(),
        settings={
            EXTRACTOR_SECTION: descriptor.settings_mapping(),
            "database": {"metric": descriptor.metric, "extractor_id": descriptor.identity},
            SECTION: regressor_settings(network, descriptor.identity, settings.pairs.radius_m),
            "retrieval": settings_to_mapping(settings.retrieval),
        },
        provenance=provenance(
            scenes,
            settings.to_mapping(),
            frames={name: sum(len(d) for d in known if d.scene == name) for name in scenes},
            calibration_data={n: [s.name for s in v] for n, v in (calibration or {}).items()} or "held-out frames",
            extractor={"map": extractor.name, "id": descriptor.identity},
            training_minutes=round(seconds / 60.0, 3),
            unexplained_variance=round(module.best_error, 5),
            **(about or {}),
        ),
    )
    staged = work / "uncalibrated"
    bundle = write_map(staged, manifest, files, overwrite=staged.exists())
    with CoPRLocalizer.from_map(bundle, device) as localizer:
        sections, validation = calibrate_scenes(localizer, held, localizer.statistics)
    manifest = replace(manifest, calibration=sections, validation=validation)
    return write_map(out, manifest, files, overwrite=out.exists())


TRAINER = Trainer(tuple(TrainSettings.PRESETS), TrainSettings.preset, train_copr)
