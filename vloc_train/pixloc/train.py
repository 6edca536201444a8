"""One training run of PixLoc, from posed images with points to a map that holds the trained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError, MapBackendError, TrainingError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.backbones import preprocess_of
from vloc_ros.localizers.pixloc.bundle import write_pixloc_map
from vloc_ros.localizers.pixloc.model import NETWORK_SECTION, PixLocModel, read_model
from vloc_ros.maps import MapBundle, read_map
from vloc_ros.maps.writer import check_target
from vloc_ros.settings import settings_to_mapping
from vloc_train.mapping.frame_points import FramePoints, depth_points, model_points
from vloc_train.mapping.points import SparseModel
from vloc_train.pixloc.data import KeyedPairs, Place, drives_of
from vloc_train.pixloc.module import PixLocModule, make_model
from vloc_train.pixloc.pairs import mine_pairs
from vloc_train.pixloc.settings import TrainSettings
from vloc_train.pixloc.validate import summary, try_pairs
from vloc_train.training.depth import has_depth
from vloc_train.training.frames import FrameSet, cache_frames, is_held_out
from vloc_train.training.provenance import frame_id_of, provenance, scene_of
from vloc_train.training.registry import Trainer
from vloc_train.training.run import RunOptions, claim, fit, identity_of, training_device, use_half
from vloc_train.training.sampling import TrainingData

__all__ = ["OPTIMIZER_SECTION", "TRAINER", "TrainingPlace", "train_pixloc", "training_place"]

#: The part of a manifest's settings with the optimiser's.
OPTIMIZER_SECTION = "optimizer"


@dataclass(frozen=True)
class TrainingPlace:
    """A scene's pairs for training, and for validation: frames held out, with partners among the training frames."""

    training: Place
    held_out: Place


def training_place(
    name: str,
    sequences: Sequence[PosedSequence],
    calibration: Sequence[PosedSequence],
    settings: TrainSettings,
    work: Path,
) -> TrainingPlace:
    """Cache the frames of a scene, get their points, and pair them.

    :param calibration: other drives, for validation; without them every n-th frame is held out.
    :raises DatasetError: no frames, no points, or no pairs.
    """
    width, height = settings.sizes.get(name, (settings.image_width, settings.image_height))
    every = [*sequences, *calibration]
    frames = cache_frames(every, Preprocess(width, height), work, name)
    drive = drives_of([len(s) for s in every])
    number = np.arange(len(frames))
    held = drive >= len(sequences) if calibration else is_held_out(number, settings.hold_out)
    points = _points(name, every, frames, settings, work)
    found = [
        mine_pairs(frames, points, drive, settings.pairs, settings.seed, anchors, ~held) for anchors in (~held, held)
    ]
    return TrainingPlace(*(Place(frames, points, pairs) for pairs in found))


def _points(
    name: str, sequences: Sequence[PosedSequence], frames: FrameSet, settings: TrainSettings, work: Path
) -> FramePoints:
    wanted = settings.points
    if name in wanted.models:
        return model_points(SparseModel.load(Path(wanted.models[name])), sequences, frames)
    if wanted.source == "depth" or (wanted.source == "auto" and has_depth(sequences)):
        return depth_points(sequences, frames, wanted.stored, wanted.max_depth_m, settings.seed, work)
    from vloc_train.mapping.sfm import reconstruct  # its own extra is needed for this alone

    return model_points(reconstruct(sequences, settings.sfm, work / f"sfm-{name}"), sequences, frames)


def train_pixloc(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: TrainSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
) -> MapBundle:
    """Train, try the network on pairs it has not seen, and write a map that holds it: the network alone.

    ``vloc map build pixloc --extractor`` makes maps of places with it. PixLoc learns no place, so that one network
    serves any number of them.

    :param scenes: drives by place; places are never paired with each other.
    :param out: the map to write; an existing one is replaced at the very end only.
    :param calibration: other drives by place, for validation; without them every ``settings.hold_out``-th frame is
        kept out of training for it.
    :param work_dir: caches, logs and checkpoints (default: ``<out>.work`` beside the map).
    :param about: more fields for the map's provenance.
    :param extractor: a PixLoc map whose weights to start from.
    :raises TrainingError: the working directory belongs to a run with other settings.
    :raises DatasetError: no usable frames, points or pairs.
    :raises MapError: something else than a map is at ``out``.
    """
    options = options or RunOptions()
    device = training_device(options)
    check_target(out, overwrite=True)  # now, not after the training
    if not scenes:
        raise DatasetError("expected drives to train on, found none")
    start = _pixloc_bundle(extractor) if extractor is not None else None
    work = work_dir or out.with_name(out.name + ".work")
    more = {"extractor": start.id} if start is not None else {}
    claim(work, identity_of(settings.to_mapping(), scenes, calibration, **more), options.resume)
    unknown = sorted({*settings.sizes, *settings.points.models} - set(scenes))
    if unknown:
        raise ConfigError(f"pixloc: expected settings of places {', '.join(scenes)}, found {unknown[0]!r}")
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    places = {
        name: training_place(name, sequences, (calibration or {}).get(name, ()), settings, work)
        for name, sequences in scenes.items()
    }
    preprocess = preprocess_of(settings.network.encoder, settings.image_width, settings.image_height)
    pairs = KeyedPairs([place.training for place in places.values()], settings)
    module = PixLocModule(settings, pairs, preprocess, _first_model(settings, start, str(extractor)))
    seconds = 0.0
    if settings.epochs:
        first, seconds = fit(
            module, TrainingData(pairs, options.workers), options, work,
            epochs=settings.epochs, max_minutes=settings.max_minutes, half=use_half(settings.precision, device),
        )  # fmt: skip
        if not first:  # another process than the first of a distributed run
            raise SystemExit(0)
    model = module.exported.to(device).eval()
    validation = {
        name: summary([try_pairs(model, place.held_out, settings, preprocess, device)])
        for name, place in places.items()
    }
    made = provenance(
        scenes,
        settings.to_mapping(),
        frames={name: len(place.training.frames) for name, place in places.items()},
        pairs={name: len(place.training.pairs.partners) for name, place in places.items()},
        calibration_data={n: [s.name for s in v] for n, v in (calibration or {}).items()} or "held-out frames",
        training_minutes=round(seconds / 60.0, 2),
        **more,
        **(about or {}),
    )
    frame_id = frame_id_of(scenes)
    return write_pixloc_map(
        out,
        model,
        model.dimensions,
        {},
        _no_features,
        next(iter(places.values())).training.frames.camera,
        preprocess,
        sections={
            NETWORK_SECTION: settings_to_mapping(settings.network),
            OPTIMIZER_SECTION: settings_to_mapping(settings.optimizer),
        },
        scenes=[scene_of(n, p.training.frames.T_map_cam[:, :3, 3], frame_id) for n, p in places.items()],
        provenance=made,
        validation=validation,
        overwrite=out.exists(),
    )


def _no_features(scene: str, reference: int) -> Any:
    raise AssertionError(f"a map without points has no reference {reference} in {scene!r}")


def _pixloc_bundle(path: Path) -> MapBundle:
    bundle = read_map(path)
    if bundle.manifest.backend != "pixloc":
        raise MapBackendError(f"{path}: expected a map of backend 'pixloc', found one of {bundle.manifest.backend!r}")
    return bundle


def _first_model(settings: TrainSettings, start: MapBundle | None, where: str) -> PixLocModel:
    if isinstance(settings.pretrained, str) and not Path(settings.pretrained).is_file():
        raise TrainingError(f"pretrained: expected a weight file, found nothing at {settings.pretrained}")
    if start is None:
        return make_model(settings)
    model = read_model(start)
    if model.network.settings != settings.network:
        raise TrainingError(
            f"{where}: expected the network settings of this run, found others: {model.network.settings}"
        )
    model.damping.low, model.damping.high = settings.optimizer.damping_log10
    return model


TRAINER = Trainer(tuple(TrainSettings.PRESETS), TrainSettings.preset, train_pixloc)
