"""CamNet as a backend: a database map and an image in, an :class:`~vloc_ros.types.Estimate` out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from vloc_ros.geometry.vectors import from_vectors, to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.base import Localizer, check_query
from vloc_ros.localizers.calibration import SceneCalibration, section
from vloc_ros.localizers.camnet.consensus import Consensus, consensus
from vloc_ros.localizers.camnet.inference import Refinement, refine
from vloc_ros.localizers.camnet.memory import FrameMemory, SeenFrame
from vloc_ros.localizers.camnet.network import CamNetNetwork, Features
from vloc_ros.localizers.camnet.references import References
from vloc_ros.localizers.camnet.settings import InferenceSettings, NetworkSettings
from vloc_ros.localizers.camnet.statistics import STATISTICS, refinement_statistics
from vloc_ros.localizers.device import Clock, compute_dtype
from vloc_ros.localizers.weights import load_module
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_from_mapping, settings_to_mapping
from vloc_ros.types import Array, CandidateStep, Estimate, LocalizationState, Query, RgbImage

__all__ = ["WEIGHTS_FILE", "CamNetLocalizer", "read_network", "settings_mapping"]

WEIGHTS_FILE = "weights.safetensors"


class CamNetLocalizer(Localizer):
    """Coarse-to-fine retrieval (Ding et al., ICCV 2019). See the backend's README for every setting.

    A map of several scenes searches the scene that the query names; without a name it takes the scene of the nearest
    image: all scenes share the network. A prior is not used. With ``sequence`` the localizer remembers the last frames
    (:mod:`vloc_ros.localizers.camnet.memory`); without it, as by default, a frame depends on itself alone.
    """

    backend: ClassVar[str] = "camnet"
    statistics: ClassVar[tuple[str, ...]] = STATISTICS

    def __init__(self, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(bundle, device)
        manifest, where = bundle.manifest, str(bundle.path)
        stored = section(manifest.settings, "inference", f"{where}: settings")
        self._inference = settings_from_mapping(InferenceSettings, {**stored, **(settings or {})}, "camnet settings")
        self._preprocess = Preprocess.from_settings(manifest.preprocessing)
        self._network = read_network(bundle).eval().requires_grad_(False).to(device)
        self._dtype = compute_dtype(self._inference.precision, device)
        # Regressors keep their full precision: only what reads images is rounded.
        for part in (self._network.trunk, self._network.icr, self._network.pfr, self._network.prp):
            part.to(self._dtype)
        self._network.trunk.to(memory_format=torch.channels_last)
        dimension = self._network.dimension
        self._scenes = [References.read(bundle, s.name, dimension, device) for s in manifest.scenes]
        # The covariance was fitted to the errors of one stage: of another's it says nothing.
        made_for = settings_from_mapping(InferenceSettings, stored, f"{where}: settings.inference")
        fits = made_for.stages == self._inference.stages
        fits &= made_for.retrieval_features == self._inference.retrieval_features
        calibrations = [SceneCalibration.read(bundle, s.name, STATISTICS) for s in manifest.scenes]
        self._calibration = [c if fits else SceneCalibration() for c in calibrations]
        self._memory = FrameMemory(self._inference.sequence, self._inference.sequence_gap_s)

    @classmethod
    def from_map(
        cls, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None
    ) -> CamNetLocalizer:
        return cls(bundle, device, settings)

    @property
    def settings(self) -> InferenceSettings:
        """The settings in force."""
        return self._inference

    def reference_poses(self, scene: str | None = None) -> Array:
        """``T_map_cam`` (M, 4, 4) of a scene's database rows (default: the first scene)."""
        return from_vectors(self._scenes[self.scene_index(scene)].poses)

    def close(self) -> None:
        self._scenes = []
        self._memory.clear()
        self.__dict__.pop("_network", None)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def features(self, image_rgb: RgbImage) -> Features:
        """The features ``(1, F)`` float32 of an RGB image."""
        tensor = self._preprocess.apply(image_rgb)[None].to(self._device, self._dtype)
        with torch.inference_mode():
            encoded = self._network.encode(tensor.to(memory_format=torch.channels_last))
        return Features(*(f.float() for f in encoded))

    def localize(self, query: Query, keep_candidates: bool = False) -> Estimate:
        """See :meth:`Localizer.localize`. ``keep_candidates`` also returns the poses of every stage."""
        check_query(query)
        self.check_camera(query.camera)
        clock = Clock(self._device)
        features = self.features(query.image_rgb)
        clock.lap("encode")
        named = [self.scene_index(query.scene)] if query.scene is not None else range(len(self._scenes))
        found = []
        for index in named:
            references = self._scenes[index]
            earlier = self._memory.before(query.stamp_ns, references.scene) if len(named) == 1 else []
            found.append((index, refine(self._network, references, features, self._inference, earlier)))
        if len(found) > 1:
            index, result = min(found, key=lambda item: float(item[1].distances[0]))
            earlier = self._memory.before(query.stamp_ns, self._scenes[index].scene)
            if earlier:
                result = refine(self._network, self._scenes[index], features, self._inference, earlier)
        else:
            index, result = found[0]
        estimate = self._estimate(query, index, result, clock, keep_candidates)
        # A lost frame must not vouch for the next one: two that agree on a wrong place would outvote the images.
        if self._inference.sequence and estimate.state is not LocalizationState.LOST:
            pose = torch.from_numpy(to_vectors(estimate.T_map_cam)).to(features.prp)
            self._memory.remember(SeenFrame(query.stamp_ns, estimate.scene, features.prp[0], pose))
        return estimate

    def _estimate(self, query: Query, index: int, result: Refinement, clock: Clock, keep: bool) -> Estimate:
        count, total = len(result.coarse), len(result.precise)
        poses = torch.cat((result.retrieved, result.coarse, result.nearest, result.precise))
        scalars = torch.cat((result.distances.double(), result.similarities.double(), result.rows.double()))
        host = torch.cat((poses.double().flatten(), scalars)).cpu().numpy()  # the only transfer of the frame
        clock.lap("refine")
        T = from_vectors(host[: 7 * len(poses)].reshape(-1, 7))
        retrieved, coarse, nearest, precise = np.split(T, [count, 2 * count, 3 * count])
        distances, similarities, rows = host[7 * len(poses) :].reshape(3, count)
        agreed = consensus(precise, self._inference.inlier_m, self._inference.inlier_deg)
        share = float(agreed.inliers.mean())
        choices = {"retrieval": retrieved[0], "pfr": coarse[0], "prp": precise[0], "full": agreed.T_map_cam}
        T_map_cam = choices[self._inference.stages]
        score = float(np.clip(similarities[0], 0.0, 1.0))
        numbers = refinement_statistics(T_map_cam, distances, retrieved, coarse, precise, nearest, share)
        diagnostics = dict(zip(STATISTICS, numbers.tolist(), strict=True))
        diagnostics["nearest_reference"] = float(round(rows[0]))
        diagnostics["estimates"] = float(total)
        verdict = self._calibration[index].judge(
            numbers, T_map_cam, score, self._inference.localized_sigma_m, self._inference.lost_sigma_m
        )
        if verdict.position_sigma_m is not None:
            diagnostics["position_sigma_m"] = verdict.position_sigma_m
        candidates = _candidates(retrieved, coarse, precise, similarities, agreed) if keep else ()
        clock.lap("average")
        return Estimate(
            query.stamp_ns, T_map_cam, verdict.covariance, score, verdict.state, self.backend, self.map_id,
            self._scenes[index].scene, candidates, clock.laps, diagnostics,
        )  # fmt: skip


def _candidates(
    retrieved: Array, coarse: Array, precise: Array, similarities: Array, agreed: Consensus
) -> tuple[CandidateStep, ...]:
    """References, coarse and precise poses; of the last the inliers are selected, of the others what leads on."""
    scores = np.clip(similarities, 0.0, 1.0)
    everything = np.arange(len(scores), dtype=np.int64)
    # Estimates by earlier frames have no reference image; they count as much as the best one.
    precise_scores = np.concatenate((scores, np.full(len(precise) - len(scores), scores[0])))
    return (
        CandidateStep(retrieved, scores, everything),
        CandidateStep(coarse, scores, everything),
        CandidateStep(precise, precise_scores, np.flatnonzero(agreed.inliers).astype(np.int64)),
    )


def read_network(bundle: MapBundle) -> CamNetNetwork:
    """The network of a CamNet map.

    :raises MapError: the file is missing or does not fit the settings. :raises ConfigError: no such backbone.
    """
    where = str(bundle.path)
    stored = section(bundle.manifest.settings, "network", f"{where}: settings")
    settings = settings_from_mapping(NetworkSettings, stored, f"{where}: settings.network")
    return load_module(lambda: CamNetNetwork(settings), bundle.tensors(WEIGHTS_FILE), f"{where}/{WEIGHTS_FILE}")


def settings_mapping(network: NetworkSettings, inference: InferenceSettings) -> dict[str, Any]:
    """What a CamNet map stores under ``settings``, the database's own entry apart."""
    return {"network": settings_to_mapping(network), "inference": settings_to_mapping(inference)}
