"""One training run from recorded drives to a calibrated map, which can be interrupted and resumed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import DatasetError, TrainingError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.imposing.precision import has_fast_bfloat16
from vloc_ros.maps import MapBundle
from vloc_ros.maps.writer import check_target
from vloc_train.imposing.calibrate import calibrate
from vloc_train.imposing.data import FrameSet, TrainingData, cache_frames
from vloc_train.imposing.export import export_map
from vloc_train.imposing.module import ImPosingModule
from vloc_train.imposing.settings import TrainSettings

__all__ = ["RunOptions", "train_imposing"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """What does not change the map, only how it is made.

    :param device: ``auto``, ``cpu`` or ``cuda``.
    :param devices: processes, or GPUs, that share each batch.
    :param workers: processes that augment images (0: the training process itself).
    :param checkpoint_minutes: a checkpoint at least this often.
    :param resume: continue an interrupted run of the same settings.
    :param progress: show the progress bar.
    """

    device: str = "auto"
    devices: int = 1
    workers: int = 0
    checkpoint_minutes: float = 2.0
    resume: bool = True
    progress: bool = True


def hold_out(frames: FrameSet, every: int) -> tuple[FrameSet, FrameSet]:
    """Split a scene into training frames and every n-th frame for validation and calibration."""
    held = np.arange(len(frames)) % every == every // 2
    return frames.select(np.flatnonzero(~held)), frames.select(np.flatnonzero(held))


def train_imposing(
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path,
    settings: TrainSettings,
    options: RunOptions | None = None,
    calibration: Mapping[str, Sequence[PosedSequence]] | None = None,
    work_dir: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> MapBundle:
    """Train, calibrate and write a map.

    :param scenes: drives by scene name; the first scene's camera is the map's.
    :param out: the map to write; an existing one is replaced at the very end only.
    :param calibration: other drives by scene, for validation and calibration; without them every
        ``settings.hold_out``-th training frame is kept out of training for it.
    :param about: more fields for the map's provenance.
    :param work_dir: caches, logs and checkpoints (default: ``<out>.work`` beside the map).
    :raises TrainingError: the working directory belongs to a run with other settings.
    :raises DatasetError: no usable frames.
    :raises MapError: something else than a map is at ``out``.
    """
    options = options or RunOptions()
    if options.device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"device: expected auto, cpu or cuda, found {options.device!r}")
    check_target(out, overwrite=True)  # now, not after the training
    work = work_dir or out.with_name(out.name + ".work")
    _claim(work, settings, scenes, calibration, options.resume)
    preprocess = Preprocess(settings.image_width, settings.image_height)
    training: list[FrameSet] = []
    held_out: list[FrameSet] = []
    for name, sequences in scenes.items():
        frames = cache_frames(sequences, preprocess, work, name)
        if calibration and calibration.get(name):
            training.append(frames)
            held_out.append(cache_frames(calibration[name], preprocess, work, name))
        else:
            kept, held = hold_out(frames, settings.hold_out)
            training.append(kept)
            held_out.append(held)
    if training and any(len(f) < 2 for f in (*training, *held_out)):
        raise DatasetError("expected at least 2 frames to train on and 2 to validate on in every scene")
    frame_ids = {s.frame_id for sequences in scenes.values() for s in sequences}
    network, seconds = _fit(training, held_out, settings, preprocess, options, work)
    if network is None:  # another process than the first of a distributed run
        raise SystemExit(0)
    provenance = {
        "data": {name: [s.name for s in sequences] for name, sequences in scenes.items()},
        "frames": {f.scene: len(f) for f in training},
        "calibration_data": {n: [s.name for s in v] for n, v in (calibration or {}).items()} or "held-out frames",
        "training_minutes": round(seconds / 60.0, 2),
        **(about or {}),
    }
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    frame_id = frame_ids.pop() if len(frame_ids) == 1 else "map"
    common: dict[str, Any] = {"provenance": provenance, "frame_id": frame_id}
    staged = work / "uncalibrated"
    bundle = export_map(network, training, settings, preprocess, staged, validation={}, **common)
    sections, validation = calibrate(bundle, held_out, device)
    return export_map(
        network, training, settings, preprocess, out, validation=validation, calibration=sections, **common
    )


def _claim(
    work: Path,
    settings: TrainSettings,
    scenes: Mapping[str, Sequence[PosedSequence]],
    calibration: Mapping[str, Sequence[PosedSequence]] | None,
    resume: bool,
) -> None:
    """Mark a working directory as this run's, so that no checkpoint is ever continued with other settings or data."""
    work.mkdir(parents=True, exist_ok=True)
    identity = {
        "settings": settings.to_mapping(),
        "data": {n: [(s.name, len(s)) for s in v] for n, v in scenes.items()},
        "calibration": {n: [(s.name, len(s)) for s in v] for n, v in (calibration or {}).items()},
    }
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
    file.write_text(text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


class _Validate(Callback):
    """Localizes held-out frames a fixed number of times in a run, and ends the run when its minutes are over."""

    def __init__(self, times: int, limit_minutes: float | None) -> None:
        self.times, self.limit = times, limit_minutes
        self.done = 0

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = int(state["done"])

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.should_stop:  # one more batch may come before the trainer stops
            return
        over = self.limit is not None and module.seconds() >= 60.0 * self.limit
        progress = module.progress()
        due = progress * self.times >= self.done + 1
        # All processes must agree, whatever their clocks say.
        due, over = trainer.strategy.broadcast((due, over))
        if due or over:
            self.done = int(progress * self.times)
            distance, angle = module.validate_frames()
            recall = float(((distance <= 2.0) & (angle <= 5.0)).mean())
            figures = {
                "validation_m": float(np.median(distance)),
                "validation_deg": float(np.median(angle)),
                "validation_recall": recall,
            }
            # Straight to the file: what a module logs is written only at every log_every_n_steps-th step.
            module.log_dict(figures, prog_bar=True, logger=False)
            trainer.logger.log_metrics(figures, step=trainer.global_step)
            _log.info(
                "step %d (%.0f s): validation median %.2f m %.2f deg, within 2 m 5 deg %.1f %%",
                trainer.global_step, module.seconds(), np.median(distance), np.median(angle), 100 * recall,
            )  # fmt: skip
            module.remember_best(float(np.median(distance)))
        if over:
            trainer.should_stop = True


def _fit(
    training: Sequence[FrameSet],
    held_out: Sequence[FrameSet],
    settings: TrainSettings,
    preprocess: Preprocess,
    options: RunOptions,
    work: Path,
) -> tuple[Any, float]:
    """Run Lightning; the network to export (None in every process but the first) and the seconds it took."""
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    if options.device == "cuda" and not on_gpu:
        raise TrainingError("device: expected a CUDA device, found none; use --device cpu or auto")
    device = torch.device("cuda" if on_gpu else "cpu")
    half = settings.precision == "bfloat16" or (settings.precision == "auto" and has_fast_bfloat16(device))
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    last = work / "last.ckpt"
    pretrained = False if last.exists() and options.resume else settings.pretrained
    module = ImPosingModule(settings, training, held_out, preprocess, _pretrained(pretrained))
    data = TrainingData(training, settings, options.workers)
    checkpoint = ModelCheckpoint(
        dirpath=work,
        filename="step",
        save_last=True,
        save_top_k=0,
        train_time_interval=timedelta(minutes=options.checkpoint_minutes),
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [_Validate(settings.validate_every, settings.max_minutes), checkpoint]
    if options.progress:
        callbacks.append(RichProgressBar(leave=True))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # The sampler itself finds its place again after a resume.
        warnings.filterwarnings("ignore", message=".*dataloader is\\s+not resumable.*")
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
        trainer = lightning.Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=options.devices,
            strategy="ddp" if options.devices > 1 else "auto",
            precision="bf16-mixed" if half else "32-true",
            max_epochs=settings.epochs,
            callbacks=callbacks,
            # A folder for each part of a resumed run: the logger deletes what an earlier part wrote to its own.
            logger=CSVLogger(str(work), name="log"),
            log_every_n_steps=20,
            enable_progress_bar=options.progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=str(work),
        )
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() and options.resume else None, weights_only=True)
    if trainer.interrupted:
        raise TrainingError(f"interrupted; the same command continues from {last}")
    trainer.save_checkpoint(last)
    if trainer.global_rank != 0:
        return None, module.seconds()
    return module.best_network().to(device), module.seconds()


def _pretrained(value: bool | str) -> bool | str:
    if isinstance(value, str) and not Path(value).is_file():
        raise TrainingError(f"pretrained: expected a weight file, found nothing at {value}")
    return value
