"""One run: its options, its device, and its working directory, which no other run continues."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from vloc_ros.errors import TrainingError
from vloc_ros.localizers.device import has_fast_bfloat16
from vloc_ros.staging import write_text
from vloc_train.frame_choice.split import Split

__all__ = [
    "RunOptions",
    "checked_pretrained",
    "claim",
    "identity_of",
    "training_device",
    "use_half",
]


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
