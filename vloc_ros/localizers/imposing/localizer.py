"""ImPosing as a backend: a map bundle and an image in, an :class:`~vloc_ros.types.Estimate` out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vloc_ros.errors import MapTensorError
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.geometry.vectors import from_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.base import Hypothesis, Localizer, stored_settings
from vloc_ros.localizers.calibration import section
from vloc_ros.localizers.device import Clock, compute_dtype
from vloc_ros.localizers.folding import without_batch_norms
from vloc_ros.localizers.image_network import ImageNetwork
from vloc_ros.localizers.imposing.network import ImPosingNetwork
from vloc_ros.localizers.imposing.sampling import perturb
from vloc_ros.localizers.imposing.search import Draws, SearchResult, SearchStep, draw, first_step, search
from vloc_ros.localizers.imposing.settings import NetworkSettings, SearchSettings
from vloc_ros.localizers.imposing.signatures import FrozenPoseEncoder
from vloc_ros.localizers.imposing.statistics import STATISTICS, search_statistics
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.localizers.weights import load_module
from vloc_ros.maps import MapBundle
from vloc_ros.maps.tensors import expect
from vloc_ros.settings import settings_to_mapping
from vloc_ros.transfer import read_back
from vloc_ros.types import Array, CandidateStep, Estimate, PosePrior, Query, RgbImage

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
    reference_poses: Tensor | None
    reference_vectors: Tensor | None


class ImPosingLocalizer(Localizer):
    """Implicit pose encoding (Moreau et al., WACV 2023). See the backend's README for every setting.

    A map of several scenes searches the scene that the query names; without a name it searches all of them and takes
    the one whose score is best in units of that scene's own calibration.
    """

    backend: ClassVar[str] = "imposing"
    settings_class = SearchSettings
    settings_section: ClassVar[str] = "search"
    statistics = STATISTICS
    prior_changes_statistics: ClassVar[bool] = True
    offers_candidates = True

    def load(self, bundle: MapBundle) -> None:
        manifest = bundle.manifest
        stored = section(manifest.settings, "search", f"{bundle.path}: settings")
        self._changed_candidates = self._settings.candidates != stored.get("candidates")
        self._preprocess = Preprocess.from_settings(manifest.preprocessing)
        network = load_network(
            stored_settings(bundle, "network", NetworkSettings),
            len(manifest.scenes),
            bundle.tensors(WEIGHTS_FILE),
            f"{bundle.path}/{WEIGHTS_FILE}",
        )
        self._recorder = Recorder(self._device)
        self._dtype = compute_dtype(self._settings.precision, self._device)
        network.eval().requires_grad_(False)
        self._embed_dim = network.settings.embed_dim
        # Positions keep their full precision: only the MLP is rounded.
        self._encoders = [
            FrozenPoseEncoder(network.pose_encoder(i).to(self._device), torch.float32, self._dtype)
            for i in range(len(manifest.scenes))
        ]
        network.image_encoder.backbone = without_batch_norms(network.image_encoder.backbone)
        encoder = network.image_encoder.to(self._device, self._dtype).to(memory_format=torch.channels_last)
        self._image_encoder = encoder
        self._read = ImageNetwork(lambda x: (encoder.pooled(x),), self._preprocess, self._dtype, self._recorder)
        files = bundle.tensors(CANDIDATES_FILE)
        references = bundle.tensors(REFERENCES_FILE) if manifest.file(REFERENCES_FILE) is not None else {}
        self._scenes = [self._scene_data(scene.name, files, references, str(bundle.path)) for scene in manifest.scenes]

    def _scene_data(self, name: str, files: dict[str, Tensor], references: dict[str, Tensor], where: str) -> _SceneData:
        floats, d = (torch.float32, torch.float16), self._embed_dim
        initial = expect(files, f"{name}.poses", (None, 7), torch.float32, where).to(self._device)
        signatures = expect(files, f"{name}.signatures", (len(initial), d), floats, where)
        if self._changed_candidates and self._settings.candidates < len(initial):
            keep = torch.linspace(0, len(initial) - 1, self._settings.candidates).round().long()
            initial, signatures = initial[keep.to(self._device)], signatures[keep]
        if len(initial) < max(self._settings.components, 1):
            raise MapTensorError(f"{where}: scene {name!r}: expected at least {self._settings.components} poses")
        vectors = references.get(f"{name}.vectors")
        return _SceneData(
            name,
            initial,
            signatures.T.contiguous().to(self._device, torch.float32),
            references.get(f"{name}.poses"),
            None if vectors is None else vectors.to(self._device, torch.float32),
        )

    @property
    def precision(self) -> torch.dtype:
        """What the networks compute in."""
        return self._dtype

    def reference_poses(self, scene: str | None = None) -> Array | None:
        poses = self._scenes[self.scene_index(scene)].reference_poses
        return None if poses is None else from_vectors(poses)

    @torch.inference_mode()
    def encode(self, image_rgb: RgbImage) -> Tensor:
        """The pooled image features ``(C,)`` of an RGB image, shared by all scenes."""
        return self._read(image_rgb)[0][0]

    @torch.inference_mode()
    def image_vector(self, image_rgb: RgbImage, scene: str | None = None) -> Tensor:
        """The image vector ``(d,)`` float32 in a scene (default: the first)."""
        return torch.as_tensor(self._image_encoder.heads[self.scene_index(scene)](self.encode(image_rgb))).float()

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        pooled = self.encode(query.image_rgb)
        clock.lap("encode")
        seed = self.seed(query.stamp_ns)
        indices = self.scenes_of(query)
        found = [self._search(i, pooled, query.prior, seed, keep_candidates) for i in indices]
        host = read_back(*(part for parts, _ in found for part in parts))
        results: list[tuple[int, SearchResult, int]] = []
        for index, (parts, steps) in zip(indices, found, strict=True):
            *mine, nearest = host[len(parts) * len(results) :][: len(parts)]
            results.append((index, SearchResult.of(mine, steps), int(nearest)))
        index, result, row = results[0] if len(results) == 1 else max(results, key=lambda r: self._relative(*r[:2]))
        scene = self._scenes[index]
        pose, score = result.pose, float(result.score)
        statistics = search_statistics(list(result.best), pose)
        clock.lap("search")
        return Hypothesis(
            scene.name,
            from_vectors(pose.double().numpy()),
            float(np.clip(score, 0.0, 1.0)),
            statistics=statistics.double().numpy(),
            diagnostics={} if row < 0 else {"nearest_reference": float(row)},
            candidates=tuple(
                CandidateStep(from_vectors(s.poses), s.scores.double().cpu().numpy(), s.selected.cpu().numpy())
                for s in result.steps
            ),
        )

    def _nearest(self, index: int, vector: Tensor) -> Tensor:
        """The row of the reference whose vector is most like an image's, as a float; -1 where a scene has none."""
        vectors = self._scenes[index].reference_vectors
        if vectors is None:
            return vector.new_full((), -1.0)
        return (vectors @ vector).argmax().to(vector.dtype)

    def _relative(self, index: int, result: SearchResult) -> float:
        return self._calibration[self._scenes[index].name].relative(float(result.score))

    def _search(
        self, index: int, pooled: Tensor, prior: PosePrior | None, seed: int, keep: bool
    ) -> tuple[tuple[Tensor, ...], tuple[SearchStep, ...]]:
        """The parts of a result and the nearest reference, on the device; and the steps where they are kept."""
        scene, settings = self._scenes[index], self._settings
        draws = draw(settings, seed, self._device, torch.float32)
        start, arguments, steps = 0, [pooled, draws.normal, draws.uniform], list[SearchStep]()
        if prior is not None:
            std = torch.from_numpy(np.sqrt(np.diag(prior.covariance))).float()
            start = first_step(settings, std)
            mean = np.concatenate((prior.T_map_cam[:3, 3], matrix_to_quaternion(prior.T_map_cam[:3, :3])))
            # One upload for both.
            arguments.append(torch.cat((torch.from_numpy(mean).float(), std)))

        def work(pooled: Tensor, normal: Tensor, uniform: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            vector = self._image_encoder.heads[index](pooled).float()
            initial, signatures = scene.initial, scene.signatures
            if rest:
                noise = normal[0] * (rest[0][7:] * settings.prior_sigmas)
                initial, signatures = perturb(rest[0][:7].expand(len(noise), 7), noise), None  # type: ignore[assignment]
            found = search(
                self._encoders[index], vector, initial, signatures, Draws(normal, uniform), settings,
                start=start, keep_steps=keep,
            )  # fmt: skip
            steps.extend(found.steps)
            return (*found.tensors, self._nearest(index, vector))

        if keep:
            return work(*(x.to(self._device) for x in arguments)), tuple(steps)
        return self._recorder.run((index, start), work, arguments), ()

    def hypotheses(self, query: Query, count: int) -> list[Estimate]:
        """As :meth:`Localizer.hypotheses`; other places show in the first step, the last one is all about one."""
        return self.distinct(self.localize(query, keep_candidates=count > 1), count, slice(None))


def load_network(settings: NetworkSettings, scenes: int, tensors: dict[str, Tensor], where: str) -> ImPosingNetwork:
    """The network with a map's weights.

    :raises MapTensorError: weights and settings do not agree. :raises ConfigError: timm has no such backbone.
    """
    return load_module(lambda: ImPosingNetwork(settings, scenes), tensors, where)


def settings_mapping(network: NetworkSettings, search_settings: SearchSettings) -> dict[str, Any]:
    """What an ImPosing map stores under ``settings``."""
    return {"network": settings_to_mapping(network), "search": settings_to_mapping(search_settings)}
