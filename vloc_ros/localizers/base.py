"""The interface that every backend implements, and how a map becomes a running localizer.

A third-party backend subclasses :class:`Localizer` and declares itself in its own ``pyproject.toml``::

    [project.entry-points."vloc_ros.localizers"]
    my_method = "my_package.localizer:MyLocalizer"

Maps whose manifest says ``backend: my_method`` then load with :func:`load_localizer`, replay and the live node.
"""

from __future__ import annotations

import importlib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import torch

from vloc_ros.errors import ConfigError, ImageError, MapBackendError
from vloc_ros.localizers.device import select_device
from vloc_ros.maps import MapBundle, MapManifest, read_map
from vloc_ros.types import CameraModel, Estimate, Query

__all__ = [
    "BUILT_IN",
    "ENTRY_POINT_GROUP",
    "Localizer",
    "SimulatedPrior",
    "available_backends",
    "backend_class",
    "check_query",
    "load_localizer",
    "offers_candidates",
    "select_device",
]


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

#: A third-party distribution declares ``my_method = "my_package.module:MyLocalizer"`` under this group.
ENTRY_POINT_GROUP = "vloc_ros.localizers"


def available_backends() -> dict[str, str]:
    """Names and ``module:Class`` of every backend that can be asked for. Built-in names cannot be taken over."""
    found = {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINT_GROUP)}
    return {**found, **BUILT_IN}


def backend_class(name: str) -> type[Localizer]:
    """Import the class of a backend.

    :raises ConfigError: no such backend, or its class does not fit.
    """

    table = available_backends()
    if name not in table:
        raise ConfigError(
            f"expected a known backend ({', '.join(sorted(table))}), found {name!r}; a third-party backend must be "
            f"installed with an entry point in the group {ENTRY_POINT_GROUP}"
        )
    module_name, _, class_name = table[name].partition(":")
    try:
        loaded = getattr(importlib.import_module(module_name), class_name)
    except ImportError as problem:
        raise ConfigError(
            f"backend {name!r}: cannot import {table[name]}: {problem}; install what it needs"
        ) from problem
    except AttributeError as problem:
        raise ConfigError(
            f"backend {name!r}: expected a class {class_name!r} in {module_name}, found none"
        ) from problem
    if not (isinstance(loaded, type) and issubclass(loaded, Localizer)):
        raise ConfigError(f"backend {name!r}: expected {table[name]} to be a Localizer class, found {loaded!r}")
    return loaded


@dataclass(frozen=True)
class SimulatedPrior:
    """How wrong the priors are that a calibration draws.

    ``sigma_m`` are the smallest and largest standard deviation of position, drawn log-uniformly between; the height has
    a tenth of it, and the rotation ``deg_per_m`` degrees for each metre of it.
    """

    sigma_m: tuple[float, float] = (0.2, 3.0)
    deg_per_m: float = 3.0


class Localizer(ABC):
    """Finds the camera of one image in one map.

    A localizer holds no memory of earlier frames: what the sequence knows comes in as ``Query.prior``, so the
    same query always gives the same estimate (randomness is seeded by map and stamp). It is not thread-safe.
    """

    #: The name in manifests, parameters and reports.
    backend: ClassVar[str]
    #: The diagnostics that the covariance is made from; empty for a backend that is not calibrated on frames.
    statistics: ClassVar[tuple[str, ...]] = ()
    #: Whether a frame localized from a prior leaves other statistics, which want a calibration of their own.
    prior_changes_statistics: ClassVar[bool] = False
    #: Six diagnostics with a frame's own standard deviations in the camera's axes (position, m, then rotation, rad),
    #: which the calibration corrects; empty for a backend that has no idea of its own.
    whitening: ClassVar[tuple[str, ...]] = ()

    def __init__(self, bundle: MapBundle, device: torch.device) -> None:
        self._manifest = bundle.manifest
        self._map_id = bundle.id
        self._device = device

    @property
    def simulated_prior(self) -> SimulatedPrior:
        """The priors that a calibration simulates for this localizer."""
        return SimulatedPrior()

    @classmethod
    @abstractmethod
    def from_map(cls, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None) -> Localizer:
        """Load the map's tensors onto ``device``.

        :param settings: what the user wants otherwise than the manifest's ``settings`` say; unknown names are
            a :class:`~vloc_ros.errors.ConfigError`.
        :raises MapError: a file is missing, altered, or does not hold what the backend needs.
        """

    @abstractmethod
    def localize(self, query: Query) -> Estimate:
        """Estimate the camera's pose. ``state`` of the result is the verdict on this frame alone:

        LOCALIZED for a confident estimate, DEGRADED for a weak one, LOST when the score is improbable.

        :param query: a rectified image whose camera has passed :meth:`check_camera`.
        :raises CameraMismatchError: the camera is too different from the map's.
        :raises ImageError: the image does not fit its camera.
        """

    def check_camera(self, camera: CameraModel) -> None:
        """Accept a camera whose field of view and aspect agree with the map's within the map's tolerance.

        Another resolution of the same lens agrees: images are rescaled with their intrinsics.

        :raises CameraMismatchError: it sees too differently.
        """
        from vloc_ros.images.preprocess import Preprocess

        if self._manifest.preprocessing:
            Preprocess.from_settings(self._manifest.preprocessing).check(camera, self._manifest.camera)

    @property
    def takes_distorted(self) -> bool:
        """Whether it takes images as the lens made them; others get them rectified."""
        return False

    @property
    def needs_prior(self) -> bool:
        """Whether it finds nothing in an image without a prior."""
        return False

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

    def warm_up(self) -> None:
        """Run once on a grey image so that the first real frame does not pay for compilation and allocation."""
        from vloc_ros.geometry.cameras import undistorted_camera

        camera = self._manifest.camera

        plain = undistorted_camera(camera) if camera.is_distorted else camera
        image = np.full((plain.height, plain.width, 3), 127, dtype=np.uint8)
        scene = self._manifest.scenes[0].name
        self.localize(Query(image, plain, stamp_ns=1, scene=scene))

    def close(self) -> None:  # noqa: B027 - a hook: most backends hold nothing
        """Free what the localizer holds (GPU memory); it cannot be used afterwards. Calling twice is harmless."""

    def __enter__(self) -> Localizer:
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
        """The backend's settings in force, a dataclass (or a mapping)."""
        return self._manifest.settings


def offers_candidates(localizer: Localizer) -> bool:
    """Whether :meth:`Localizer.localize` takes ``keep_candidates``, which returns how the estimate came about."""
    return "keep_candidates" in inspect.signature(localizer.localize).parameters


def check_query(query: Query) -> None:
    """Refuse an image that is not (H, W, 3) uint8 of its camera's size; every backend calls this first.

    :raises ImageError: with what was found.
    """
    image, camera = query.image_rgb, query.camera
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
            f"known: {', '.join(sorted(available_backends()))}"
        )
    return backend_class(made_for).from_map(bundle, select_device(device), settings)
