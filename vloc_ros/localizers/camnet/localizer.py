"""CamNet as a backend: a database map and an image in, an :class:`~vloc_ros.types.Estimate` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.vectors import from_vectors, to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.base import Hypothesis, Localizer, stored_settings
from vloc_ros.localizers.calibration import SceneCalibration
from vloc_ros.localizers.camnet.consensus import Consensus, consensus
from vloc_ros.localizers.camnet.inference import refine, waits
from vloc_ros.localizers.camnet.memory import FrameMemory, SeenFrame
from vloc_ros.localizers.camnet.network import CamNetNetwork, Features
from vloc_ros.localizers.camnet.references import References
from vloc_ros.localizers.camnet.settings import SEQUENCE_GAP_S, InferenceSettings, NetworkSettings
from vloc_ros.localizers.camnet.statistics import STATISTICS, refinement_statistics
from vloc_ros.localizers.device import Clock, compute_dtype
from vloc_ros.localizers.image_network import ImageNetwork
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.localizers.weights import load_module
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_to_mapping
from vloc_ros.transfer import read_back
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
    settings_class = InferenceSettings
    settings_section: ClassVar[str] = "inference"
    statistics = STATISTICS
    offers_candidates = True

    def load(self, bundle: MapBundle) -> None:
        self._preprocess = Preprocess.from_settings(bundle.manifest.preprocessing)
        self._network = read_network(bundle).eval().requires_grad_(False)
        self._network.fold()
        self._network.to(self._device)
        self._dtype = compute_dtype(self._settings.precision, self._device)
        # Regressors keep their full precision: only what reads images is rounded.
        for part in (self._network.trunk, self._network.icr, self._network.pfr, self._network.prp):
            part.to(self._dtype)
        self._network.trunk.to(memory_format=torch.channels_last)
        network, self._recorder = self._network, Recorder(self._device)
        self._read = ImageNetwork(
            lambda x: tuple(f.float() for f in network.encode(x)), self._preprocess, self._dtype, self._recorder
        )
        dimension = self._network.dimension
        self._scenes = [References.read(bundle, s.name, dimension, self._device) for s in bundle.manifest.scenes]
        self._memory = FrameMemory(self._settings.sequence, SEQUENCE_GAP_S)

    def read_calibration(self, bundle: MapBundle, scene: str) -> SceneCalibration:
        """The covariance was fitted to the errors of one stage: of another's it says nothing."""
        found, made_for = super().read_calibration(bundle, scene), self.merged_settings(bundle, {})
        fits = made_for.stages == self._settings.stages
        return (
            found if fits and made_for.retrieval_features == self._settings.retrieval_features else SceneCalibration()
        )

    def reference_poses(self, scene: str | None = None) -> Array:
        return from_vectors(self._scenes[self.scene_index(scene)].poses)

    @torch.inference_mode()
    def features(self, image_rgb: RgbImage) -> Features:
        """The features ``(1, F)`` float32 of an RGB image."""
        return Features(*self._read(image_rgb))

    def localize(self, query: Query, keep_candidates: bool = False) -> Estimate:
        with self._lock:
            estimate = super().localize(query, keep_candidates)
            # A lost frame must not vouch for the next one: two that agree on a wrong place would outvote the images.
            if self._settings.sequence and estimate.state is not LocalizationState.LOST:
                pose = torch.from_numpy(to_vectors(estimate.T_map_cam)).to(self._feature)
                self._memory.remember(SeenFrame(query.stamp_ns, estimate.scene, self._feature, pose))
            return estimate

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        features = self.features(query.image_rgb)
        self._feature = features.prp[0]
        clock.lap("encode")
        named = self.scenes_of(query)
        earlier = self._memory.before(query.stamp_ns, self._scenes[named[0]].scene) if len(named) == 1 else []
        parts = read_back(*(self._refined(index, features, earlier) for index in named))
        index, host = min(zip(named, parts, strict=True), key=lambda found: float(found[1][0]))
        if len(named) > 1:
            earlier = self._memory.before(query.stamp_ns, self._scenes[index].scene)
            if earlier:
                (host,) = read_back(self._refined(index, features, earlier))
        clock.lap("refine")
        count = (len(host) - 7 * len(earlier)) // (3 + 4 * 7)
        distances, similarities, rows = host[: 3 * count].reshape(3, count).numpy()
        T = from_vectors(host[3 * count :].reshape(-1, 7).numpy())
        retrieved, coarse, nearest, precise = np.split(T, [count, 2 * count, 3 * count])
        agreed = consensus(precise, self._settings.inlier_m, self._settings.inlier_deg)
        choices = {"retrieval": retrieved[0], "pfr": coarse[0], "prp": precise[0], "full": agreed.T_map_cam}
        T_map_cam, share = choices[self._settings.stages], float(agreed.inliers.mean())
        statistics = refinement_statistics(T_map_cam, distances, retrieved, coarse, precise, nearest, share)
        clock.lap("average")
        return Hypothesis(
            self._scenes[index].scene,
            T_map_cam,
            float(np.clip(similarities[0], 0.0, 1.0)),
            statistics=statistics,
            diagnostics={"nearest_reference": float(round(rows[0])), "estimates": float(len(precise))},
            candidates=_candidates(retrieved, coarse, precise, similarities, agreed) if keep_candidates else (),
        )

    def _refined(self, index: int, features: Features, earlier: Sequence[SeenFrame]) -> Tensor:
        """All stages in one scene, float64 on the device: distances, similarities and rows of k references, then 3 k
        poses of them, and k precise ones and those by earlier frames."""
        references, settings = self._scenes[index], self._settings

        def work(icr: Tensor, pfr: Tensor, prp: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
            found = refine(
                self._network, references, Features(icr, pfr, prp), settings, before[::2], before[1::2]
            )  # fmt: skip
            scalars = torch.cat((found.distances.double(), found.similarities.double(), found.rows.double()))
            poses = torch.cat((found.retrieved, found.coarse, found.nearest, found.precise))
            return (torch.cat((scalars, poses.double().flatten())),)

        arguments = [*features, *(part for frame in earlier for part in (frame.pose, frame.feature))]
        if waits(references, settings):
            return work(*arguments)[0]
        return self._recorder.run(index, work, arguments)[0]


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
    settings, where = stored_settings(bundle, "network", NetworkSettings), str(bundle.path)
    return load_module(lambda: CamNetNetwork(settings), bundle.tensors(WEIGHTS_FILE), f"{where}/{WEIGHTS_FILE}")


def settings_mapping(network: NetworkSettings, inference: InferenceSettings) -> dict[str, Any]:
    """What a CamNet map stores under ``settings``, the database's own entry apart."""
    return {"network": settings_to_mapping(network), "inference": settings_to_mapping(inference)}
