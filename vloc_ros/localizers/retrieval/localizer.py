"""Image retrieval as a backend: the pose of the reference that looks most like the image, or a mean of the best k."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.localizers.base import Hypothesis, Localizer
from vloc_ros.localizers.calibration import Confidence
from vloc_ros.localizers.device import Clock
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.localizers.retrieval.averaging import (
    RIDGE,
    SIMILARITY_POWER,
    Weighting,
    average_neighbours,
    neighbour_weights,
    same_place,
)
from vloc_ros.localizers.retrieval.database import Database, read_databases
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_ros.localizers.retrieval.index import Index, IndexKind, build_index
from vloc_ros.localizers.retrieval.statistics import STATISTICS, retrieval_statistics
from vloc_ros.localizers.view import ViewSettings
from vloc_ros.maps import MapBundle
from vloc_ros.settings import Fixed, ranged
from vloc_ros.transfer import read_back
from vloc_ros.types import Array, CandidateStep, LocalizationState, PosePrior, Query

__all__ = ["SECTION", "RetrievalLocalizer", "RetrievalSettings"]

#: The part of a manifest's settings with :class:`RetrievalSettings`.
SECTION = "retrieval"


#: Neighbours turned farther than this from the best one look at something else, however near they stand.
RADIUS_DEG = 60.0
#: Share of queries whose nearest row ``faiss_ivf`` must find; measured when the index is built.
INDEX_RECALL = 0.98


@dataclass(frozen=True)
class RetrievalSettings(ViewSettings):
    """From neighbours to a pose. All of it may change at run time. ``README.md`` lists each with its source.

    :param k: nearest references that are averaged; 1 takes the pose of the nearest.
    :param weights: of the average: ``uniform``, ``similarity`` (to a power) or ``interpolation`` (the affine
        combination of descriptors that is closest to the query's).
    :param similarity_power: power of the similarity in ``similarity`` weights.
    :param radius_m: only neighbours this near to the best one are averaged with it.
    :param neighbours: nearest references that the statistics for the covariance are made of.
    :param index: what finds neighbours: ``torch`` (every row), ``faiss_flat`` (every row), ``faiss_ivf`` (rows near
        the query, found by a coarse quantiser), or ``auto``: on a CPU ``faiss_ivf`` for databases of more than 131,072
        descriptors of 256 numbers, or as much of other lengths, where faiss is installed; else ``torch``.
    :param prior_gate_sigmas: with a prior, look only at references within this many standard deviations of its
        position; 0 looks at all, which keeps the poses of successive frames independent.
    :param unfamiliar: a frame is LOST when its nearest descriptor is farther than this times the farthest of the
        calibration frames, and DEGRADED when it is farther than that one.
    """

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {
        "ridge": Fixed(RIDGE),
        "radius_deg": Fixed(RADIUS_DEG),
        "index_recall": Fixed(INDEX_RECALL),
    }

    k: int = ranged(1, minimum=1, maximum=1000)
    weights: Weighting = "interpolation"
    similarity_power: float = ranged(SIMILARITY_POWER, minimum=0.0, maximum=1000.0)
    radius_m: float = ranged(10.0, minimum=0.0)
    neighbours: int = ranged(20, minimum=1, maximum=1000)
    index: IndexKind = "auto"
    prior_gate_sigmas: float = ranged(0.0, minimum=0.0, maximum=100.0)
    unfamiliar: float = ranged(1.25, minimum=1.0, maximum=1000.0)


@dataclass(frozen=True)
class _SceneData:
    name: str
    database: Database
    index: Index
    positions: Array


class RetrievalLocalizer(Localizer):
    """The pose of the nearest reference image, or a mean of the nearest k. See the README for every setting.

    A map of several scenes searches the scene that the query names; without a name it takes the scene of the nearest
    descriptor: all scenes share the extractor.
    """

    backend: ClassVar[str] = "retrieval"
    settings_class = RetrievalSettings
    settings_section: ClassVar[str] = SECTION
    statistics = STATISTICS
    offers_candidates = True

    def load(self, bundle: MapBundle) -> None:
        self._descriptor, self._recorder = Descriptor.from_bundle(bundle, self._device), Recorder(self._device)
        self._scenes = [
            self._scene_data(scene, database, f"{bundle.path}: scene {scene!r}")
            for scene, database in read_databases(bundle).items()
        ]

    def _scene_data(self, name: str, database: Database, where: str) -> _SceneData:
        self._descriptor.check_database(database, where)
        index = build_index(database, self._device, self._settings.index, INDEX_RECALL)
        return _SceneData(name, database, index, database.poses[:, :3].double().numpy())

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
        return self.database(scene).T_map_cam

    def with_database(self, scene: str, database: Database) -> RetrievalLocalizer:
        """The same localizer with other references in one scene; extractor, calibration and map id are shared.

        :raises MapError: descriptors of another extractor, or none.
        """
        number, other = self.scene_index(scene), copy.copy(self)
        other._scenes, other._recorder = list(self._scenes), Recorder(self._device)
        other._scenes[number] = self._scene_data(scene, database, f"scene {scene!r}")
        return other

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        vector = self._descriptor.describe(query.image_rgb)
        clock.lap("encode")
        scenes = self.scenes_of(query)
        found = [self._neighbours(number, vector, query.prior) for number in scenes]
        image, *there = (x.numpy() for x in read_back(vector, *(x[0] for pair in found for x in pair)))
        nearest = zip(there[::2], there[1::2], scenes, strict=True)
        distances, rows, number = min(nearest, key=lambda scene: float(scene[0][0]))
        distances = distances.astype(np.float64)
        settings, database = self._settings, self._scenes[number].database
        clock.lap("search")
        poses, similarities = database.select(rows).T_map_cam, self._similarity(distances)
        same = same_place(poses, settings.radius_m, RADIUS_DEG)
        used = np.flatnonzero(same[: settings.k])
        weights = neighbour_weights(
            settings.weights, image.astype(np.float64), database.descriptors[rows].double().numpy()[used],
            similarities[used], settings.similarity_power,
        )  # fmt: skip
        T_map_cam = average_neighbours(poses[used], weights, settings.radius_m).T_map_cam
        clock.lap("average")
        return Hypothesis(
            self._scenes[number].name,
            T_map_cam,
            float(similarities[0]),
            statistics=retrieval_statistics(distances, poses, same, T_map_cam),
            diagnostics={
                "nearest_reference": float(rows[0]),
                "nearest_distance": float(distances[0]),
                "averaged": float(len(used)),
            },
            candidates=(CandidateStep(poses, similarities, used.astype(np.int64)),) if keep_candidates else (),
        )

    def _neighbours(
        self, number: int, vector: torch.Tensor, prior: PosePrior | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances and rows (1, n) of the neighbours in one scene, nearest first, on the device."""
        scene, k, gate = self._scenes[number], max(self._settings.k, self._settings.neighbours), None
        if prior is not None and self._settings.prior_gate_sigmas > 0:
            gate = within_prior(scene.positions, prior, self._settings.prior_gate_sigmas)
        if gate is not None and len(gate):
            return scene.index.search_among(vector[None], k, torch.from_numpy(gate))
        if not scene.index.recordable:
            return scene.index.search(vector[None], k)
        distances, rows = self._recorder.run(
            (number, len(scene.index)), lambda vector: scene.index.search(vector[None], k), [vector]
        )
        return distances, rows

    def _similarity(self, distances: Array) -> Array:
        """Distances as similarities in [0, 1], one to one where they are above 0."""
        if self._descriptor.metric == "cosine":
            return np.clip(1.0 - distances, 0.0, 1.0)
        return np.asarray(1.0 / (1.0 + distances))

    def assess(self, query: Query, found: Hypothesis) -> Confidence:
        """No sigma is known for a frame that looks less like the map than any that it was calibrated on."""
        confidence, lowest = super().assess(query, found), self._calibration[found.scene].lowest_score
        if lowest <= 0 or confidence.position_sigma_m is None:
            return confidence
        farthest = 1.0 - lowest if self._descriptor.metric == "cosine" else 1.0 / lowest - 1.0
        distance = found.diagnostics["nearest_distance"]
        if distance > self._settings.unfamiliar * farthest:
            return replace(confidence, state=LocalizationState.LOST)
        if distance > farthest and confidence.state is LocalizationState.LOCALIZED:
            return replace(confidence, state=LocalizationState.DEGRADED)
        return confidence


def within_prior(positions: Array, prior: PosePrior, sigmas: float) -> npt.NDArray[np.int64]:
    """Rows of ``(M, 3)`` positions within so many standard deviations of the prior's position."""
    offsets = positions - prior.T_map_cam[:3, 3]
    inverse = np.linalg.inv(prior.covariance[:3, :3] + 1e-6 * np.eye(3))  # a prior may be certain in an axis
    return np.asarray(np.flatnonzero(np.einsum("mi,ij,mj->m", offsets, inverse, offsets) <= sigmas**2), dtype=np.int64)
