"""``vloc map build pixloc``: points of drives, the features of a trained network at them, and how sure that makes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.cameras import project, unproject
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.calibration import section
from vloc_ros.localizers.pixloc.bundle import MapSettings
from vloc_ros.localizers.pixloc.features import extract_pyramid, sample_observations
from vloc_ros.localizers.pixloc.localizer import PixLocLocalizer
from vloc_ros.localizers.pixloc.model import NETWORK_SECTION, OPTIMIZER_SECTION, PixLocModel, read_model
from vloc_ros.localizers.pixloc.optimizer import OptimizerSettings
from vloc_ros.localizers.pixloc.settings import SECTION, PixLocSettings
from vloc_ros.localizers.pixloc.store import LevelFeatures
from vloc_ros.localizers.retrieval.database import DATABASE_FILE
from vloc_ros.localizers.retrieval.database import SECTION as DATABASE_SECTION
from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, Descriptor
from vloc_ros.localizers.retrieval.descriptor import SECTION as EXTRACTOR_SECTION
from vloc_ros.maps import MapBundle, Scene, read_map
from vloc_ros.settings import ranged, settings_from_mapping, settings_to_mapping
from vloc_ros.types import CameraModel
from vloc_train.frame_choice.split import USED
from vloc_train.mapping.colmap_import import ColmapImages, ColmapSettings, import_model
from vloc_train.mapping.depth_model import DepthSettings, depth_model, with_depth_folder
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.report import write_quality_report
from vloc_train.mapping.sfm import SfmSettings, reconstruct
from vloc_train.mapping.sfm_frames import Progress, digest_of, shown_progress
from vloc_train.mapping.subsample import SubsampleSettings, subsample
from vloc_train.pixloc.export import Parts, PixLocMaker
from vloc_train.retrieval.database import database_of
from vloc_train.training.calibration import calibrate_scenes
from vloc_train.training.cluster import Workers
from vloc_train.training.frames import FrameSet, cache_drives, join
from vloc_train.training.provenance import frame_id_of, scene_of
from vloc_train.training.recipe import Contents, Job
from vloc_train.training.settings import RunSettings

__all__ = ["BUILDER", "BuildSettings", "scene_model"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildSettings(RunSettings):
    """How a map is made of drives and a trained network.

    :param source: where the points come from: ``sfm`` (triangulated with the drives' poses), ``depth`` (depth images),
        ``colmap`` (a model that exists).
    :param sfm: of structure from motion.
    :param depth: of points from depth.
    :param colmap: of a model that exists.
    :param subsample: what the map keeps of the points.
    :param map: how the features are stored.
    :param image_width: of the image that features are extracted from; 0: as the network was trained.
    :param image_height: the same.
    :param pixloc: changes of the localizer's settings.
    :param optimizer: changes of the optimiser's; what is not named stays as in the map of the network.
    :param retrieval: a map of any backend with a descriptor extractor: then this map finds its first pose by itself.
    :param calibration_repeats: priors that the calibration draws for each of its frames; more where those are few.
    :param report: write the quality report beside the map (needs matplotlib).
    """

    source: Literal["sfm", "depth", "colmap"] = "sfm"
    # Of few photos most points are seen by two alone; where there are more, those of long tracks come first.
    sfm: SfmSettings = field(
        default_factory=lambda: SfmSettings(features=4096, two_view=True, error_px=3.0, epipolar_px=3.0)
    )
    depth: DepthSettings = field(default_factory=DepthSettings)
    colmap: ColmapSettings = field(default_factory=ColmapSettings)
    subsample: SubsampleSettings = field(default_factory=lambda: SubsampleSettings(minimum_track=2))
    map: MapSettings = field(default_factory=MapSettings)
    image_width: int = ranged(0, minimum=0, maximum=8192)
    image_height: int = ranged(0, minimum=0, maximum=8192)
    pixloc: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    retrieval: str = ""
    calibration_repeats: int = ranged(1, minimum=1, maximum=100)
    report: bool = True


class PixLocBuilder(PixLocMaker[BuildSettings]):
    """Points, and the features of the network of a PixLoc map at them.

    An interrupted run goes on from the working folder, as long as data and settings are the same. Each scene's whole
    sparse model is left there as ``<scene>.npz``.
    """

    needs = "a map with a trained PixLoc network"
    shipped_extractor = "pixloc_features"
    builds = True
    settings_class = BuildSettings

    def prepare(self, job: Job[BuildSettings]) -> Preprocess:
        source, settings = job.extractor, job.settings
        assert source is not None
        job.notes["extractor"] = {"id": source.id, "data": source.manifest.provenance.get("data", {})}
        _sections(source, settings)
        _add_depth(job)
        stored = Preprocess.from_settings(source.manifest.preprocessing)
        return replace(
            stored, width=settings.image_width or stored.width, height=settings.image_height or stored.height
        )

    def make(self, job: Job[BuildSettings]) -> Contents:
        source, settings, preprocess = job.extractor, job.settings, job.preprocess
        assert source is not None
        network = read_model(source).eval().requires_grad_(False).to(job.device)
        sections = _sections(source, settings)
        drives = {name: job.drives(name) for name in job.splits}
        models = {name: _kept_points(name, self.points(name, job), settings) for name in drives}
        if settings.report:
            told = write_quality_report(job.out.with_name(job.out.name + ".report"), models, drives, settings.source)
            _log.info("quality of the points: %s", told)
        stored = settings.map.resolved(preprocess.width, network.network.settings.strides[-1])
        distorted = bool(settings_from_mapping(PixLocSettings, sections[SECTION], "pixloc").distorted_images)
        features = _References(drives, models, network, preprocess, stored.pyramid, job.device, distorted)
        tensors, more = _retrieval_prior(drives, models, settings.retrieval, job.work, job.device)
        identity = digest_of(
            source.id, settings_to_mapping(stored), preprocess, distorted,
            *(m.pixels.tobytes() + m.stamps_ns.tobytes() + m.T_map_cam.tobytes() for m in models.values()),
        )  # fmt: skip
        job.notes["points"] = {name: len(m.points) for name, m in models.items()}
        job.notes["observations"] = {name: len(m.point_ids) for name, m in models.items()}
        parts = Parts(network, models, features, stored, job.work / f"tiles-{identity}")
        return Contents(tensors, {**sections, **more}, parts)

    def points(self, name: str, job: Job[BuildSettings]) -> SparseModel:
        """The points of a scene, with the frames that see them, not yet subsampled."""
        settings = job.settings
        with shown_progress(job.options.progress, f"{name}: points") as report:
            folder = job.work / f"{settings.source}-{name}"
            whole = scene_model(name, job.drives(name), settings, folder, report, job.device, job.workers)
        whole.save(job.work / f"{name}.npz")  # for training, and for other maps of the same points
        return whole

    def scenes(self, job: Job[BuildSettings], contents: Contents) -> Iterator[Scene]:
        frame_id = frame_id_of({name: parts.drives for name, parts in job.splits.items()})
        for name, model in contents.more.models.items():
            yield scene_of(name, model.T_map_cam[:, :3, 3], frame_id)

    def frames(self, job: Job[BuildSettings], contents: Contents) -> dict[str, int]:
        return {name: len(model) for name, model in contents.more.models.items()}

    def calibrate(
        self, job: Job[BuildSettings], bundle: MapBundle, contents: Contents
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        with PixLocLocalizer.from_map(bundle, job.device) as localizer:
            return calibrate_scenes(
                localizer, job.held_by_scene, repeats=job.settings.calibration_repeats, workers=job.workers
            )


def _add_depth(job: Job[BuildSettings]) -> None:
    """Give the drives their folders of depth images. :raises ConfigError: settings of scenes that are not there."""
    settings = job.settings
    unknown = sorted({*settings.colmap.models, *settings.depth.folders} - set(job.splits))
    if unknown:
        raise ConfigError(
            f"map build pixloc: expected settings of scenes {', '.join(job.splits)}, found {unknown[0]!r}"
        )
    splits = dict(job.splits)
    for name, folder in settings.depth.folders.items() if settings.source == "depth" else ():
        parts = splits[name]
        used = [bool((p == USED).any()) for p in parts.part]
        if sum(used) != 1:
            raise ConfigError(f"scene {name!r}: expected one drive for a folder of depth, found {sum(used)}")
        drives = [
            with_depth_folder(d, Path(folder), settings.depth.scale) if mine else d
            for d, mine in zip(parts.drives, used, strict=True)
        ]
        splits[name] = replace(parts, drives=tuple(drives))
    job.splits = splits


def _kept_points(name: str, whole: SparseModel, settings: BuildSettings) -> SparseModel:
    """The points of a scene that the map keeps, with the frames that see them."""
    small = subsample(whole, settings.subsample)
    kept = small.select(np.flatnonzero(np.diff(small.offsets)))
    if not len(kept.points):
        raise DatasetError(
            f"scene {name!r}: expected points of at least {settings.subsample.minimum_track} frames within "
            f"{settings.subsample.maximum_error_px:g} px, found none of {len(whole.points)}; relax subsample, or "
            "refine the poses (sfm.refine_poses=true)"
        )
    _log.info(
        "%s: %d points, %d observations of %d frames (of %d points)",
        name, len(kept.points), len(kept.point_ids), len(kept), len(whole.points),
    )  # fmt: skip
    return kept


def scene_model(
    scene: str,
    sequences: Sequence[PosedSequence],
    settings: BuildSettings,
    work: Path,
    progress: Progress | None = None,
    device: torch.device | None = None,
    workers: Workers | None = None,
) -> SparseModel:
    """The sparse model of a scene's drives from the source that the settings name, not yet subsampled.

    :param work: where finished parts lie.
    :raises DatasetError, CameraError, ConfigError: as the source says.
    """
    if settings.source == "sfm":
        return reconstruct(sequences, settings.sfm, work, progress, device, workers)
    if settings.source == "depth":
        return depth_model(sequences, settings.depth, work, progress)
    named = settings.colmap.models.get(scene)
    own = {str(m) for s in sequences if (m := _colmap_origin(s)) is not None}
    if named is None and len(own) != 1:
        raise ConfigError(
            f"scene {scene!r}: expected one COLMAP model, found {len(own)}; name it: --set colmap.models.{scene}=FOLDER"
        )
    return import_model(Path(named) if named is not None else Path(own.pop()), sequences, settings.colmap)


def _colmap_origin(sequence: PosedSequence) -> Path | None:
    source: Any = sequence.source
    while not isinstance(source, ColmapImages) and hasattr(source, "source"):
        source = source.source
    return source.model if isinstance(source, ColmapImages) else None


def _sections(source: MapBundle, settings: BuildSettings) -> dict[str, Any]:
    """The manifest's settings: the network's and the optimiser's as they were learned, with the user's changes."""
    where = f"{source.path}: settings"
    optimizer = {**section(source.manifest.settings, OPTIMIZER_SECTION, where), **settings.optimizer}
    if "damping_log10" in settings.optimizer:
        raise ConfigError("map build pixloc: optimizer.damping_log10 belongs to the trained network")
    settings_from_mapping(OptimizerSettings, optimizer, "map build pixloc: optimizer")
    run = {**section(source.manifest.settings, SECTION, where), **settings.pixloc}
    if "optimizer" in settings.pixloc:
        raise ConfigError("map build pixloc: expected the optimiser's settings as optimizer.NAME=..., not in pixloc")
    settings_from_mapping(PixLocSettings, run, "map build pixloc: pixloc")
    return {
        NETWORK_SECTION: section(source.manifest.settings, NETWORK_SECTION, where),
        OPTIMIZER_SECTION: optimizer,
        SECTION: run,
    }


class _References:
    """Features at the observations of a scene's frame, for the writer."""

    def __init__(
        self,
        drives: Mapping[str, Sequence[PosedSequence]],
        models: Mapping[str, SparseModel],
        network: PixLocModel,
        preprocess: Preprocess,
        scales: Sequence[float],
        device: torch.device,
        distorted: bool,
    ) -> None:
        self.drives, self.models, self.network = drives, models, network.network
        self.preprocess, self.scales, self.device, self.distorted = preprocess, scales, device, distorted
        self._rectifiers: dict[CameraModel, Rectifier] = {}

    @torch.inference_mode()
    def __call__(self, scene: str, reference: int) -> list[list[LevelFeatures]]:
        model = self.models[scene]
        sequence = self.drives[scene][int(model.drive[reference])]
        image = sequence.image(int(model.number[reference]))
        camera, pixels = model.camera(reference), model.observations(reference)[1]
        if camera.is_distorted and not self.distorted:
            rectifier = self._rectifiers.setdefault(sequence.camera, Rectifier(sequence.camera))
            image, _ = rectifier.rectify(image)
            pixels, _ = project(rectifier.target, unproject(camera, pixels))
            camera = rectifier.target
        fitted = self.preprocess.camera(camera)
        # Fitting scales and shifts: what it does to the intrinsics it does to every pixel.
        scale = np.array([fitted.fx / camera.fx, fitted.fy / camera.fy])
        pixels = (pixels - (camera.cx, camera.cy)) * scale + (fitted.cx, fitted.cy)
        tensor = self.preprocess.apply(image)[None].to(self.device)
        pyramid = extract_pyramid(self.network, tensor, self.scales)
        return sample_observations(pyramid, pixels, self.preprocess.width, self.preprocess.height)


def _retrieval_prior(
    drives: Mapping[str, Sequence[PosedSequence]],
    models: Mapping[str, SparseModel],
    path: str,
    work: Path,
    device: torch.device,
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Extractor and database of the map's frames: files and settings of the bundle; none without ``path``."""
    if not path:
        return {}, {}
    descriptor = Descriptor.from_bundle(read_map(path), device)
    rows: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {EXTRACTOR_SECTION: descriptor.settings_mapping()}
    for name, sequences in drives.items():
        found: list[FrameSet] = cache_drives(sequences, descriptor.preprocess, work, name)
        mine = models[name]
        chosen = [f.select(np.unique(mine.number[mine.drive == d])) for d, f in enumerate(found)]
        database = database_of(descriptor, [join([c for c in chosen if len(c)])])
        rows.update(database.tensors(name))
        settings[DATABASE_SECTION] = database.settings()
    return {EXTRACTOR_FILE: descriptor.tensors(), DATABASE_FILE: rows}, settings


BUILDER = PixLocBuilder()
