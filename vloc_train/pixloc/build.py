"""``vloc map build pixloc``: points of drives, the features of a trained network at them, and how sure that makes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vloc_ros.cli.progress import progress_bar
from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import CameraMismatchError, ConfigError, DatasetError, MapBackendError
from vloc_ros.geometry.cameras import project, unproject
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.calibration import section
from vloc_ros.localizers.pixloc.bundle import MapSettings, write_pixloc_map
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
from vloc_ros.maps import MapBundle, read_map
from vloc_ros.maps.writer import check_target
from vloc_ros.settings import ranged, settings_from_mapping, settings_to_mapping
from vloc_ros.types import CameraModel
from vloc_train.mapping.colmap_import import ColmapImages, ColmapSettings, import_model
from vloc_train.mapping.depth_model import DepthSettings, depth_model, with_depth_folder
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.report import write_quality_report
from vloc_train.mapping.sfm import SfmSettings, reconstruct
from vloc_train.mapping.sfm_frames import Progress, digest_of
from vloc_train.mapping.subsample import SubsampleSettings, subsample
from vloc_train.retrieval.build import database_of
from vloc_train.training.calibration import calibrate_scenes
from vloc_train.training.frames import FrameSet, cache_drives, cache_frames, is_held_out, join
from vloc_train.training.provenance import frame_id_of, provenance, scene_of
from vloc_train.training.registry import Trainer
from vloc_train.training.run import RunOptions, training_device
from vloc_train.training.settings import RunSettings

__all__ = ["BUILDER", "BuildSettings", "build_pixloc", "scene_model"]

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
    :param hold_out: every n-th frame is kept out of the map for validation and calibration when no calibration data is
        given; 0 keeps all, and leaves the covariance uncalibrated.
    :param calibration_repeats: priors that the calibration draws for each of its frames; more where those are few.
    :param report: write the quality report beside the map (needs matplotlib).
    """

    source: Literal["sfm", "depth", "colmap"] = "sfm"
    sfm: SfmSettings = field(default_factory=SfmSettings)
    depth: DepthSettings = field(default_factory=DepthSettings)
    colmap: ColmapSettings = field(default_factory=ColmapSettings)
    subsample: SubsampleSettings = field(default_factory=SubsampleSettings)
    map: MapSettings = field(default_factory=MapSettings)
    image_width: int = ranged(0, minimum=0, maximum=8192)
    image_height: int = ranged(0, minimum=0, maximum=8192)
    pixloc: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    retrieval: str = ""
    hold_out: int = ranged(10, minimum=0)
    calibration_repeats: int = ranged(1, minimum=1, maximum=100)
    report: bool = True


@contextmanager
def _progress(shown: bool, prefix: str) -> Iterator[Progress]:
    """One bar after another, a stage each."""
    if not shown:
        yield lambda *_: None
        return
    with progress_bar(prefix) as update:
        last = ""

        def report(stage: str, done: int, total: int) -> None:
            nonlocal last
            if stage != last:
                _log.info("%s: %s of %d", prefix, stage, total)
                last = stage
            update(done, total)

        yield report


def scene_model(
    scene: str,
    sequences: Sequence[PosedSequence],
    settings: BuildSettings,
    work: Path,
    progress: Progress | None = None,
    device: torch.device | None = None,
) -> SparseModel:
    """The sparse model of a scene's drives from the source that the settings name, not yet subsampled.

    :param work: where finished parts lie.
    :raises DatasetError, CameraError, ConfigError: as the source says.
    """
    if settings.source == "sfm":
        return reconstruct(sequences, settings.sfm, work, progress, device)
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


def build_pixloc(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: BuildSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
) -> MapBundle:
    """Points, features, calibration: a PixLoc map of drives with the network of the map ``extractor``.

    An interrupted run goes on from ``work_dir`` (default: ``<out>.work``), as long as data and settings are the same.
    Each scene's whole sparse model is left there as ``<scene>.npz``.

    :raises ConfigError: no ``extractor``, or a missing package. :raises MapBackendError: it is no PixLoc map.
    :raises DatasetError: no usable frames, or no points.
    :raises CameraMismatchError: drives of cameras that see differently.
    """
    if extractor is None:
        raise ConfigError("map build pixloc: expected --extractor with a trained PixLoc network, found none")
    options = options or RunOptions()
    device = training_device(options)
    check_target(out, overwrite=True)
    source = read_map(extractor)
    if source.manifest.backend != "pixloc":
        raise MapBackendError(
            f"{extractor}: expected a map with a PixLoc network, found one of backend {source.manifest.backend!r}"
        )
    model = read_model(source).eval().requires_grad_(False).to(device)
    sections = _sections(source, settings)
    stored = Preprocess.from_settings(source.manifest.preprocessing)
    preprocess = replace(
        stored, width=settings.image_width or stored.width, height=settings.image_height or stored.height
    )
    kept, held = _split(scenes, settings, calibration or {})
    camera = _common_camera(kept, preprocess)
    work = work_dir or out.with_name(out.name + ".work")
    models: dict[str, SparseModel] = {}
    for name, sequences in kept.items():
        with _progress(options.progress, f"{name}: points") as report:
            whole = scene_model(name, sequences, settings, work / f"{settings.source}-{name}", report, device)
        whole.save(work / f"{name}.npz")  # for training, and for other maps of the same points
        small = subsample(whole, settings.subsample)
        models[name] = small.select(np.flatnonzero(np.diff(small.offsets)))
        if not len(models[name].points):
            raise DatasetError(
                f"scene {name!r}: expected points of at least {settings.subsample.minimum_track} frames within "
                f"{settings.subsample.maximum_error_px:g} px, found none of {len(whole.points)}; relax subsample, or "
                "refine the poses (sfm.refine_poses=true)"
            )
        _log.info(
            "%s: %d points, %d observations of %d frames (of %d points)",
            name, len(models[name].points), len(models[name].point_ids), len(models[name]), len(whole.points),
        )  # fmt: skip
    if settings.report:
        told = write_quality_report(out.with_name(out.name + ".report"), models, kept, settings.source)
        _log.info("quality of the points: %s", told)
    stored_as = settings.map.resolved(preprocess.width, model.network.settings.strides[-1])
    distorted = bool(settings_from_mapping(PixLocSettings, sections[SECTION], "pixloc").distorted_images)
    features = _References(kept, models, model, preprocess, stored_as.pyramid, device, distorted)
    tensors, more = _retrieval_prior(kept, models, settings.retrieval, work, device)
    identity = digest_of(
        source.id, settings_to_mapping(stored_as), preprocess, distorted,
        *(m.pixels.tobytes() + m.stamps_ns.tobytes() + m.T_map_cam.tobytes() for m in models.values()),
    )  # fmt: skip
    made = provenance(
        scenes,
        settings_to_mapping(settings),
        frames={name: len(m) for name, m in models.items()},
        points={name: len(m.points) for name, m in models.items()},
        observations={name: len(m.point_ids) for name, m in models.items()},
        extractor={"id": source.id, "data": source.manifest.provenance.get("data", {})},
        calibration_data={n: [s.name for s in v] for n, v in (calibration or {}).items()} or "held-out frames",
        **(about or {}),
    )
    frame_id = frame_id_of(scenes)
    common: dict[str, Any] = {
        "sections": {**sections, **more},
        "scenes": [scene_of(n, m.T_map_cam[:, :3, 3], frame_id) for n, m in models.items()],
        "tensors": tensors,
        "provenance": made,
        "staging": work / f"tiles-{identity}",
    }

    def write(target: Path, **rest: Any) -> MapBundle:
        with _progress(options.progress, "features") as report:
            return write_pixloc_map(
                target, model, model.dimensions, models, features, camera, preprocess, stored_as,
                progress=report, overwrite=target.exists(), **common, **rest,
            )  # fmt: skip

    if not any(len(s) for sequences in held.values() for s in sequences):
        return write(out)
    bundle = write(work / "uncalibrated")
    frames = [cache_frames(list(v), preprocess, work, n) for n, v in held.items() if n in models and any(map(len, v))]
    with PixLocLocalizer.from_map(bundle, device) as localizer:
        found, validation = calibrate_scenes(
            localizer, frames, localizer.statistics, localizer.prior_changes_statistics,
            repeats=settings.calibration_repeats,
        )  # fmt: skip
    return write(out, calibration=found, validation=validation)


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


Drives = dict[str, list[PosedSequence]]


def _split(
    scenes: Mapping[str, Sequence[PosedSequence]],
    settings: BuildSettings,
    calibration: Mapping[str, Sequence[PosedSequence]],
) -> tuple[Drives, Drives]:
    """Drives with depth where asked for, parted into the map's frames and those to calibrate on."""
    unknown = sorted({*settings.colmap.models, *settings.depth.folders} - set(scenes))
    if unknown:
        raise ConfigError(f"map build pixloc: expected settings of scenes {', '.join(scenes)}, found {unknown[0]!r}")
    kept: Drives = {}
    held: Drives = {}
    for name, sequences in scenes.items():
        folder = settings.depth.folders.get(name) if settings.source == "depth" else None
        if folder is not None and len(sequences) != 1:
            raise ConfigError(f"scene {name!r}: expected one drive for a folder of depth, found {len(sequences)}")
        for sequence in sequences:
            if folder is not None:
                sequence = with_depth_folder(sequence, Path(folder), settings.depth.scale)
            number = np.arange(len(sequence))
            out = is_held_out(number, settings.hold_out)
            if calibration.get(name):
                out = number < 0
            kept.setdefault(name, []).append(sequence.select(number[~out]) if out.any() else sequence)
            held.setdefault(name, []).append(sequence.select(number[out]))
        if calibration.get(name):
            held[name] = list(calibration[name])
    if not kept:
        raise DatasetError("expected drives to make a map of, found none")
    return kept, held


def _common_camera(scenes: Drives, preprocess: Preprocess) -> CameraModel:
    """The map's camera: that of the first drive; the others must see the same.

    :raises CameraMismatchError: they do not.
    """
    cameras = [(s.name, s.camera) for sequences in scenes.values() for s in sequences]
    for name, camera in cameras[1:]:
        try:
            preprocess.check(camera, cameras[0][1])
        except CameraMismatchError as problem:
            raise CameraMismatchError(f"{name} beside {cameras[0][0]}: {problem}; make a map of each") from problem
    return cameras[0][1]


class _References:
    """Features at the observations of a scene's frame, for the writer."""

    def __init__(
        self,
        drives: Drives,
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
    drives: Drives, models: Mapping[str, SparseModel], path: str, work: Path, device: torch.device
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


BUILDER = Trainer(tuple(BuildSettings.PRESETS), BuildSettings.preset, build_pixloc)
