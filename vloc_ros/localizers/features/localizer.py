"""Structure-based localization as a backend: an image in, its pose by the map's points and what they look like out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.errors import MapBackendError, MapError
from vloc_ros.features import make_extractor
from vloc_ros.features.base import Described, FeatureExtractor, FeatureSettings
from vloc_ros.features.points import MapPoints, in_view
from vloc_ros.features.pose import MINIMAL, Observations
from vloc_ros.features.rig_pose import rig_poses
from vloc_ros.features.verification import (
    Decision,
    Evidence,
    JudgedPose,
    Sight,
    Support,
    compare,
    decide,
    judge_rig,
    refine_and_judge_rig,
)
from vloc_ros.features.view_matching import ViewMatcher, make_matcher
from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.geometry.se3 import covariance_of_base, largest_sigma
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.reduction import reduced_camera, reduced_image
from vloc_ros.localizers.base import Hypothesis, Localizer, SimulatedPrior
from vloc_ros.localizers.calibration import section
from vloc_ros.localizers.device import Clock
from vloc_ros.localizers.features.eyes import Eye, Sighting, by_place, reach_px
from vloc_ros.localizers.features.matches import match_nearest, match_views
from vloc_ros.localizers.features.retrieval import ImageSearch
from vloc_ros.localizers.features.settings import FEATURES_SECTION, SECTION, FeaturesSettings
from vloc_ros.localizers.features.statistics import (
    SIGMAS,
    STATISTICS,
    camera_sigmas,
    features_statistics,
    scaled_covariance,
)
from vloc_ros.localizers.features.store import PointStore
from vloc_ros.localizers.pixloc.selection import choose_points
from vloc_ros.localizers.view import MapViews
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_from_mapping
from vloc_ros.types import (
    Array,
    CameraModel,
    CandidateStep,
    Estimate,
    LocalizationState,
    Matches,
    PosePrior,
    Query,
    View,
)

__all__ = ["FAILURES", "FeaturesLocalizer", "Found"]

Ints = npt.NDArray[np.int64]
#: Why a frame is LOST: the values of the diagnostic ``failure``.
FAILURES = {
    "none": 0.0,
    "no_features": 1.0,
    "no_pose": 2.0,
    "unsupported": 3.0,
    "ambiguous": 4.0,
    "ill_posed": 5.0,
}
#: Standard deviations of a pose that nobody knows.
_NOWHERE = np.diag([1e6, 1e6, 1e6, np.pi**2, np.pi**2, np.pi**2])
#: What an uncalibrated fit is off by at least: features do not err independently, nor do the map's poses.
_UNCALIBRATED_FACTOR = 9.0
_UNCALIBRATED_FLOOR = np.diag([0.1**2] * 3 + [np.radians(0.5) ** 2] * 3)
#: Poses nearer than this share of the scene's depth are one place.
_SAME_PLACE = 0.25
_SAME_DEG = 15.0
#: A prior that is less sure of its rotation than this (rad) says nothing about what is in view.
_AIMLESS = np.radians(40.0)


@dataclass(frozen=True)
class Found:
    """A judged pose: the scene it is in, and where it came from (0: the prior, 1: similar images)."""

    scene: int
    judged: JudgedPose
    source: float


class FeaturesLocalizer(Localizer):
    """Local features matched with the points of the map. See the backend's README for every setting.

    With a prior the map's points are looked for where they should be; without one, or where that fails, in the
    images of the map that are most similar. Every pose is judged by the points that it explains
    (:mod:`vloc_ros.features.verification`), and two places that explain the image alike are both not believed. Any
    calibrated lens is taken, distorted or not. The diagnostic ``failure`` (:data:`FAILURES`) says why a frame is LOST.

    The cameras of a rig are one generalised camera: one pose is solved, refined and judged from the matches of all.
    """

    backend: ClassVar[str] = "features"
    takes_any_lens: ClassVar[bool] = True
    sees_points: ClassVar[bool] = True
    settings_class = FeaturesSettings
    _settings: FeaturesSettings
    settings_section: ClassVar[str] = SECTION
    statistics = STATISTICS
    whitening: ClassVar[tuple[str, ...]] = SIGMAS
    shared_floor: ClassVar[Array] = _UNCALIBRATED_FLOOR
    offers_candidates = True
    takes_rigs: ClassVar[bool] = True

    @classmethod
    def merged_settings(cls, bundle: MapBundle, changes: Mapping[str, Any]) -> FeaturesSettings:
        """As the base's; those of the judge are changed one by one."""
        where = f"{bundle.path}: settings"
        stored = section(section(bundle.manifest.settings, SECTION, where), "judge", f"{where}.{SECTION}")
        changed = changes.get("judge", {})
        merged = {**changes, "judge": {**stored, **changed}} if isinstance(changed, Mapping) else changes
        settings: FeaturesSettings = super().merged_settings(bundle, merged)
        return settings

    def load(self, bundle: MapBundle) -> None:
        self._extractor = _extractor_of(bundle, self._device)
        self._matcher: ViewMatcher | None = None
        if self._settings.matcher == "lightglue":
            self._matcher = make_matcher(self._extractor.settings.kind, self._device)
        names = [scene.name for scene in bundle.manifest.scenes]
        kind, share = self._extractor, self._settings.memory_mb / len(names)
        self._stores = [PointStore(bundle, name, self._device, kind.dimension, kind.signed, share) for name in names]
        self._search = ImageSearch(bundle, self._device, self._stores)
        self._map_views = MapViews(bundle.manifest.camera, Preprocess.from_settings(bundle.manifest.preprocessing))
        self._proposals: tuple[tuple[PosePrior, ...], bool] | None = None

    def release(self) -> None:
        for store in self._stores:
            store.close()

    @property
    def takes_distorted(self) -> bool:
        return True

    @property
    def simulated_prior(self) -> SimulatedPrior:
        return SimulatedPrior(self._settings.calibration_prior_m)

    @property
    def extractor(self) -> FeatureExtractor:
        """What finds the features of a query."""
        return self._extractor

    def store(self, scene: str | None = None) -> PointStore:
        """The points of a scene (default: the first)."""
        return self._stores[self.scene_index(scene)]

    def map_points(self, scene: str | None = None) -> Array:
        return self.store(scene).points

    def reference_poses(self, scene: str | None = None) -> Array:
        return self.store(scene).T_map_cam

    # -- what others build on ---------------------------------------------------------------------

    def describe(self, query: Query | View, limit: int = 0) -> Described:
        """The features of a query, in pixels of its reduced image (``features.maximum_side``).

        :param limit: at most; 0: as the settings say.
        """
        return self._eye(query, limit).described

    def reduced_camera(self, camera: CameraModel) -> CameraModel:
        """The camera of the images that features are looked for in: all limits in pixels are of these."""
        return reduced_camera(camera, self._extractor.settings.maximum_side)

    def points_near(self, T_map_cam: Array, camera: CameraModel, scene: int = 0, most: int = 0) -> MapPoints:
        """The map's points that a camera near this pose may see, their descriptors on the host.

        :param most: at most; 0: as the settings say.
        """
        store = self._stores[scene]
        ids, observers = store.observed(store.near(T_map_cam, self._settings.frames))
        priority = observers.astype(np.int64) * 100_000 + store.track_length[ids]
        rows = choose_points(store.points[ids], priority, T_map_cam, camera, most or self._settings.max_points)
        return store.load(ids[rows], on_host=True)

    def judge(self, T_map_cam: Array, query: Query, described: Described, scene: int = 0) -> Evidence:
        """The evidence of the query's own image for a pose, whatever proposed it; nothing is refined."""
        sights = self._sights(T_map_cam, [self._eye(query, 0, described)], scene)
        return judge_rig(T_map_cam, sights, self._extractor.alike, self._settings.judge)

    def improve(
        self, T_map_cam: Array, query: Query, described: Described, scene: int = 0, covariance: Array | None = None
    ) -> JudgedPose:
        """A proposed pose refined by the points seen near where it says, and judged, by the query's own image.

        :param covariance: (6, 6) of the proposal: how far off points may be; None: a few pixels.
        """
        eyes = [self._eye(query, 0, described)]
        if covariance is None:
            return self._refined(T_map_cam, self._sights(T_map_cam, eyes, scene))
        return self._from_prior(PosePrior(T_map_cam, covariance), eyes, scene)

    def decide(self, found: Sequence[tuple[Array, Evidence]], scene: int = 0) -> Decision:
        """Which of several judged poses of one scene is believed (:func:`vloc_ros.features.verification.decide`)."""
        return decide(found, self._settings.judge, _SAME_PLACE * self._stores[scene].depth_m, _SAME_DEG)

    # -- localizing -------------------------------------------------------------------------------

    def localize_from(
        self, query: Query, proposals: Sequence[PosePrior], keep_candidates: bool = False, search: bool = False
    ) -> Estimate:
        """Decide between proposed poses, each first improved by what the image shows.

        :param proposals: of any origin, in the scene of the query. They take the place of the query's prior.
        :param search: look for the place in similar images, too; otherwise only when no proposal is supported and
            the settings allow it.
        """
        with self._lock:
            self._check_open()
            self._proposals = (tuple(proposals), search)
            try:
                return self.localize(query, keep_candidates)
            finally:
                self._proposals = None

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        """All poses that were judged are candidates."""
        settings = self._settings
        proposals, search = self._proposals or (() if query.prior is None else (query.prior,), False)
        named = None if query.scene is None else self.scene_index(query.scene)
        # One without a heading (a satellite fix) says where similar images are to be looked for, and no more.
        area = [p for p in proposals if largest_sigma(p.covariance[3:, 3:]) > _AIMLESS]
        proposals = tuple(p for p in proposals if largest_sigma(p.covariance[3:, 3:]) <= _AIMLESS)
        eyes = self._eyes(query, settings.prior_features if proposals and not search else 0)
        clock.lap("features")
        found: list[Found] = []
        for proposal in proposals:
            scene = self._scene_near(proposal.T_map_cam, named)
            found.append(Found(scene, self._from_prior(proposal, eyes, scene), 0.0))
        if proposals:
            clock.lap("prior")
        again = not proposals or settings.search_again
        if search or (again and not any(self._supported(f) for f in found)):
            if proposals and not search and settings.prior_features < self._extractor.settings.limit:
                eyes = self._eyes(query)
                clock.lap("features_again")
            found += self._from_images(query, eyes, named, clock, area)
            if area and settings.search_again and not any(self._supported(f) for f in found):
                found += self._from_images(query, eyes, named, clock)
        out = self._hypothesis(query, eyes, found)
        if keep_candidates and found:
            poses = np.stack([f.judged.T_map_cam for f in found])
            scores = np.array([f.judged.evidence.score(settings.judge) for f in found])
            step = CandidateStep(poses, scores, np.array([int(scores.argmax())], dtype=np.int64))
            out = replace(out, candidates=(step,))
        clock.lap("decide")
        return out

    def is_supported(self, diagnostics: Mapping[str, float]) -> bool:
        return diagnostics.get("support", 0.0) >= Support.STRONG.value

    def _supported(self, found: Found) -> bool:
        fine = found.judged.refined is not None
        return fine and found.judged.evidence.support(self._settings.judge) is not Support.NONE

    def _scene_near(self, T_map_cam: Array, named: int | None) -> int:
        if named is not None or len(self._stores) == 1:
            return named or 0
        position = T_map_cam[:3, 3]
        return int(np.argmin([np.linalg.norm(s.T_map_cam[:, :3, 3] - position, axis=1).min() for s in self._stores]))

    def _eyes(self, query: Query, limit: int = 0) -> list[Eye]:
        others = (replace(self._eye(view, limit), T_query_cam=view.T_query_cam) for view in query.others)
        return [self._eye(query, limit), *others]

    def _eye(self, view: Query | View, limit: int, described: Described | None = None) -> Eye:
        camera = self.reduced_camera(view.camera)
        image = reduced_image(view.image_rgb, camera)
        if described is None:
            wanted = limit or self._settings.feature_limit or self._extractor.settings.limit
            described = Described.of(self._extractor.extract(image, wanted), self._device)
        return Eye(image, camera, described)

    def _sights(self, T_map_cam: Array, eyes: Sequence[Eye], scene: int, most: int = 0) -> list[Sight]:
        """What each camera sees, with the map's points around where it may be."""
        return [
            Sight(
                e.camera, e.described, self.points_near(e.placed(T_map_cam), e.camera, scene, most), e.T_query_cam
            )
            for e in eyes
        ]  # fmt: skip

    def _refined(self, T: Array, sights: Sequence[Sight]) -> JudgedPose:
        return refine_and_judge_rig(T, sights, self._extractor.alike, self._settings.judge)

    def _from_prior(self, prior: PosePrior, eyes: Sequence[Eye], scene: int) -> JudgedPose:
        """Points where the prior has them, as far off as it may be; a robust pose of these; the guided passes."""
        settings, T = self._settings, prior.T_map_cam
        sights = self._sights(T, eyes, scene, settings.prior_points)
        reaches, wide = list[Array | None](), False
        for sight in sights:
            at, covariance = sight.placed(T), prior.covariance
            if sight.T_rig_cam is not None:
                covariance = covariance_of_base(T, covariance, sight.T_rig_cam)
            points = sight.points.points
            reach = reach_px(at, covariance, sight.camera, points, settings.prior_sigmas) + settings.judge.radius_px
            rows = in_view(at, sight.camera, points)
            wide |= bool(len(rows)) and float(np.median(reach[rows])) > settings.judge.wide_px
            reaches.append(np.minimum(reach, settings.prior_reach_px) if len(rows) else None)
        if wide:
            # Much is near each other: all is compared, where the device is.
            if self._device.type != "cpu":
                store = self._stores[scene]
                sights = [replace(sight, points=store.load(sight.points.ids)) for sight in sights]
            compare(sights, self._extractor.alike)
            guided = [self._guided(s, T, reach) for s, reach in zip(sights, reaches, strict=True) if reach is not None]
            T = next(iter(rig_poses(guided, settings.threshold_px, settings.solver, settings.iterations)), T)
        return self._refined(T, sights)

    def _guided(self, sight: Sight, T_map_rig: Array, reach: Array) -> Observations:
        """What one camera sees of points within reach of where they should be, the most alike first."""
        described, points = sight.query, sight.points
        pairs, _, cosines = sight.near(T_map_rig, reach, self._settings.judge.octaves, self._extractor.alike)
        pairs = pairs[np.argsort(-cosines, kind="stable")]  # the solver draws from the first
        at = described.features.pixels[pairs[:, 1]].astype(np.float64)
        return Observations(sight.camera, points.points[pairs[:, 0]], at, T_rig_cam=sight.T_rig_cam)

    def _from_images(
        self, query: Query, eyes: Sequence[Eye], named: int | None, clock: Clock, area: Sequence[PosePrior] = ()
    ) -> list[Found]:
        """Places that the most similar images are of; matches, pose and guided passes in each.

        :param area: look only around these.
        """
        settings, out = self._settings, []
        # An image's own descriptor is of what the map's camera would see.
        images = [self._map_views.seen(e.image_rgb, e.camera) if self._search.by_image else e.image_rgb for e in eyes]
        similar = self._search.places(
            [(image, eye.described) for image, eye in zip(images, eyes, strict=True)],
            settings.images, settings.hypotheses, named, query.stamp_ns, settings.exclude_s, area,
        )  # fmt: skip
        clock.lap("retrieval")
        groups: dict[tuple[int, int], list[Ints]] = {}
        for number, places in enumerate(similar):
            for scene, rows in places:
                groups.setdefault((scene, number), []).append(rows)
        sightings = self._sightings(eyes, groups)
        clock.lap("match")
        for scene in dict.fromkeys(scene for scene, _ in groups):
            poses: list[Array] = []
            for place in by_place(sightings[scene], self._stores[scene]):
                seen = [sighting.seen for sighting in place]
                poses += self._apart(
                    rig_poses(seen, settings.threshold_px, settings.solver, settings.iterations), scene
                )
            clock.lap("pose")
            out += [Found(scene, self._refined(T, self._sights(T, eyes, scene)), 1.0) for T in poses]
            clock.lap("refine")
        return out

    def _sightings(
        self, eyes: Sequence[Eye], groups: Mapping[tuple[int, int], Sequence[Ints]]
    ) -> dict[int, list[Sighting]]:
        """By scene what cameras may have seen of places: ``groups`` has rows of images by scene and camera."""
        settings = self._settings
        asked = [
            (eyes[n].strongest(settings.match_features), self._stores[s], places) for (s, n), places in groups.items()
        ]
        if self._matcher is None:
            found = match_nearest(asked, settings.ratio, settings.match_points)
        else:
            found = [
                match_views(
                    self._matcher, first, eyes[n].camera, store, places, self._manifest.camera, settings.matcher_images
                )
                for (_, n), (first, store, places) in zip(groups, asked, strict=True)
            ]
        out: dict[int, list[Sighting]] = {scene: [] for scene, _ in groups}
        for ((scene, number), places), (points, matches) in zip(groups.items(), found, strict=True):
            eye = eyes[number]
            for images, (pairs, _) in zip(places, matches, strict=True):
                at = eye.described.features.pixels[pairs[:, 0]].astype(np.float64)
                observed = Observations(eye.camera, points.points[pairs[:, 1]], at, T_rig_cam=eye.T_query_cam)
                out[scene].append(Sighting(number, images, observed))
        return out

    def _apart(self, poses: Sequence[Array], scene: int) -> list[Array]:
        """The first of some poses, and those that are elsewhere: what else the cameras of a rig propose."""
        kept: list[Array] = []
        for T in poses:
            near = [
                float(np.linalg.norm(T[:3, 3] - other[:3, 3])) <= _SAME_PLACE * self._stores[scene].depth_m
                and float(np.degrees(rotation_angle(T[:3, :3], other[:3, :3]))) <= _SAME_DEG
                for other in kept
            ]
            if not any(near):
                kept.append(T)
        return kept

    def _hypothesis(self, query: Query, eyes: Sequence[Eye], found: Sequence[Found]) -> Hypothesis:
        """The best of the judged poses, with what speaks for and against it."""
        features = sum(len(eye.described) for eye in eyes)
        diagnostics = {"features": float(features), "places": float(len(found))}
        usable = [f for f in found if f.judged.refined is not None]
        if not usable:
            failure = "no_features" if not features else "no_pose" if not found else "ill_posed"
            return self._lost(query, None, failure, diagnostics)
        best = max(usable, key=lambda f: f.judged.evidence.surplus)
        store = self._stores[best.scene]
        # Places of different scenes are apart, whatever their coordinates say.
        apart = np.zeros((4, 4))
        apart[0, 3] = 1e6
        poses = [f.judged.T_map_cam + (f.scene != best.scene) * apart for f in usable]
        decision = self.decide(list(zip(poses, (f.judged.evidence for f in usable), strict=True)), best.scene)
        T, evidence = best.judged.T_map_cam, best.judged.evidence
        nearest = store.near(T, 1)
        diagnostics.update(
            nearest_reference=float(nearest[0]) if len(nearest) else -1.0,
            source=best.source,
            visible_points=float(evidence.visible),
            matched_points=float(evidence.matched),
            accidental_points=evidence.accidental,
            matched_share=evidence.share,
            extent=evidence.extent,
            cells=float(evidence.cells),
            error_px=evidence.error_px if np.isfinite(evidence.error_px) else -1.0,
            rivalry=decision.rivalry,
            support=float(decision.support.value),
        )
        if decision.support is Support.NONE:
            strong = evidence.support(self._settings.judge) is not Support.NONE
            return self._lost(query, best, "ambiguous" if strong else "unsupported", diagnostics)
        diagnostics["failure"] = FAILURES["none"]
        distance = float(np.linalg.norm(store.T_map_cam[:, :3, 3] - T[:3, 3], axis=1).min())
        own = scaled_covariance(best.judged)
        parts = evidence.parts or (evidence,)
        if len(parts) > 1:
            diagnostics["rig_views"] = float(len(parts))
            diagnostics["rig_fused"] = float(sum(part.surplus >= MINIMAL for part in parts))
        cameras = [query.camera, *(view.camera for view in query.others)]
        pixels = np.concatenate([
            _in_full(eye.described.features.pixels[part.features], eye.camera, camera)
            for eye, part, camera in zip(eyes, parts, cameras, strict=True)
        ])  # fmt: skip
        views = np.repeat(np.arange(len(parts)), [len(part.ids) for part in parts])
        return Hypothesis(
            store.scene,
            T,
            evidence.score(self._settings.judge),
            features_statistics(best.judged, distance, store.depth_m),
            camera_sigmas(own, T[:3, :3]),
            # Without a calibration: the fit's idea, widened.
            _UNCALIBRATED_FACTOR * own + _UNCALIBRATED_FLOOR,
            diagnostics=diagnostics,
            matches=Matches(
                store.points[evidence.ids],
                pixels,
                np.ones(len(pixels), dtype=bool),
                views if len(parts) > 1 else None,
            ),
        )

    def _lost(self, query: Query, best: Found | None, failure: str, diagnostics: dict[str, float]) -> Hypothesis:
        """A frame that was not localized; the best pose there was stays for tools to show."""
        scene = best.scene if best is not None else 0 if query.scene is None else self.scene_index(query.scene)
        store = self._stores[scene]
        T, covariance = store.T_map_cam[0], _NOWHERE
        if best is not None:
            T = best.judged.T_map_cam
        elif query.prior is not None:
            T, covariance = query.prior.T_map_cam, query.prior.covariance
        return Hypothesis(
            store.scene, T, 0.0, covariance=covariance, state=LocalizationState.LOST,
            diagnostics={"nearest_reference": -1.0, **diagnostics, "failure": FAILURES[failure]},
        )  # fmt: skip


def _in_full(pixels: npt.NDArray[np.float32], reduced: CameraModel, full: CameraModel) -> Array:
    """(N, 2) pixels of a reduced image in the image that it was made of."""
    return (pixels.astype(np.float64) + 0.5) * np.divide(full.size, reduced.size) - 0.5


def _extractor_of(bundle: MapBundle, device: torch.device) -> FeatureExtractor:
    """The extractor whose descriptors the map holds.

    :raises MapBackendError: this installation makes other descriptors. :raises ConfigError: a package is missing.
    """
    where = f"{bundle.path}: settings"
    stored = dict(section(bundle.manifest.settings, FEATURES_SECTION, where))
    identity = stored.pop("id", None)
    if not isinstance(identity, str):
        raise MapError(f"{where}.{FEATURES_SECTION}: expected the id of the descriptors, found {identity!r}")
    settings = settings_from_mapping(FeatureSettings, stored, f"{where}.{FEATURES_SECTION}", error=MapError)
    extractor = make_extractor(replace(settings), device)
    if extractor.identity != identity:
        raise MapBackendError(
            f"{bundle.path}: expected descriptors of {extractor.identity[:40]!r}, as this installation makes them of "
            f"kind {settings.kind!r}, found {identity[:40]!r}; install the package of then, or build the map again"
        )
    return extractor
