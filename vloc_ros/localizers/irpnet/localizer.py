"""IRPNet as a backend: a map bundle and an image in, an :class:`~vloc_ros.types.Estimate` out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.vectors import from_vectors
from vloc_ros.localizers.base import Localizer, check_query
from vloc_ros.localizers.calibration import CovarianceModel, SceneCalibration, Verdict, section
from vloc_ros.localizers.device import Clock
from vloc_ros.localizers.irpnet.network import TASKS, Regressor, Task, rotation_quaternion
from vloc_ros.localizers.irpnet.references import REFERENCES_FILE, References
from vloc_ros.localizers.irpnet.settings import InferenceSettings, NetworkSettings
from vloc_ros.localizers.irpnet.statistics import (
    DROPOUT_STATISTICS,
    RESIDUAL_STATISTICS,
    deviations,
    regression_statistics,
)
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_ros.localizers.weights import load_module
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_from_mapping, settings_to_mapping
from vloc_ros.types import Array, Estimate, LocalizationState, Query

__all__ = [
    "OTHER_COVARIANCE",
    "WEIGHTS_FILE",
    "DropoutIRPNetLocalizer",
    "IRPNetLocalizer",
    "SceneRegressors",
    "passes_of",
    "read_calibration",
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

    def regress(self, descriptors: Tensor, samples: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Poses ``(1 + K, B, 7)`` and the lengths of their rotations before they were normalised ``(1 + K, B)``.

        :param samples: K regressions under dropout, which follow the one without; the same for the same seed.
        """
        position: Tensor | None = None
        rotation: Tensor | None = None
        generator = torch.Generator().manual_seed(seed)
        for regressor in self._regressors.values():
            found = regressor(descriptors, regressor.keep_masks(samples, generator))
            position = found.position if found.position is not None else position
            rotation = found.rotation if found.rotation is not None else rotation
        assert position is not None and rotation is not None
        length = torch.linalg.vector_norm(rotation[..., : 4 if rotation.shape[-1] == 4 else 3], dim=-1)
        return torch.cat((position, rotation_quaternion(rotation)), dim=-1), length


@dataclass(frozen=True)
class _SceneData:
    regressors: SceneRegressors
    references: References
    calibration: SceneCalibration


class IRPNetLocalizer(Localizer):
    """Pose regression from a place-recognition descriptor (Shavit and Ferens, ICPR 2020).

    A map of several scenes asks the scene that the query names; without a name that of the nearest stored image. A
    prior is not used.
    """

    backend: ClassVar[str] = "irpnet"
    statistics: ClassVar[tuple[str, ...]] = RESIDUAL_STATISTICS

    def __init__(self, bundle: MapBundle, device: torch.device, settings: InferenceSettings) -> None:
        super().__init__(bundle, device)
        manifest, where = bundle.manifest, str(bundle.path)
        self._inference = settings
        stored = section(manifest.settings, "network", f"{where}: settings")
        network = settings_from_mapping(NetworkSettings, stored, f"{where}: settings.network")
        self._descriptor: Descriptor | None = Descriptor.from_bundle(bundle, device)
        dimension = self._descriptor.dimension
        weights, references = bundle.tensors(WEIGHTS_FILE), bundle.tensors(REFERENCES_FILE)
        self._scenes = [
            _SceneData(
                SceneRegressors.load(network, dimension, s.name, weights, f"{where}/{WEIGHTS_FILE}").to(device),
                References.read(bundle, references, s.name, dimension, device),
                read_calibration(bundle, s.name, self.statistics),
            )
            for s in manifest.scenes
        ]

    @classmethod
    def from_map(
        cls, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None
    ) -> IRPNetLocalizer:
        stored = section(bundle.manifest.settings, "inference", f"{bundle.path}: settings")
        wanted = settings_from_mapping(InferenceSettings, {**stored, **(settings or {})}, "irpnet settings")
        kind = DropoutIRPNetLocalizer if wanted.covariance == "dropout" else IRPNetLocalizer
        return kind(bundle, device, wanted)

    @property
    def settings(self) -> InferenceSettings:
        """The settings in force."""
        return self._inference

    @property
    def descriptor(self) -> Descriptor:
        """The map's extractor."""
        assert self._descriptor is not None, "the localizer is closed"
        return self._descriptor

    def reference_poses(self, scene: str | None = None) -> Array:
        """``T_map_cam`` (M, 4, 4) of a scene's stored images (default: the first scene)."""
        return from_vectors(self._scenes[self.scene_index(scene)].references.poses)

    def close(self) -> None:
        self._scenes = []
        self._descriptor = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _seed(self, stamp_ns: int) -> int:
        digest = hashlib.sha256(f"{self.map_id}:{stamp_ns}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1

    def localize(self, query: Query) -> Estimate:
        """See :meth:`Localizer.localize`."""
        check_query(query)
        self.check_camera(query.camera)
        clock = Clock(self._device)
        descriptor = self.descriptor.describe(query.image_rgb)
        clock.lap("describe")
        with torch.inference_mode():
            count = self._inference.neighbours
            named = [self.scene_index(query.scene)] if query.scene is not None else range(len(self._scenes))
            found = [(*self._scenes[i].references.nearest(descriptor, count), i) for i in named]
            distances, rows, index = min(found, key=lambda f: float(f[0][0])) if len(found) > 1 else found[0]
            scene = self._scenes[index]
            clock.lap("compare")
            seed = self._seed(query.stamp_ns)
            poses, norms = scene.regressors.regress(descriptor[None], self._inference.samples, seed)
            parts = (poses, norms[0], distances, rows)
            host = torch.cat([p.double().flatten() for p in parts]).cpu().numpy()  # the only transfer of the frame
        clock.lap("regress")
        return self._estimate(query, scene, host, clock.laps)

    def _estimate(self, query: Query, scene: _SceneData, host: Array, laps: dict[str, float]) -> Estimate:
        samples = self._inference.samples
        regressed, rest = host[: 7 * (samples + 1)].reshape(-1, 7), host[7 * (samples + 1) :]
        pose, sampled, norm = regressed[0], regressed[1:], float(rest[0])
        distances, rows = rest[1:].reshape(2, -1)
        distance, typical = float(distances[0]), scene.references.typical
        near = scene.references.poses[torch.from_numpy(rows).long()].double().numpy()
        numbers = regression_statistics(pose, sampled, norm, distance, typical, near)
        diagnostics = dict(zip(RESIDUAL_STATISTICS, numbers.tolist(), strict=True))
        diagnostics["nearest_reference"] = float(rows[0])
        T_map_cam, score = from_vectors(pose), typical / (typical + distance)
        numbers = numbers[: len(self.statistics)]
        model = scene.calibration.covariance
        above = None if model is None else deviations(model, numbers)
        if above is not None:
            diagnostics["strangeness"] = float(np.sqrt(np.square(above).mean()))
        verdict = self._judge(scene.calibration, numbers, above, T_map_cam, score)
        if verdict.position_sigma_m is not None:
            diagnostics["position_sigma_m"] = verdict.position_sigma_m
        return Estimate(
            query.stamp_ns, T_map_cam, verdict.covariance, score, verdict.state, self.backend, self.map_id,
            scene.references.scene, (), laps, diagnostics,
        )  # fmt: skip

    def _judge(
        self, calibration: SceneCalibration, numbers: Array, above: Array | None, T_map_cam: Array, score: float
    ) -> Verdict:
        """The verdict of the calibration, made no better by what speaks against the frame."""
        s = self._inference
        verdict = calibration.judge(numbers, T_map_cam, score, s.localized_sigma_m, s.lost_sigma_m)
        if above is None or verdict.position_sigma_m is None:
            return verdict
        covariance, strangeness = verdict.covariance.copy(), float(np.sqrt(np.square(above).mean()))
        # Two witnesses that contradict each other: the truth may be with either.
        for part, name in ((slice(0, 3), "reference_gap"), (slice(3, 6), "reference_turn")):
            index = self.statistics.index(name)
            if above[index] > s.disagreement:
                covariance[part, part] += np.eye(3) * np.exp(2.0 * numbers[index])
        sigma = float(np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1]))
        state = verdict.state
        if sigma > s.lost_sigma_m or strangeness > s.lost_strangeness:
            state = LocalizationState.LOST
        elif (sigma > s.localized_sigma_m or strangeness > s.degraded_strangeness) and state != LocalizationState.LOST:
            state = LocalizationState.DEGRADED
        return Verdict(covariance, state, sigma)


class DropoutIRPNetLocalizer(IRPNetLocalizer):
    """The same with the covariance of ``covariance: dropout``."""

    statistics: ClassVar[tuple[str, ...]] = DROPOUT_STATISTICS


def read_calibration(bundle: MapBundle, scene: str, names: tuple[str, ...]) -> SceneCalibration:
    """The calibration of a scene for these statistics.

    :raises ConfigError: the map is calibrated, but for the other value of the setting ``covariance`` alone.
    """
    stored = section(bundle.manifest.calibration, scene, f"{bundle.path}: calibration")
    other = stored.get(OTHER_COVARIANCE)
    if isinstance(other, Mapping) and other.get("names") == list(names):
        where = f"{bundle.path}: calibration.{scene}.{OTHER_COVARIANCE}"
        primary = DROPOUT_STATISTICS if names == RESIDUAL_STATISTICS else RESIDUAL_STATISTICS
        model = CovarianceModel.from_mapping(other, where)
        return replace(SceneCalibration.read(bundle, scene, primary), covariance=model, covariance_prior=model)
    return SceneCalibration.read(bundle, scene, names)


def settings_mapping(descriptor: Descriptor, network: NetworkSettings, inference: InferenceSettings) -> dict[str, Any]:
    """What an IRPNet map stores under ``settings``."""
    return {
        "extractor": descriptor.settings_mapping(),
        "network": settings_to_mapping(network),
        "inference": settings_to_mapping(inference),
    }
