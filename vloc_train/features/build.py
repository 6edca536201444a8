"""``vloc map build features``: points of drives with what they look like, and how sure that makes a pose."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.cli.progress import progress_bar
from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import DatasetError
from vloc_ros.features import make_extractor
from vloc_ros.features.base import FeatureExtractor, decode_descriptors
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import Localizer
from vloc_ros.localizers.features.bundle import write_features_map
from vloc_ros.localizers.features.localizer import FeaturesLocalizer
from vloc_ros.localizers.features.settings import FeaturesSettings
from vloc_ros.localizers.features.vlad import VLAD_FILE, Vlad, fit_vlad
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, Database
from vloc_ros.localizers.retrieval.database import SECTION as DATABASE_SECTION
from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, Descriptor
from vloc_ros.localizers.retrieval.descriptor import SECTION as EXTRACTOR_SECTION
from vloc_ros.maps import MapBundle, read_map
from vloc_ros.maps.writer import check_target
from vloc_ros.settings import settings_from_mapping, settings_to_mapping
from vloc_ros.types import RgbImage
from vloc_train.features.folds import held_out_folds
from vloc_train.features.model import DescribedModel, described_model
from vloc_train.features.settings import PRESETS, BuildSettings
from vloc_train.mapping.keypoints import FeatureStore
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.sfm import SfmSettings, reconstruct_features
from vloc_train.mapping.sfm_frames import chosen_frames
from vloc_train.mapping.subsample import subsample
from vloc_train.mapping.uncertainty import adjusted
from vloc_train.training.calibration import calibrate_folds
from vloc_train.training.frames import FrameSet
from vloc_train.training.provenance import frame_id_of, provenance, scene_of
from vloc_train.training.registry import Trainer
from vloc_train.training.run import RunOptions, training_device
from vloc_train.training.settings import from_preset

__all__ = ["BUILDER", "build_features", "frame_spacing"]

_log = logging.getLogger(__name__)


def build_features(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: BuildSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
) -> MapBundle:
    """A map of drives: structure from motion with their poses, and a calibration on frames that it does not know.

    An interrupted run goes on from ``work_dir`` (default: ``<out>.work``), as long as data and settings are the same.

    :param calibration: other drives by scene for the covariance; without them maps of a part of the frames localize
        the others (:func:`~vloc_train.features.folds.held_out_folds`).
    :param extractor: a map of any backend with an extractor of image descriptors: then similar images are found by it.
    :raises ConfigError: a package is missing. :raises DatasetError: no usable frames, or no points.
    """
    options = options or RunOptions()
    device = training_device(options)
    check_target(out, overwrite=True)
    run = settings_from_mapping(FeaturesSettings, settings.localizer, "map build features: localizer")
    work = work_dir or out.with_name(out.name + ".work")
    detector = make_extractor(settings.features, device)
    places = {
        name: _place(name, sequences, settings, detector, work / f"sfm-{name}", options, device)
        for name, sequences in scenes.items()
    }
    images = (
        _ImageDescriptors.of_map(extractor, device) if extractor else _ImageDescriptors.of_features(places, settings)
    )
    made = provenance(
        scenes,
        settings_to_mapping(settings),
        frames={name: len(p.model) for name, p in places.items()},
        points={name: len(p.model.points) for name, p in places.items()},
        length_m={name: round(_length(p.model), 1) for name, p in places.items()},
        calibration_data={n: [s.name for s in v] for n, v in (calibration or {}).items()} or "held-out frames",
        **(about or {}),
    )

    def write(target: Path, models: Mapping[str, DescribedModel], **rest: Any) -> MapBundle:
        tensors, sections = images.files({n: (places[n], m) for n, m in models.items()})
        points = {name: m.points(settings.sigma_px) for name, m in models.items()}
        frame_id = frame_id_of(scenes)
        return write_features_map(
            target, points, lambda scene, begin, end: models[scene].content(begin, end),
            next(iter(scenes.values()))[0].camera, settings.features, detector.identity,
            tile_points=settings.tile_points, settings=run, sections=sections, tensors=tensors,
            scenes=[scene_of(n, p.T_map_cam[:, :3, 3], frame_id) for n, p in points.items()],
            overwrite=target.exists(), **rest,
        )  # fmt: skip

    whole = {name: _described(place, place.model, settings, detector) for name, place in places.items()}
    found: dict[str, Any] = {}
    validation: dict[str, Any] = {}
    if settings.calibration_frames:
        folds = _folds(places, calibration or {}, settings, detector, write, whole, work, device)
        found, validation = calibrate_folds(folds, FeaturesLocalizer.statistics)
        for name, told in validation.items():
            _log.info("%s: %s", name, told)
    return write(out, whole, provenance=made, calibration=found, validation=validation)


@dataclass(frozen=True)
class _Place:
    """The points of one scene, the features they are made of, and which frame of the store is which."""

    name: str
    sequences: Sequence[PosedSequence]
    model: SparseModel
    store: FeatureStore

    def image(self, frame: int) -> RgbImage:
        """Of a frame of the model."""
        return self.sequences[int(self.model.drive[frame])].image(int(self.model.number[frame]))


def _place(
    name: str,
    sequences: Sequence[PosedSequence],
    settings: BuildSettings,
    detector: FeatureExtractor,
    work: Path,
    options: RunOptions,
    device: torch.device,
) -> _Place:
    sfm = _spaced(sequences, settings)
    shown = progress_bar(f"{name}: points") if options.progress else nullcontext(lambda *_: None)
    with shown as update:
        last = [""]

        def report(stage: str, done: int, total: int) -> None:
            if stage != last[0]:
                _log.info("%s: %s of %d", name, stage, total)
                last[0] = stage
            update(done, total)

        model, store = reconstruct_features(sequences, sfm, work, report, device, detector)
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


class _ImageDescriptors:
    """What similar images are found by: an extractor of another map, or VLAD of the map's own features."""

    def __init__(self, vlad: Vlad | None, descriptor: Descriptor | None) -> None:
        self._vlad, self._descriptor = vlad, descriptor
        self._held: dict[tuple[str, int], torch.Tensor] = {}

    @classmethod
    def of_map(cls, path: Path, device: torch.device) -> _ImageDescriptors:
        return cls(None, Descriptor.from_bundle(read_map(path), device))

    @classmethod
    def of_features(cls, places: Mapping[str, _Place], settings: BuildSettings) -> _ImageDescriptors:
        frames = [(place, row) for place in places.values() for row in range(len(place.model))]

        def read(number: int) -> npt.NDArray[Any]:
            place, row = frames[number]
            return place.store.read(row).descriptors

        return cls(fit_vlad(read, len(frames), settings.words, settings.image_dimension, seed=settings.seed), None)

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
                sequence = place.sequences[int(place.model.drive[frame])]
                found = self._descriptor.describe(Rectifier(sequence.camera).rectify(place.image(frame))[0])
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


def _folds(
    places: Mapping[str, _Place],
    calibration: Mapping[str, Sequence[PosedSequence]],
    settings: BuildSettings,
    detector: FeatureExtractor,
    write: Any,
    whole: Mapping[str, DescribedModel],
    work: Path,
    device: torch.device,
) -> Iterator[tuple[Localizer, FrameSet]]:
    """Localizers over maps that lack some frames, and those frames."""
    changes = {"exclude_s": 0.0}
    for name, place in places.items():
        given = calibration.get(name)
        if given:
            frames = [(s, n) for s in given for n in range(len(s))]
            chosen = np.unique(
                np.linspace(0, len(frames) - 1, min(len(frames), settings.calibration_frames)).astype(int)
            )
            bundle = write(work / "uncalibrated", {name: whole[name]})
            with FeaturesLocalizer.from_map(bundle, device, changes) as localizer:
                for camera in dict.fromkeys(s.camera for s in given):
                    yield localizer, _frame_set([frames[c] for c in chosen if frames[c][0].camera == camera], name)
            continue
        masks = held_out_folds(place.model.drive)
        share = -(-settings.calibration_frames // len(masks))
        for mask in masks:
            rest = place.model.select(np.flatnonzero(~mask), settings.subsample.minimum_track)
            model = adjusted(rest, settings.subsample.maximum_error_px)
            if not len(model.points):
                continue
            bundle = write(work / "fold", {name: _described(place, model, settings, detector)})
            held = np.flatnonzero(mask)
            asked = held[np.unique(np.linspace(0, len(held) - 1, min(len(held), share)).astype(np.int64))]
            with FeaturesLocalizer.from_map(bundle, device, changes) as localizer:
                for index in np.unique(place.model.camera_index[asked]):
                    mine = asked[place.model.camera_index[asked] == index]
                    read = [(place.sequences[int(place.model.drive[f])], int(place.model.number[f])) for f in mine]
                    yield localizer, _frame_set(read, name)


def _frame_set(read: Sequence[tuple[PosedSequence, int]], scene: str) -> FrameSet:
    return FrameSet(
        _Images(read),  # type: ignore[arg-type]
        np.stack([s.T_map_cam[n] for s, n in read]),
        np.array([s.stamps_ns[n] for s, n in read], dtype=np.int64),
        read[0][0].camera,
        scene,
    )


def _settings(name: str, changes: dict[str, Any] | None, where: str) -> BuildSettings:
    return from_preset(PRESETS, name, changes, where)


BUILDER = Trainer(tuple(PRESETS), _settings, build_features)
