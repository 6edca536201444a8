"""Image retrieval as a backend: the pose of the reference that looks most like the image, or a mean of the best k."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.errors import MapError, MapTensorError
from vloc_ros.localizers.base import Localizer, check_query
from vloc_ros.localizers.calibration import SceneCalibration, Verdict, section
from vloc_ros.localizers.device import Clock
from vloc_ros.localizers.retrieval.averaging import (
    Weighting,
    average_neighbours,
    neighbour_weights,
    same_place,
)
from vloc_ros.localizers.retrieval.database import Database, read_databases
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_ros.localizers.retrieval.index import Index, IndexKind, build_index
from vloc_ros.localizers.retrieval.statistics import STATISTICS, retrieval_statistics
from vloc_ros.maps import MapBundle
from vloc_ros.settings import ranged, settings_from_mapping
from vloc_ros.types import Array, CandidateStep, Estimate, LocalizationState, PosePrior, Query

__all__ = ["SECTION", "RetrievalLocalizer", "RetrievalSettings"]

#: The part of a manifest's settings with :class:`RetrievalSettings`.
SECTION = "retrieval"


@dataclass(frozen=True)
class RetrievalSettings:
    """From neighbours to a pose. All of it may change at run time. ``README.md`` lists each with its source.

    :param k: nearest references that are averaged; 1 takes the pose of the nearest.
    :param weights: of the average: ``uniform``, ``similarity`` (to a power) or ``interpolation`` (the affine
        combination of descriptors that is closest to the query's).
    :param similarity_power: power of the similarity in ``similarity`` weights.
    :param ridge: regularisation of the interpolation, as a share of the mean squared distance of the neighbours.
    :param radius_m: only neighbours this near to the best one are averaged with it.
    :param radius_deg: only neighbours turned by no more than this from the best one are averaged with it.
    :param neighbours: nearest references that the statistics for the covariance are made of.
    :param index: what finds neighbours: ``torch`` (every row), ``faiss_flat`` (every row), ``faiss_ivf`` (rows near
        the query, found by a coarse quantiser), or ``auto``: on a CPU ``faiss_ivf`` for databases of more than 131,072
        descriptors of 256 numbers, or as much of other lengths, where faiss is installed; else ``torch``.
    :param index_recall: share of queries whose nearest row ``faiss_ivf`` must find; measured when the index is built.
    :param prior_gate_sigmas: with a prior, look only at references within this many standard deviations of its
        position; 0 looks at all, which keeps the poses of successive frames independent.
    :param unfamiliar: a frame is LOST when its nearest descriptor is farther than this times the farthest of the
        calibration frames, and DEGRADED when it is farther than that one.
    :param localized_sigma_m: a frame is LOCALIZED up to this standard deviation of position (largest axis).
    :param lost_sigma_m: a frame is LOST beyond this standard deviation of position (largest axis).
    """

    k: int = ranged(1, minimum=1, maximum=1000)
    weights: Weighting = "interpolation"
    similarity_power: float = ranged(8.0, minimum=0.0, maximum=1000.0)
    ridge: float = ranged(1e-3, minimum=1e-9, maximum=1e3)
    radius_m: float = ranged(10.0, minimum=0.0)
    radius_deg: float = ranged(60.0, minimum=0.0, maximum=180.0)
    neighbours: int = ranged(20, minimum=1, maximum=1000)
    index: IndexKind = "auto"
    index_recall: float = ranged(0.98, minimum=0.5, maximum=1.0)
    prior_gate_sigmas: float = ranged(0.0, minimum=0.0, maximum=100.0)
    unfamiliar: float = ranged(1.25, minimum=1.0, maximum=1000.0)
    localized_sigma_m: float = ranged(3.0, minimum=0.0)
    lost_sigma_m: float = ranged(10.0, minimum=0.0)


@dataclass(frozen=True)
class _SceneData:
    name: str
    database: Database
    index: Index
    positions: Array
    calibration: SceneCalibration


@dataclass(frozen=True)
class _Found:
    """The neighbours of a query in one scene, nearest first: (n,), (n,) and (n, D) float64."""

    scene: _SceneData
    distances: Array
    rows: npt.NDArray[np.int64]
    descriptors: Array


class RetrievalLocalizer(Localizer):
    """The pose of the nearest reference image, or a mean of the nearest k. See the README for every setting.

    A map of several scenes searches the scene that the query names; without a name it takes the scene of the nearest
    descriptor: all scenes share the extractor.
    """

    backend: ClassVar[str] = "retrieval"
    statistics: ClassVar[tuple[str, ...]] = STATISTICS

    def __init__(self, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(bundle, device)
        stored = section(bundle.manifest.settings, SECTION, f"{bundle.path}: settings")
        merged = {**stored, **(settings or {})}
        self._settings = settings_from_mapping(RetrievalSettings, merged, f"{self.backend} settings")
        self._descriptor = Descriptor.from_bundle(bundle, device)
        where = str(bundle.path)
        self._scenes = [
            self._scene_data(
                scene, database, SceneCalibration.read(bundle, scene, self.statistics), f"{where}: scene {scene!r}"
            )
            for scene, database in read_databases(bundle).items()
        ]

    @classmethod
    def from_map(
        cls, bundle: MapBundle, device: torch.device, settings: Mapping[str, Any] | None = None
    ) -> RetrievalLocalizer:
        return cls(bundle, device, settings)

    def _scene_data(self, name: str, database: Database, calibration: SceneCalibration, where: str) -> _SceneData:
        mine = self._descriptor
        if (database.extractor_id, database.metric) != (mine.identity, mine.metric):
            raise MapError(
                f"{where}: expected descriptors of extractor {mine.identity[:16]}... compared by {mine.metric}, found "
                f"{database.extractor_id[:16]}... by {database.metric}; describe the images with the map's extractor"
            )
        if database.dimension != mine.dimension:
            raise MapTensorError(
                f"{where}: expected descriptors of length {mine.dimension}, found {database.dimension}"
            )
        if not len(database):
            raise MapTensorError(f"{where}: expected at least one reference, found an empty database; add images to it")
        index = build_index(database, self._device, self._settings.index, self._settings.index_recall)
        return _SceneData(name, database, index, database.poses[:, :3].double().numpy(), calibration)

    @property
    def settings(self) -> RetrievalSettings:
        """The settings in force."""
        return self._settings

    @property
    def descriptor(self) -> Descriptor:
        """The extractor that queries and references are described with."""
        return self._descriptor

    def database(self, scene: str | None = None) -> Database:
        """The references of a scene (default: the first)."""
        return self._scenes[self.scene_index(scene)].database

    def index(self, scene: str | None = None) -> Index:
        """What finds neighbours in a scene (default: the first)."""
        return self._scenes[self.scene_index(scene)].index

    def reference_poses(self, scene: str | None = None) -> Array:
        """``T_map_cam`` (M, 4, 4) of a scene's references (default: the first)."""
        return self.database(scene).T_map_cam

    def with_database(self, scene: str, database: Database) -> RetrievalLocalizer:
        """The same localizer with other references in one scene; extractor, calibration and map id are shared.

        :raises MapError: descriptors of another extractor, or none.
        """
        number = self.scene_index(scene)
        other = copy.copy(self)
        changed = self._scene_data(scene, database, self._scenes[number].calibration, f"scene {scene!r}")
        other._scenes = [*self._scenes[:number], changed, *self._scenes[number + 1 :]]
        return other

    def close(self) -> None:
        self._scenes = []
        self.__dict__.pop("_descriptor", None)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # -- localizing -------------------------------------------------------------------------------

    def localize(self, query: Query, keep_candidates: bool = False) -> Estimate:
        """See :meth:`Localizer.localize`. ``keep_candidates`` also returns the neighbours."""
        check_query(query)
        self.check_camera(query.camera)
        clock = Clock(self._device)
        vector = self._descriptor.describe(query.image_rgb)
        clock.lap("encode")
        scenes = self._scenes if query.scene is None else [self._scenes[self.scene_index(query.scene)]]
        found = min((self._neighbours(s, vector, query.prior) for s in scenes), key=lambda f: float(f.distances[0]))
        clock.lap("search")
        return self._estimate(query, found, vector.double().cpu().numpy(), clock, keep_candidates)

    def _neighbours(self, scene: _SceneData, vector: torch.Tensor, prior: PosePrior | None) -> _Found:
        k = max(self._settings.k, self._settings.neighbours)
        gate = None
        if prior is not None and self._settings.prior_gate_sigmas > 0:
            gate = within_prior(scene.positions, prior, self._settings.prior_gate_sigmas)
        if gate is not None and len(gate):
            distances, rows = scene.index.search_among(vector[None], k, torch.from_numpy(gate))
        else:
            distances, rows = scene.index.search(vector[None], k)
        host = rows[0].cpu()
        return _Found(
            scene,
            distances[0].double().cpu().numpy(),
            host.numpy(),
            scene.database.descriptors[host].double().numpy(),
        )

    def _estimate(self, query: Query, found: _Found, vector: Array, clock: Clock, keep: bool) -> Estimate:
        settings, scene = self._settings, found.scene
        poses = scene.database.select(found.rows).T_map_cam
        similarities = self._score(found.distances)
        same = same_place(poses, settings.radius_m, settings.radius_deg)
        used = np.flatnonzero(same[: settings.k])
        weights = neighbour_weights(
            settings.weights, vector, found.descriptors[used], similarities[used], settings.similarity_power,
            settings.ridge,
        )  # fmt: skip
        T_map_cam = average_neighbours(poses[used], weights, settings.radius_m).T_map_cam
        numbers = retrieval_statistics(found.distances, poses, same, T_map_cam)
        score = float(similarities[0])
        verdict = scene.calibration.judge(
            numbers, T_map_cam, score, settings.localized_sigma_m, settings.lost_sigma_m, query.prior is not None
        )
        verdict = self._familiar(verdict, scene.calibration, float(found.distances[0]))
        diagnostics = dict(zip(STATISTICS, numbers.tolist(), strict=True))
        diagnostics["nearest_reference"] = float(found.rows[0])
        diagnostics["nearest_distance"] = float(found.distances[0])
        diagnostics["averaged"] = float(len(used))
        if verdict.position_sigma_m is not None:
            diagnostics["position_sigma_m"] = verdict.position_sigma_m
        steps = (CandidateStep(poses, similarities, used.astype(np.int64)),) if keep else ()
        clock.lap("average")
        return Estimate(
            query.stamp_ns, T_map_cam, verdict.covariance, score, verdict.state, self.backend, self.map_id, scene.name,
            steps, clock.laps, diagnostics,
        )  # fmt: skip

    def _score(self, distances: Array) -> Array:
        """Distances as similarities in [0, 1], one to one where they are above 0."""
        if self._descriptor.metric == "cosine":
            return np.clip(1.0 - distances, 0.0, 1.0)
        return np.asarray(1.0 / (1.0 + distances))

    def _familiar(self, verdict: Verdict, calibration: SceneCalibration, distance: float) -> Verdict:
        """No sigma is known for a frame that looks less like the map than any that it was calibrated on."""
        lowest = calibration.lowest_score
        if lowest <= 0 or verdict.position_sigma_m is None:
            return verdict
        farthest = 1.0 - lowest if self._descriptor.metric == "cosine" else 1.0 / lowest - 1.0
        if distance > self._settings.unfamiliar * farthest:
            return replace(verdict, state=LocalizationState.LOST)
        if distance > farthest and verdict.state is LocalizationState.LOCALIZED:
            return replace(verdict, state=LocalizationState.DEGRADED)
        return verdict


def within_prior(positions: Array, prior: PosePrior, sigmas: float) -> npt.NDArray[np.int64]:
    """Rows of ``(M, 3)`` positions within so many standard deviations of the prior's position."""
    offsets = positions - prior.T_map_cam[:3, 3]
    inverse = np.linalg.inv(prior.covariance[:3, :3] + 1e-6 * np.eye(3))  # a prior may be certain in an axis
    return np.asarray(np.flatnonzero(np.einsum("mi,ij,mj->m", offsets, inverse, offsets) <= sigmas**2), dtype=np.int64)
