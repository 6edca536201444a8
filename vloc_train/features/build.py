"""``vloc map build features``: points of drives with what they look like, and how sure that makes a pose."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import DatasetError
from vloc_ros.features import make_extractor
from vloc_ros.features.base import FeatureExtractor, decode_descriptors
from vloc_ros.features.view_matching import make_matcher
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import Localizer
from vloc_ros.localizers.features.bundle import write_features_map
from vloc_ros.localizers.features.localizer import FeaturesLocalizer
from vloc_ros.localizers.features.settings import FEATURES_SECTION, SECTION, FeaturesSettings
from vloc_ros.localizers.features.vlad import VLAD_FILE, Vlad, fit_vlad
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, Database
from vloc_ros.localizers.retrieval.database import SECTION as DATABASE_SECTION
from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, Descriptor
from vloc_ros.localizers.retrieval.descriptor import SECTION as EXTRACTOR_SECTION
from vloc_ros.maps import MapBundle, MapManifest, Scene
from vloc_ros.settings import settings_from_mapping, settings_to_mapping
from vloc_ros.types import CameraModel, RgbImage
from vloc_train.features.folds import held_out_folds
from vloc_train.features.model import DescribedModel, described_model
from vloc_train.features.settings import BuildSettings
from vloc_train.frame_choice.route import recordings
from vloc_train.mapping.keypoints import FeatureStore
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.sfm import SfmSettings, reconstruct_features
from vloc_train.mapping.sfm_frames import chosen_frames, shown_progress
from vloc_train.mapping.subsample import subsample
from vloc_train.mapping.uncertainty import adjusted
from vloc_train.training.calibration import calibrate_folds
from vloc_train.training.frames import FrameSet
from vloc_train.training.provenance import frame_id_of, scene_of
from vloc_train.training.recipe import Contents, Job, Trainer

__all__ = ["BUILDER", "FeaturesBuilder", "frame_spacing"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Parts:
    """What a map is written from: the scenes' points by what they look like, and who finds similar images."""

    places: Mapping[str, _Place]
    models: Mapping[str, DescribedModel]
    images: _ImageDescriptors
    detector: FeatureExtractor


class FeaturesBuilder(Trainer[BuildSettings]):
    """Structure from motion with the drives' poses, and a calibration on frames that its maps do not know.

    Nothing is trained. An interrupted run goes on from the working folder, as long as data and settings are the same.
    With ``--extractor MAP`` similar images are found by that map's image descriptor, else by VLAD of the map's own
    local features.
    """

    backend = "features"
    builds = folds = True
    takes = "any"
    several_devices = False
    settings_class = BuildSettings

    def prepare(self, job: Job[BuildSettings]) -> Preprocess:
        run = settings_from_mapping(FeaturesSettings, job.settings.localizer, "map build features: localizer")
        if run.matcher == "lightglue":  # what is missing is told before hours of work
            make_matcher(job.settings.features.kind, job.device)
        camera, descriptor = self.camera(job), self.image_descriptor(job)
        base = Preprocess(camera.width, camera.height) if descriptor is None else descriptor.preprocess
        return replace(base, width=camera.width, height=camera.height)

    def image_descriptor(self, job: Job[BuildSettings]) -> Descriptor | None:
        """What similar images are found by; None: VLAD of the map's own local features."""
        return None if job.extractor is None else Descriptor.from_bundle(job.extractor, job.device)

    def camera(self, job: Job[BuildSettings]) -> CameraModel:
        """The first drive's own; drives of other cameras belong in as well."""
        return next(iter(job.splits.values())).drives[0].camera

    def make(self, job: Job[BuildSettings]) -> Contents:
        settings = job.settings
        detector = make_extractor(settings.features, job.device)
        places = {name: _place(name, job, detector) for name in job.splits}
        descriptor = self.image_descriptor(job)
        images = _ImageDescriptors(_vocabulary(places, settings) if descriptor is None else None, descriptor)
        models = {name: _described(place, place.model, settings, detector) for name, place in places.items()}
        job.notes["points"] = {name: len(m.sparse.points) for name, m in models.items()}
        job.notes["observations"] = {name: len(m.sparse.point_ids) for name, m in models.items()}
        job.notes["length_m"] = {name: round(_length(m.sparse), 1) for name, m in models.items()}
        run = settings_from_mapping(FeaturesSettings, settings.localizer, "map build features: localizer")
        sections = {
            FEATURES_SECTION: {**settings_to_mapping(settings.features), "id": detector.identity},
            SECTION: settings_to_mapping(run),
        }
        return Contents({}, sections, _Parts(places, models, images, detector))

    def scenes(self, job: Job[BuildSettings], contents: Contents) -> Iterator[Scene]:
        frame_id = frame_id_of({name: parts.drives for name, parts in job.splits.items()})
        for name, model in contents.more.models.items():
            yield scene_of(name, model.sparse.T_map_cam[:, :3, 3], frame_id)

    def frames(self, job: Job[BuildSettings], contents: Contents) -> dict[str, int]:
        return {name: len(model.sparse) for name, model in contents.more.models.items()}

    def write(self, job: Job[BuildSettings], contents: Contents, manifest: MapManifest, target: Path) -> MapBundle:
        return self._written(job, contents, contents.more.models, manifest, target)

    def _written(
        self,
        job: Job[BuildSettings],
        contents: Contents,
        models: Mapping[str, DescribedModel],
        manifest: MapManifest,
        target: Path,
    ) -> MapBundle:
        parts: _Parts = contents.more
        tensors, sections = parts.images.files({n: (parts.places[n], m) for n, m in models.items()})
        manifest = replace(manifest, settings={**manifest.settings, **sections})
        points = {name: model.points(job.settings.sigma_px) for name, model in models.items()}
        return write_features_map(
            target, points, lambda scene, begin, end: models[scene].content(begin, end), manifest, tensors,
            job.settings.tile_points, overwrite=target.exists(),
        )  # fmt: skip

    def calibrate(
        self, job: Job[BuildSettings], bundle: MapBundle, contents: Contents
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """On frames that are held out, in the map as it will be, and on frames of the map in maps without them."""
        return calibrate_folds(self._all_folds(job, bundle, contents), workers=job.workers)

    def without_held_out(self, job: Job[BuildSettings], contents: Contents) -> tuple[dict[str, Any], dict[str, Any]]:
        return calibrate_folds(self._folds(job, contents), workers=job.workers)

    def _all_folds(
        self, job: Job[BuildSettings], bundle: MapBundle, contents: Contents
    ) -> Iterator[tuple[Localizer, FrameSet]]:
        with FeaturesLocalizer.from_map(bundle, job.device) as localizer:
            for name, parts in job.splits.items():
                held = [(drive, number) for drive in parts.held_out for number in range(len(drive))]
                for frames in _frame_sets(held, name):
                    yield localizer, frames
        yield from self._folds(job, contents)

    def _folds(self, job: Job[BuildSettings], contents: Contents) -> Iterator[tuple[Localizer, FrameSet]]:
        """Localizers over maps of a part of the frames, and the other frames, scene by scene."""
        settings, parts = job.settings, contents.more
        if not settings.calibration_frames:
            return
        for name, place in parts.places.items():
            if job.splits[name].kind == "none":  # as was asked for
                continue
            masks = _folds(place)
            share = -(-settings.calibration_frames // max(len(masks), 1))
            for mask in masks:
                rest = place.model.select(np.flatnonzero(~mask), settings.subsample.minimum_track)
                model = adjusted(rest, settings.subsample.maximum_error_px)
                if not len(model.points):
                    continue
                described = _described(place, model, settings, parts.detector)
                manifest = MapManifest(
                    self.backend, (scene_of(name, model.T_map_cam[:, :3, 3]),), self.camera(job),
                    job.preprocess.settings(), dict(contents.settings),
                )  # fmt: skip
                bundle = self._written(job, contents, {name: described}, manifest, job.work / "fold")
                held = np.flatnonzero(mask)
                asked = held[np.unique(np.linspace(0, len(held) - 1, min(len(held), share)).astype(np.int64))]
                with FeaturesLocalizer.from_map(bundle, job.device) as localizer:
                    for frames in _frame_sets([place.frame(int(row)) for row in asked], name):
                        yield localizer, frames


@dataclass(frozen=True)
class _Place:
    """The points of one scene, the features they are made of, and which frame of the store is which."""

    name: str
    sequences: Sequence[PosedSequence]
    model: SparseModel
    store: FeatureStore

    def frame(self, row: int) -> tuple[PosedSequence, int]:
        """The drive of a frame of the model, and its number there."""
        return self.sequences[int(self.model.drive[row])], int(self.model.number[row])


def _folds(place: _Place) -> list[npt.NDArray[np.bool_]]:
    """What is left out, fold by fold; the cameras of a rig at once."""
    of = recordings(place.sequences)
    drive, number = place.model.drive, place.model.number
    if len(set(of)) == len(of):
        return held_out_folds(drive)
    stamps = np.array([place.sequences[d].stamps_ns[n] for d, n in zip(drive, number, strict=True)], dtype=np.int64)
    return held_out_folds(np.array(of, dtype=np.int64)[drive], stamps)


def _place(name: str, job: Job[BuildSettings], detector: FeatureExtractor) -> _Place:
    sequences, settings = job.drives(name), job.settings
    with shown_progress(job.options.progress, f"{name}: points") as report:
        model, store = reconstruct_features(
            sequences, _spaced(sequences, settings), job.work / f"sfm-{name}", report, job.device, detector, job.workers
        )
    kept = subsample(model, settings.subsample)
    if not len(kept.points):
        raise DatasetError(
            f"scene {name!r}: expected points of at least {settings.subsample.minimum_track} frames within "
            f"{settings.subsample.maximum_error_px:g} px, found none of {len(model.points)}; relax subsample"
        )
    _log.info("%s: %d points of %d frames (of %d points)", name, len(kept.points), len(kept), len(model.points))
    return _Place(name, sequences, kept, store)


def frame_spacing(sequences: Sequence[PosedSequence], widest_m: float, least_frames: int) -> float:
    """The widest spacing (m), halved as often as it takes, that leaves so many frames (or nearly all there are)."""
    total = sum(len(s) for s in sequences)
    spacing = widest_m
    while spacing > 1e-3:
        kept = len(chosen_frames(sequences, spacing, 5.0))
        if kept >= min(least_frames, 0.9 * total):
            return spacing
        spacing *= 0.5
    return 0.0


def _spaced(sequences: Sequence[PosedSequence], settings: BuildSettings) -> SfmSettings:
    """The settings of structure from motion for a scene of this size: a desk or a city."""
    sfm = settings.sfm
    spacing = sfm.spacing_m or frame_spacing(sequences, settings.widest_spacing_m, settings.least_frames)
    frames = chosen_frames(sequences, spacing, sfm.spacing_deg)
    steps = np.linalg.norm(np.diff(frames.T_map_cam[:, :3, 3], axis=0), axis=1)[np.diff(frames.drive) == 0]
    baseline = min(sfm.baseline_m, 0.5 * float(np.median(steps))) if len(steps) else sfm.baseline_m
    return replace(sfm, spacing_m=spacing, baseline_m=baseline)


def _described(
    place: _Place, model: SparseModel, settings: BuildSettings, detector: FeatureExtractor
) -> DescribedModel:
    """A model of some of a place's frames, for a map."""
    known = {(d, n): row for row, (d, n) in enumerate(zip(place.model.drive, place.model.number, strict=True))}
    rows = np.array([known[d, n] for d, n in zip(model.drive, model.number, strict=True)], dtype=np.int64)
    return described_model(
        model, rows, place.store, signed=detector.signed, scaled=detector.scaled, prototypes=settings.prototypes,
        cosine=settings.prototype_cosine,
    )  # fmt: skip


def _length(model: SparseModel) -> float:
    """Metres that the drives went."""
    steps = np.linalg.norm(np.diff(model.T_map_cam[:, :3, 3], axis=0), axis=1)
    return float(steps[np.diff(model.drive) == 0].sum())


def _vocabulary(places: Mapping[str, _Place], settings: BuildSettings) -> Vlad:
    frames = [(place, row) for place in places.values() for row in range(len(place.model))]

    def read(number: int) -> npt.NDArray[Any]:
        place, row = frames[number]
        return place.store.read(row).descriptors

    return fit_vlad(read, len(frames), settings.words, settings.image_dimension, seed=settings.seed)


class _ImageDescriptors:
    """What similar images are found by: an extractor of another map, or VLAD of the map's own features."""

    def __init__(self, vlad: Vlad | None, descriptor: Descriptor | None) -> None:
        self._vlad, self._descriptor = vlad, descriptor
        self._held: dict[tuple[str, int], torch.Tensor] = {}

    def files(
        self, models: Mapping[str, tuple[_Place, DescribedModel]]
    ) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        """Files and settings of a map of these models."""
        tensors: dict[str, torch.Tensor] = {}
        sections: dict[str, Any] = {}
        for name, (place, model) in models.items():
            vectors = [self._vector(name, place, model, row) for row in range(len(model.sparse))]
            identity, metric = "", "cosine"
            if self._vlad is not None:
                identity = self._vlad.identity
            elif self._descriptor is not None:
                identity, metric = self._descriptor.identity, self._descriptor.metric
                sections[EXTRACTOR_SECTION] = self._descriptor.settings_mapping()
            database = Database.of_images(
                torch.stack(vectors).half(),
                torch.from_numpy(to_vectors(model.sparse.T_map_cam)),
                torch.from_numpy(model.sparse.stamps_ns),
                metric,  # type: ignore[arg-type]
                identity,
            )
            tensors.update(database.tensors(name))
            sections[DATABASE_SECTION] = database.settings()
        files = {DATABASE_FILE: tensors}
        if self._vlad is not None:
            files[VLAD_FILE] = self._vlad.tensors()
        elif self._descriptor is not None:
            files[EXTRACTOR_FILE] = self._descriptor.tensors()
        return files, sections

    def _vector(self, name: str, place: _Place, model: DescribedModel, row: int) -> torch.Tensor:
        frame = int(model.store_frame[row])
        if (name, frame) not in self._held:
            if self._vlad is not None:
                found = self._vlad.describe(decode_descriptors(place.store.read(frame).descriptors))
            else:
                assert self._descriptor is not None
                sequence, number = place.frame(frame)
                found = self._descriptor.describe(Rectifier(sequence.camera).rectify(sequence.image(number))[0])
            self._held[name, frame] = found.cpu()
        return self._held[name, frame]


class _Images:
    """Images of frames, read when asked for."""

    def __init__(self, read: Sequence[tuple[PosedSequence, int]]) -> None:
        self._read = read

    def __len__(self) -> int:
        return len(self._read)

    def __getitem__(self, index: int) -> RgbImage:
        sequence, number = self._read[index]
        return sequence.image(number)


def _frame_sets(read: Sequence[tuple[PosedSequence, int]], scene: str) -> Iterator[FrameSet]:
    """Frames as the lens made them, those of each camera together."""
    for camera in dict.fromkeys(drive.camera for drive, _ in read):
        mine = [(drive, number) for drive, number in read if drive.camera == camera]
        yield FrameSet(
            _Images(mine),  # type: ignore[arg-type]
            np.stack([drive.T_map_cam[number] for drive, number in mine]),
            np.array([drive.stamps_ns[number] for drive, number in mine], dtype=np.int64),
            camera,
            scene,
        )


BUILDER = FeaturesBuilder()
