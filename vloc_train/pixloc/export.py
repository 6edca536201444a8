"""How PixLoc maps are written, tile by tile: by the trainer without points, by the builder with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vloc_ros.localizers.pixloc.bundle import MapSettings, write_pixloc_map
from vloc_ros.localizers.pixloc.model import PixLocModel
from vloc_ros.maps import MapBundle, MapManifest
from vloc_ros.types import CameraModel
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.sfm_frames import shown_progress
from vloc_train.training.recipe import Contents, Job, Trainer
from vloc_train.training.settings import RunSettings

__all__ = ["Parts", "PixLocMaker"]

S = TypeVar("S", bound=RunSettings)


def _no_features(scene: str, reference: int) -> Any:
    raise AssertionError(f"a map without points has no reference {reference} in {scene!r}")


@dataclass(frozen=True)
class Parts:
    """Network, points by scene, features of a reference, how they are stored, and where finished tiles lie."""

    model: PixLocModel
    models: Mapping[str, SparseModel] = field(default_factory=dict)
    features: Callable[[str, int], Any] = _no_features
    stored: MapSettings | None = None
    staging: Path | None = None


class PixLocMaker(Trainer[S]):
    """What trainer and builder share. Images of a distorting lens can stay as they are, so the camera is the lens's."""

    backend = "pixloc"
    takes = "own"

    def camera(self, job: Job[S]) -> CameraModel:
        return job.common_camera(lambda drive: drive.camera)

    def write(self, job: Job[S], contents: Contents, manifest: MapManifest, target: Path) -> MapBundle:
        parts: Parts = contents.more
        with shown_progress(job.options.progress and bool(parts.models), "features") as report:
            return write_pixloc_map(
                target, parts.model, parts.model.dimensions, parts.models, parts.features, manifest.camera,
                job.preprocess, parts.stored, sections=manifest.settings, scenes=manifest.scenes,
                tensors=contents.files, provenance=manifest.provenance, validation=manifest.validation,
                calibration=manifest.calibration, staging=parts.staging, overwrite=target.exists(), progress=report,
            )  # fmt: skip
