"""ImPosing as a backend: a map bundle and an image in, an :class:`~vloc_ros.types.Estimate` out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vloc_ros.errors import MapTensorError
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.geometry.vectors import from_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.base import Localizer, check_query
from vloc_ros.localizers.calibration import SceneCalibration, section
from vloc_ros.localizers.device import Clock, compute_dtype
from vloc_ros.localizers.imposing.network import ImPosingNetwork
from vloc_ros.localizers.imposing.sampling import perturb
from vloc_ros.localizers.imposing.search import SearchResult, draw, first_step, search
from vloc_ros.localizers.imposing.settings import NetworkSettings, SearchSettings
from vloc_ros.localizers.imposing.statistics import STATISTICS
from vloc_ros.localizers.weights import load_module
from vloc_ros.maps import MapBundle
from vloc_ros.maps.tensors import expect
from vloc_ros.settings import settings_from_mapping, settings_to_mapping
from vloc_ros.types import Array, CandidateStep, Estimate, PosePrior, Query

__all__ = [
    "CANDIDATES_FILE",
    "REFERENCES_FILE",
    "WEIGHTS_FILE",
    "ImPosingLocalizer",
    "load_network",
    "settings_mapping",
]

WEIGHTS_FILE = "weights.safetensors"
CANDIDATES_FILE = "candidates.safetensors"
REFERENCES_FILE = "references.safetensors"


@dataclass(frozen=True)
class _SceneData:
    name: str
    initial: Tensor
    signatures: Tensor
    calibration: SceneCalibration
    reference_poses: Tensor | None
    reference_vectors: Tensor | None


class ImPosingLocalizer(Localizer):
    """Implicit pose encoding (Moreau et al., WACV 2023). See the backend's README for every setting.

    A map of several scenes searches the scene that the query names; without a name it searches all of them and takes
    the one whose score is best in units of that scene's own calibration.
    """

    backend: ClassVar[str] = "imposing"
    statistics: ClassVar[tuple[str, ...]] = STATISTICS
    prior_changes_statistics: ClassVar[bool] = True

    def __init__(self, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(bundle, device)
        manifest, where = bundle.manifest, str(bundle.path)
        network_stored = section(manifest.settings, "network", f"{where}: settings")
        network_settings = settings_from_mapping(NetworkSettings, network_stored, f"{where}: settings.network")
        stored = section(manifest.settings, "search", f"{where}: settings")
        self._search = settings_from_mapping(SearchSettings, {**stored, **(settings or {})}, "imposing settings")
        self._changed_candidates = self._search.candidates != stored.get("candidates")
        self._preprocess = Preprocess.from_settings(manifest.preprocessing)
        weights, scenes = bundle.tensors(WEIGHTS_FILE), len(manifest.scenes)
        network = load_network(network_settings, scenes, weights, f"{where}/{WEIGHTS_FILE}")
        self._dtype = compute_dtype(self._search.precision, device)
        network.eval().requires_grad_(False)
        self._encoders = [network.pose_encoder(i) for i in range(len(manifest.scenes))]
        for encoder in self._encoders:
            encoder.to(device)
            encoder.linears.to(self._dtype)  # positions keep their full precision: only the MLP is rounded
        self._image_encoder = network.image_encoder.to(device, self._dtype)
        self._image_encoder.to(memory_format=torch.channels_last)
        self._scenes = self._load_scenes(bundle)
        self._limits = (self._search.localized_sigma_m, self._search.lost_sigma_m)

    @classmethod
    def from_map(
        cls, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None
    ) -> ImPosingLocalizer:
        return cls(bundle, device, settings)

    @property
    def settings(self) -> SearchSettings:
        """The search settings in force."""
        return self._search

    @property
    def precision(self) -> torch.dtype:
        """What the networks compute in."""
        return self._dtype

    def reference_poses(self, scene: str | None = None) -> Array | None:
        """``T_map_cam`` (M, 4, 4) of the training frames of a scene (default: the first), where the map has them."""
        poses = self._scenes[self.scene_index(scene)].reference_poses
        return None if poses is None else from_vectors(poses)

    def close(self) -> None:
        self._scenes = []
        self._encoders = []
        self.__dict__.pop("_image_encoder", None)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # -- loading ----------------------------------------------------------------------------------

    def _load_scenes(self, bundle: MapBundle) -> list[_SceneData]:
        files = bundle.tensors(CANDIDATES_FILE)
        has_references = bundle.manifest.file(REFERENCES_FILE) is not None
        references = bundle.tensors(REFERENCES_FILE) if has_references else {}
        where, d = str(bundle.path), self._encoders[0].settings.embed_dim
        floats = (torch.float32, torch.float16)
        out = []
        for scene in bundle.manifest.scenes:
            initial = expect(files, f"{scene.name}.poses", (None, 7), torch.float32, where).to(self._device)
            signatures = expect(files, f"{scene.name}.signatures", (len(initial), d), floats, where)
            if self._changed_candidates and self._search.candidates < len(initial):
                keep = torch.linspace(0, len(initial) - 1, self._search.candidates).round().long()
                initial, signatures = initial[keep.to(self._device)], signatures[keep]
            if len(initial) < max(self._search.components, 1):
                raise MapTensorError(
                    f"{where}: scene {scene.name!r}: expected at least {self._search.components} poses"
                )
            poses, vectors = references.get(f"{scene.name}.poses"), references.get(f"{scene.name}.vectors")
            out.append(
                _SceneData(
                    scene.name,
                    initial,
                    signatures.T.contiguous().to(self._device, torch.float32),
                    SceneCalibration.read(bundle, scene.name, STATISTICS),
                    poses,
                    None if vectors is None else vectors.to(self._device, torch.float32),
                )
            )
        return out

    # -- localizing -------------------------------------------------------------------------------

    def _seed(self, stamp_ns: int) -> int:
        digest = hashlib.sha256(f"{self.map_id}:{stamp_ns}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1

    def encode(self, image_rgb: Any) -> Tensor:
        """The pooled image features ``(C,)`` of an RGB image, shared by all scenes."""
        tensor = self._preprocess.apply(image_rgb)[None].to(self._device, self._dtype)
        with torch.inference_mode():
            return torch.as_tensor(self._image_encoder.pooled(tensor.to(memory_format=torch.channels_last))[0])

    def image_vector(self, image_rgb: Any, scene: str | None = None) -> Tensor:
        """The image vector ``(d,)`` float32 in a scene (default: the first)."""
        head = self._image_encoder.heads[self.scene_index(scene)]
        with torch.inference_mode():
            return torch.as_tensor(head(self.encode(image_rgb))).float()

    def localize(self, query: Query, keep_candidates: bool = False) -> Estimate:
        """See :meth:`Localizer.localize`. ``keep_candidates`` also returns every step's candidates."""
        check_query(query)
        self.check_camera(query.camera)
        clock = Clock(self._device)
        pooled = self.encode(query.image_rgb)
        clock.lap("encode")
        seed = self._seed(query.stamp_ns)
        indices = [self.scene_index(query.scene)] if query.scene is not None else range(len(self._scenes))
        results = [(i, *self._search_scene(i, pooled, query.prior, seed, keep_candidates)) for i in indices]
        index, result, vector = (
            max(results, key=lambda r: self._relative_score(r[0], r[1])) if len(results) > 1 else results[0]
        )
        packed = [result.pose, result.score[None], result.statistics]
        scene = self._scenes[index]
        if scene.reference_vectors is not None:
            unit = torch.nn.functional.normalize(vector, dim=-1)
            packed.append((scene.reference_vectors @ unit).argmax()[None])
        host = torch.cat([p.double() for p in packed]).cpu().numpy()  # the only transfer of the frame
        clock.lap("search")
        return self._estimate(query, scene, result, host, clock.laps)

    def _relative_score(self, index: int, result: SearchResult) -> float:
        return self._scenes[index].calibration.relative(float(result.score))

    def _search_scene(
        self, index: int, pooled: Tensor, prior: PosePrior | None, seed: int, keep: bool
    ) -> tuple[SearchResult, Tensor]:
        scene, settings = self._scenes[index], self._search
        with torch.inference_mode():
            vector = self._image_encoder.heads[index](pooled).float()
        draws = draw(settings, seed, self._device, torch.float32)
        initial, signatures, start = scene.initial, scene.signatures, 0
        if prior is not None:
            std = torch.from_numpy(np.sqrt(np.diag(prior.covariance))).float()
            start = first_step(settings, std)
            mean = np.concatenate((prior.T_map_cam[:3, 3], matrix_to_quaternion(prior.T_map_cam[:3, :3])))
            center = torch.from_numpy(mean).float().to(self._device)
            noise = draws.normal[0] * (std.to(self._device) * settings.prior_sigmas)
            initial, signatures = perturb(center.expand(len(noise), 7), noise), None  # type: ignore[assignment]
        result = search(
            self._encoders[index], vector, initial, signatures, draws, settings,
            start=start, compute=self._dtype, keep_steps=keep,
        )  # fmt: skip
        return result, vector

    def _estimate(
        self, query: Query, scene: _SceneData, result: SearchResult, host: Array, laps: dict[str, float]
    ) -> Estimate:
        T_map_cam, score = from_vectors(host[:7]), float(np.clip(host[7], 0.0, 1.0))
        statistics = host[8 : 8 + len(STATISTICS)]
        diagnostics = dict(zip(STATISTICS, statistics.tolist(), strict=True))
        if len(host) > 8 + len(STATISTICS):
            diagnostics["nearest_reference"] = float(host[-1])
        verdict = scene.calibration.judge(statistics, T_map_cam, score, *self._limits, query.prior is not None)
        if verdict.position_sigma_m is not None:
            diagnostics["position_sigma_m"] = verdict.position_sigma_m
        candidates = tuple(
            CandidateStep(from_vectors(s.poses), s.scores.double().cpu().numpy(), s.selected.cpu().numpy())
            for s in result.steps
        )
        return Estimate(
            query.stamp_ns, T_map_cam, verdict.covariance, score, verdict.state, self.backend, self.map_id, scene.name,
            candidates, laps, diagnostics,
        )  # fmt: skip


def load_network(settings: NetworkSettings, scenes: int, tensors: dict[str, Tensor], where: str) -> ImPosingNetwork:
    """The network with a map's weights.

    :raises MapTensorError: weights and settings do not agree. :raises ConfigError: timm has no such backbone.
    """
    return load_module(lambda: ImPosingNetwork(settings, scenes), tensors, where)


def settings_mapping(network: NetworkSettings, search_settings: SearchSettings) -> dict[str, Any]:
    """What an ImPosing map stores under ``settings``."""
    return {"network": settings_to_mapping(network), "search": settings_to_mapping(search_settings)}
