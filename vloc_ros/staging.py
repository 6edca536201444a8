"""Files and folders that appear whole or not at all: written beside their place, renamed when they are done.

What a killed process leaves is a hidden ``.<name>.*.partial`` beside the target; the next one that writes there removes
it, for the lock on it has gone with the process. File systems without locks (some network ones) keep it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vloc_ros.errors import WriteError

__all__ = [
    "install", "replacing", "sole_writer", "staging_beside", "sweep", "umask", "unwritten", "write_text", "writing",
]  # fmt: skip

_SUFFIX = ".partial"
#: What a file system without locks says.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
#: Linux: paths relative to the working directory; swap two paths in one step.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def staging_beside(target: Path, folder: bool) -> Iterator[Path]:
    """A hidden folder or file beside the target, to be renamed to it; gone at the end where it was not.

    It is locked by this process. Those of dead processes for the same target are removed first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}."
    _clean(target.parent, prefix)
    staging, lock = _made(target.parent, prefix, folder)
    try:
        yield staging
    finally:
        _remove(staging)
        os.close(lock)


@contextmanager
def replacing(file: Path, clean: bool = True) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of a file once all of it is written.

    :param clean: look for what dead processes left of the file; without it :func:`sweep` does, once for many files.
    :raises WriteError: it cannot be written.
    """
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if clean:
            _clean(file.parent, f".{file.name}.")
        staging, lock = _made(file.parent, f".{file.name}.", folder=False)
        try:
            with staging.open("wb") as stream:
                yield stream
            staging.chmod(0o666 & ~umask())
            staging.replace(file)
        finally:
            _remove(staging)
            os.close(lock)


def write_text(file: Path, text: str) -> None:
    """The text in UTF-8, in place of what was there. :raises WriteError: it cannot be written."""
    with replacing(file) as stream:
        stream.write(text.encode())


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """What the system says of a write that fails, said with the target's name.

    :raises WriteError: instead of an :class:`OSError` that is about the target or names no file.
    """
    try:
        yield
    except OSError as problem:
        about = str(problem.filename or "")
        if about and not isinstance(problem, PermissionError) and not about.startswith(str(target.parent)):
            raise
        raise WriteError(unwritten(target, problem)) from problem


@contextmanager
def sole_writer(target: Path) -> Iterator[None]:
    """Nobody else writes a target meanwhile; the claim goes with the process, however it ends.

    :raises WriteError: somebody does, or nothing can be written there.
    """
    claim = target.absolute().with_name(f".{target.name}.writer{_SUFFIX}")
    with writing(target):
        claim.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(claim, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as problem:
                owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                os.close(descriptor)
                if problem.errno in _NO_LOCKS:
                    descriptor = -1
                    break
                raise WriteError(
                    f"{target}: is being written by another process ({owner or 'just begun'}); wait until it has "
                    "ended, or choose another name"
                ) from problem
            if claim.exists() and os.path.samestat(os.fstat(descriptor), claim.stat()):
                break
            os.close(descriptor)  # the one before removed it just now
        if descriptor >= 0:
            try:
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            except OSError:  # a disk without room for five bytes: the work itself will say so
                pass
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)
        if descriptor >= 0:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what dead processes left of files in a folder and below."""
    for place, folders, _ in os.walk(folder):
        _clean(Path(place), ".")
        folders[:] = [name for name in folders if Path(place, name).exists()]


def _clean(parent: Path, prefix: str) -> None:
    for name in os.listdir(parent):
        if name.startswith(prefix) and name.endswith(_SUFFIX):
            lock = _lock(parent / name)
            if lock is not None:
                _remove(parent / name)
                os.close(lock)


def _made(parent: Path, prefix: str, folder: bool) -> tuple[Path, int]:
    while True:
        if folder:
            staging = Path(tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=parent))
        else:
            descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=_SUFFIX, dir=parent)
            os.close(descriptor)
            staging = Path(name)
        lock = _lock(staging, needed=False)
        if lock is not None:
            if staging.exists():
                return staging, lock
            os.close(lock)  # another process took it for left over before it was locked


def _lock(path: Path, needed: bool = True) -> int | None:
    """A descriptor that holds the lock on a file or folder; None where another process has it, or it has gone.

    :param needed: None, too, where the file system has no locks; otherwise a descriptor without one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if not needed and problem.errno in _NO_LOCKS:
            return descriptor
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def install(staging: Path, target: Path) -> None:
    """Put a finished folder in its place; what was there goes to ``staging``, in one step where Linux can."""
    if not target.is_dir():
        os.rename(staging, target)
        return
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        renameat2 = libc.renameat2
    except (OSError, AttributeError):
        renameat2 = None
    if renameat2 is not None:
        done = renameat2(_AT_FDCWD, os.fsencode(staging), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE)
        if done == 0:
            return
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    aside = staging.with_name(staging.name + ".old")
    os.rename(target, aside)
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(aside, target)
        raise
    os.rename(aside, staging)


def umask() -> int:
    """The mask of permissions of this process."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unwritten(target: Path, problem: OSError) -> str:
    """One line about what could not be written there, with the room that is left where that is why."""
    text = f"{target}: cannot be written: {problem.strerror or problem}"
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        place = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
        text += f" ({shutil.disk_usage(place).free / 1e6:.0f} MB are free); make room, then run the same command again"
    return text
