"""The interface that every backend implements, and how a map becomes a running localizer.

A third-party backend subclasses :class:`Localizer` and announces itself in its own ``pyproject.toml``::

    [project.entry-points."vloc_ros.localizers"]
    my_method = "my_package.localizer:MyLocalizer"

Maps whose manifest says ``backend: my_method`` then load with :func:`load_localizer`, replay and the live node.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.errors import ConfigError, DeviceError, GeometryError, ImageError, LocalizerClosedError, MapBackendError
from vloc_ros.geometry.cameras import undistorted_camera
from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.view import ViewWarp
from vloc_ros.localizers.calibration import UNCALIBRATED, Confidence, SceneCalibration, section
from vloc_ros.localizers.device import Clock, device_errors, select_device
from vloc_ros.localizers.rig import each_alone, fused
from vloc_ros.localizers.view import MapViews, ViewSettings, less_sure
from vloc_ros.maps import MapBundle, MapManifest, read_map
from vloc_ros.plugins import PluginGroup
from vloc_ros.settings import current_names, settings_from_mapping
from vloc_ros.types import (
    Array,
    CameraModel,
    CandidateStep,
    Estimate,
    LocalizationState,
    Matches,
    PosePrior,
    Query,
    check_covariance,
    check_transform,
)

__all__ = [
    "BACKENDS",
    "BUILT_IN",
    "Hypothesis",
    "Localizer",
    "NoSettings",
    "SimulatedPrior",
    "available_backends",
    "backend_class",
    "check_query",
    "load_localizer",
    "select_device",
    "stored_settings",
]

_log = logging.getLogger(__name__)

S = TypeVar("S")
L = TypeVar("L", bound="Localizer")

#: Built-in backends as ``module:Class``, imported when first asked for; no installation is needed to find them.
BUILT_IN: dict[str, str] = {
    "imposing": "vloc_ros.localizers.imposing.localizer:ImPosingLocalizer",
    "retrieval": "vloc_ros.localizers.retrieval.localizer:RetrievalLocalizer",
    "irpnet": "vloc_ros.localizers.irpnet.localizer:IRPNetLocalizer",
    "camnet": "vloc_ros.localizers.camnet.localizer:CamNetLocalizer",
    "copr": "vloc_ros.localizers.copr.localizer:CoPRLocalizer",
    "features": "vloc_ros.localizers.features.localizer:FeaturesLocalizer",
    "pixloc": "vloc_ros.localizers.pixloc.localizer:PixLocLocalizer",
    "cascade": "vloc_ros.localizers.cascade.localizer:CascadeLocalizer",
}


def _unlike_localizer(made: Any) -> str | None:
    fits = isinstance(made, type) and issubclass(made, Localizer)
    return None if fits else f"expected a class derived from {Localizer.__module__}.Localizer, found {made!r}"


#: Where backends are found; one of another package is announced in the group ``vloc_ros.localizers``.
BACKENDS = PluginGroup("vloc_ros.localizers", BUILT_IN, "backend", _unlike_localizer)


def available_backends() -> list[str]:
    """Names of every backend that can be asked for, the built-in ones first; nothing is imported."""
    return BACKENDS.names()


def backend_class(name: str) -> type[Localizer]:
    """Import the class of a backend.

    :raises ConfigError: no such backend, it cannot be imported, or its class does not fit.
    """
    loaded: type[Localizer] = BACKENDS.load(name)
    return loaded


@dataclass(frozen=True)
class SimulatedPrior:
    """How wrong the priors are that a calibration draws.

    ``sigma_m`` are the smallest and largest standard deviation of position, drawn log-uniformly between; the height has
    a tenth of it, and the rotation ``deg_per_m`` degrees for each metre of it.
    """

    sigma_m: tuple[float, float] = (0.2, 3.0)
    deg_per_m: float = 3.0


@dataclass(frozen=True)
class Hypothesis:
    """A pose that a backend proposes for an image, with its evidence, before the map's calibration has judged it.

    :ivar scene: its name.
    :ivar T_map_cam: (4, 4).
    :ivar score: in [0, 1].
    :ivar statistics: (F,) in the order of :attr:`Localizer.statistics`; None where there are none, and the
        covariance is the backend's own.
    :ivar whitening: (6,) the frame's own standard deviations, of a backend with :attr:`Localizer.whitening`.
    :ivar covariance: the method's own idea, 6x6 in map axes; stated where the map has no calibration.
    :ivar state: what the method itself insists on (LOST because it did not converge); None leaves it to the
        calibration.
    :ivar diagnostics: numbers for reports, by name; statistics and whitening are added under their own names.
    :ivar candidates: how the pose came about, where it was asked for.
    :ivar matches: map points seen in the image, where the method has them.
    :ivar awaits_track: it comes from an estimate that does (:class:`~vloc_ros.types.Estimate`).
    """

    scene: str
    T_map_cam: Array
    score: float
    statistics: Array | None = None
    whitening: Array | None = None
    covariance: Array | None = None
    state: LocalizationState | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    candidates: tuple[CandidateStep, ...] = ()
    matches: Matches | None = None
    awaits_track: bool = False


@dataclass(frozen=True)
class NoSettings:
    """Of a backend without settings."""


class Localizer(ABC):
    """Finds the camera of one image in one map.

    A backend sets the class variables, loads its tensors in :meth:`load`, and proposes a pose in :meth:`find`.
    Settings, checks, calibration, the estimate and the end are here.

    A localizer holds no memory of earlier frames: what the sequence knows comes in as ``Query.prior``, so the
    same query always gives the same estimate (randomness is seeded by map and stamp). Threads may share one: they
    take turns.
    """

    #: The name in manifests, parameters and reports.
    backend: ClassVar[str]
    #: The dataclass of what may change at run time; with confidence limits where the backend is calibrated.
    settings_class: type[Any] = NoSettings
    #: The part of the manifest's ``settings`` that holds it; empty takes the whole.
    settings_section: ClassVar[str] = ""
    #: The diagnostics that the covariance is made from; empty for a backend that is not calibrated on frames.
    statistics: tuple[str, ...] = ()
    #: Whether a frame localized from a prior leaves other statistics, which want a calibration of their own.
    prior_changes_statistics: ClassVar[bool] = False
    #: Six diagnostics with a frame's own standard deviations in the camera's axes (position, m, then rotation, rad),
    #: which the calibration corrects; empty for a backend that has no idea of its own.
    whitening: ClassVar[tuple[str, ...]] = ()
    #: 6x6, the part of the covariance without calibration that stands for errors of the map's poses and of the camera:
    #: other methods in maps of the same drive make the same ones.
    shared_floor: ClassVar[Array | None] = None
    #: Whether one image is enough to bear a pose out, since :meth:`is_supported` compares what it shows with the map's
    #: points. A sure estimate of another backend is DEGRADED, and LOCALIZED as soon as a track agrees
    #: (``Estimate.awaits_track``).
    sees_points: ClassVar[bool] = False
    #: Whether estimates carry candidates when they are asked for.
    offers_candidates: bool = False
    #: Whether images of every calibrated lens are taken as they are. Others look at an image as a whole: one of another
    #: camera than the map's is warped into the view of the map's (:mod:`vloc_ros.localizers.view`).
    takes_any_lens: ClassVar[bool] = False
    _views: MapViews | None = None
    #: Whether :meth:`find` looks at all cameras of a rig together (``Query.others``); elsewhere each image is localized
    #: by itself and the poses are made one (:func:`vloc_ros.localizers.rig.fused`).
    takes_rigs: ClassVar[bool] = False
    #: Candidates nearer to a better one than this (m, deg) are the same hypothesis.
    hypothesis_radius: ClassVar[tuple[float, float]] = (2.0, 30.0)

    def __init__(self, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None) -> None:
        self._manifest, self._map_id, self._device = bundle.manifest, bundle.id, device
        #: Where the map lies that this was loaded from.
        self.map_path = bundle.path
        self._settings = self.merged_settings(bundle, settings or {})
        self._lock, self._closed = threading.RLock(), False
        self._kept = frozenset((*self.__dict__, "_kept"))
        self.load(bundle)
        self._calibration = {s.name: self.read_calibration(bundle, s.name) for s in bundle.manifest.scenes}

    @classmethod
    def from_map(cls: type[L], bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None) -> L:
        """Load the map's tensors onto ``device``.

        :param settings: what the user wants otherwise than the manifest's ``settings`` say; unknown names are
            a :class:`~vloc_ros.errors.ConfigError`.
        :raises MapError: a file is missing, altered, or does not hold what the backend needs.
        """
        return cls(bundle, device, settings)

    # What a backend brings

    def load(self, bundle: MapBundle) -> None:  # noqa: B027 - a backend may need nothing
        """Put what the map holds on :attr:`device`; settings and manifest are there already.

        Whatever is assigned to ``self`` here is forgotten by :meth:`close`.

        :raises MapError: a file is missing, altered, or does not hold what the backend needs.
        """

    @abstractmethod
    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        """Propose a pose for a query whose image and camera have been checked; gradients are off.

        :param clock: a lap for each stage.
        :param keep_candidates: return :attr:`Hypothesis.candidates` too.
        """

    def assess(self, query: Query, found: Hypothesis) -> Confidence:
        """How far a hypothesis is believed; a backend with evidence of its own overrides it.

        However sure the fit is, what is not supported (:meth:`is_supported`) is DEGRADED at best.
        """
        if found.state is not None or found.statistics is None:
            covariance = UNCALIBRATED.copy() if found.covariance is None else found.covariance
            return Confidence(covariance, found.state or LocalizationState.DEGRADED)
        confidence = self._calibration[found.scene].confidence(
            found.statistics, found.T_map_cam, found.score, self._settings,
            with_prior=self.prior_changes_statistics and query.prior is not None, whitening=found.whitening,
            uncalibrated=found.covariance,
        )  # fmt: skip
        if confidence.state is LocalizationState.LOCALIZED and not self.is_supported(found.diagnostics):
            return replace(confidence, state=LocalizationState.DEGRADED)
        return confidence

    @classmethod
    def merged_settings(cls, bundle: MapBundle, changes: Mapping[str, Any]) -> Any:
        """The map's settings with the caller's changes, as :attr:`settings_class`.

        :raises ConfigError: an unknown name, or a value out of range.
        """
        where, stored = f"{bundle.path}: settings", dict(bundle.manifest.settings)
        if cls.settings_section:
            stored = section(stored, cls.settings_section, where)
        asked = f"{cls.backend} settings"
        # A name of before in one of the two must meet today's name in the other.
        now = {**current_names(cls.settings_class, stored, where), **current_names(cls.settings_class, changes, asked)}
        return settings_from_mapping(cls.settings_class, now, asked)

    def is_familiar(self, estimate: Estimate) -> bool:
        """Whether the image of one of its estimates looks like the map, by what images of the place score.

        Of a map that could be calibrated and is not nobody knows what they score: no image is familiar to it.
        """
        calibration = self._calibration.get(estimate.scene)
        if calibration is None or (self.statistics and not calibration.calibrated):
            return not self.statistics
        return estimate.score >= calibration.min_score

    def is_supported(self, diagnostics: Mapping[str, float]) -> bool:
        """Whether the image itself bears an estimate out: what it shows stands where the pose has it.

        A backend that cannot tell says yes.

        :param diagnostics: of one of its estimates.
        """
        return True

    def read_calibration(self, bundle: MapBundle, scene: str) -> SceneCalibration:
        """The calibration of a scene. :raises ConfigError: it was made from other statistics."""
        return SceneCalibration.read(bundle, scene, self.statistics) if self.statistics else SceneCalibration()

    def release(self) -> None:  # noqa: B027 - a hook
        """Give back what garbage collection does not: threads, files, other localizers."""

    # What callers use

    def localize(self, query: Query, keep_candidates: bool = False) -> Estimate:
        """Estimate the camera's pose. ``state`` of the result is the judgement of this frame alone:

        LOCALIZED for a confident estimate that the map's points bear out, DEGRADED for a weak one, or a confident one
        of a map without points (``awaits_track``), LOST when the score is improbable.

        :param query: an image, rectified unless :attr:`takes_distorted`, whose camera passes :meth:`check_camera`.
        :param keep_candidates: the estimate is wanted with its candidates, where :attr:`offers_candidates`.
        :raises CameraMismatchError: the camera is too different from the map's.
        :raises ImageError: the image does not fit its camera.
        :raises GeometryError: the map's numbers give no pose for this image.
        :raises DeviceError: the device is full, or does not answer any more.
        :raises LocalizerClosedError: after :meth:`close`.
        """
        check_query(query)
        if query.others and not self.takes_rigs:
            alone = each_alone(query)
            return fused([self.localize(q, keep_candidates) for q, _ in alone], [T for _, T in alone])
        with self._lock, torch.inference_mode():
            self._check_open()
            for camera in (query.camera, *(view.camera for view in query.others)):
                self.check_camera(camera)
            clock, warp = Clock(), self.view(query.camera)
            if warp is not None:
                query = replace(query, image_rgb=warp.warp(query.image_rgb), camera=warp.target)
                clock.lap("view")
            try:
                with device_errors(self._device):
                    found = self.find(query, clock, keep_candidates)
                confidence = self.assess(query, found)
                # The one place where what any backend made of any map is handed out.
                T_map_cam = check_transform(found.T_map_cam, "its transform")
                covariance = check_covariance(confidence.covariance, "its covariance", definite=True)
            except (np.linalg.LinAlgError, torch.linalg.LinAlgError, GeometryError) as problem:  # type: ignore[attr-defined]
                raise GeometryError(self._no_pose(str(problem))) from problem
        if not 0.0 <= found.score <= 1.0:
            raise GeometryError(self._no_pose(f"its score: expected 0 to 1, found {found.score}"))
        diagnostics = dict(found.diagnostics)
        for names, values in ((self.statistics, found.statistics), (self.whitening, found.whitening)):
            if values is not None:
                diagnostics.update(zip(names, values.tolist(), strict=True))
        if warp is not None:
            diagnostics |= {"view_covered": warp.covered, "view_enlarged": warp.enlarged}
            scene = self._calibration[found.scene]
            confidence = less_sure(confidence, warp, scene.relative(found.score), self._settings)
        if confidence.position_sigma_m is not None:
            diagnostics["position_sigma_m"] = confidence.position_sigma_m
        state, awaits_track = confidence.state, found.awaits_track
        if state is LocalizationState.LOCALIZED and not self.sees_points:
            state, awaits_track = LocalizationState.DEGRADED, True
        clock.lap("assess")
        return Estimate(
            query.stamp_ns, T_map_cam, covariance, found.score, state, self.backend,
            self._map_id, found.scene, found.candidates, clock.laps, diagnostics,
            found.matches, awaits_track,
        )  # fmt: skip

    def _no_pose(self, why: str) -> str:
        told = why.splitlines()[0] if why else "no reason"
        return f"map {self._map_id}: expected a pose, found none ({told}); is the map damaged?"

    def hypotheses(self, query: Query, count: int) -> list[Estimate]:
        """At most ``count`` places where the camera may be, the estimate of :meth:`localize` first.

        The others are the best-scored candidates of the last stage that are not within :attr:`hypothesis_radius` of
        a better one; they are DEGRADED at best and as unsure as the first one.
        """
        return self.distinct(self.localize(query, keep_candidates=count > 1), count, slice(-1, None))

    def distinct(self, first: Estimate, count: int, steps: slice) -> list[Estimate]:
        """An estimate and the candidates of some of its steps that are elsewhere; see :meth:`hypotheses`."""
        out, offered = [replace(first, candidates=())], first.candidates[steps]
        if not offered:
            return out
        state = first.state if first.state is not LocalizationState.LOCALIZED else LocalizationState.DEGRADED
        T_map_cam, scores = (np.concatenate([getattr(s, n) for s in offered]) for n in ("T_map_cam", "scores"))
        order = np.argsort(-scores, kind="stable")
        T_map_cam, scores = T_map_cam[order], scores[order]
        elsewhere = ~_same_place(T_map_cam, first.T_map_cam, *self.hypothesis_radius)
        while len(out) < count and elsewhere.any():
            T, score = T_map_cam[elsewhere][0], float(scores[elsewhere][0])
            turn = np.kron(np.eye(2), T[:3, :3] @ first.T_map_cam[:3, :3].T)
            covariance = turn @ first.covariance @ turn.T
            other = out[0].with_state(state)
            out.append(replace(other, T_map_cam=T, score=score, covariance=covariance, matches=None))
            elsewhere &= ~_same_place(T_map_cam, T, *self.hypothesis_radius)
        return out

    def check_camera(self, camera: CameraModel) -> None:
        """Accept a camera that sees enough of what the map's camera sees (:class:`.view.ViewSettings`).

        Another resolution of the same lens sees the same: images are rescaled with their intrinsics.

        :raises CameraMismatchError: it sees too little of it, or with too few pixels.
        """
        self.view(camera)

    def view(self, camera: CameraModel) -> ViewWarp | None:
        """How images of a camera become views of the map's camera; None where they are taken as they are.

        Made once for a camera. :raises CameraMismatchError: as :meth:`check_camera`.
        """
        if self.takes_any_lens or not self._manifest.preprocessing:
            return None
        if self._views is None:
            # A backend that does not say which other cameras it takes has the defaults.
            settings = getattr(self, "_settings", None)
            limits = settings if isinstance(settings, ViewSettings) else ViewSettings()
            preprocess = Preprocess.from_settings(self._manifest.preprocessing)
            self._views = MapViews(self._manifest.camera, preprocess, limits)
        return self._views.of(camera)

    @property
    def simulated_prior(self) -> SimulatedPrior:
        """The priors that a calibration simulates for this localizer."""
        return SimulatedPrior()

    @property
    def takes_distorted(self) -> bool:
        """Whether it takes images as the lens made them; others get them rectified."""
        return False

    @property
    def needs_prior(self) -> bool:
        """Whether it finds nothing in an image without a prior."""
        return False

    def reference_poses(self, scene: str | None = None) -> Array | None:
        """``T_map_cam`` (M, 4, 4) of a scene's references (default: the first), where the map has them.

        The diagnostic ``nearest_reference`` is a row of it.
        """
        return None

    def map_points(self, scene: str | None = None) -> Array | None:
        """(N, 3) m, map frame: the points of a scene (default: the first), where the map has any."""
        return None

    def scene_index(self, name: str | None) -> int:
        """Which of the manifest's scenes this is; None is the first.

        :raises ConfigError: the map has no scene of this name.
        """
        names = [scene.name for scene in self._manifest.scenes]
        if name is None:
            return 0
        if name not in names:
            raise ConfigError(f"scene: expected one of {', '.join(names)}, found {name!r}")
        return names.index(name)

    def scenes_of(self, query: Query) -> list[int]:
        """The scenes to search: the one that the query names, else all.

        :raises ConfigError: the map has no scene of this name.
        """
        return list(range(len(self._manifest.scenes))) if query.scene is None else [self.scene_index(query.scene)]

    def seed(self, stamp_ns: int) -> int:
        """The seed of a frame's random numbers: 63 bits of a hash of map and stamp."""
        digest = hashlib.sha256(f"{self._map_id}:{stamp_ns}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1

    def warm_up(self) -> None:
        """Run on a grey image so that the first real frame does not pay for compilation and allocation.

        Without a prior, and with the one of :attr:`warm_up_prior`; twice, since a GPU records at the second time.
        """
        camera, scene = self._manifest.camera, self._manifest.scenes[0].name
        plain = undistorted_camera(camera) if camera.is_distorted else camera
        image = np.full((plain.height, plain.width, 3), 127, dtype=np.uint8)
        near = self.warm_up_prior
        for prior in (None,) if near is None else (None, near):
            for _ in range(1 if self._device.type == "cpu" else 2):
                self.localize(Query(image, plain, stamp_ns=1, scene=scene, prior=prior))

    @property
    def warm_up_prior(self) -> PosePrior | None:
        """Where a camera in the first scene may be, for a backend that does something else with a prior."""
        return None

    def close(self) -> None:
        """Free what the localizer holds (GPU memory); it cannot be used afterwards. Calling twice is harmless."""
        with self._lock:
            if self._closed:
                return
            self.release()
            self._closed = True
            for name in set(self.__dict__) - self._kept:
                del self.__dict__[name]
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _check_open(self) -> None:
        if self._closed:
            raise LocalizerClosedError(f"{self.backend}: expected an open localizer, found a closed one; load it again")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Only names that are not there get here; after close() these are the map's tensors.
            if self.__dict__.get("_closed"):
                self._check_open()
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __enter__(self: L) -> L:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def manifest(self) -> MapManifest:
        """The manifest of the map."""
        return self._manifest

    @property
    def map_id(self) -> str:
        """The map's id (:attr:`vloc_ros.maps.MapBundle.id`)."""
        return self._map_id

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def settings(self) -> Any:
        """The settings in force, of :attr:`settings_class`."""
        return self._settings


def _same_place(T_map_cam: Array, place: Array, radius_m: float, radius_deg: float) -> npt.NDArray[np.bool_]:
    """Which of (N, 4, 4) poses are within both radii of one."""
    same = np.linalg.norm(T_map_cam[:, :3, 3] - place[:3, 3], axis=1) <= radius_m
    turned = rotation_angle(T_map_cam[same, :3, :3], np.broadcast_to(place[:3, :3], (int(same.sum()), 3, 3)))
    same[same] = turned <= np.radians(radius_deg)
    return np.asarray(same)


def stored_settings(bundle: MapBundle, name: str, cls: type[S]) -> S:
    """The part ``name`` of a map's settings as ``cls``. :raises ConfigError: an unknown name, or out of range."""
    where = f"{bundle.path}: settings"
    stored = section(bundle.manifest.settings, name, where)
    return settings_from_mapping(cls, stored, f"{where}.{name}")


def check_query(query: Query) -> None:
    """Refuse an image that is not (H, W, 3) uint8 of its camera's size; every backend calls this first.

    :raises ImageError: with what was found.
    """
    _check_image(query.image_rgb, query.camera)
    for view in query.others:
        _check_image(view.image_rgb, view.camera)


def _check_image(image: Any, camera: CameraModel) -> None:
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"query: expected an RGB image (height, width, 3) of uint8, found {found}")
    if image.shape[:2] != (camera.height, camera.width):
        raise ImageError(
            f"query: expected an image of the camera's {camera.width}x{camera.height}, "
            f"found {image.shape[1]}x{image.shape[0]}; rescale the intrinsics with the image"
        )


def load_localizer(
    map_dir: str | os.PathLike[str],
    device: str = "auto",
    backend: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Localizer:
    """Open a map and load the backend that made it.

    :param map_dir: a map directory or ``.vmap`` file.
    :param device: see :func:`select_device`.
    :param backend: refuse maps of any other backend; None takes whatever the map is for.
    :param settings: the backend's settings to change, by name.
    :raises MapBackendError: the map is for another backend than asked for.
    :raises MapError: see :func:`vloc_ros.maps.read_map` and :meth:`Localizer.from_map`.
    :raises ConfigError: unknown backend, device, or setting.
    :raises DeviceError: the device has too little memory; ``auto`` takes the CPU then, and says so.
    """
    if backend is not None and backend not in available_backends():
        backend_class(backend)  # raises, and lists the known ones
    bundle = read_map(map_dir)
    made_for = bundle.manifest.backend
    if backend is not None and backend != made_for:
        raise MapBackendError(
            f"{bundle.path}: expected a map of backend {backend!r}, found one of {made_for!r}; "
            "name that backend, or leave the choice to the map"
        )
    if made_for not in available_backends():
        raise MapBackendError(
            f"{bundle.path}: is a map of backend {made_for!r}, which is not installed here; "
            f"known: {', '.join(available_backends())}"
        )
    where = select_device(device)
    try:
        with device_errors(where):
            return backend_class(made_for).from_map(bundle, where, settings)
    except DeviceError as problem:
        if device != "auto" or where.type == "cpu":
            raise
        _log.warning("device auto: computing on the CPU: %s", problem)
    return backend_class(made_for).from_map(bundle, torch.device("cpu"), settings)
