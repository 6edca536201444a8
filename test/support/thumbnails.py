"""A backend without a network: an image is described by its thumbnail, a map is a list of them. For tests of tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import cv2
import numpy as np
import torch

from vloc_ros.errors import TrainingError
from vloc_ros.geometry.vectors import from_vectors, to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.base import Hypothesis, Localizer
from vloc_ros.maps import read_map
from vloc_ros.settings import ranged
from vloc_ros.types import LocalizationState
from vloc_train.training.recipe import Contents, Trainer
from vloc_train.training.settings import RunSettings

FILE = "database.safetensors"


def thumbnail(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32).reshape(-1) / 255.0


@dataclass(frozen=True)
class Settings(RunSettings):
    """:param size: of the thumbnail. :param fail: raise instead. :param other: a map."""

    PRESETS: ClassVar = {"small": {}}

    size: int = ranged(6, minimum=1)
    fail: str = ""
    other: str = ""


@dataclass
class Made:
    """What the trainer was asked for, for tests that count."""

    out: list[str] = field(default_factory=list)


MADE = Made()


class ThumbnailTrainer(Trainer):
    """A thumbnail of every frame. Nothing is held out, whatever is asked for."""

    backend = "thumbnails"
    settings_class = Settings
    takes = "any"
    builds = temporary = True

    def run(self, scenes, out, settings, options=None, calibration=None, work_dir=None, about=None, extractor=None,
            hold_out="none"):  # fmt: skip
        if settings.fail == "bug":
            raise ZeroDivisionError(settings.fail)
        if settings.fail:
            raise TrainingError(settings.fail)
        if settings.other:
            read_map(settings.other)
        MADE.out.append(str((about or {}).get("step", "?")))
        return super().run(scenes, out, settings, options, None, work_dir, about, extractor, "none")

    def prepare(self, job):
        camera = next(iter(job.splits.values())).drives[0].camera
        return Preprocess(camera.width, camera.height)

    def make(self, job):
        drives = [d for name in job.splits for d in job.drives(name)]
        rows = np.stack([thumbnail(image, job.settings.size) for d in drives for _, image in d.frames()])
        tensors = {
            "map.descriptors": torch.from_numpy(rows).half(),
            "map.poses": torch.from_numpy(to_vectors(np.concatenate([d.T_map_cam for d in drives]))),
            "map.origin": torch.zeros(len(rows), dtype=torch.uint8),
        }
        return Contents({FILE: tensors}, {"size": job.settings.size})


TRAINER = ThumbnailTrainer()


@dataclass(frozen=True)
class ThumbnailSettings:
    size: int = 6
    last: bool = False
    lost: bool = False
    prior: bool = False


class Thumbnails(Localizer):
    """Nearest thumbnail; every fifth frame is called LOST if ``lost`` is set; the prior itself if ``prior`` is."""

    backend = "thumbnails"
    settings_class = ThumbnailSettings

    def load(self, bundle):
        tensors = bundle.tensors(FILE)
        self.rows = tensors["map.descriptors"].float().numpy()
        self.T = from_vectors(tensors["map.poses"])
        self.size = int(bundle.manifest.settings["size"])
        self.asked = 0

    def find(self, query, clock, keep_candidates):
        self.asked += 1
        scene, good = self.manifest.scenes[0].name, LocalizationState.LOCALIZED
        if self._settings.prior and query.prior is not None:
            return Hypothesis(scene, query.prior.T_map_cam, 0.5, covariance=query.prior.covariance, state=good)
        distance = np.abs(self.rows - thumbnail(query.image_rgb, self.size)).sum(axis=1)
        row = int(distance.argmax() if self._settings.last else distance.argmin())
        state = LocalizationState.LOST if self._settings.lost and self.asked % 5 == 0 else good
        return Hypothesis(scene, self.T[row], 0.5, covariance=np.eye(6) * 4.0, state=state)
