"""Lightning's trainer around a module: one resumable run, its clock, and where its checkpoints go.

Nothing that builds a map without training imports this: Lightning takes longer to import than torch.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vloc_ros.errors import TrainingError
from vloc_train.training.disk import kept, last_checkpoint
from vloc_train.training.run import RunOptions, training_device

__all__ = ["Checkpoints", "TimeLimit", "fit"]

_log = logging.getLogger(__name__)


class Checkpoints(TorchCheckpointIO):
    """Writes a checkpoint as :func:`vloc_train.training.disk.kept` does."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """:raises TrainingError: it cannot be written; the one before stays."""
        kept(checkpoint, Path(path))


class TimeLimit(Callback):
    """Counts the seconds of a run, resumed parts included, and ends it when its minutes are over."""

    def __init__(self, minutes: float | None) -> None:
        self.minutes = minutes
        self._before, self._start = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all parts."""
        return self._before + time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before, self._start = float(state["seconds"]), time.perf_counter()

    def on_fit_start(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if self.minutes is None:
            return
        if trainer.strategy.broadcast(self.seconds >= 60.0 * self.minutes):  # all must agree, whatever their clocks say
            trainer.should_stop = True


class Waiting(Callback):
    """Which share of the training's time passes before a batch is there. The last callback: the others are no wait."""

    def __init__(self) -> None:
        self.seconds, self.total = 0.0, 0.0
        self._asked = self._begun = math.nan

    @property
    def share(self) -> float:
        """Of the time of all steps so far, the first batch left out: processes start with it."""
        return self.seconds / self.total if self.total > 0 else 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        now = time.perf_counter()
        if not math.isnan(self._asked):
            self.seconds += now - self._asked
            self.total += now - self._begun
        self._begun = now

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._asked = time.perf_counter()
        if trainer.global_step % trainer.log_every_n_steps == 0 and self.total > 0:
            trainer.logger.log_metrics({"waiting_for_data": self.share}, step=trainer.global_step)


def fit(
    module: lightning.LightningModule,
    data: Any,
    options: RunOptions,
    work: Path,
    *,
    epochs: int,
    max_minutes: float | None = None,
    half: bool = False,
    callbacks: Sequence[Callback] = (),
) -> tuple[bool, float]:
    """Train ``module`` on ``data`` (a data module or a loader), from its last checkpoint where there is one.

    :param half: bfloat16 mixed precision.
    :return: whether this process is the first (the one that exports), and the seconds of training over all parts.
    :raises TrainingError: interrupted; a device that is full; a checkpoint that cannot be read or written.
    """
    device = training_device(options)
    last = work / "last.ckpt"
    begun = last_checkpoint(work) if options.resume else None
    limit = TimeLimit(max_minutes)
    checkpoint = ModelCheckpoint(
        dirpath=work,
        filename="step",
        save_last=True,
        save_top_k=0,
        train_time_interval=timedelta(minutes=options.checkpoint_minutes),
        enable_version_counter=False,
    )
    strategy = "ddp_find_unused_parameters_true" if getattr(module, "partial_steps", False) else "ddp"
    waiting = Waiting()
    progress: list[Callback] = [RichProgressBar(leave=True)] if options.progress else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # The samplers find their place again after a resume.
        warnings.filterwarnings("ignore", message=".*dataloader is\\s+not resumable.*")
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
        warnings.filterwarnings("ignore", message=".*`IterableDataset` has `__len__` defined.*")
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
        trainer = lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=options.devices if device.index is None else [device.index],
            strategy=strategy if options.devices > 1 else "auto",
            precision="bf16-mixed" if half else "32-true",
            max_epochs=epochs,
            callbacks=[limit, *callbacks, checkpoint, *progress, waiting],
            # A folder for each part of a resumed run: the logger deletes what an earlier part wrote to its own.
            logger=CSVLogger(str(work), name="log"),
            log_every_n_steps=20,
            enable_progress_bar=options.progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=str(work),
            plugins=[Checkpoints()],
        )
        try:
            trainer.fit(module, data, ckpt_path=None if begun is None else str(begun), weights_only=True)
        except SystemExit:  # Lightning's end after Ctrl-C, without a word
            if not trainer.interrupted:
                raise
        except torch.OutOfMemoryError as problem:
            raise TrainingError(
                f"{device}: expected memory for a step of training, found too little "
                f"({str(problem).splitlines()[0][:120]}); lower batch_size or the size of the images, or share batches "
                "among GPUs (--devices)"
            ) from problem
    if waiting.total > 0:
        _log.info("training: %.0f %% of the time waited for data (%d workers)", 100 * waiting.share, options.workers)
    if trainer.interrupted:
        goes_on = f"continues from {last}" if last.exists() else "starts again: there is no checkpoint yet"
        raise TrainingError(f"interrupted; the same command {goes_on}")
    trainer.save_checkpoint(last)
    return trainer.global_rank == 0, limit.seconds
