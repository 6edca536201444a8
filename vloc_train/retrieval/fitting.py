"""The run itself: from frames of drives to a trained extractor, without any map."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning
import numpy as np

from vloc_ros.errors import DatasetError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.retrieval.extractors import Extractor
from vloc_train.retrieval.clusters import fit_extractor_whitening, initialise_clusters, untrained_extractor
from vloc_train.retrieval.module import ExtractorModule, ValidationSet
from vloc_train.retrieval.sampling import KeyedImages
from vloc_train.retrieval.settings import TrainSettings
from vloc_train.training.frames import FrameSet
from vloc_train.training.module import Validate
from vloc_train.training.run import RunOptions, fit, training_device, use_half
from vloc_train.training.sampling import TrainingData

__all__ = ["HeldOut", "check_trainable", "train_extractor", "validation_sets"]

_log = logging.getLogger(__name__)


def check_trainable(drives: Sequence[FrameSet], settings: TrainSettings) -> None:
    """:raises DatasetError: too few frames, or one place without negatives for a triplet loss."""
    total = sum(len(d) for d in drives)
    if total < 2:
        raise DatasetError(f"expected at least 2 frames to train on, found {total}")
    alone = len({d.scene for d in drives}) == 1
    if settings.loss.kind != "triplet" or not alone:
        return
    if settings.sampling.negative_m is None:
        raise DatasetError(
            "triplet loss: expected images of several places (--data PLACE=DRIVE), found one; give more, or say from "
            "what distance on images of one place are negatives (sampling.negative_m)"
        )
    positions = np.concatenate([d.T_map_cam[:, :3, 3] for d in drives])
    extent = float(np.linalg.norm(np.ptp(positions, axis=0)))
    if extent <= settings.sampling.negative_m:
        raise DatasetError(
            f"triplet loss: expected images farther apart than sampling.negative_m {settings.sampling.negative_m:g} m, "
            f"found a place of {extent:.1f} m"
        )


@dataclass(frozen=True)
class HeldOut:
    """Frames that are not trained on; ``drive`` is the number of the training drive that they were taken out of."""

    frames: FrameSet
    drive: int | None = None


def validation_sets(training: Sequence[FrameSet], held_out: Sequence[HeldOut]) -> list[ValidationSet]:
    """What validation finds among what: images across drives where there are several, so that light differs.

    Frames of a held-out drive are found among the place's other held-out drives, else among its training drives. Frames
    taken out of a training drive are found among the place's *other* training drives, else among the rest of their own.
    One drive at a time: among all together the drive in the nearest lane and light answers, and weights that know
    nothing across lanes look as good as weights that do (in the town they were taken, and of the query drive's nearest
    neighbours 15 % instead of 1 % lay more than 10 m away).
    """
    sets = []
    for held in held_out:
        scene = held.frames.scene
        others = [h.frames for h in held_out if h is not held and h.drive is None and h.frames.scene == scene]
        known = [d for i, d in enumerate(training) if i != held.drive and d.scene == scene]
        references = (others if held.drive is None else []) or known
        if not references and held.drive is not None:
            references = [training[held.drive]]
        if len(held.frames):
            sets += [ValidationSet(held.frames, one) for one in references if len(one)]
    return sets


def train_extractor(
    training: Sequence[FrameSet],
    held_out: Sequence[HeldOut],
    settings: TrainSettings,
    preprocess: Preprocess,
    options: RunOptions,
    work: Path,
    start: Extractor | None = None,
) -> tuple[Extractor | None, float]:
    """Train without writing a map.

    :param training: frames of each drive; drives of one place have the same ``scene``.
    :param start: an extractor to go on from; without it ``settings.pretrained`` decides.
    :return: the extractor (None in every process but the first of a distributed run) and the seconds it took.
    """
    device = training_device(options)
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    last = work / "last.ckpt"
    resumed = last.exists() and options.resume
    sample = (training, preprocess, settings.fit_images, settings.seed, device)
    if start is not None:
        extractor = copy.deepcopy(start)
    else:
        # What comes from a server is in the checkpoint already.
        weights = False if resumed and settings.pretrained is True else settings.pretrained
        extractor = untrained_extractor(settings.extractor, weights)
        if extractor.needs_whitening:  # it is fitted to what training leaves; until then there is none
            extractor = untrained_extractor(replace(settings.extractor, whiten=None), weights)
        if not resumed:
            initialise_clusters(extractor, *sample)
    module = ExtractorModule(extractor, settings, preprocess, validation_sets(training, held_out))
    images = KeyedImages(training, settings.sampling, settings.augment, settings.seed)
    first, seconds = fit(
        module, TrainingData(images, options.workers), options, work,
        epochs=settings.epochs, max_minutes=settings.max_minutes, half=use_half(settings.precision, device),
        callbacks=[Validate(settings.validate_every)],
    )  # fmt: skip
    if not first:
        return None, seconds
    best: Extractor = module.best()
    if settings.extractor.whiten is not None:
        fit_extractor_whitening(best, settings.extractor.whiten, *sample)
    return best, seconds
