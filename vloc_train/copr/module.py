"""The Lightning module of H: equation 4, Adam, validation on pairs of drives that it does not learn from."""

from __future__ import annotations

import copy
import math
import time
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from vloc_ros.localizers.copr.network import DescriptorRegressor, relative_pose
from vloc_train.copr.data import Described, Pairs
from vloc_train.copr.losses import descriptor_loss
from vloc_train.copr.settings import TrainSettings
from vloc_train.frames import keyed_rng

__all__ = ["RegressorModule", "Validate"]


class RegressorModule(lightning.LightningModule):
    """Trains H on descriptor pairs.

    :param known: what it learns from. :param held_out: what it is validated on.
    """

    def __init__(self, known: Described, held_out: Described, settings: TrainSettings) -> None:
        super().__init__()
        self.settings, self._known, self._held_out = settings, known, held_out
        self.network = DescriptorRegressor(known.descriptors.shape[1], settings.regressor)
        self.network.fit_scale(known.descriptors)
        pairs = Pairs(held_out, settings.pairs)
        rng = keyed_rng(settings.seed, 12)
        anchors = rng.choice(pairs.anchors, min(settings.validation_pairs, 8 * len(pairs.anchors)))
        self._validation = torch.from_numpy(pairs.draw(anchors, rng))
        self._spread = float((known.descriptors - known.descriptors.mean(dim=0)).square().mean().sqrt())
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
        return torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate)

    def _regressed(self, of: Described, rows: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        anchors, targets = rows[:, 0].cpu(), rows[:, 1].cpu()
        relative = relative_pose(of.poses[anchors], of.poses[targets], self.settings.regressor.relative_frame)
        given = of.descriptors[anchors] if noise is None else of.descriptors[anchors] + noise
        found = self.network(given.to(self.device), relative.to(self.device))
        return found, of.descriptors[targets].to(self.device)

    def _noise(self, rows: Tensor) -> Tensor | None:
        """What blurs the anchors of this step; it depends on seed and step alone."""
        amount = self.settings.pairs.noise * self._spread
        if not amount:
            return None
        shape = (len(rows), self._known.descriptors.shape[1])
        rng = keyed_rng(self.settings.seed, 13, self.global_step)
        return amount * torch.from_numpy(rng.standard_normal(shape, dtype="float32"))

    def training_step(self, rows: Tensor, batch_idx: int) -> Tensor:
        if self.settings.schedule == "cosine":
            rate = self.settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * self.progress()))
            for group in cast(Any, self.optimizers()).param_groups:
                group["lr"] = rate
        loss = descriptor_loss(*self._regressed(self._known, rows, self._noise(rows)), self.settings.loss, self._spread)
        # Reading values off the device waits for it; these are the steps that the trainer's logger writes down.
        if (self.global_step + 1) % cast(Any, self.trainer).log_every_n_steps == 0:
            self.log("loss", loss.detach(), prog_bar=True)
        return loss

    # -- validation -------------------------------------------------------------------------------

    @torch.no_grad()
    def validation_error(self) -> float:
        """Mean squared error of held-out pairs, in units of the descriptors' variance: 1 knows nothing."""
        was_training = self.network.training
        self.network.eval()
        error = float(descriptor_loss(*self._regressed(self._held_out, self._validation), "mse", self._spread))
        self.network.train(was_training)
        return error

    def remember_best(self, error: float) -> None:
        """Keep the current weights if their validation error is the smallest so far."""
        if error < self.best_error:
            self.best_error = error
            self._best = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}

    def result(self) -> DescriptorRegressor:
        """H with the weights of the best validation (the last ones if there was none), on the CPU."""
        network = copy.deepcopy(self.network).cpu()
        if self._best:
            network.load_state_dict(self._best)
        return network.eval()


class Validate(Callback):
    """Validates a fixed number of times in a run, and ends the run when its minutes are over."""

    def __init__(self, times: int, limit_minutes: float | None) -> None:
        self.times, self.limit, self.done = times, limit_minutes, 0

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = int(state["done"])

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.should_stop:  # one more batch may come before the trainer stops
            return
        over = self.limit is not None and module.seconds() >= 60.0 * self.limit
        progress = module.progress()
        if over or progress * self.times >= self.done + 1:
            self.done = int(progress * self.times)
            error = module.validation_error()
            module.log("validation_error", error, prog_bar=True, logger=False)
            trainer.logger.log_metrics({"validation_error": error}, step=trainer.global_step)
            module.remember_best(error)
        if over:
            trainer.should_stop = True
