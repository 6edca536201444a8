"""The Lightning module of an extractor: loss, schedule, averaged weights, validation by nearest neighbours."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import lightning
import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.torch_ops import rotation_angle_quaternion
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.retrieval.extractors import Extractor
from vloc_train.frames import FrameSet
from vloc_train.retrieval.losses import RelativePoseRegressor, distance_loss, relative_pose_loss, triplet_loss
from vloc_train.retrieval.sampling import Batch, pairs_of, triplets_of
from vloc_train.retrieval.settings import TrainSettings

__all__ = ["ExtractorModule", "ValidationSet", "nearest_pose_errors"]


@dataclass(frozen=True)
class ValidationSet:
    """Frames to find, and the frames to find them among."""

    queries: FrameSet
    references: FrameSet


class ExtractorModule(lightning.LightningModule):
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
        self._seconds_before = 0.0
        self._started: float | None = None
        self.best_error = math.inf
        self._best: dict[str, Tensor] = {}

    # -- progress ---------------------------------------------------------------------------------

    def seconds(self) -> float:
        """Wall-clock seconds of training so far, earlier parts of a resumed run included."""
        return self._seconds_before + (time.monotonic() - self._started if self._started is not None else 0.0)

    def progress(self) -> float:
        """Share of the run that lies behind, 0 to 1."""
        steps = float(self.trainer.estimated_stepping_batches)
        share = self.global_step / steps if math.isfinite(steps) and steps > 0 else 0.0
        if self.settings.max_minutes is not None:
            share = max(share, self.seconds() / (60.0 * self.settings.max_minutes))
        return min(1.0, share)

    def on_fit_start(self) -> None:
        self._started = time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = self.seconds()
        checkpoint["best_error"], checkpoint["best"] = self.best_error, self._best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._seconds_before = float(checkpoint["seconds"])
        self.best_error, self._best = float(checkpoint["best_error"]), dict(checkpoint["best"])

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
        return self.settings.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * progress))

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
        for group in cast(Any, self.optimizers()).param_groups:
            group["lr"] = rate
        loss = self.loss(batch)
        # Reading values off the device waits for it; these are the steps that the trainer's logger writes down.
        if (self.global_step + 1) % cast(Any, self.trainer).log_every_n_steps == 0:
            self.log("loss", loss.detach(), prog_bar=True)
            self.log("learning_rate", rate)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here and not in on_train_batch_end: callbacks come before that, and a checkpoint would miss the last step.
        self._average_weights(self.global_step + 1)

    def _average_weights(self, steps: int) -> None:
        if self.averaged is None:
            return
        # A short memory at first: early weights are soon no longer worth remembering.
        decay = min(self.settings.weight_average, (1.0 + steps) / (10.0 + steps))
        with torch.no_grad():
            mine, theirs = ([p.detach() for p in e.parameters()] for e in (self.averaged, self.extractor))
            torch._foreach_lerp_(mine, theirs, 1.0 - decay)
            for a, b in zip(self.averaged.buffers(), self.extractor.buffers(), strict=True):
                if a.is_floating_point():
                    a.lerp_(b, 1.0 - decay)
                else:
                    a.copy_(b)

    # -- validation -------------------------------------------------------------------------------

    @property
    def exported(self) -> Extractor:
        """The weights that are validated and written to the map."""
        return self.averaged if self.averaged is not None else self.extractor

    def remember_best(self, error: float) -> None:
        """Keep the current weights if their validation error is the smallest so far."""
        if error < self.best_error:
            self.best_error = error
            self._best = {k: v.detach().cpu().clone() for k, v in self.exported.state_dict().items()}

    def best_extractor(self) -> Extractor:
        """The extractor with the weights of the best validation (the last ones if none was better)."""
        extractor = copy.deepcopy(self.exported).cpu()
        if self._best:
            extractor.load_state_dict(self._best)
        return extractor.eval()

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
