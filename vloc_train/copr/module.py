"""Training of H: equation 4, Adam, validation on pairs of drives that it does not learn from."""

from __future__ import annotations

import torch
from torch import Tensor

from vloc_ros.localizers.copr.network import DescriptorRegressor, relative_pose
from vloc_train.copr.data import Described, Pairs
from vloc_train.copr.losses import descriptor_loss
from vloc_train.copr.settings import TrainSettings
from vloc_train.training.frames import keyed_rng
from vloc_train.training.module import TrainingModule

__all__ = ["RegressorModule"]


class RegressorModule(TrainingModule[DescriptorRegressor]):
    """Trains H on descriptor pairs.

    :param known: what it learns from. :param held_out: what it is validated on.
    """

    settings: TrainSettings

    def __init__(self, known: Described, held_out: Described, settings: TrainSettings) -> None:
        network = DescriptorRegressor(known.descriptors.shape[1], settings.regressor)
        network.fit_scale(known.descriptors)
        super().__init__(settings, network)
        self._known, self._held_out = known, held_out
        pairs = Pairs(held_out, settings.pairs)
        rng = keyed_rng(settings.seed, 12)
        anchors = rng.choice(pairs.anchors, min(settings.validation_pairs, 8 * len(pairs.anchors)))
        self._validation = torch.from_numpy(pairs.draw(anchors, rng))
        self._spread = float((known.descriptors - known.descriptors.mean(dim=0)).square().mean().sqrt())

    def _regressed(
        self, network: DescriptorRegressor, of: Described, rows: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        anchors, targets = rows[:, 0], rows[:, 1]
        relative = relative_pose(of.poses[anchors], of.poses[targets], self.settings.regressor.relative_frame)
        given = of.descriptors[anchors] if noise is None else of.descriptors[anchors] + noise
        found = network(given.to(self.device), relative.to(self.device))
        return found, of.descriptors[targets].to(self.device)

    def transfer_batch_to_device(self, batch: Tensor, device: torch.device, dataloader_idx: int) -> Tensor:
        """Rows choose among what the host holds: they stay there."""
        return batch

    def _noise(self, rows: Tensor) -> Tensor | None:
        """What blurs the anchors of this step; it depends on seed and step alone."""
        amount = self.settings.pairs.noise * self._spread
        if not amount:
            return None
        shape = (len(rows), self._known.descriptors.shape[1])
        rng = keyed_rng(self.settings.seed, 13, self.global_step)
        return amount * torch.from_numpy(rng.standard_normal(shape, dtype="float32"))

    def step(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TrainingModule`; ``rows`` (B, 2) are anchors and targets."""
        found, wanted = self._regressed(self.network, self._known, rows, self._noise(rows))
        return descriptor_loss(found, wanted, self.settings.loss, self._spread), {}

    def validation_error(self) -> float:
        """Mean squared error of held-out pairs, in units of the descriptors' variance: 1 knows nothing."""
        with self.evaluated() as network:
            found, wanted = self._regressed(network, self._held_out, self._validation)
        return float(descriptor_loss(found, wanted, "mse", self._spread))

    def validation(self) -> tuple[dict[str, float], float]:
        """See :meth:`validation_error`."""
        error = self.validation_error()
        return {"validation_error": error}, error
