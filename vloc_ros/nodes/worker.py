"""One thread that runs the localizer: always on the newest frame, never on a growing queue.

A localizer is slower than a camera. A subscription that queued its frames would fall behind for ever, so the
callback only stores the newest one and this thread takes it when it is free. Other work that must not run
beside the localizer (loading a map, an initial pose) is submitted to the same thread and goes first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

__all__ = ["Pending", "Worker"]

# Waiting for another thread inside a coroutine of rclpy's executor.


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


T = TypeVar("T")
THREAD_NAME = "vloc-worker"


class Worker(Generic[T]):
    """A thread with a slot for one frame and a short list of jobs.

    :param handle: called with each frame that was still the newest when the thread became free.
    :param on_error: called with an exception that ``handle`` or a job raised; the thread goes on.
    """

    def __init__(self, handle: Callable[[T], None], on_error: Callable[[BaseException], None]) -> None:
        self._handle = handle
        self._on_error = on_error
        self._wake = threading.Condition()
        self._frame: T | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._thread: threading.Thread | None = None
        #: Frames that a newer one replaced before the thread could take them.
        self.dropped = 0

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called: whoever waits inside the thread gives up, and drops its result."""
        return self._over

    @property
    def _over(self) -> bool:
        """Whether the calling thread is to end: it was stopped, or another has taken its place since."""
        current = threading.current_thread()
        return self._stopping or (current is not self._thread and current.name == THREAD_NAME)

    def start(self) -> None:
        """Start the thread; nothing happens when it runs already.

        One that was told to stop but still works on its last frame is waited for inside the new thread: there is
        never more than one at work.
        """
        if self.running and not self._stopping:
            return
        with self._wake:
            before = self._thread
            self._thread = threading.Thread(target=self._run, args=(before,), name=THREAD_NAME, daemon=True)
            self._stopping = False
            self._wake.notify_all()
        self._thread.start()

    def offer(self, frame: T) -> None:
        """Make ``frame`` the newest one. Frames of a stopped worker are ignored."""
        with self._wake:
            if self._stopping or self._thread is None:
                return
            if self._frame is not None:
                self.dropped += 1
            self._frame = frame
            self._wake.notify()

    def submit(self, job: Callable[[], None]) -> bool:
        """Run ``job`` in the thread before the next frame; False when the worker does not run."""
        with self._wake:
            if self._stopping or not self.running:
                return False
            self._jobs.append(job)
            self._wake.notify()
            return True

    def discard(self) -> None:
        """Forget a frame that waits, for instance after the clock went back."""
        with self._wake:
            self._frame = None

    def stop(self, timeout: float = 10.0) -> bool:
        """End the thread after what it does now; True when it has ended within ``timeout`` seconds."""
        with self._wake:
            self._stopping = True
            self._frame = None
            self._jobs.clear()
            self._wake.notify()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            if thread.is_alive():
                return False
        self._thread = None
        return True

    def _run(self, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        while True:
            with self._wake:
                while not (self._over or self._jobs or self._frame is not None):
                    self._wake.wait()
                if self._over:
                    return
                job = self._jobs.popleft() if self._jobs else None
                frame = None
                if job is None:
                    frame, self._frame = self._frame, None
            try:
                if job is not None:
                    job()
                elif frame is not None:
                    self._handle(frame)
            except Exception as error:
                self._on_error(error)
