"""What a run keeps on the disk: checkpoints, the last whole one of which counts, and arrays that have their room."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vloc_ros.errors import TrainingError
from vloc_ros.staging import staging_beside, umask, unwritten

__all__ = ["kept", "last_checkpoint", "new_array"]

_log = logging.getLogger(__name__)
#: The newest checkpoint, and the one before it.
_LAST, _BEFORE = "last.ckpt", "before.ckpt"
#: A disk with less room than this (bytes) is full, whatever the writer of checkpoints calls it.
_FULL = 1 << 20


def kept(checkpoint: dict[str, Any], target: Path) -> None:
    """Write a checkpoint beside its place, keep the one before, and rename: a crash never costs both.

    :raises TrainingError: it cannot be written; the one before stays.
    """
    try:
        with staging_beside(target, folder=False) as staging:
            with staging.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            staging.chmod(0o666 & ~umask())
            if target.exists():
                target.replace(target.with_name(_BEFORE))
            staging.replace(target)
    except (OSError, RuntimeError) as problem:  # torch tells of a full disk in its own words
        raise TrainingError(f"{_told(target, problem)}; the checkpoint before stays") from problem


def last_checkpoint(work: Path) -> Path | None:
    """The newest whole checkpoint of a run; None where it has none yet. One that is damaged is told.

    :raises TrainingError: there are checkpoints, and all are damaged.
    """
    problems = []
    for name in (_LAST, _BEFORE):
        file = work / name
        problem = _damage(file) if file.exists() else ""
        if problem:
            problems.append(f"{file}: expected a whole checkpoint, {problem}")
        elif file.exists():
            for text in problems:
                _log.warning("%s; going on from the one before", text)
            return file
    if problems:
        raise TrainingError(f"{problems[0]}, and no whole one before it; start over with --no-resume")
    return None


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new memory-mapped ``.npy`` file that has its room on the disk: writing to it never fails.

    A map of a file with holes ends the process (SIGBUS) when the disk is full.

    :raises TrainingError: there is no room for it; no file stays.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    except OSError as problem:
        path.unlink(missing_ok=True)
        raise TrainingError(_told(path, problem, int(np.prod(shape)) * np.dtype(dtype).itemsize)) from problem
    return array


def _told(path: Path, problem: OSError | RuntimeError, size: int = 0) -> str:
    if isinstance(problem, RuntimeError):
        full = shutil.disk_usage(path.parent).free < _FULL
        problem = OSError(*((28, "No space left on device") if full else (5, str(problem).splitlines()[0])))
    wanted = f" ({size / 1e6:.0f} MB are wanted)" if size else ""
    return unwritten(path, problem) + wanted


def _damage(file: Path) -> str:
    """What is wrong with a checkpoint, a zip file with sums of its parts; empty where nothing is."""
    if file.stat().st_size == 0:
        return "found an empty file"
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
        if not broken:
            torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # stricter around the parts
    except Exception as problem:  # every byte of it can be anything
        return f"found a damaged file ({str(problem).splitlines()[0] if str(problem) else type(problem).__name__})"
    return f"found a damaged part ({broken})" if broken else ""
