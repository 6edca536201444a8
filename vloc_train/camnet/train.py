"""What CamNet brings to a training run: its groups of images, its module, and the database of the training drives."""

from __future__ import annotations

import numpy as np

from vloc_ros.errors import TrainingError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.backbones import preprocess_of
from vloc_ros.localizers.camnet.localizer import read_network
from vloc_ros.localizers.camnet.network import CamNetNetwork
from vloc_train.camnet.data import KeyedGroups, Place
from vloc_train.camnet.export import map_contents
from vloc_train.camnet.mining import mine
from vloc_train.camnet.module import CamNetModule
from vloc_train.camnet.settings import TrainSettings
from vloc_train.training.depth import depth_grids, has_depth
from vloc_train.training.recipe import Contents, Job, Trainer
from vloc_train.training.run import checked_pretrained
from vloc_train.training.sampling import TrainingData

__all__ = ["TRAINER"]


class CamNetTrainer(Trainer[TrainSettings]):
    """The training drives become the database; ``--extractor`` brings weights to start from."""

    backend = "camnet"
    settings_class = TrainSettings
    takes = "own"

    def encoder(self, settings: TrainSettings) -> str | None:
        return settings.network.backbone

    def prepare(self, job: Job[TrainSettings]) -> Preprocess:
        s = job.settings
        return preprocess_of(s.network.backbone, s.image_width, s.image_height)

    def make(self, job: Job[TrainSettings]) -> Contents:
        settings, start = job.settings, job.extractor
        groups = KeyedGroups(_places(job), settings)
        weights = False if job.resumes or start else checked_pretrained(settings.pretrained)
        module = CamNetModule(settings, groups, job.preprocess, weights, job.options.workers)
        if start is not None:
            job.notes["extractor"] = {"map": start.path.name, "id": start.id}
            if not job.resumes:
                _start_from(module, read_network(start), str(start.path))
        job.fit(module, TrainingData(groups, job.options.workers))
        network = module.exported.to(job.device)
        return map_contents(network, job.by_scene, settings.inference, job.preprocess, settings.keyframe_every)


def _places(job: Job[TrainSettings]) -> list[Place]:
    mining, out = job.settings.mining, []
    for frames in job.by_scene:
        drives = job.drives(frames.scene)
        drive = np.repeat(np.arange(len(drives)), [len(d) for d in drives])
        wants_depth = mining.similarity == "depth" or (mining.similarity == "auto" and has_depth(drives))
        depth = depth_grids(drives, mining.grid) if wants_depth else None
        out.append(Place(frames, drive, mine(frames, mining, job.settings.seed, job.work, depth)))
    return out


def _start_from(module: CamNetModule, network: CamNetNetwork, where: str) -> None:
    if network.settings != module.settings.network:
        raise TrainingError(f"{where}: expected the network settings of this run, found others: {network.settings}")
    for part in (module.network, module.averaged):
        if part is not None:
            part.load_state_dict(network.state_dict())


TRAINER = CamNetTrainer()
