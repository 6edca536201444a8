"""Waiting for another thread inside a coroutine of rclpy's executor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

__all__ = ["Pending"]

#: rclpy resumes a coroutine as often as it can; each resumption sleeps this long so that waiting costs no processor.
PAUSE_S = 0.005


class Pending:
    """Work that another thread does. ``await`` gives the executor back at least once and returns."""

    def __init__(self) -> None:
        self._done = threading.Event()

    @property
    def finished(self) -> bool:
        """Whether the work has ended."""
        return self._done.is_set()

    def wrap(self, work: Callable[[], None]) -> Callable[[], None]:
        """``work`` that reports its end, however it ends."""

        def run() -> None:
            try:
                work()
            finally:
                self._done.set()

        return run

    def __await__(self) -> Generator[None, None, None]:
        if not self._done.wait(PAUSE_S):
            yield
