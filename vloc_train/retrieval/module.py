"""Training of an extractor: its losses, and validation by nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.torch_ops import rotation_angle_quaternion
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.retrieval.extractors import Extractor
from vloc_ros.types import Array
from vloc_train.retrieval.losses import RelativePoseRegressor, distance_loss, relative_pose_loss, triplet_loss
from vloc_train.retrieval.sampling import Batch, pairs_of, triplets_of
from vloc_train.retrieval.settings import TrainSettings
from vloc_train.training.frames import FrameSet
from vloc_train.training.module import TrainingModule

__all__ = ["ExtractorModule", "ValidationSet", "nearest_pose_errors"]

#: Most database images of one validation set, which is a drive: enough for one every few metres of a long one.
_VALIDATION_REFERENCES = 2000


@dataclass(frozen=True)
class ValidationSet:
    """Frames to find, and the frames to find them among."""

    queries: FrameSet
    references: FrameSet


class ExtractorModule(TrainingModule[Extractor]):
    """Trains an extractor by one of CoPR's losses."""

    settings: TrainSettings
    warm_up = 50

    def __init__(
        self,
        extractor: Extractor,
        settings: TrainSettings,
        preprocess: Preprocess,
        validation: Sequence[ValidationSet] = (),
    ) -> None:
        super().__init__(settings, extractor.to(memory_format=torch.channels_last))
        self.preprocess, self._validation = preprocess, list(validation)
        relative = settings.loss.kind == "relative"
        self.regressor = RelativePoseRegressor(extractor.dimension, settings.loss.hidden) if relative else None

    # -- training ---------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        s = self.settings
        return torch.optim.AdamW(self.trained(), lr=s.learning_rate, weight_decay=s.weight_decay)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        if self.settings.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained(), self.settings.gradient_clip)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        images = self.preprocess.normalize(batch.images).to(memory_format=torch.channels_last)
        # Distances of nearly equal descriptors are lost in half precision.
        descriptors = self.network(images).float()
        s = self.settings.loss
        if s.kind == "triplet":
            triplets = triplets_of(batch.poses, batch.place, batch.group, self.settings.sampling)
            return triplet_loss(descriptors, triplets, s.margin, s.active_only)
        pairs, elsewhere = pairs_of(batch.place, batch.group, self.settings.sampling.compare)
        if s.kind == "relative" or s.max_distance_m is None:
            pairs, elsewhere = pairs[~elsewhere], elsewhere[~elsewhere]
        if s.kind == "distance":
            return distance_loss(
                descriptors, batch.poses, pairs, s.max_distance_m, s.rotation_m_per_deg, s.near_m, elsewhere, s.balanced
            )
        assert self.regressor is not None
        with torch.autocast(descriptors.device.type, enabled=False):
            return relative_pose_loss(descriptors, batch.poses, pairs, self.regressor)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TrainingModule`."""
        return self.loss(batch), {}

    # -- validation -------------------------------------------------------------------------------

    def validation(self) -> tuple[dict[str, float], float]:
        """Errors of the validation queries' nearest neighbours.

        The mean of capped errors decides rather than the median: of one drive the median neighbour is the next frame
        long before the last wrong place is gone.
        """
        distance, angle = self.validate_frames()
        if not len(distance):
            return {}, math.nan
        figures = {"validation_m": float(np.median(distance)), "validation_deg": float(np.median(angle))}
        figures["validation_within_5m"] = float((distance <= 5.0).mean())
        return figures, float(np.minimum(distance, 20.0).mean())

    def validate_frames(self) -> tuple[Array, Array]:
        """Translation (m) and rotation (deg) errors of the validation queries' nearest neighbours."""
        errors = [np.zeros((0, 2))]
        known: dict[int, Tensor] = {}  # the same queries stand in several sets
        with self.evaluated() as extractor:
            for pair in self._validation:
                queries = _thinned(pair.queries, self.settings.validation_frames)
                if id(pair.queries) not in known:
                    known[id(pair.queries)] = self._describe(extractor, queries)
                references = _thinned(pair.references, _VALIDATION_REFERENCES)
                found = self._describe(extractor, references)
                errors.append(nearest_pose_errors(known[id(pair.queries)], queries, found, references))
        table = np.concatenate(errors)
        return table[:, 0], table[:, 1]

    def _describe(self, extractor: Extractor, frames: FrameSet) -> Tensor:
        rows = []
        for start in range(0, len(frames), 64):
            images = torch.from_numpy(np.array(frames.images[start : start + 64])).permute(0, 3, 1, 2).to(self.device)
            rows.append(extractor(self.preprocess.normalize(images)).float())
        return torch.cat(rows)


def nearest_pose_errors(queries: Tensor, query_frames: FrameSet, references: Tensor, frames: FrameSet) -> Array:
    """``(Q, 2)`` errors (m, deg) of taking the pose of the reference whose descriptor is nearest (L2).

    :param queries: ``(Q, D)`` descriptors of ``query_frames``; ``references`` ``(M, D)`` of ``frames``.
    """
    rows = torch.cdist(queries, references).argmin(dim=1).cpu()
    found = torch.from_numpy(to_vectors(frames.T_map_cam[rows.numpy()])).double()
    truth = torch.from_numpy(to_vectors(query_frames.T_map_cam)).double()
    distance = torch.linalg.vector_norm(found[:, :3] - truth[:, :3], dim=-1)
    angle = torch.rad2deg(rotation_angle_quaternion(found[:, 3:], truth[:, 3:]))
    return torch.stack([distance, angle], dim=-1).numpy()


def _thinned(frames: FrameSet, most: int) -> FrameSet:
    if len(frames) <= most:
        return frames
    return frames.select(np.linspace(0, len(frames) - 1, most).round().astype(np.int64))
