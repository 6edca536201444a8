"""What the modules of all trainers share: how far a run has come, its averaged and best weights, its validations."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from vloc_train.training.run import TimeLimit

__all__ = ["ScheduledModule", "Validate", "average_weights", "cosine"]

_log = logging.getLogger(__name__)


class ScheduledModule(lightning.LightningModule):
    """A module whose run ends by epochs or by minutes, and that keeps its best weights; both survive a resume."""

    def __init__(self) -> None:
        super().__init__()
        self.best_error = math.inf
        self._best: dict[str, Tensor] = {}

    @property
    def exported(self) -> nn.Module:
        """The network whose weights are validated and written to the map."""
        raise NotImplementedError

    def validation(self) -> tuple[Mapping[str, float], float]:
        """Figures by name of the current weights on held-out data, and the error that decides which are best.

        The error is NaN where there is nothing to validate on; the last weights are then the best.
        """
        raise NotImplementedError

    def progress(self) -> float:
        """Share of the run that lies behind, 0 to 1: of its epochs or of its minutes, whichever is larger."""
        steps = float(self.trainer.estimated_stepping_batches)
        share = self.global_step / steps if math.isfinite(steps) and steps > 0 else 0.0
        limit = time_limit(self.trainer)
        if limit is not None and limit.minutes is not None:
            share = max(share, limit.seconds / (60.0 * limit.minutes))
        return min(1.0, share)

    def set_learning_rate(self, rate: float) -> None:
        """For the coming step; a group of parameters with a ``scale`` of its own gets so many times that."""
        for group in cast(Any, self.optimizers()).param_groups:
            group["lr"] = rate * group.get("scale", 1.0)

    def is_logged(self) -> bool:
        """Whether the trainer's logger writes this step down: reading values off a device waits for it."""
        return bool((self.global_step + 1) % cast(Any, self.trainer).log_every_n_steps == 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best_error"], checkpoint["best"] = self.best_error, self._best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.best_error, self._best = float(checkpoint["best_error"]), dict(checkpoint["best"])

    def remember_best(self, error: float) -> None:
        """Keep the current weights if their validation error is the smallest so far."""
        if error < self.best_error:
            self.best_error = error
            self._best = {k: v.detach().cpu().clone() for k, v in self.exported.state_dict().items()}

    def best(self) -> Any:
        """A copy on the CPU of what is exported, with the weights of the best validation (the last if none was)."""
        network = copy.deepcopy(self.exported).cpu()
        if self._best:
            network.load_state_dict(self._best)
        return network.eval()


def time_limit(trainer: Any) -> TimeLimit | None:
    """The clock of a run, which :func:`vloc_train.training.run.fit` puts among the callbacks."""
    return next((c for c in getattr(trainer, "callbacks", ()) if isinstance(c, TimeLimit)), None)


def cosine(progress: float) -> float:
    """1 at the start of a run, 0 at its end."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


@torch.no_grad()
def average_weights(averaged: nn.Module, network: nn.Module, steps: int, most: float) -> None:
    """Move an exponential moving average of the weights by one step.

    Call it after an optimiser step and not in ``on_train_batch_end``: callbacks come before that, and a checkpoint
    would miss the last step.

    :param steps: taken so far. The memory is short at first: early weights are soon no longer worth remembering.
    :param most: the decay in the long run.
    """
    decay = min(most, (1.0 + steps) / (10.0 + steps))
    mine, theirs = averaged.state_dict(), network.state_dict()
    names = [name for name, value in mine.items() if value.is_floating_point()]
    torch._foreach_lerp_([mine[n] for n in names], [theirs[n] for n in names], 1.0 - decay)
    for name in mine.keys() - set(names):
        mine[name].copy_(theirs[name])


class Validate(Callback):
    """Validates a :class:`ScheduledModule` a fixed number of times in a run, the last time at its end."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.done = 0

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = int(state["done"])

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        # At the end, by steps or by the clock, progress is 1: the last validation is due then, and none after it,
        # although one more batch may come before the trainer stops.
        progress, limit = module.progress(), time_limit(trainer)
        if limit is not None and limit.minutes is not None:  # all processes must agree, whatever their clocks say
            progress = trainer.strategy.broadcast(progress)
        if progress * self.times < self.done + 1:
            return
        self.done = int(progress * self.times)
        figures, error = module.validation()
        if math.isnan(error):
            return
        module.remember_best(error)
        # Straight to the file: what a module logs is written only at every log_every_n_steps-th step.
        module.log_dict(dict(figures), prog_bar=True, logger=False)
        trainer.logger.log_metrics(dict(figures), step=trainer.global_step)
        _log.info(
            "step %d (%.0f s): %s",
            trainer.global_step,
            limit.seconds if limit else 0.0,
            ", ".join(f"{name} {value:.3g}" for name, value in figures.items()),
        )
