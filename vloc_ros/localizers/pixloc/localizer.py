"""PixLoc as a backend: a map, an image and a prior in, an :class:`~vloc_ros.types.Estimate` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from vloc_ros.errors import ConfigError, MapFormatError
from vloc_ros.geometry.rotations import so3_log
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import Localizer, SimulatedPrior, check_query
from vloc_ros.localizers.calibration import SceneCalibration, section
from vloc_ros.localizers.device import Clock, compute_dtype
from vloc_ros.localizers.pixloc.alignment import Aligned, Aligner, AlignmentResult
from vloc_ros.localizers.pixloc.bundle import MAP_SECTION, MapSettings
from vloc_ros.localizers.pixloc.model import OPTIMIZER_SECTION, read_model
from vloc_ros.localizers.pixloc.retrieval_prior import RetrievalPrior
from vloc_ros.localizers.pixloc.selection import choose_points, starting_poses
from vloc_ros.localizers.pixloc.settings import SECTION, PixLocSettings
from vloc_ros.localizers.pixloc.statistics import SIGMAS, STATISTICS, alignment_statistics, camera_sigmas
from vloc_ros.localizers.pixloc.store import POINTS_FILE, PointBatch, ReferenceStore
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_from_mapping
from vloc_ros.types import Array, CameraModel, CandidateStep, Estimate, LocalizationState, PosePrior, Query, RgbImage

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
    """

    backend: ClassVar[str] = "pixloc"
    statistics: ClassVar[tuple[str, ...]] = STATISTICS
    whitening: ClassVar[tuple[str, ...]] = SIGMAS

    def __init__(self, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(bundle, device)
        where = f"{bundle.path}: settings"
        if bundle.manifest.file(POINTS_FILE) is None:
            raise MapFormatError(
                f"{bundle.path}: holds a trained network and no points; make a map of a place with it: "
                "vloc map build pixloc --extractor"
            )
        self._settings = _settings(bundle, settings or {})
        stored = section(bundle.manifest.settings, MAP_SECTION, where)
        made = settings_from_mapping(MapSettings, stored, f"{where}.{MAP_SECTION}", error=MapFormatError)
        if not made.pyramid:
            raise MapFormatError(f"{where}.{MAP_SECTION}: expected the scales of the pyramid; make the map again")
        self._preprocess = Preprocess.from_settings(bundle.manifest.preprocessing)
        model = read_model(bundle).eval().requires_grad_(False).to(device)
        dtype = compute_dtype(self._settings.precision, device)
        model.network.to(dtype).to(memory_format=torch.channels_last)
        self._aligner = Aligner(model, self._preprocess, made.pyramid, self._settings.optimizer, device)
        self._first_scale = 0 if self._settings.pyramid else len(made.pyramid) - 1
        names = [scene.name for scene in bundle.manifest.scenes]
        self._stores = [
            ReferenceStore.from_bundle(
                bundle, name, device, self._settings.memory_mb / len(names), len(made.pyramid), model.dimensions
            )
            for name in names
        ]
        self._calibration = [SceneCalibration.read(bundle, name, STATISTICS) for name in names]
        self._retrieval = RetrievalPrior(bundle, device) if RetrievalPrior.is_in(bundle) else None
        self._rectifier: tuple[CameraModel, Rectifier] | None = None
        self._last: tuple[int, Array] | None = None

    @classmethod
    def from_map(
        cls, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None
    ) -> PixLocLocalizer:
        return cls(bundle, device, settings)

    @property
    def settings(self) -> PixLocSettings:
        """The settings in force."""
        return self._settings

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

    def reference_poses(self, scene: str | None = None) -> Array:
        """``T_map_cam`` (R, 4, 4) of a scene's references (default: the first)."""
        return self.store(scene).T_map_cam

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self._stores = []
        for name in ("_aligner", "_retrieval"):
            self.__dict__.pop(name, None)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # -- localizing -------------------------------------------------------------------------------

    def localize(self, query: Query, keep_candidates: bool = False) -> Estimate:
        """See :meth:`Localizer.localize`. ``keep_candidates`` also returns the poses after every level."""
        check_query(query)
        self.check_camera(query.camera)
        clock = Clock(self._device)
        start, failure = self._start(query)
        clock.lap("prior")
        if failure != "none":
            return self._lost(query, start, failure, clock)
        camera = self._aligner.camera(query.camera)
        batch, nearest, failure = self._points(start, camera, query.stamp_ns)
        clock.lap("references")
        if batch is None:
            return self._lost(query, start, failure, clock, nearest)
        pyramid = self._aligner.encode(query.image_rgb, self._first_scale)
        clock.lap("features")
        starts = starting_poses(
            start.T_map_cam, start.covariance, self._settings.starts, self._settings.start_spacing_m
        )
        result, refinement = self._aligner.align(pyramid, camera, batch, starts)
        clock.lap("align")
        steps: tuple[CandidateStep, ...] = ()
        if keep_candidates:
            steps = tuple(
                CandidateStep(
                    np.linalg.inv(level.T_cam_map.cpu().numpy()),
                    np.exp(-level.cost.cpu().numpy()),
                    np.array([result.start], dtype=np.int64),
                )
                for level in refinement.levels
            )
        return self._estimate(query, start, result, nearest, clock, steps)

    def trace(self, query: Query) -> Aligned | None:
        """The alignment of a query with everything that it was made of; None where it cannot begin."""
        start, failure = self._start(query)
        if failure != "none":
            return None
        camera = self._aligner.camera(query.camera)
        batch, _, _ = self._points(start, camera, query.stamp_ns)
        if batch is None:
            return None
        starts = starting_poses(
            start.T_map_cam, start.covariance, self._settings.starts, self._settings.start_spacing_m
        )
        pyramid = self._aligner.encode(query.image_rgb, self._first_scale)
        result, refinement = self._aligner.align(pyramid, camera, batch, starts)
        return Aligned(result, refinement, pyramid, batch, camera, starts)

    def _start(self, query: Query) -> tuple[_Start, str]:
        """Where to begin, and why that is nowhere."""
        named = None if query.scene is None else self.scene_index(query.scene)
        settings, prior = self._settings, query.prior
        failure = "no_prior"
        if prior is not None:
            sigma = float(np.sqrt(max(np.linalg.eigvalsh(prior.covariance[:3, :3])[-1], 0.0)))
            if sigma <= settings.max_prior_sigma_m:
                return _Start(self._scene_near(prior, named), prior.T_map_cam, prior.covariance, 0.0), "none"
            failure = "wide_prior"
        if self._retrieval is None:
            T = self._stores[named or 0].T_map_cam[0] if prior is None else prior.T_map_cam
            return _Start(named or 0, T, _NOWHERE, 0.0), failure
        found = self._retrieval.find(self._rectified(query), query.scene)
        s = settings.retrieval_sigma_m
        covariance = np.diag([s**2, s**2, (0.2 * s) ** 2, *([np.radians(3.0 * s) ** 2] * 3)])
        return _Start(self.scene_index(found.scene), found.T_map_cam, covariance, 1.0), "none"

    def _scene_near(self, prior: PosePrior, named: int | None) -> int:
        if named is not None or len(self._stores) == 1:
            return named or 0
        position = prior.T_map_cam[:3, 3]
        return int(np.argmin([np.linalg.norm(s.T_map_cam[:, :3, 3] - position, axis=1).min() for s in self._stores]))

    def _rectified(self, query: Query) -> RgbImage:
        """Descriptors were made of rectified images."""
        if not query.camera.is_distorted:
            return query.image_rgb
        if self._rectifier is None or self._rectifier[0] != query.camera:
            self._rectifier = (query.camera, Rectifier(query.camera))
        return self._rectifier[1].rectify(query.image_rgb)[0]

    def _points(self, start: _Start, camera: CameraModel, stamp_ns: int) -> tuple[PointBatch | None, int, str]:
        """The points to align with their features, the nearest reference, and why there are none."""
        settings, store = self._settings, self._stores[start.scene]
        sigma = float(np.sqrt(max(np.linalg.eigvalsh(start.covariance[:3, :3])[-1], 0.0)))
        allowed = None
        if settings.exclude_s > 0:
            allowed = np.abs(store.stamps_ns - stamp_ns) > settings.exclude_s * 1e9
        radius = max(settings.radius_m, 3.0 * sigma)
        ids = store.near(start.T_map_cam, settings.references, radius, allowed)
        if not len(ids):
            return None, -1, "no_references"
        seen, observers = store.observed(ids)
        # Long tracks first among those that equally many of these references see.
        priority = observers.astype(np.int64) * 100_000 + store.track_length[seen]
        rows = choose_points(store.points[seen], priority, start.T_map_cam, camera, settings.max_points)
        if len(rows) < settings.optimizer.minimum_points:
            return None, int(ids[0]), "few_points"
        batch = store.load(ids, seen[rows])
        if settings.prefetch_m > 0:
            self._look_ahead(start, store)
        return batch, int(ids[0]), "none"

    def _look_ahead(self, start: _Start, store: ReferenceStore) -> None:
        """Fetch the tiles ahead: the way the vehicle has come says where that is, at first the camera does."""
        position, heading = start.T_map_cam[:3, 3].copy(), None
        if self._last is None or self._last[0] != start.scene:
            self._last = (start.scene, position)
        way = position - self._last[1]
        length = float(np.linalg.norm(way))
        if length > 0.2:  # less is noise, more than a jump no drive
            heading = way if length < 20.0 else None
            self._last = (start.scene, position)
        store.prefetch(start.T_map_cam, heading, self._settings.prefetch_m)

    def _estimate(
        self,
        query: Query,
        start: _Start,
        result: AlignmentResult,
        nearest: int,
        clock: Clock,
        steps: tuple[CandidateStep, ...],
    ) -> Estimate:
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
        }
        failure = self._failure(start, result, shift, turn)
        if failure != "none":
            covariance = result.covariance if failure == "ill_posed" else None
            T = result.T_map_cam if failure == "ill_posed" else None
            return self._lost(query, start, failure, clock, nearest, diagnostics, T, covariance)
        statistics = alignment_statistics(
            result.cost, result.valid, result.asked, result.settling_m, shift, result.covariance
        )
        sigmas = camera_sigmas(result.covariance, result.T_map_cam[:3, :3])
        diagnostics["failure"] = FAILURES["none"]
        diagnostics.update(zip(STATISTICS, statistics.tolist(), strict=True))
        diagnostics.update(zip(SIGMAS, sigmas.tolist(), strict=True))
        settings = self._settings
        verdict = self._calibration[start.scene].judge(
            statistics, result.T_map_cam, result.score, settings.localized_sigma_m, settings.lost_sigma_m,
            whitening=sigmas,
        )  # fmt: skip
        covariance, state = verdict.covariance, verdict.state
        if verdict.position_sigma_m is None:  # not calibrated: the Hessian's idea, and never sure of it
            covariance = _UNCALIBRATED_FACTOR * result.covariance + _UNCALIBRATED_FLOOR
            sigma = float(np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1]))
            state = LocalizationState.LOST if sigma > settings.lost_sigma_m else LocalizationState.DEGRADED
        else:
            diagnostics["position_sigma_m"] = verdict.position_sigma_m
        clock.lap("verdict")
        return Estimate(
            query.stamp_ns, result.T_map_cam, covariance, result.score, state, self.backend, self.map_id,
            self._stores[start.scene].scene, steps, clock.laps, diagnostics,
        )  # fmt: skip

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
        sigma_m, sigma_rad = (
            float(np.sqrt(max(np.linalg.eigvalsh(part)[-1], 0.0)))
            for part in (start.covariance[:3, :3], start.covariance[3:, 3:])
        )
        far = shift > max(settings.max_shift_m, settings.shift_sigmas * sigma_m)
        turned = turn > max(np.radians(settings.max_shift_deg), settings.shift_sigmas * sigma_rad)
        return "moved_too_far" if far or turned else "none"

    def _lost(
        self,
        query: Query,
        start: _Start,
        failure: str,
        clock: Clock,
        nearest: int = -1,
        more: Mapping[str, float] | None = None,
        T_map_cam: Array | None = None,
        covariance: Array | None = None,
    ) -> Estimate:
        """A frame that was not localized: the pose to begin with stays for tools to show, as unsure as it was."""
        diagnostics = {"nearest_reference": float(nearest), "prior_source": start.source, **(more or {})}
        diagnostics["failure"] = FAILURES[failure]
        clock.lap("verdict")
        return Estimate(
            query.stamp_ns,
            start.T_map_cam if T_map_cam is None else T_map_cam,
            start.covariance if covariance is None else _UNCALIBRATED_FACTOR * covariance,
            0.0,
            LocalizationState.LOST,
            self.backend,
            self.map_id,
            self._stores[start.scene].scene,
            (),
            clock.laps,
            diagnostics,
        )


def _settings(bundle: MapBundle, changes: Mapping[str, Any]) -> PixLocSettings:
    """The map's settings with the user's changes; those of the optimiser one by one."""
    where = f"{bundle.path}: settings"
    merged: dict[str, Any] = {**section(bundle.manifest.settings, SECTION, where), **changes}
    optimizer = dict(section(bundle.manifest.settings, OPTIMIZER_SECTION, where))
    changed = changes.get("optimizer", {})
    if not isinstance(changed, Mapping):
        raise ConfigError(f"pixloc settings: optimizer: expected a mapping, found {type(changed).__name__}")
    if "damping_log10" in changed:
        raise ConfigError("pixloc settings: optimizer.damping_log10 belongs to the trained network")
    merged["optimizer"] = {**optimizer, **changed}
    return settings_from_mapping(PixLocSettings, merged, "pixloc settings")
