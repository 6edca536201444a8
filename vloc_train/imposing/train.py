"""What ImPosing brings to a training run: its module, its batches and its files."""

from __future__ import annotations

from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.backbones import preprocess_of
from vloc_train.imposing.data import KeyedFrames
from vloc_train.imposing.export import map_contents
from vloc_train.imposing.module import ImPosingModule
from vloc_train.imposing.settings import TrainSettings
from vloc_train.training.recipe import Contents, Job, Trainer
from vloc_train.training.run import checked_pretrained
from vloc_train.training.sampling import TrainingData

__all__ = ["TRAINER"]


class ImPosingTrainer(Trainer[TrainSettings]):
    """One network for all scenes, with a head and a pose encoder each."""

    backend = "imposing"
    settings_class = TrainSettings

    def encoder(self, settings: TrainSettings) -> str | None:
        return settings.network.backbone

    def prepare(self, job: Job[TrainSettings]) -> Preprocess:
        s = job.settings
        return preprocess_of(s.network.backbone, s.image_width, s.image_height)

    def make(self, job: Job[TrainSettings]) -> Contents:
        settings, training = job.settings, job.by_scene
        pretrained = False if job.resumes else checked_pretrained(settings.pretrained)
        module = ImPosingModule(settings, training, job.held_by_scene, job.preprocess, pretrained)
        job.fit(module, TrainingData(KeyedFrames(training, settings), job.options.workers))
        return map_contents(module.best().to(job.device), training, settings, job.preprocess)


TRAINER = ImPosingTrainer()
