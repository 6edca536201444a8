"""``vloc map build camnet``: a database of other drives for the weights of a trained map."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.calibration import section
from vloc_ros.localizers.camnet.localizer import read_network
from vloc_ros.localizers.camnet.settings import InferenceSettings
from vloc_ros.settings import ranged, settings_from_mapping
from vloc_train.camnet.export import map_contents
from vloc_train.training.recipe import Contents, Job, Trainer
from vloc_train.training.settings import RunSettings

__all__ = ["BUILDER", "BuildSettings"]


@dataclass(frozen=True)
class BuildSettings(RunSettings):
    """How a database is made of drives.

    :param inference: changes of the localizer's settings; what is not named stays as in the map of the weights.
    :param keyframe_every: every n-th frame goes into the database.
    """

    inference: dict[str, Any] = field(default_factory=dict)
    keyframe_every: int = ranged(1, minimum=1)


class CamNetBuilder(Trainer[BuildSettings]):
    """Drives encoded with the weights of a CamNet map. Without frames held out the covariance of that map stays."""

    backend = "camnet"
    needs = "a trained CamNet map"
    takes = "own"
    builds = True
    settings_class = BuildSettings

    def prepare(self, job: Job[BuildSettings]) -> Preprocess:
        assert job.extractor is not None
        manifest = job.extractor.manifest
        preprocess = Preprocess.from_settings(manifest.preprocessing)
        for parts in job.splits.values():
            for drive in parts.drives:
                preprocess.check(Rectifier(drive.camera).target, manifest.camera)
        job.notes["extractor"] = {"id": job.extractor.id, "data": manifest.provenance.get("data", {})}
        return preprocess

    def make(self, job: Job[BuildSettings]) -> Contents:
        assert job.extractor is not None
        network = read_network(job.extractor).eval().requires_grad_(False).to(job.device)
        stored = section(job.extractor.manifest.settings, "inference", f"{job.extractor.path}: settings")
        inference = settings_from_mapping(InferenceSettings, {**stored, **job.settings.inference}, "camnet inference")
        return map_contents(network, job.by_scene, inference, job.preprocess, job.settings.keyframe_every)

    def without_held_out(self, job: Job[BuildSettings], contents: Contents) -> tuple[dict[str, Any], dict[str, Any]]:
        assert job.extractor is not None
        return {n: c for n, c in job.extractor.manifest.calibration.items() if n in job.splits}, {}


BUILDER = CamNetBuilder()
