"""PixLoc as a backend: a map, an image and a prior in, an :class:`~vloc_ros.types.Estimate` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from vloc_ros.errors import ConfigError, MapFormatError
from vloc_ros.geometry.rotations import so3_log
from vloc_ros.geometry.se3 import inverse, largest_sigma
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.base import Hypothesis, Localizer, SimulatedPrior
from vloc_ros.localizers.calibration import section
from vloc_ros.localizers.device import Clock, compute_dtype
from vloc_ros.localizers.pixloc.alignment import Aligned, Aligner, AlignmentResult
from vloc_ros.localizers.pixloc.bundle import MAP_SECTION, MapSettings
from vloc_ros.localizers.pixloc.eyes import Eye, Lenses, Surroundings, eyes_of
from vloc_ros.localizers.pixloc.model import OPTIMIZER_SECTION, read_model
from vloc_ros.localizers.pixloc.network import without_normalisation
from vloc_ros.localizers.pixloc.retrieval_prior import RetrievalPrior
from vloc_ros.localizers.pixloc.selection import starting_poses
from vloc_ros.localizers.pixloc.settings import MAX_SHIFT_DEG, SECTION, SHIFT_SIGMAS, PixLocSettings
from vloc_ros.localizers.pixloc.statistics import SIGMAS, STATISTICS, alignment_statistics, camera_sigmas
from vloc_ros.localizers.pixloc.store import POINTS_FILE, ReferenceStore
from vloc_ros.localizers.pixloc.verification import MINIMAL, share
from vloc_ros.localizers.rig import each_alone
from vloc_ros.localizers.view import MapViews
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_from_mapping
from vloc_ros.types import Array, CandidateStep, LocalizationState, PosePrior, Query

__all__ = ["FAILURES", "PixLocLocalizer"]

#: Why a frame is LOST: the values of the diagnostic ``failure``.
FAILURES = {
    "none": 0.0,
    "no_prior": 1.0,
    "wide_prior": 2.0,
    "no_references": 3.0,
    "few_points": 4.0,
    "not_converged": 5.0,
    "ill_posed": 6.0,
    "moved_too_far": 7.0,
}
#: A camera of a rig with less than this share of the peaks that are asked for, and that another has, sees something
#: else.
_DISTRUSTED = 0.5
#: Standard deviations of a pose that nobody knows.
_NOWHERE = np.diag([1e6, 1e6, 1e6, np.pi**2, np.pi**2, np.pi**2])
#: What an uncalibrated Hessian is off by at least: channels of a feature do not err independently.
_UNCALIBRATED_FACTOR = 100.0
#: And what it knows nothing of: errors of the map's own poses, of its points, and of the camera's calibration.
_UNCALIBRATED_FLOOR = np.diag([0.25**2] * 3 + [np.radians(1.0) ** 2] * 3)


@dataclass(frozen=True)
class _Start:
    """Where the alignment begins: the scene, a pose and its covariance; ``source`` 0 is the query's prior."""

    scene: int
    T_map_cam: Array
    covariance: Array
    source: float


class PixLocLocalizer(Localizer):
    """Feature-metric refinement (Sarlin et al., CVPR 2021). See the backend's README for every setting.

    The prior is the query's, else the pose of the most similar image where the map has a database of descriptors, else
    the frame is LOST. The diagnostic ``failure`` (:data:`FAILURES`) says why a frame is LOST. A LOST estimate holds the
    pose that the alignment began with.

    The cameras of a rig are aligned together, to one pose of the query's own camera. One that may see no points is left
    out, and so is one in whose image the map is not seen where the pose has it while it is in another's. Diagnostics:
    ``rig_views`` that were aligned, ``rig_fused`` of them in the pose.
    """

    backend: ClassVar[str] = "pixloc"
    takes_any_lens: ClassVar[bool] = True
    sees_points: ClassVar[bool] = True
    takes_rigs: ClassVar[bool] = True
    settings_class = PixLocSettings
    _settings: PixLocSettings
    settings_section: ClassVar[str] = SECTION
    statistics = STATISTICS
    whitening: ClassVar[tuple[str, ...]] = SIGMAS
    shared_floor: ClassVar[Array] = _UNCALIBRATED_FLOOR
    offers_candidates = True

    @classmethod
    def merged_settings(cls, bundle: MapBundle, changes: Mapping[str, Any]) -> PixLocSettings:
        """As the base's; the optimiser's have a part of their own in the map, and are changed one by one."""
        optimizer = section(bundle.manifest.settings, OPTIMIZER_SECTION, f"{bundle.path}: settings")
        changed = changes.get("optimizer", {})
        if not isinstance(changed, Mapping):
            raise ConfigError(f"pixloc settings: optimizer: expected a mapping, found {type(changed).__name__}")
        if "damping_log10" in changed:
            raise ConfigError("pixloc settings: optimizer.damping_log10 belongs to the trained network")
        settings: PixLocSettings = super().merged_settings(bundle, {**changes, "optimizer": {**optimizer, **changed}})
        return settings

    def load(self, bundle: MapBundle) -> None:
        if bundle.manifest.file(POINTS_FILE) is None:
            raise MapFormatError(
                f"{bundle.path}: holds a trained network and no points; make a map of a place with it: "
                "vloc map build pixloc --extractor"
            )
        where, device, settings = f"{bundle.path}: settings", self._device, self._settings
        stored = section(bundle.manifest.settings, MAP_SECTION, where)
        made = settings_from_mapping(MapSettings, stored, f"{where}.{MAP_SECTION}", error=MapFormatError)
        if not made.pyramid:
            raise MapFormatError(f"{where}.{MAP_SECTION}: expected the scales of the pyramid; make the map again")
        preprocess = Preprocess.from_settings(bundle.manifest.preprocessing)
        model = read_model(bundle).eval().requires_grad_(False)
        model.network = without_normalisation(model.network)
        model.to(device).network.to(compute_dtype(settings.precision, device)).to(memory_format=torch.channels_last)
        scales = made.pyramid if settings.pyramid else made.pyramid[-1:]
        self._aligner = Aligner(model, preprocess, scales, settings.optimizer, device)
        names = [scene.name for scene in bundle.manifest.scenes]
        self._stores = [
            ReferenceStore.from_bundle(
                bundle, name, device, settings.memory_mb / len(names), len(made.pyramid), model.dimensions
            )
            for name in names
        ]
        self._retrieval = RetrievalPrior(bundle, device) if RetrievalPrior.is_in(bundle) else None
        self._surroundings = [Surroundings(store, settings) for store in self._stores]
        self._map_views = MapViews(bundle.manifest.camera, preprocess)
        self._lenses = Lenses(bundle.manifest.camera, preprocess)

    @property
    def takes_distorted(self) -> bool:
        return self._settings.distorted_images

    @property
    def simulated_prior(self) -> SimulatedPrior:
        return SimulatedPrior(self._settings.calibration_prior_m, self._settings.calibration_prior_deg_per_m)

    @property
    def needs_prior(self) -> bool:
        return self._retrieval is None

    @property
    def aligner(self) -> Aligner:
        """Network and optimiser."""
        return self._aligner

    def store(self, scene: str | None = None) -> ReferenceStore:
        """The references of a scene (default: the first)."""
        return self._stores[self.scene_index(scene)]

    @property
    def warm_up_prior(self) -> PosePrior:
        """The reference that sees most points."""
        store = self._stores[0]
        return PosePrior(store.T_map_cam[store.busiest()], np.diag([0.01] * 3 + [1e-4] * 3))

    def map_points(self, scene: str | None = None) -> Array:
        return self.store(scene).points

    def reference_poses(self, scene: str | None = None) -> Array:
        return self.store(scene).T_map_cam

    def release(self) -> None:
        for store in self._stores:
            store.close()

    # -- localizing -------------------------------------------------------------------------------

    def is_supported(self, diagnostics: Mapping[str, float]) -> bool:
        return diagnostics.get("peak_share", 0.0) >= self._settings.min_peak_share

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        start, nearest, failure, aligned = self._align(query, clock)
        if aligned is None:
            return self._lost(start, failure, nearest)
        steps = tuple(
            CandidateStep(
                np.linalg.inv(level.T_cam_map.cpu().numpy()),
                np.exp(-level.cost.cpu().numpy()),
                np.array([aligned.result.start], dtype=np.int64),
            )
            for level in (aligned.refinement.levels if keep_candidates else ())
        )
        rig = {}
        if query.others:
            rig = {"rig_views": float(aligned.views), "rig_fused": float(len(aligned.eyes))}
        return self._hypothesis(start, aligned.result, nearest, steps, rig)

    def trace(self, query: Query) -> Aligned | None:
        """The alignment of a query with everything that it was made of; None where it cannot begin."""
        return self._align(query, Clock())[3]

    def _align(self, query: Query, clock: Clock) -> tuple[_Start, int, str, Aligned | None]:
        """Where the alignment of a query begins, the nearest reference, why it cannot begin, and the alignment."""
        start, failure = self._start(query)
        clock.lap("prior")
        if failure != "none":
            return start, -1, failure, None
        aligner = self._aligner
        eyes, nearest, failure = self._surroundings[start.scene].seen(
            eyes_of(query, self._lenses), start.T_map_cam, start.covariance, query.stamp_ns
        )
        clock.lap("references")
        if not eyes:
            return start, nearest, failure, None
        pyramids = aligner.encode([e.image_rgb for e in eyes], [e.preprocess for e in eyes])
        eyes = [replace(eye, pyramid=pyramid) for eye, pyramid in zip(eyes, pyramids, strict=True)]
        clock.lap("features")
        aligned = self._aligned(eyes, start, query.stamp_ns, clock)
        kept = self._believed(eyes, aligned.result)
        if len(kept) < len(eyes):  # as if the others were not there
            aligned = replace(self._aligned(kept, start, query.stamp_ns, clock), views=len(eyes))
        return start, aligned.eyes[0].nearest, "none", aligned

    def _aligned(self, eyes: list[Eye], start: _Start, stamp_ns: int, clock: Clock) -> Aligned:
        """The alignment of all of some eyes."""
        starts = starting_poses(
            start.T_map_cam, start.covariance, self._settings.starts, self._settings.start_spacing_m
        )
        if not (self._settings.reselect and len(eyes[0].pyramid) > 1):
            result, refinement = self._aligner.align(eyes, starts)
            clock.lap("align")
            return Aligned(result, refinement, tuple(eyes), starts, len(eyes))
        result, coarse = self._aligner.align(eyes, starts, slice(0, 1), verify=False)
        clock.lap("align")
        # References around a start on one side of the truth pull the pose to that side: others around the best.
        if result.success:
            again, _, _ = self._surroundings[start.scene].seen(eyes, result.T_map_cam, start.covariance, stamp_ns)
            chosen = {eye.number: eye for eye in again}
            eyes = [chosen.get(eye.number, eye) for eye in eyes]
            clock.lap("references")
        begun = np.linalg.inv(coarse.T_cam_map.numpy())
        result, fine = self._aligner.align(eyes, begun, slice(1, None))
        iterations = int(coarse.iterations[result.start] + fine.iterations[result.start])
        result, fine = replace(result, iterations=iterations), replace(fine, levels=(*coarse.levels, *fine.levels))
        clock.lap("align")
        return Aligned(result, fine, tuple(eyes), starts, len(eyes))

    def _believed(self, eyes: list[Eye], result: AlignmentResult) -> list[Eye]:
        """The eyes without those in which the map is not seen where the pose has it, while it is in another's."""
        least = self._settings.min_peak_share
        best = max((share(*counts) for counts in result.peaks), default=0.0)
        if len(eyes) == 1 or best < _DISTRUSTED * least:
            return eyes
        return [
            eye
            for eye, (found, counted) in zip(eyes, result.peaks, strict=True)
            if counted < MINIMAL or share(found, counted) >= _DISTRUSTED * min(least, best)
        ]

    def _start(self, query: Query) -> tuple[_Start, str]:
        """Where to begin, and why that is nowhere."""
        named = None if query.scene is None else self.scene_index(query.scene)
        settings, prior = self._settings, query.prior
        failure = "no_prior"
        if prior is not None:
            sigma = largest_sigma(prior.covariance[:3, :3])
            if sigma <= settings.max_prior_sigma_m:
                return _Start(self._scene_near(prior, named), prior.T_map_cam, prior.covariance, 0.0), "none"
            failure = "wide_prior"
        if self._retrieval is None:
            T = self._stores[named or 0].T_map_cam[0] if prior is None else prior.T_map_cam
            return _Start(named or 0, T, _NOWHERE, 0.0), failure
        # Of a rig, what is most similar to one of its images.
        found, T_query_cam = min(
            (
                (self._retrieval.find(self._map_views.seen(alone.image_rgb, alone.camera), query.scene), T)
                for alone, T in each_alone(query)
            ),
            key=lambda each: each[0].distance,
        )
        s = settings.retrieval_sigma_m
        covariance = np.diag([s**2, s**2, (0.2 * s) ** 2, *([np.radians(3.0 * s) ** 2] * 3)])
        return _Start(self.scene_index(found.scene), found.T_map_cam @ inverse(T_query_cam), covariance, 1.0), "none"

    def _scene_near(self, prior: PosePrior, named: int | None) -> int:
        if named is not None or len(self._stores) == 1:
            return named or 0
        position = prior.T_map_cam[:3, 3]
        return int(np.argmin([np.linalg.norm(s.T_map_cam[:, :3, 3] - position, axis=1).min() for s in self._stores]))

    def _hypothesis(
        self,
        start: _Start,
        result: AlignmentResult,
        nearest: int,
        steps: tuple[CandidateStep, ...],
        rig: Mapping[str, float],
    ) -> Hypothesis:
        shift = float(np.linalg.norm(result.T_map_cam[:3, 3] - start.T_map_cam[:3, 3]))
        turn = float(np.linalg.norm(so3_log(result.T_map_cam[:3, :3] @ start.T_map_cam[:3, :3].T)))
        diagnostics = {
            "nearest_reference": float(nearest),
            "prior_source": start.source,
            "points": float(result.asked),
            "valid_points": float(result.valid),
            "cost": result.cost if np.isfinite(result.cost) else -1.0,
            "iterations": float(result.iterations),
            "shift_m": shift,
            "shift_deg": float(np.degrees(turn)),
            "start": float(result.start),
            "peak_share": result.peak_share,
            **rig,
        }
        failure = self._failure(start, result, shift, turn)
        if failure == "ill_posed":
            posed = (result.T_map_cam, _UNCALIBRATED_FACTOR * result.covariance)
            return self._lost(start, failure, nearest, diagnostics, *posed)
        if failure != "none":
            return self._lost(start, failure, nearest, diagnostics)
        return Hypothesis(
            self._stores[start.scene].scene,
            result.T_map_cam,
            result.score,
            statistics=alignment_statistics(
                result.cost, result.valid, result.asked, result.settling_m, shift, result.covariance
            ),
            whitening=camera_sigmas(result.covariance, result.T_map_cam[:3, :3]),
            # Without a calibration: the Hessian's idea, and never sure of it.
            covariance=_UNCALIBRATED_FACTOR * result.covariance + _UNCALIBRATED_FLOOR,
            diagnostics={**diagnostics, "failure": FAILURES["none"]},
            candidates=steps,
        )

    def _failure(self, start: _Start, result: AlignmentResult, shift: float, turn: float) -> str:
        """Why an alignment is not believed."""
        settings = self._settings
        finite = np.isfinite(result.T_map_cam).all() and np.isfinite(result.covariance).all()
        if not finite:
            return "not_converged"
        if result.valid < settings.optimizer.minimum_points:
            return "few_points"
        if not result.well_posed:
            return "ill_posed"
        if not result.success:
            return "not_converged"
        sigma_m, sigma_rad = (largest_sigma(part) for part in (start.covariance[:3, :3], start.covariance[3:, 3:]))
        far = shift > max(settings.max_shift_m, SHIFT_SIGMAS * sigma_m)
        turned = turn > max(np.radians(MAX_SHIFT_DEG), SHIFT_SIGMAS * sigma_rad)
        return "moved_too_far" if far or turned else "none"

    def _lost(
        self,
        start: _Start,
        failure: str,
        nearest: int,
        more: Mapping[str, float] | None = None,
        T_map_cam: Array | None = None,
        covariance: Array | None = None,
    ) -> Hypothesis:
        """A frame that was not localized: the pose to begin with stays for tools to show, as unsure as it was."""
        return Hypothesis(
            self._stores[start.scene].scene,
            start.T_map_cam if T_map_cam is None else T_map_cam,
            0.0,
            covariance=start.covariance if covariance is None else covariance,
            state=LocalizationState.LOST,
            diagnostics={
                "nearest_reference": float(nearest),
                "prior_source": start.source,
                **(more or {}),
                "failure": FAILURES[failure],
            },
        )
