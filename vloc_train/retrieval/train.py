"""What an extractor brings to a training run: its start, its batches, what validation compares, and its database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from vloc_ros.errors import DatasetError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.retrieval.descriptor import Descriptor, preprocess_for
from vloc_ros.localizers.retrieval.extractors import Extractor
from vloc_train.retrieval.clusters import fit_extractor_whitening, initialise_clusters, untrained_extractor
from vloc_train.retrieval.database import retrieval_contents
from vloc_train.retrieval.module import ExtractorModule, ValidationSet
from vloc_train.retrieval.sampling import KeyedImages
from vloc_train.retrieval.settings import TrainSettings
from vloc_train.training.frames import FrameSet
from vloc_train.training.recipe import Contents, HeldOut, Job, Trainer
from vloc_train.training.sampling import TrainingData

__all__ = ["TRAINER", "check_trainable", "train_extractor", "validation_sets"]


class RetrievalTrainer(Trainer[TrainSettings]):
    """Images of different scenes are taken to share nothing. The database holds the training drives.

    A map with an extractor to start from brings its network in place of ``settings.extractor``.
    """

    backend = "retrieval"
    settings_class = TrainSettings
    takes = "any"

    def encoder(self, settings: TrainSettings) -> str | None:
        return None if settings.extractor.kind == "hub" else settings.extractor.backbone

    def prepare(self, job: Job[TrainSettings]) -> Preprocess:
        if job.extractor is None:
            return preprocess_for(job.settings.extractor)
        stored = Descriptor.from_bundle(job.extractor, torch.device("cpu"))
        job.notes["started_from"] = {"map": job.extractor.path.name, "extractor": stored.identity}
        # The loss decides whether descriptors are of unit length; the weights are the same either way.
        own = replace(stored.settings, normalise=job.settings.extractor.normalise)
        job.settings = replace(job.settings, extractor=own)
        return stored.preprocess

    def make(self, job: Job[TrainSettings]) -> Contents:
        start = None
        if job.extractor is not None:
            start = Descriptor.from_bundle(job.extractor, torch.device("cpu")).trainable_copy()
            start.settings = job.settings.extractor
        descriptor = Descriptor(train_extractor(job, start).to(job.device), job.preprocess, job.device)
        return retrieval_contents(descriptor, job.training, job.settings.retrieval, job.settings.database)


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


def train_extractor(job: Job[TrainSettings], start: Extractor | None = None) -> Extractor:
    """Train without writing a map.

    :param start: an extractor to go on from, which is changed; without it ``settings.pretrained`` decides.
    :return: the extractor of the best validation, with its whitening.
    """
    settings = job.settings
    check_trainable(job.training, settings)
    sample = (job.training, job.preprocess, settings.fit_images, settings.seed, job.device)
    extractor = start
    if extractor is None:
        # What comes from a server is in the checkpoint already.
        weights = False if job.resumes and settings.pretrained is True else settings.pretrained
        extractor = untrained_extractor(settings.extractor, weights)
        if extractor.needs_whitening:  # it is fitted to what training leaves; until then there is none
            extractor = untrained_extractor(replace(settings.extractor, whiten=None), weights)
        if not job.resumes:
            initialise_clusters(extractor, *sample)
    module = ExtractorModule(extractor, settings, job.preprocess, validation_sets(job.training, job.held))
    images = KeyedImages(job.training, settings.sampling, settings.augment, settings.seed)
    job.fit(module, TrainingData(images, job.options.workers))
    best: Extractor = module.best()
    if settings.extractor.whiten is not None:
        fit_extractor_whitening(best, settings.extractor.whiten, *sample)
    return best


TRAINER = RetrievalTrainer()
