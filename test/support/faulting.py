"""Commands that are killed, run out of disk, or meet each other: how they are run, and what must be true afterwards.

A command runs in a child process forked from this one, which has imported everything: a trial takes as long as the work
itself. Its folder is a copy of a template, and what it leaves is compared with what an undisturbed run leaves.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vloc_ros.cli.main import main

#: A command that takes longer than this (s) hangs.
PATIENCE_S = 120.0
#: After SIGTERM it may take so long (s of a loaded machine) to end.
ENDING_S = 20.0


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative the signal that ended it; seconds; what it said on stderr."""

    code: int
    seconds: float
    said: str

    @property
    def told(self) -> str:
        """The lines that begin with the program's name: one where it failed."""
        return "\n".join(line for line in self.said.splitlines() if line.startswith("vloc: "))


class Running:
    """A command in a child process.

    :param folder: its working directory. :param file_bytes: the largest file that it may write.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, file_bytes: int | None = None) -> None:
        descriptor, name = tempfile.mkstemp(prefix="vloc-test-", suffix=".err")
        os.close(descriptor)
        self._errors = Path(name)
        self._began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._child(list(arguments), folder, file_bytes)

    def _child(self, arguments: list[str], folder: Path, file_bytes: int | None) -> None:
        code = 99
        try:
            signal.alarm(0)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            target = os.open(self._errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            null = os.open(os.devnull, os.O_RDWR)
            for stream, descriptor in ((0, null), (1, null), (2, target)):
                os.dup2(descriptor, stream)
            sys.stdin, sys.stdout, sys.stderr = (open(n, "r" if n == 0 else "w", closefd=False) for n in range(3))
            os.chdir(folder)
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))
            main(arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            try:
                sys.stderr.flush()
            finally:
                os._exit(code)

    def signal(self, number: int) -> None:
        """Send a signal; nothing where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Whether it has ended, without waiting."""
        if not hasattr(self, "_status"):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == 0:
                return None
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, patience_s: float = PATIENCE_S) -> Ended:
        """Its end. :raises AssertionError: it hangs."""
        until = time.monotonic() + patience_s
        while self.poll() is None:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"still running after {patience_s:.0f} s")
            time.sleep(0.002)
        said = self._errors.read_text(errors="replace")
        self._errors.unlink(missing_ok=True)
        return Ended(self._status, time.monotonic() - self._began, said)


@dataclass(frozen=True)
class Writer:
    """A command that writes.

    :ivar arguments: relative to the folder. :ivar template: what lies there before.
    :ivar intact: raises unless the target is whole, the one of before or the new one.
    :ivar resumes: whether an interrupted run may leave something to go on with.
    """

    name: str
    arguments: tuple[str, ...]
    template: Path
    intact: Callable[[Path], Any]
    resumes: bool = False

    def fresh(self, folder: Path) -> Path:
        """A copy of the template."""
        for left in folder.iterdir() if folder.is_dir() else ():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        return Path(shutil.copytree(self.template, folder, symlinks=True, dirs_exist_ok=True))

    def run(self, folder: Path, **more: Any) -> Ended:
        """To its end."""
        return Running(self.arguments, folder, **more).wait()


def listing(folder: Path) -> set[str]:
    """Names of everything below a folder; parts of logs, which number their runs, are one."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {re.sub(r"/log/.*", "/log", name) for name in names}


def largest(folder: Path) -> int:
    """Bytes of the largest file."""
    return max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)


class Disk:
    """A file system that can be full or read-only; only who is root can have one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.there = self._mount("size=64m")

    def _mount(self, options: str) -> bool:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], capture_output=True)
        return done.returncode == 0

    def set(self, options: str) -> None:
        """For example ``size=100k`` or ``ro``."""
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True, capture_output=True)

    def used(self) -> int:
        """Bytes."""
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def close(self) -> None:
        """Take it away."""
        if self.there:
            subprocess.run(["umount", "-l", self.folder], check=False, capture_output=True)
