"""The loss of a batch of ImPosing, and its validation by localizing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from vloc_ros.geometry.torch_ops import rotation_angle_quaternion
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.imposing.initial import initial_candidates
from vloc_ros.localizers.imposing.network import ImPosingNetwork
from vloc_ros.localizers.imposing.search import draw, search
from vloc_ros.localizers.imposing.signatures import FrozenPoseEncoder
from vloc_ros.types import Array
from vloc_train.imposing.data import Batch
from vloc_train.imposing.objective import score_loss
from vloc_train.imposing.proposals import cosines, score_steps
from vloc_train.imposing.settings import TrainSettings
from vloc_train.training.frames import FrameSet
from vloc_train.training.module import TrainingModule

__all__ = ["ImPosingModule"]


class ImPosingModule(TrainingModule[ImPosingNetwork]):
    """Trains :class:`ImPosingNetwork` on the frames of one or several scenes.

    :param scenes: training frames of each scene (they give the mapped area and the first candidates).
    :param validation: frames to localize in validation, of the same scenes.
    """

    settings: TrainSettings
    warm_up = 100
    shown = ("positive_share/step_0",)

    def __init__(
        self,
        settings: TrainSettings,
        scenes: Sequence[FrameSet],
        validation: Sequence[FrameSet],
        preprocess: Preprocess,
        pretrained: bool | str = False,
    ) -> None:
        network = ImPosingNetwork(settings.network, len(scenes), pretrained)
        for index, frames in enumerate(scenes):
            positions = torch.from_numpy(frames.T_map_cam[:, :3, 3]).float()
            network.pose_encoder(index).set_area(positions.amin(dim=0), positions.amax(dim=0))
        network.to(memory_format=torch.channels_last)
        super().__init__(settings, network)
        self.preprocess = preprocess
        # A batch is of one scene (and one rival): the heads and pose encoders of the others rest.
        self.partial_steps = len(scenes) > 1
        self._validation = list(validation)
        self._initial = [initial_candidates(settings.search, to_vectors(f.T_map_cam), settings.seed) for f in scenes]

    def _narrowing(self, progress: float) -> float:
        s = self.settings
        if s.narrowing == 1.0 or progress <= s.narrow_after:
            return 1.0
        ramp = min(1.0, (progress - s.narrow_after) / max(1e-6, 0.5 * (1.0 - s.narrow_after)))
        return float(s.narrowing**ramp)

    def loss(self, batch: Batch, progress: float = 0.0) -> tuple[Tensor, list[Tensor]]:
        """The loss of a batch (eq. 5) and the predicted scores of each step."""
        images = self.preprocess.normalize(batch.images).to(memory_format=torch.channels_last)
        if not torch.is_autocast_enabled(images.device.type):
            images = images.to(batch.truth.dtype)
        pooled = self.network.image_encoder.pooled(images)
        vectors = self.network.image_encoder.heads[batch.scene](pooled)
        encoder = self.network.pose_encoder(batch.scene)
        predicted, targets = score_steps(encoder, vectors, batch, self.settings, self._narrowing(progress))
        loss = score_loss(predicted, targets)
        if batch.rival is not None and batch.rival_poses is not None and self.settings.cross_scene > 0:
            # Every pose of another scene should score 0: else scores of different scenes cannot be compared.
            elsewhere = self.network.image_encoder.heads[batch.rival](pooled).to(batch.truth.dtype)
            signatures = self.network.pose_encoder(batch.rival)(batch.rival_poses)
            unit = torch.nn.functional.normalize(elsewhere, dim=-1)
            loss = loss + self.settings.cross_scene * torch.relu(cosines(unit, signatures)).mean()
        return loss, predicted

    def step(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See :class:`TrainingModule`."""
        loss, predicted = self.loss(batch, self.progress())
        return loss, {f"positive_share/step_{k}": (p > 0).float().mean() for k, p in enumerate(predicted)}

    def validation(self) -> tuple[dict[str, float], float]:
        """Medians and recall of localizing the validation frames; the median position decides."""
        distance, angle = self.validate_frames()
        median = float(np.median(distance))
        recall = float(((distance <= 2.0) & (angle <= 5.0)).mean())
        figures = {"validation_m": median, "validation_deg": float(np.median(angle)), "validation_recall": recall}
        return figures, median

    def validate_frames(self) -> tuple[Array, Array]:
        """Translation (m) and rotation (deg) errors of the validation frames, localized by the current weights."""
        errors: list[Tensor] = []
        with self.evaluated() as network:
            for index, frames in enumerate(self._validation):
                every = max(1, -(-len(frames) // self.settings.validation_frames))
                encoder = FrozenPoseEncoder(network.pose_encoder(index), torch.float32, torch.float32)
                initial = self._initial[index].to(self.device)
                signatures = encoder.columns(initial.T)
                truths = torch.from_numpy(to_vectors(frames.T_map_cam)).to(self.device)
                for frame in range(0, len(frames), every):
                    image = torch.from_numpy(np.array(frames.images[frame])).permute(2, 0, 1)[None].to(self.device)
                    vector = network.image_encoder(self.preprocess.normalize(image), index)[0].float()
                    draws = draw(self.settings.search, frame, self.device, torch.float32)
                    pose = search(encoder, vector, initial, signatures, draws, self.settings.search).pose
                    distance = torch.linalg.vector_norm(pose[:3] - truths[frame, :3])
                    angle = rotation_angle_quaternion(pose[3:], truths[frame, 3:]) * (180.0 / math.pi)
                    errors.append(torch.stack((distance, angle)))
        table = torch.stack(errors).cpu().numpy()
        return table[:, 0], table[:, 1]
