"""Files and folders that appear whole or not at all: written beside their place, renamed when they are done.

What a killed process leaves is a hidden ``.<name>.*.partial`` beside the target; the next one that writes there removes
it, for the lock on it has gone with the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["staging_beside", "umask", "unwritten"]

_SUFFIX = ".partial"


@contextmanager
def staging_beside(target: Path, folder: bool) -> Iterator[Path]:
    """A hidden folder or file beside the target, to be renamed to it; gone at the end where it was not.

    It is locked by this process. Those of dead processes for the same target are removed first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}."
    for name in os.listdir(target.parent):
        if name.startswith(prefix) and name.endswith(_SUFFIX):
            lock = _lock(target.parent / name)
            if lock is not None:
                _remove(target.parent / name)
                os.close(lock)
    staging, lock = _made(target.parent, prefix, folder)
    try:
        yield staging
    finally:
        _remove(staging)
        os.close(lock)


def _made(parent: Path, prefix: str, folder: bool) -> tuple[Path, int]:
    while True:
        if folder:
            staging = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=parent))
        else:
            descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=_SUFFIX, dir=parent)
            os.close(descriptor)
            staging = Path(name)
        lock = _lock(staging)
        if lock is not None:
            if staging.exists():
                return staging, lock
            os.close(lock)  # another process took it for left over before it was locked


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock on a file or folder; None where another process has it, or it has gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def umask() -> int:
    """The mask of permissions of this process."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unwritten(target: Path, problem: OSError) -> str:
    """One line about what could not be written there, with the room that is left where that is why."""
    text = f"{target}: cannot be written: {problem.strerror or problem}"
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        place = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
        text += f" ({shutil.disk_usage(place).free / 1e6:.0f} MB are free); make room, then run the same command again"
    return text
