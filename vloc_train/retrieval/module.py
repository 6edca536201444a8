"""The Lightning module of an extractor: loss, schedule, averaged weights, validation by nearest neighbours."""

from __future__ import annotations

import copy
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
from vloc_train.retrieval.losses import RelativePoseRegressor, distance_loss, relative_pose_loss, triplet_loss
from vloc_train.retrieval.sampling import Batch, pairs_of, triplets_of
from vloc_train.retrieval.settings import TrainSettings
from vloc_train.training.frames import FrameSet
from vloc_train.training.module import ScheduledModule, average_weights, cosine

__all__ = ["ExtractorModule", "ValidationSet", "nearest_pose_errors"]


@dataclass(frozen=True)
class ValidationSet:
    """Frames to find, and the frames to find them among."""

    queries: FrameSet
    references: FrameSet


class ExtractorModule(ScheduledModule):
    """Trains an extractor by one of CoPR's losses.

    The learning rate follows the progress of the run, which is the larger of the share of the epochs and the share of
    the minutes that are used up; both survive a resume.
    """

    def __init__(
        self,
        extractor: Extractor,
        settings: TrainSettings,
        preprocess: Preprocess,
        validation: Sequence[ValidationSet] = (),
    ) -> None:
        super().__init__()
        self.settings, self.preprocess, self._validation = settings, preprocess, list(validation)
        self.extractor = extractor.to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(extractor).requires_grad_(False).eval() if settings.weight_average else None
        relative = settings.loss.kind == "relative"
        self.regressor = RelativePoseRegressor(extractor.dimension, settings.loss.hidden) if relative else None

    # -- training ---------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for module in (self.extractor, self.regressor) if module for p in module.parameters()]
        trained = [p for p in trained if p.requires_grad]
        s = self.settings
        if s.weight_decay:
            return torch.optim.AdamW(trained, lr=s.learning_rate, weight_decay=s.weight_decay)
        return torch.optim.Adam(trained, lr=s.learning_rate)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        if self.settings.gradient_clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.settings.gradient_clip)

    def _learning_rate(self, progress: float) -> float:
        if self.settings.schedule == "constant":
            return self.settings.learning_rate
        warm = min(1.0, (self.global_step + 1) / max(1, self.settings.warm_up))
        return self.settings.learning_rate * warm * cosine(progress)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        images = self.preprocess.normalize(batch.images).to(memory_format=torch.channels_last)
        # Distances of nearly equal descriptors are lost in half precision.
        descriptors = self.extractor(images).float()
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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rate = self._learning_rate(self.progress())
        self.set_learning_rate(rate)
        loss = self.loss(batch)
        if self.is_logged():
            self.log("loss", loss.detach(), prog_bar=True)
            self.log("learning_rate", rate)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            average_weights(self.averaged, self.extractor, self.global_step + 1, self.settings.weight_average)

    # -- validation -------------------------------------------------------------------------------

    @property
    def exported(self) -> Extractor:
        """See :class:`ScheduledModule`."""
        return self.averaged if self.averaged is not None else self.extractor

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

    @torch.no_grad()
    def validate_frames(self) -> tuple[np.ndarray, np.ndarray]:
        """Translation (m) and rotation (deg) errors of the validation queries' nearest neighbours."""
        extractor = self.exported
        was_training = extractor.training
        extractor.eval()
        errors = []
        known: dict[int, Tensor] = {}  # the same queries stand in several sets
        for pair in self._validation:
            queries = _thinned(pair.queries, self.settings.validation_frames)
            if id(pair.queries) not in known:
                known[id(pair.queries)] = self._describe(queries)
            references = _thinned(pair.references, self.settings.validation_references)
            found = self._describe(references)
            errors.append(nearest_pose_errors(known[id(pair.queries)], queries, found, references))
        extractor.train(was_training and extractor is self.extractor)
        table = np.concatenate(errors) if errors else np.zeros((0, 2))
        return table[:, 0], table[:, 1]

    def _describe(self, frames: FrameSet) -> Tensor:
        rows = []
        for start in range(0, len(frames), 64):
            images = torch.from_numpy(np.array(frames.images[start : start + 64])).permute(0, 3, 1, 2).to(self.device)
            rows.append(self.exported(self.preprocess.normalize(images)).float())
        return torch.cat(rows)


def nearest_pose_errors(queries: Tensor, query_frames: FrameSet, references: Tensor, frames: FrameSet) -> np.ndarray:
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
