"""IRPNet as a backend: a map bundle and an image in, an :class:`~vloc_ros.types.Estimate` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.se3 import largest_sigma
from vloc_ros.geometry.vectors import from_vectors
from vloc_ros.localizers.base import Hypothesis, Localizer, stored_settings
from vloc_ros.localizers.calibration import Confidence, CovarianceModel, SceneCalibration, section
from vloc_ros.localizers.device import Clock
from vloc_ros.localizers.irpnet.network import TASKS, Regressor, Task, rotation_quaternion
from vloc_ros.localizers.irpnet.references import REFERENCES_FILE, References
from vloc_ros.localizers.irpnet.settings import (
    DEGRADED_STRANGENESS,
    DISAGREEMENT,
    LOST_STRANGENESS,
    InferenceSettings,
    NetworkSettings,
)
from vloc_ros.localizers.irpnet.statistics import (
    DROPOUT_STATISTICS,
    RESIDUAL_STATISTICS,
    deviations,
    regression_statistics,
)
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_ros.localizers.weights import load_module
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_to_mapping
from vloc_ros.transfer import read_back
from vloc_ros.types import Array, LocalizationState, Query

__all__ = [
    "OTHER_COVARIANCE",
    "WEIGHTS_FILE",
    "IRPNetLocalizer",
    "SceneRegressors",
    "passes_of",
    "settings_mapping",
]

WEIGHTS_FILE = "weights.safetensors"
#: In a scene's calibration: the model for the setting ``covariance`` that the map does not use by itself.
OTHER_COVARIANCE = "covariance_other"


def passes_of(network: NetworkSettings) -> dict[str, tuple[Task, ...]]:
    """The regressors of a scene by the name of their weights, with what each is asked for."""
    return {"both": TASKS} if network.architecture == "mlp" else {task: (task,) for task in TASKS}


class SceneRegressors:
    """The trained regressors of one scene: one for each task, or one for both."""

    def __init__(self, regressors: Mapping[str, Regressor]) -> None:
        self._regressors = dict(regressors)

    @classmethod
    def load(
        cls, network: NetworkSettings, dimension: int, scene: str, tensors: Mapping[str, Tensor], where: str
    ) -> SceneRegressors:
        """:raises MapTensorError: weights and settings do not agree."""
        loaded = {}
        for name, tasks in passes_of(network).items():
            prefix = f"{scene}.{name}."
            mine = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            regressor = load_module(partial(Regressor, dimension, network, tasks), mine, f"{where}: {prefix}*")
            loaded[name] = regressor.eval().requires_grad_(False)
        return cls(loaded)

    def to(self, device: torch.device) -> SceneRegressors:
        """On ``device``."""
        for regressor in self._regressors.values():
            regressor.to(device)
        return self

    def double(self) -> SceneRegressors:
        """In float64."""
        for regressor in self._regressors.values():
            regressor.double()
        return self

    def masks(self, samples: int = 0, seed: int = 0) -> Tensor:
        """What is kept of every unit of all regressors ``(1 + K, units)``, on the host: everything in the first row.

        :param samples: K regressions under dropout; the same for the same seed.
        """
        generator = torch.Generator().manual_seed(seed)
        found = [regressor.keep_masks(samples, generator) for regressor in self._regressors.values()]
        return torch.cat([mask for masks in found for mask in masks.values()], dim=1)

    def regress(self, descriptors: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Poses ``(1 + K, B, 7)`` and the lengths of their rotations before they were normalised ``(1 + K, B)``.

        :param masks: :meth:`masks`, on the device.
        """
        position: Tensor | None = None
        rotation: Tensor | None = None
        for regressor in self._regressors.values():
            kept, masks = masks[:, : regressor.dropped], masks[:, regressor.dropped :]
            found = regressor(descriptors, regressor.split(kept))
            position = found.position if found.position is not None else position
            rotation = found.rotation if found.rotation is not None else rotation
        assert position is not None and rotation is not None
        length = torch.linalg.vector_norm(rotation[..., : 4 if rotation.shape[-1] == 4 else 3], dim=-1)
        return torch.cat((position, rotation_quaternion(rotation)), dim=-1), length


@dataclass(frozen=True)
class _SceneData:
    regressors: SceneRegressors
    references: References


class IRPNetLocalizer(Localizer):
    """Pose regression from a place-recognition descriptor (Shavit and Ferens, ICPR 2020).

    A map of several scenes asks the scene that the query names; without a name that of the nearest stored image. A
    prior is not used. The setting ``covariance`` says which statistics the covariance is made from.
    """

    backend: ClassVar[str] = "irpnet"
    settings_class = InferenceSettings
    settings_section: ClassVar[str] = "inference"
    statistics: tuple[str, ...] = RESIDUAL_STATISTICS

    def load(self, bundle: MapBundle) -> None:
        if self._settings.covariance == "dropout":
            self.statistics = DROPOUT_STATISTICS
        network, where = stored_settings(bundle, "network", NetworkSettings), f"{bundle.path}/{WEIGHTS_FILE}"
        self._descriptor, self._recorder = Descriptor.from_bundle(bundle, self._device), Recorder(self._device)
        dimension = self._descriptor.dimension
        weights, references = bundle.tensors(WEIGHTS_FILE), bundle.tensors(REFERENCES_FILE)
        self._scenes = [
            _SceneData(
                SceneRegressors.load(network, dimension, s.name, weights, where).to(self._device),
                References.read(bundle, references, s.name, dimension, self._device),
            )
            for s in bundle.manifest.scenes
        ]

    def read_calibration(self, bundle: MapBundle, scene: str) -> SceneCalibration:
        """The calibration of a scene for the statistics in use.

        :raises ConfigError: the map is calibrated, but for the other value of the setting ``covariance`` alone.
        """
        other = section(bundle.manifest.calibration, scene, f"{bundle.path}: calibration").get(OTHER_COVARIANCE)
        if not isinstance(other, Mapping) or other.get("names") != list(self.statistics):
            return SceneCalibration.read(bundle, scene, self.statistics)
        model = CovarianceModel.from_mapping(other, f"{bundle.path}: calibration.{scene}.{OTHER_COVARIANCE}")
        primary = DROPOUT_STATISTICS if self.statistics == RESIDUAL_STATISTICS else RESIDUAL_STATISTICS
        return replace(SceneCalibration.read(bundle, scene, primary), covariance=model)

    @property
    def descriptor(self) -> Descriptor:
        """The map's extractor."""
        return self._descriptor

    def reference_poses(self, scene: str | None = None) -> Array:
        return from_vectors(self._scenes[self.scene_index(scene)].references.poses)

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        descriptor = self._descriptor.describe(query.image_rgb)
        clock.lap("describe")
        samples, seed = self._settings.samples, self.seed(query.stamp_ns)
        numbers_of = [self._regress(i, descriptor, samples, seed) for i in self.scenes_of(query)]
        # The nearest stored image decides between scenes; its distance follows the poses and a length.
        parts = [part.numpy() for part in read_back(*numbers_of)]
        at = 7 * (samples + 1) + 1
        host, index = min(zip(parts, self.scenes_of(query), strict=True), key=lambda part: float(part[0][at]))
        scene = self._scenes[index]
        regressed, rest = host[: 7 * (samples + 1)].reshape(-1, 7), host[7 * (samples + 1) :]
        distance, typical, nearest = float(rest[1]), scene.references.typical, rest[1:].reshape(2, -1)[1]
        near_poses = scene.references.poses[torch.from_numpy(nearest).long()].double().numpy()
        numbers = regression_statistics(regressed[0], regressed[1:], float(rest[0]), distance, typical, near_poses)
        diagnostics = dict(zip(RESIDUAL_STATISTICS, numbers.tolist(), strict=True))
        diagnostics["nearest_reference"] = float(nearest[0])
        numbers, model = numbers[: len(self.statistics)], self._calibration[scene.references.scene].covariance
        if model is not None:
            diagnostics["strangeness"] = float(np.sqrt(np.square(deviations(model, numbers)).mean()))
        clock.lap("regress")
        score = typical / (typical + distance)
        return Hypothesis(
            scene.references.scene, from_vectors(regressed[0]), score, statistics=numbers, diagnostics=diagnostics
        )

    def _regress(self, index: int, descriptor: Tensor, samples: int, seed: int) -> Tensor:
        """Of one scene, float64 on the device: poses, the length of the first one's rotation, distances and rows of the
        nearest stored images."""
        scene, count = self._scenes[index], self._settings.neighbours

        def work(descriptor: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
            distances, rows = scene.references.nearest(descriptor, count)
            poses, lengths = scene.regressors.regress(descriptor[None], masks)
            return (torch.cat([p.double().flatten() for p in (poses, lengths[0], distances, rows)]),)

        return self._recorder.run(index, work, [descriptor, scene.regressors.masks(samples, seed)])[0]

    def assess(self, query: Query, found: Hypothesis) -> Confidence:
        """The calibration's confidence, made no better by what speaks against the frame."""
        confidence, model = super().assess(query, found), self._calibration[found.scene].covariance
        if model is None or confidence.position_sigma_m is None or found.statistics is None:
            return confidence
        covariance, above = confidence.covariance.copy(), deviations(model, found.statistics)
        # Two witnesses that contradict each other: the truth may be with either.
        for part, name in ((slice(0, 3), "reference_gap"), (slice(3, 6), "reference_turn")):
            index = self.statistics.index(name)
            if above[index] > DISAGREEMENT:
                covariance[part, part] += np.eye(3) * np.exp(2.0 * found.statistics[index])
        sigma, strangeness = largest_sigma(covariance[:3, :3]), found.diagnostics["strangeness"]
        state = confidence.state
        if sigma > self._settings.lost_sigma_m or strangeness > LOST_STRANGENESS:
            state = LocalizationState.LOST
        elif state is LocalizationState.LOCALIZED and (
            sigma > self._settings.localized_sigma_m or strangeness > DEGRADED_STRANGENESS
        ):
            state = LocalizationState.DEGRADED
        return Confidence(covariance, state, sigma)


def settings_mapping(descriptor: Descriptor, network: NetworkSettings, inference: InferenceSettings) -> dict[str, Any]:
    """What an IRPNet map stores under ``settings``."""
    return {
        "extractor": descriptor.settings_mapping(),
        "network": settings_to_mapping(network),
        "inference": settings_to_mapping(inference),
    }
