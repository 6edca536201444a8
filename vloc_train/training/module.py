"""The Lightning module that all trainers build on: rates, averaged and best weights, validations, what is exported."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from vloc_train.training.fitting import TimeLimit
from vloc_train.training.settings import TrainSettings

__all__ = ["TrainingModule", "Validate", "average_weights"]

_log = logging.getLogger(__name__)

#: Of the schedule ``poly`` (CamNet, Section 4.2).
POLY_POWER = 0.9

Network = TypeVar("Network", bound=nn.Module)


class TrainingModule(lightning.LightningModule, Generic[Network]):
    """Trains a network by a schedule; the run ends by epochs or by minutes, and its best weights survive a resume.

    A subclass gives :meth:`step`, an optimiser where it is not Adam, and :meth:`validation` where it is validated. The
    learning rate follows the progress of the run: the larger of the share of its epochs and of its minutes.

    :param network: what is trained and exported; its own training parts (a loss's weights, say) are the subclass's.
    """

    settings: TrainSettings
    #: Steps over which the learning rate of ``cosine`` rises: weights from scratch make large gradients at first.
    warm_up = 0
    #: Figures of :meth:`step` that the progress bar shows.
    shown: tuple[str, ...] = ()
    #: Whether a step can leave parameters out, which processes that share a batch must look for.
    partial_steps = False

    def __init__(self, settings: TrainSettings, network: Network) -> None:
        super().__init__()
        self.settings, self.network = settings, network
        self.averaged = copy.deepcopy(network).requires_grad_(False).eval() if settings.weight_average else None
        self.best_error = math.inf
        self._best: dict[str, Tensor] = {}

    # -- training ---------------------------------------------------------------------------------

    def step(self, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and figures for the log."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        rate = self.learning_rate(self.progress())
        for group in cast(Any, self.optimizers()).param_groups:
            group["lr"] = rate * group.get("scale", 1.0)  # some parameters learn faster
        loss, figures = self.step(batch)
        # Reading values off a device waits for it: only in steps that the trainer's logger writes down.
        if (self.global_step + 1) % cast(Any, self.trainer).log_every_n_steps == 0:
            self.log("loss", loss.detach(), prog_bar=True)
            self.log("learning_rate", rate)
            for name, value in figures.items():
                self.log(name, value.detach(), prog_bar=name in self.shown)
        return loss

    def trained(self) -> list[nn.Parameter]:
        """The parameters that an optimiser changes."""
        return [p for p in self.parameters() if p.requires_grad]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.trained(), lr=self.settings.learning_rate)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            average_weights(self.averaged, self.network, self.global_step + 1, self.settings.weight_average)

    def progress(self) -> float:
        """Share of the run that lies behind, 0 to 1: of its epochs or of its minutes, whichever is larger."""
        steps = float(self.trainer.estimated_stepping_batches)
        share = self.global_step / steps if math.isfinite(steps) and steps > 0 else 0.0
        limit = time_limit(self.trainer)
        if limit is not None and limit.minutes is not None:
            share = max(share, limit.seconds / (60.0 * limit.minutes))
        return min(1.0, share)

    def learning_rate(self, progress: float) -> float:
        """At a share of the run."""
        rate = self.settings.learning_rate
        if self.settings.schedule == "cosine":
            warm = min(1.0, (self.global_step + 1) / self.warm_up) if self.warm_up else 1.0
            return rate * warm * 0.5 * (1.0 + math.cos(math.pi * progress))
        return rate * float((1.0 - progress) ** POLY_POWER) if self.settings.schedule == "poly" else rate

    # -- validation -------------------------------------------------------------------------------

    @property
    def exported(self) -> Network:
        """The network whose weights are validated and written to the map."""
        return self.averaged if self.averaged is not None else self.network

    def validation(self) -> tuple[Mapping[str, float], float]:
        """Figures by name of the current weights on held-out data, and the error that decides which are best.

        The error is NaN where there is nothing to validate on; the last weights are then the best.
        """
        return {}, math.nan

    @contextmanager
    def evaluated(self) -> Iterator[Network]:
        """The network that is exported, in the mode and under the rules of use; afterwards it goes on training."""
        network = self.exported
        was_training = network.training
        network.eval()
        with torch.no_grad():
            yield network
        network.train(was_training and network is self.network)

    def remember_best(self, error: float) -> None:
        """Keep the current weights if their validation error is the smallest so far."""
        if error < self.best_error:
            self.best_error = error
            self._best = {k: v.detach().cpu().clone() for k, v in self.exported.state_dict().items()}

    def best(self) -> Network:
        """A copy on the CPU of what is exported, with the weights of the best validation (the last if none was)."""
        network = copy.deepcopy(self.exported).cpu()
        if self._best:
            network.load_state_dict(self._best)
        return network.eval()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best_error"], checkpoint["best"] = self.best_error, self._best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.best_error, self._best = float(checkpoint["best_error"]), dict(checkpoint["best"])


def time_limit(trainer: Any) -> TimeLimit | None:
    """The clock of a run, which :func:`vloc_train.training.fitting.fit` puts among the callbacks."""
    return next((c for c in getattr(trainer, "callbacks", ()) if isinstance(c, TimeLimit)), None)


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
    """Validates a :class:`TrainingModule` a fixed number of times in a run, the last time at its end."""

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
