"""Training of PixLoc: encode a batch, unroll the optimiser, and learn from the poses alone (Section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.cameras import resized
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.pixloc.damping import LearnedDamping
from vloc_ros.localizers.pixloc.features import scaled_size
from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.model import PixLocModel
from vloc_ros.localizers.pixloc.network import FeatureLevel, FeatureNet
from vloc_ros.localizers.pixloc.optimizer import Level, refine_level
from vloc_ros.localizers.pixloc.public_weights import is_public, load_public_weights
from vloc_ros.localizers.weights import read_weight_file
from vloc_train.pixloc.data import Batch, KeyedPairs
from vloc_train.pixloc.field import TrainingField
from vloc_train.pixloc.losses import PixLocLoss, gated_loss
from vloc_train.pixloc.settings import TrainSettings
from vloc_train.training.module import TrainingModule

__all__ = ["Examples", "PixLocModule", "make_model"]


@dataclass(frozen=True)
class Examples:
    """E localizations: image ``query`` (E,) of the batch's images by the points of image ``reference`` (E,).

    ``points`` (E, N, 3) in the axes of the reference; ``pixels`` (E, N, 2) there; ``mask`` (E, N); ``T_true`` and
    ``T_start`` (E, 4, 4) map points of the reference into the query.
    """

    query: Tensor
    reference: Tensor
    points: Tensor
    pixels: Tensor
    mask: Tensor
    T_true: Tensor
    T_start: Tensor


def make_model(settings: TrainSettings) -> PixLocModel:
    """The model that a run begins with: random or pretrained.

    :raises ConfigError: the weights are those of another network.
    """
    damping = LearnedDamping(settings.network.levels, settings.optimizer.damping_log10)
    pretrained = settings.pretrained
    if isinstance(pretrained, str) and Path(pretrained).suffix != "" and is_public(read_weight_file(pretrained)):
        model = PixLocModel(FeatureNet(settings.network), damping)
        found = load_public_weights(pretrained, model.network)
        model.network.load_state_dict(found.network)
        if found.damping is not None:
            if settings.optimizer.damping_log10 != (-6.0, 5.0):
                raise ConfigError("pixloc.optimizer.damping_log10: public checkpoints need (-6, 5)")
            with torch.no_grad():
                model.damping.theta.copy_(found.damping)
        return model
    return PixLocModel(FeatureNet(settings.network, pretrained), damping)


class PixLocModule(TrainingModule[PixLocModel]):
    """Trains network and damping on pairs."""

    settings: TrainSettings
    warm_up = 50

    def __init__(
        self, settings: TrainSettings, pairs: KeyedPairs, preprocess: Preprocess, model: PixLocModel | None = None
    ) -> None:
        model = model or make_model(settings)
        model.network.to(memory_format=torch.channels_last)
        super().__init__(settings, model)
        self.preprocess, self._pairs = preprocess, pairs
        self.unrolled = replace(settings.optimizer, iterations=settings.train_iterations)
        self.shown = (f"success/{settings.network.levels - 1}",)

    # -- optimiser --------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        s = self.settings
        return torch.optim.AdamW(
            [
                {"params": list(self.network.network.parameters()), "weight_decay": s.weight_decay, "scale": 1.0},
                {"params": list(self.network.damping.parameters()), "weight_decay": 0.0, "scale": s.damping_rate},
            ],
            lr=s.learning_rate,
        )

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Cut long gradients; a step whose gradient is not finite is left out."""
        parameters = [p for p in self.trained() if p.grad is not None]
        norm = torch.stack([cast(Tensor, p.grad).norm() for p in parameters]).norm()
        limit = self.settings.gradient_norm
        factor = (limit / norm.clamp_min(1e-12)).clamp(max=1.0) if limit else torch.ones_like(norm)
        finite = torch.isfinite(norm)
        for p in parameters:
            grad = cast(Tensor, p.grad)
            grad.copy_(torch.where(finite, grad * factor, torch.zeros_like(grad)))

    # -- one batch --------------------------------------------------------------------------------

    def examples(self, batch: Batch) -> Examples:
        """The localizations of a batch, whose images are numbered pair by pair."""
        B = len(batch.images)
        first = 2 * torch.arange(B, device=batch.points.device)
        if not self.settings.both_ways:
            # The anchor is localized by its partner: T_other[:, 1] maps the partner's points into the anchor.
            return Examples(
                first, first + 1, batch.points[:, 1], batch.pixels[:, 1], batch.mask[:, 1],
                batch.T_other[:, 1], batch.T_start[:, 1],
            )  # fmt: skip
        reference = torch.arange(2 * B, device=batch.points.device)
        return Examples(
            reference ^ 1, reference, batch.points.flatten(0, 1), batch.pixels.flatten(0, 1),
            batch.mask.flatten(0, 1), batch.T_other.flatten(0, 1), batch.T_start.flatten(0, 1),
        )  # fmt: skip

    def shrunk(self, batch: Batch) -> tuple[Tensor, TorchCamera, Tensor]:
        """Normalised images (2 B, 3, h, w) at the batch's scale, their camera, and how much (x, y) pixels shrink."""
        images = self.preprocess.normalize(batch.images.flatten(0, 1))
        camera = self._pairs.camera(batch.scene)
        height, width = scaled_size(camera.height, camera.width, batch.scale, self.settings.network.strides[-1])
        ratio = images.new_tensor([width / camera.width, height / camera.height])
        if (width, height) != (camera.width, camera.height):
            images = functional.interpolate(
                images, (height, width), mode="bilinear", align_corners=False, antialias=True
            )
            camera = resized(camera, width, height)
        return images.to(memory_format=torch.channels_last), TorchCamera.from_model(camera, images.device), ratio

    def localize(
        self, levels: Sequence[FeatureLevel], examples: Examples, camera: TorchCamera, ratio: Tensor, damping: Tensor
    ) -> list[Tensor]:
        """Poses (E, 4, 4) float64 after each level, coarse to fine; a level has no gradient to those before it.

        :param levels: of the batch's images. :param damping: (L, 6).
        """
        T, alive, out = examples.T_start, None, []
        kind = TrainingField if torch.is_grad_enabled() else GridField
        for number, level in enumerate(levels):
            maps = kind(level.features, level.confidence)
            last = examples.pixels.new_tensor([level.features.shape[-1] - 1, level.features.shape[-2] - 1])
            uv = (examples.pixels + 0.5) * (ratio / level.stride) - 0.5
            # Half a cell from the edge a coarse map has no centre further out: there the edge's features stand.
            sampled = maps.of(examples.reference).sample(torch.minimum(uv.clamp_min(0.0), last), gradients=False)
            result = refine_level(
                T.detach(),
                examples.points,
                Level(
                    maps.of(examples.query),
                    camera.scaled(level.stride),
                    sampled.values,
                    sampled.confidence,
                    damping[number],
                ),
                mask=examples.mask,
                alive=alive,
                settings=self.unrolled,
                report=False,
            )
            T, alive = result.T_cam_map, ~result.failed
            out.append(T)
        return out

    def losses(self, batch: Batch, model: PixLocModel | None = None) -> tuple[PixLocLoss, list[Tensor], Examples]:
        """Eq. 8 of a batch, the poses after each level, and the examples they are of."""
        model = model or self.network
        s, examples = self.settings, self.examples(batch)
        images, camera, ratio = self.shrunk(batch)
        levels = model.network(images)
        with torch.autocast(images.device.type, enabled=False):
            poses = self.localize(levels, examples, camera, ratio, model.damping())
            loss = gated_loss(
                [T.to(examples.points.dtype) for T in poses],
                [level.stride for level in levels],
                examples.T_true,
                examples.points,
                examples.mask,
                camera,
                width=s.huber_px,
                success_px=s.success_px,
                clamp_px=s.clamp_px,
                least_points=s.optimizer.minimum_points,
            )
        return loss, poses, examples

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TrainingModule`."""
        loss, _, _ = self.losses(batch)
        figures: dict[str, Tensor] = {}
        for number, (error, success) in enumerate(zip(loss.errors, loss.success, strict=True)):
            figures[f"error_px/{number}"] = error.median()
            figures[f"success/{number}"] = success.float().mean()
        return loss.total, figures
