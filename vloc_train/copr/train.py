"""What CoPR brings to a training run: H, the regressor that densifies maps, in a retrieval map of the drives."""

from __future__ import annotations

import logging

from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.copr.network import REGRESSOR_FILE, SECTION, regressor_settings, regressor_tensors
from vloc_train.copr.data import KeyedPairs, Pairs, describe_drives
from vloc_train.copr.module import RegressorModule
from vloc_train.copr.settings import TrainSettings
from vloc_train.retrieval.database import extractor_of, retrieval_contents
from vloc_train.training.recipe import Contents, Job, Trainer
from vloc_train.training.sampling import TrainingData

__all__ = ["TRAINER"]

_log = logging.getLogger(__name__)


class CoPRTrainer(Trainer[TrainSettings]):
    """H learns on the drives' descriptors; the extractor stays as it is.

    The map is a retrieval map of the drives with H beside it: it localizes as it is, can be densified itself, and lends
    its regressor to other maps of the same extractor (``vloc map densify OTHER --regressor MAP``). One H learns from
    all scenes, which should contain steps like those that maps are to be extended by: relative poses in the camera's
    axes mean the same everywhere.
    """

    backend = "copr"
    settings_class = TrainSettings
    needs = "a map whose descriptors to regress (make one with vloc train retrieval or vloc map build retrieval)"
    takes = "any"
    several_devices = False

    def prepare(self, job: Job[TrainSettings]) -> Preprocess:
        return extractor_of(job).preprocess

    def make(self, job: Job[TrainSettings]) -> Contents:
        settings, descriptor = job.settings, extractor_of(job)
        described = describe_drives(descriptor, job.training)
        module = RegressorModule(described, describe_drives(descriptor, [h.frames for h in job.held]), settings)
        pairs = Pairs(described, settings.pairs)
        data = KeyedPairs(pairs, settings.pairs.batch_size, settings.anchors_per_frame, settings.seed)
        job.fit(module, TrainingData(data))
        _log.info("held-out descriptors: %.3f of their variance unexplained", module.best_error)
        job.notes["unexplained_variance"] = round(module.best_error, 5)
        network = module.best()
        plain = retrieval_contents(descriptor, job.training, settings.retrieval)
        return Contents(
            {**plain.files, REGRESSOR_FILE: regressor_tensors(network)},
            {**plain.settings, SECTION: regressor_settings(network, descriptor.identity, settings.pairs.radius_m)},
        )


TRAINER = CoPRTrainer()
