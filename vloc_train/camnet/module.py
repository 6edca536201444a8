"""The losses of a batch of CamNet, and Algorithm 1."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.camnet.network import CamNetNetwork, Features
from vloc_ros.localizers.camnet.relative import absolute_poses, mirrored_poses, nearest_poses, relative_poses
from vloc_train.camnet.data import Batch, KeyedGroups
from vloc_train.camnet.losses import (
    angle_loss,
    angle_target,
    frustum_loss,
    hard_triplet_loss,
    nearest_of,
    relative_pose_loss,
)
from vloc_train.camnet.settings import TrainSettings
from vloc_train.training.frames import keyed_rng
from vloc_train.training.module import TrainingModule

__all__ = ["CamNetModule"]

#: Of SGD (Section 4.2).
_MOMENTUM = 0.9

#: Ordered pairs of a group: the anchor (0) with its partners first.
_ANCHOR_PAIRS = [(0, 1), (0, 2), (0, 3)]
_ALL_PAIRS = _ANCHOR_PAIRS + [p for p in itertools.permutations(range(4), 2) if p not in _ANCHOR_PAIRS]


class CamNetModule(TrainingModule[CamNetNetwork]):
    """Trains :class:`CamNetNetwork` on groups of an anchor and its partners.

    Every image of a batch is encoded once, and pairs are formed from features.
    """

    settings: TrainSettings
    warm_up = 50
    _pairs: Tensor

    def __init__(
        self,
        settings: TrainSettings,
        groups: KeyedGroups,
        preprocess: Preprocess,
        pretrained: bool | str = False,
        workers: int = 0,
    ) -> None:
        network = CamNetNetwork(settings.network, pretrained)
        network.trunk.to(memory_format=torch.channels_last)
        super().__init__(settings, network)
        self.preprocess, self._groups = preprocess, groups
        self._freeze_untrained()
        self._references: dict[tuple[int, torch.device], Tensor] = {}
        # Which images Algorithm 1 wants is known in the middle of a step: beside the training, not before it.
        self._makers = ThreadPoolExecutor(max(workers, 1), "augment")
        chosen = _ANCHOR_PAIRS if settings.pairs == "anchor" else _ALL_PAIRS
        self.register_buffer("_pairs", torch.tensor(chosen).T.contiguous(), persistent=False)

    def _freeze_untrained(self) -> None:
        """Parts without a loss get no gradient, so that processes that share a batch do not wait for one."""
        wanted, net = set(self.settings.losses), self.network
        for part, losses in (
            (net.icr, {"frustum", "angle", "triplet"}),
            (net.icr_pair, {"frustum", "angle"}),
            (net.pfr, {"pfr"}),
            (net.pfr_pair, {"pfr"}),
            (net.prp, {"prp"}),
            (net.prp_pair, {"prp"}),
        ):
            part.requires_grad_(bool(wanted & losses))

    def configure_model(self) -> None:
        """Batch statistics are those of the whole batch, whatever the number of GPUs (Section 4.2)."""
        trainer = getattr(self, "_trainer", None)
        if trainer is not None and trainer.world_size > 1 and trainer.strategy.root_device.type == "cuda":
            converted: Any = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
            self.network = converted

    def configure_optimizers(self) -> torch.optim.Optimizer:
        s = self.settings
        if s.optimizer == "sgd":
            return torch.optim.SGD(self.trained(), s.learning_rate, _MOMENTUM, weight_decay=s.weight_decay)
        return torch.optim.AdamW(self.trained(), s.learning_rate, weight_decay=s.weight_decay)

    # -- losses -----------------------------------------------------------------------------------

    def _encode(self, images: Tensor) -> Features:
        normal = self.preprocess.normalize(images).to(memory_format=torch.channels_last)
        return Features(*(f.float() for f in self.network.encode(normal)))

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TrainingModule`."""
        terms = self.losses(batch)
        return torch.stack(list(terms.values())).sum(), {f"loss/{name}": value for name, value in terms.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of eq. 1 that the settings ask for, by name."""
        s, net, count = self.settings, self.network, len(batch.images)
        features = self._encode(batch.images.flatten(0, 1))
        icr, pfr, prp = (f.reshape(count, 4, -1) for f in features)
        out: dict[str, Tensor] = {}
        if "frustum" in s.losses or "angle" in s.losses:
            distances, angles = net.overlap(icr[:, :1].expand(-1, 3, -1), icr[:, 1:])
            if "frustum" in s.losses:
                out["frustum"] = frustum_loss(distances, 1.0 - batch.overlap)
            if "angle" in s.losses:
                anchor = batch.poses[:, :1].expand(-1, 3, -1)
                out["angle"] = angle_loss(angles, angle_target(anchor, batch.poses[:, 1:]))
        if "triplet" in s.losses:
            vectors = net.retrieval_vectors(icr)
            out["triplet"] = hard_triplet_loss(
                vectors[:, 0], vectors[:, 1], vectors[:, 2], vectors[:, 3], batch.valid, s.margin,
                self._far(batch, vectors) if s.far_negatives else None, s.triplet,
            )  # fmt: skip
        if "pfr" in s.losses:
            one, two = self._pairs.unbind()
            predicted = net.coarse(pfr.index_select(1, one), pfr.index_select(1, two))
            first, second = batch.poses.index_select(1, one), batch.poses.index_select(1, two)
            target = relative_poses(first, second, s.network.relative_frame)
            out["pfr"] = relative_pose_loss(predicted, target, s.rotation_weight)
            if "prp" in s.losses:
                out["prp"] = self._precise(batch, prp[:, 0], predicted[:, :3].detach())
        return out

    def _far(self, batch: Batch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """For each anchor the nearest by features among the batch's images beyond its reach."""
        positions = batch.poses[..., :3]
        apart = torch.cdist(positions[:, 0], positions.flatten(0, 1))
        return nearest_of(vectors[:, 0], vectors.flatten(0, 1), apart > self.settings.mining.reach_m)

    def _precise(self, batch: Batch, anchors: Tensor, predicted: Tensor) -> Tensor:
        """Algorithm 1: the anchor's pose by each of the three partners (PFR), the database image closest to it, and the
        loss of PRP on anchor and that image.

        :param anchors: PRP features ``(N, F)``. :param predicted: PFR's relative poses ``(N, 3, 7)``, without gradient.
        """
        s = self.settings
        estimated = absolute_poses(batch.poses[:, 1:], predicted, s.network.relative_frame)
        rows = self.closest(batch, estimated)
        unique, of = np.unique(rows.cpu().numpy(), return_inverse=True)
        key = (s.seed, 43, *batch.key, batch.scene, int(batch.frames[0, 0]))

        def make(frame: int) -> tuple[Tensor, Tensor]:
            return self._groups.image(batch.scene, frame, batch.mirrored, keyed_rng(*key, frame))

        made = list(self._makers.map(make, unique.tolist()))
        inverse = torch.from_numpy(of.reshape(rows.shape)).to(self.device)
        images = torch.stack([image for image, _ in made]).to(self.device)
        poses = torch.stack([pose for _, pose in made]).to(self.device)
        normal = self.preprocess.normalize(images).to(memory_format=torch.channels_last)
        found = self.network.encode_precise(normal).float()
        one, two = anchors[:, None].expand(-1, 3, -1), found[inverse]
        pose_1, pose_2 = batch.poses[:, :1].expand(-1, 3, -1), poses[inverse]
        loss = relative_pose_loss(
            self.network.precise(one, two),
            relative_poses(pose_1, pose_2, s.network.relative_frame),
            s.rotation_weight,
        )
        if s.pairs == "group":  # the same pairs the other way round
            swapped = relative_pose_loss(
                self.network.precise(two, one),
                relative_poses(pose_2, pose_1, s.network.relative_frame),
                s.rotation_weight,
            )
            loss = 0.5 * (loss + swapped)
        return loss

    def closest(self, batch: Batch, estimated: Tensor) -> Tensor:
        """Frames ``(N, 3)`` of the scene that are closest to estimated poses ``(N, 3, 7)``, never the anchor itself."""
        place = self._groups.places[batch.scene]
        key = (batch.scene, self.device)
        if key not in self._references:
            self._references[key] = torch.from_numpy(to_vectors(place.frames.T_map_cam)).to(self.device)
        references = self._references[key]
        excluded = torch.from_numpy(self._excluded(batch)).to(self.device)
        world = mirrored_poses(estimated) if batch.mirrored else estimated  # back to the world of the database
        weight = self.settings.inference.rotation_weight_m
        rows = nearest_poses(world.flatten(0, 1), references, weight, excluded.repeat_interleave(3, dim=0))
        return rows.reshape(-1, 3)

    def _excluded(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """(N, M): frames of the scene that Algorithm 1 must not take for an anchor; see ``refine_from``."""
        s, drive = self.settings, self._groups.places[batch.scene].drive
        anchors = batch.frames[:, 0]
        itself = np.arange(len(drive))[None] == anchors[:, None]
        if s.refine_from == "any":
            return np.asarray(itself)
        allowed = drive[None] != drive[anchors][:, None]
        if s.refine_from == "one":
            for row, anchor in zip(allowed, anchors.tolist(), strict=True):
                others = np.unique(drive[row])
                if len(others):
                    row &= drive == keyed_rng(s.seed, 44, *batch.key, batch.scene, anchor).choice(others)
        return np.asarray(np.where(allowed.any(axis=1, keepdims=True), ~allowed, itself))
