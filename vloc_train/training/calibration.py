"""Calibrate any backend's map: localize held-out frames with the map itself and fit what the errors were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import CalibrationError, ConfigError
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.base import Localizer, SimulatedPrior, backend_class
from vloc_ros.localizers.calibration import fit_covariance, in_map_axes
from vloc_ros.maps import MapBundle, read_map, write_map
from vloc_ros.maps.reader import files_of
from vloc_ros.staging import staging_beside, writing
from vloc_ros.types import Array, Estimate, PosePrior, Query
from vloc_train.training.answers import answers
from vloc_train.training.cluster import Workers
from vloc_train.training.frames import FrameSet, cache_frames

__all__ = ["calibrate_folds", "calibrate_scenes", "describe_errors", "recalibrate", "simulated_prior"]


@dataclass
class _Sample:
    """Statistics, errors and rotations of localized frames."""

    names: Sequence[str]
    whitening: Sequence[str] = ()
    statistics: list[list[float]] = field(default_factory=list)
    errors: list[Array] = field(default_factory=list)
    rotations: list[Array] = field(default_factory=list)

    def add(self, estimate: Estimate, truth: Array) -> bool:
        """Whether the frame counts: a localizer that gave up says nothing about its certainty."""
        if any(name not in estimate.diagnostics for name in self.names):
            return False
        self.statistics.append([estimate.diagnostics[name] for name in self.names])
        error = pose_error(estimate.T_map_cam, truth)
        if self.whitening:
            sigmas = np.array([estimate.diagnostics[name] for name in self.whitening])
            error = in_map_axes(1.0 / sigmas, estimate.T_map_cam[:3, :3]) @ error
        self.errors.append(error)
        self.rotations.append(estimate.T_map_cam[:3, :3])
        return True

    def fit(self) -> dict[str, Any]:
        arrays = (np.asarray(self.statistics), np.asarray(self.errors), np.asarray(self.rotations))
        return fit_covariance(tuple(self.names), *arrays).to_mapping()


def simulated_prior(truth: Array, rng: np.random.Generator, kind: SimulatedPrior) -> PosePrior:
    """A prediction as a tracker makes it: off by what its covariance says."""
    sigma = float(np.exp(rng.uniform(*np.log(kind.sigma_m))))
    std = np.array([sigma, sigma, 0.1 * sigma, *np.full(3, np.radians(kind.deg_per_m) * sigma)])
    offset = rng.standard_normal(6) * std
    T = np.array(truth)
    T[:3, 3] += offset[:3]
    T[:3, :3] = so3_exp(offset[3:]) @ T[:3, :3]
    return PosePrior(T, np.diag(std**2))


def calibrate_scenes(
    localizer: Localizer,
    held_out: Sequence[FrameSet],
    seed: int = 0,
    repeats: int = 1,
    workers: Workers | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Localize the held-out frames of every scene; return the manifest's ``calibration`` and ``validation`` sections.

    Scenes with too few held-out frames stay uncalibrated, and say so. A localizer that needs a prior gets a simulated
    one (:class:`~vloc_ros.localizers.base.SimulatedPrior`); one whose statistics a prior changes gets every frame a
    second time from one; one without statistics is validated alone.

    :param localizer: over the map as it will be, without calibration.
    :param repeats: how often a localizer that needs a prior is asked each frame, from another prior each time.
    :param workers: who localizes; default: this process.
    """
    return calibrate_folds(((localizer, frames) for frames in held_out), seed, repeats, workers)


@dataclass
class _SceneSample:
    """All that the held-out frames of one scene gave, in whatever map they were localized."""

    free: _Sample
    guided: _Sample
    prior: bool
    scores: list[float] = field(default_factory=list)
    errors: list[Array] = field(default_factory=list)


def calibrate_folds(
    folds: Iterable[tuple[Localizer, FrameSet]], seed: int = 0, repeats: int = 1, workers: Workers | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """As :func:`calibrate_scenes`, with maps that lack other frames each: their held-out frames count together.

    :param folds: localizers of one backend and the frames that their maps lack; asked for one at a time.
    """
    rng = np.random.default_rng(seed)
    samples: dict[str, _SceneSample] = {}
    for localizer, frames in folds:
        free, guided = (_Sample(localizer.statistics, localizer.whitening) for _ in range(2))
        sample = samples.setdefault(frames.scene, _SceneSample(free, guided, localizer.prior_changes_statistics))
        asked = np.repeat(np.arange(len(frames)), repeats if localizer.needs_prior else 1)
        truths = frames.T_map_cam[asked]
        # A prior depends on the frame before it in the order of the random numbers, and on no estimate.
        priors: list[tuple[PosePrior | None, PosePrior | None]] = [
            (
                simulated_prior(truth, rng, localizer.simulated_prior) if localizer.needs_prior else None,
                simulated_prior(truth, rng, localizer.simulated_prior) if sample.prior else None,
            )
            for truth in truths
        ]

        def queries(number: int, frames: FrameSet = frames, asked: Any = asked, priors: Any = priors) -> list[Query]:
            image, stamp = np.array(frames.images[int(asked[number])]), int(frames.stamps_ns[asked[number]])
            start, guess = priors[number]
            starts = (start,) if guess is None else (start, guess)
            return [Query(image, frames.camera, stamp, prior, frames.scene) for prior in starts]

        for truth, (estimate, *second) in zip(truths, answers(localizer, queries, len(asked), workers), strict=True):
            sample.errors.append(pose_error(estimate.T_map_cam, truth))
            sample.scores.append(estimate.score if sample.free.add(estimate, truth) else np.nan)
            for other in second:
                sample.guided.add(other, truth)
    calibration: dict[str, Any] = {}
    validation: dict[str, Any] = {}
    for scene, sample in samples.items():
        if sample.scores:
            validation[scene], found = _scene_sections(sample)
            if found is not None:
                calibration[scene] = found
    return calibration, validation


def _scene_sections(sample: _SceneSample) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A scene's ``validation`` and ``calibration``; None where it cannot be calibrated."""
    errors = np.asarray(sample.errors)
    told = describe_errors(errors)
    if not sample.free.names:
        return told, None
    try:
        models = {"covariance": sample.free.fit()}
        models["covariance_prior"] = sample.guided.fit() if sample.prior else models["covariance"]
    except CalibrationError as problem:
        return {**told, "calibration": f"none: {problem}"}, None
    distance = np.linalg.norm(errors[:, :3], axis=1)
    near = distance <= max(2.0, 3.0 * float(np.median(distance)))
    good = np.asarray(sample.scores)[near & np.isfinite(sample.scores)]
    if not len(good):
        return {**told, "calibration": "none: no held-out frame was localized well"}, None
    return told, {
        **models,
        "score_mean": float(good.mean()),
        "score_spread": float(max(good.std(), 1e-3)),
        # Half of what the weakest good frame scored: below it a frame does not look like this map.
        "min_score": float(0.5 * np.quantile(good, 0.01)),
        "lowest_score": float(good.min()),
    }


def recalibrate(
    source: Path, drives: Mapping[str, Sequence[PosedSequence]], target: Path, device: str = "auto"
) -> MapBundle:
    """Replace a map's ``calibration`` and ``validation`` by those of other drives; everything else stays.

    :param drives: by scene; scenes that are not named keep what they have.
    :raises ConfigError: a scene that the map does not have, or a backend that has no calibrated covariance.
    :raises CalibrationError: too few frames in a drive.
    """
    from vloc_ros.localizers.base import select_device

    bundle = read_map(source)
    known = [scene.name for scene in bundle.manifest.scenes]
    # A drive without a name belongs to the only scene, whatever that is called.
    named = {known[0] if name == "map" and len(known) == 1 else name: value for name, value in drives.items()}
    for name in named:
        if name not in known:
            raise ConfigError(f"scene: expected one of {', '.join(known)}, found {name!r}; write SCENE=PATH")
    preprocess = Preprocess.from_settings(bundle.manifest.preprocessing)
    with backend_class(bundle.manifest.backend).from_map(bundle, select_device(device)) as localizer:
        if not localizer.statistics:
            raise ConfigError(f"{source}: backend {bundle.manifest.backend!r} has no covariance to calibrate")
        with writing(target), staging_beside(target, folder=True) as folder:
            frames = [cache_frames(drives_of, preprocess, folder, name) for name, drives_of in named.items()]
            calibration, validation = calibrate_scenes(localizer, frames)
    for name, found in validation.items():
        if "calibration" in found:
            raise CalibrationError(f"scene {name!r}: {found['calibration']}; use a longer drive")
    manifest = replace(
        bundle.manifest,
        calibration={**bundle.manifest.calibration, **calibration},
        validation={**bundle.manifest.validation, **validation},
        provenance={
            **bundle.manifest.provenance,
            "calibration_data": {name: [drive.name for drive in value] for name, value in named.items()},
        },
    )
    return write_map(target, manifest, {}, extra_files=files_of(bundle), overwrite=target.exists())


def describe_errors(errors: Array) -> dict[str, Any]:
    """Medians, means and recall of ``(M, 6)`` errors, for a manifest."""
    distance, angle = np.linalg.norm(errors[:, :3], axis=1), np.degrees(np.linalg.norm(errors[:, 3:], axis=1))
    return {
        "frames": len(errors),
        "median_translation_m": float(np.median(distance)),
        "median_rotation_deg": float(np.median(angle)),
        "mean_translation_m": float(distance.mean()),
        "mean_rotation_deg": float(angle.mean()),
        "recall_2m_5deg": float(((distance <= 2.0) & (angle <= 5.0)).mean()),
    }
