"""The Lightning module of one pass: equation 1 or learned weights, Adam, validation on held-out descriptors."""

from __future__ import annotations

import copy
import math
import time
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from vloc_ros.geometry.torch_ops import rotation_angle_quaternion
from vloc_ros.localizers.irpnet.network import TASKS, Regressor, Task, rotation_quaternion
from vloc_train.irpnet.data import Batch, SceneDescriptors, batches
from vloc_train.irpnet.losses import LearnedWeights, pose_loss
from vloc_train.irpnet.settings import TrainSettings

__all__ = ["RegressorModule", "Validate"]


class RegressorModule(lightning.LightningModule):
    """Trains the regressor of one pass.

    :param kept: the tasks that are wanted of it: ``("position",)``, ``("orientation",)`` or both (MLP). Branches whose
        loss has no weight are not made; a branch that only helps is left out of :meth:`result`.
    :param max_minutes: of this pass.
    """

    def __init__(
        self,
        scene: SceneDescriptors,
        settings: TrainSettings,
        kept: tuple[Task, ...],
        max_minutes: float | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.scene, self.kept, self.max_minutes = settings, scene, kept, max_minutes
        self.weights = settings.position_weights if kept == ("position",) else settings.orientation_weights
        learned = kept == TASKS
        tasks = TASKS if learned else tuple(t for t, w in zip(TASKS, self.weights, strict=True) if w)
        self.regressor = Regressor(scene.dimension, settings.network, tasks)
        self.regressor.set_statistics(scene.sample(), scene.poses[:, :3])
        self.learned = LearnedWeights() if learned else None
        self._seconds_before = 0.0
        self._started: float | None = None
        self.best_error = math.inf
        self._best: dict[str, Tensor] = {}

    # -- progress ---------------------------------------------------------------------------------

    def seconds(self) -> float:
        """Wall-clock seconds of training so far, earlier parts of a resumed run included."""
        return self._seconds_before + (time.monotonic() - self._started if self._started is not None else 0.0)

    def progress(self) -> float:
        """Share of the pass that lies behind, 0 to 1."""
        steps = float(self.trainer.estimated_stepping_batches)
        share = self.global_step / steps if math.isfinite(steps) and steps > 0 else 0.0
        if self.max_minutes is not None:
            share = max(share, self.seconds() / (60.0 * self.max_minutes))
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

    def loader(self) -> DataLoader[Batch]:
        """Batches from the step that the run has come to."""
        return batches(self.scene, self.settings, lambda: int(self.global_step))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        s = self.settings
        return torch.optim.Adam(
            self.parameters(),
            lr=s.learning_rate,
            betas=(0.9, 0.999),
            eps=s.adam_epsilon,
            weight_decay=s.weight_decay * s.learning_rate,
            # One pass over the weights instead of one for each operation: they are all that takes time here.
            fused=True,
        )

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        descriptors, truth = batch
        found = self.regressor(descriptors)
        return self.learned(found, truth) if self.learned is not None else pose_loss(found, truth, self.weights)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.settings.schedule == "cosine":
            rate = self.settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * self.progress()))
            for group in cast(Any, self.optimizers()).param_groups:
                group["lr"] = rate
        loss = self.loss(batch)
        # Reading values off the device waits for it; these are the steps that the trainer's logger writes down.
        if (self.global_step + 1) % cast(Any, self.trainer).log_every_n_steps == 0:
            self.log("loss", loss.detach(), prog_bar=True)
        return loss

    # -- validation -------------------------------------------------------------------------------

    @torch.no_grad()
    def validation_errors(self) -> dict[Task, float]:
        """Median errors of the held-out descriptors: position (m) and orientation (deg), what of them is trained."""
        was_training = self.regressor.training
        self.regressor.eval()
        found = self.regressor(self.scene.held_out.to(self.device))
        self.regressor.train(was_training)
        truth = self.scene.held_out_poses.to(self.device)
        errors: dict[Task, float] = {}
        if found.position is not None:
            errors["position"] = float(torch.linalg.vector_norm(found.position - truth[:, :3], dim=-1).median())
        if found.rotation is not None:
            angle = rotation_angle_quaternion(rotation_quaternion(found.rotation), truth[:, 3:])
            errors["orientation"] = float(torch.rad2deg(angle).median())
        return errors

    def remember_best(self, errors: dict[Task, float]) -> None:
        """Keep the weights if the errors of what is wanted (2 m count as 5 degrees) are the smallest so far."""
        error = sum(errors[t] / (2.0 if t == "position" else 5.0) for t in self.kept)
        if error < self.best_error:
            self.best_error = error
            self._best = {k: v.detach().cpu().clone() for k, v in self.regressor.state_dict().items()}

    def result(self) -> Regressor:
        """The trained regressor with the branches that are kept, on the CPU."""
        best = self.settings.keep == "best" and self._best
        state = self._best if best else {k: v.detach().cpu() for k, v in self.regressor.state_dict().items()}
        out = Regressor(self.scene.dimension, self.settings.network, self.kept)
        out.load_state_dict({name: copy.copy(state[name]) for name in out.state_dict()})
        return out.eval()


class Validate(Callback):
    """Validates a fixed number of times in a pass."""

    def __init__(self, times: int) -> None:
        self.times, self.done = times, 0

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = int(state["done"])

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        progress = module.progress()
        if progress * self.times < self.done + 1 and not trainer.should_stop:
            return
        self.done = int(progress * self.times)
        errors = module.validation_errors()
        figures = {f"validation_{'m' if task == 'position' else 'deg'}": error for task, error in errors.items()}
        module.log_dict(figures, prog_bar=True, logger=False)
        trainer.logger.log_metrics(figures, step=trainer.global_step)
        module.remember_best(errors)
