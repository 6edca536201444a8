"""What PixLoc brings to a training run: pairs of frames with points, its module, and trials on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import ConfigError, TrainingError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.backbones import preprocess_of
from vloc_ros.localizers.pixloc.model import NETWORK_SECTION, OPTIMIZER_SECTION, PixLocModel, read_model
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_to_mapping
from vloc_train.frame_choice.split import Split
from vloc_train.mapping.frame_points import FramePoints, depth_points, model_points
from vloc_train.mapping.points import SparseModel
from vloc_train.pixloc.data import KeyedPairs, Place
from vloc_train.pixloc.export import Parts, PixLocMaker
from vloc_train.pixloc.module import PixLocModule, make_model
from vloc_train.pixloc.pairs import mine_pairs
from vloc_train.pixloc.settings import TrainSettings
from vloc_train.pixloc.validate import summary, try_pairs
from vloc_train.training.depth import has_depth
from vloc_train.training.frames import FrameSet, cache_frames
from vloc_train.training.recipe import Contents, Job
from vloc_train.training.run import checked_pretrained
from vloc_train.training.sampling import TrainingData

__all__ = ["TRAINER", "TrainingPlace", "training_place"]


class PixLocTrainer(PixLocMaker[TrainSettings]):
    """The map holds the network alone: PixLoc learns no place, so that one network serves any number of them.

    ``vloc map build pixloc --extractor`` makes maps of places with it. Scenes are places; images of different places
    are never paired. ``--extractor`` brings weights to start from.
    """

    settings_class = TrainSettings

    def encoder(self, settings: TrainSettings) -> str | None:
        return settings.network.encoder

    def prepare(self, job: Job[TrainSettings]) -> Preprocess:
        settings = job.settings
        unknown = sorted({*settings.sizes, *settings.points.models} - set(job.splits))
        if unknown:
            raise ConfigError(f"pixloc: expected settings of places {', '.join(job.splits)}, found {unknown[0]!r}")
        if job.extractor is not None:
            job.notes["extractor"] = {"map": job.extractor.path.name, "id": job.extractor.id}
        return preprocess_of(settings.network.encoder, settings.image_width, settings.image_height)

    def make(self, job: Job[TrainSettings]) -> Contents:
        settings = job.settings
        places = {name: training_place(name, parts, settings, job.work) for name, parts in job.splits.items()}
        pairs = KeyedPairs([place.training for place in places.values()], settings)
        module = PixLocModule(settings, pairs, job.preprocess, _first_model(settings, job.extractor))
        if settings.epochs:
            job.fit(module, TrainingData(pairs, job.options.workers))
        model = module.exported.to(job.device).eval()
        job.notes["pairs"] = {name: len(place.training.pairs.partners) for name, place in places.items()}
        sections = {
            NETWORK_SECTION: settings_to_mapping(settings.network),
            OPTIMIZER_SECTION: settings_to_mapping(settings.optimizer),
        }
        trials = {
            name: summary([try_pairs(model, place.held_out, settings, job.preprocess, job.device)])
            for name, place in places.items()
        }
        return Contents({}, sections, Parts(model), validation=trials)


@dataclass(frozen=True)
class TrainingPlace:
    """A scene's pairs for training, and for validation: frames held out, with partners among the training frames."""

    training: Place
    held_out: Place


def training_place(name: str, parts: Split, settings: TrainSettings, work: Path) -> TrainingPlace:
    """Cache the frames of a scene, get their points, and pair them.

    :raises DatasetError: no frames, no points, or no pairs.
    """
    width, height = settings.sizes.get(name, (settings.image_width, settings.image_height))
    used, held_out = parts.training, parts.held_out
    every = [*used, *held_out]
    frames = cache_frames(every, Preprocess(width, height), work, name)
    taken = [len(used) + k if number is None else number for k, number in enumerate(parts.taken_from)]
    drive = np.repeat([*range(len(used)), *taken], [len(d) for d in every])
    held = np.arange(len(frames)) >= sum(map(len, used))
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
        return model_points(SparseModel.load(Path(wanted.models[name])), frames)
    if wanted.source == "depth" or (wanted.source == "auto" and has_depth(sequences)):
        return depth_points(sequences, frames, wanted.stored, wanted.max_depth_m, settings.seed, work)
    from vloc_train.mapping.sfm import reconstruct  # its own extra is needed for this alone

    return model_points(reconstruct(sequences, settings.sfm, work / f"sfm-{name}"), frames)


def _first_model(settings: TrainSettings, start: MapBundle | None) -> PixLocModel:
    checked_pretrained(settings.pretrained)
    if start is None:
        return make_model(settings)
    model = read_model(start)
    if model.network.settings != settings.network:
        raise TrainingError(
            f"{start.path}: expected the network settings of this run, found others: {model.network.settings}"
        )
    model.damping.low, model.damping.high = settings.optimizer.damping_log10
    return model


TRAINER = PixLocTrainer()
