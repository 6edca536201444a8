"""One resumable training run: its working directory, its limits, and Lightning's trainer around it."""

from __future__ import annotations

import logging
import math
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger

from vloc_ros.errors import TrainingError
from vloc_ros.localizers.device import has_fast_bfloat16
from vloc_ros.staging import write_text
from vloc_train.frame_choice.split import Split
from vloc_train.training.disk import Checkpoints, last_checkpoint

__all__ = [
    "RunOptions",
    "TimeLimit",
    "checked_pretrained",
    "claim",
    "fit",
    "identity_of",
    "training_device",
    "use_half",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """What does not change the map, only how it is made.

    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    :param devices: processes, or GPUs, that share each batch.
    :param workers: processes that augment images (0: the training process itself).
    :param checkpoint_minutes: a checkpoint at least this often.
    :param resume: continue an interrupted run of the same settings.
    :param progress: show the progress bar.
    :param cluster: address of workers that help to build (:mod:`vloc_train.training.cluster`); empty: none.
    """

    device: str = "auto"
    devices: int = 1
    workers: int = 0
    checkpoint_minutes: float = 2.0
    resume: bool = True
    progress: bool = True
    cluster: str = ""


def training_device(options: RunOptions) -> torch.device:
    """Where to train. :raises TrainingError: CUDA was asked for and is not there."""
    kind, _, index = options.device.partition(":")
    if options.device not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isdecimal()):
        raise TrainingError(f"device: expected auto, cpu, cuda or cuda:N, found {options.device!r}")
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    if kind == "cuda" and not on_gpu:
        raise TrainingError("device: expected a CUDA device, found none; use --device cpu or auto")
    if index and int(index) >= torch.cuda.device_count():
        raise TrainingError(
            f"device: expected one of {torch.cuda.device_count()} CUDA devices, found {options.device}; see nvidia-smi"
        )
    if index and options.devices > 1:
        raise TrainingError(
            f"device: expected cuda with --devices {options.devices}, found {options.device}; choose GPUs by "
            "CUDA_VISIBLE_DEVICES"
        )
    return torch.device(options.device if index else "cuda" if on_gpu else "cpu")


def checked_pretrained(value: bool | str) -> bool | str:
    """The setting ``pretrained`` of a run. :raises TrainingError: a weight file that is not there."""
    if isinstance(value, str) and not Path(value).is_file():
        raise TrainingError(f"pretrained: expected a weight file, found nothing at {value}")
    return value


def use_half(precision: str, device: torch.device) -> bool:
    """Whether ``precision`` (``auto``, ``float32``, ``bfloat16``) means bfloat16 mixed precision on ``device``."""
    return precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device))


def identity_of(settings: Mapping[str, Any], splits: Mapping[str, Split], **more: Any) -> dict[str, Any]:
    """What a run is: another one must not continue its checkpoints."""
    parts = {"data": {n: s.training for n, s in splits.items()}, "held_out": {n: s.held_out for n, s in splits.items()}}
    return {
        "settings": dict(settings),
        **{
            what: {n: [[s.name, len(s), zlib.crc32(s.stamps_ns.tobytes())] for s in drives] for n, drives in of.items()}
            for what, of in parts.items()
        },
        **more,
    }


def claim(work: Path, identity: Mapping[str, Any], resume: bool) -> None:
    """Mark a working directory as this run's, so that no checkpoint is ever continued with other settings or data.

    :raises TrainingError: it holds checkpoints of another run.
    """
    work.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(_plain(identity), sort_keys=True)
    file = work / "run.yaml"
    if not resume:
        for old in work.glob("*.ckpt"):
            old.unlink()
    elif file.exists() and file.read_text() != text and list(work.glob("*.ckpt")):
        raise TrainingError(
            f"{file}: expected the settings and data of this run, found those of another; "
            "start over with --no-resume, or train to another --out"
        )
    write_text(file, text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


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
