"""Where independent pieces of work are done: in this process, or by workers on other machines.

The workers are those of dask.distributed: ``dask scheduler`` on one machine, ``dask worker ADDRESS`` on others, and
``--cluster ADDRESS`` here. Pieces carry all that they need and bring back their result, so that no folder has to be
shared. Who finishes first does not change a result: each has its number. A worker that dies loses only the pieces that
it was at, which others do again.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from types import TracebackType
from typing import Any, TypeVar

from vloc_ros.errors import ClusterError, ConfigError

__all__ = ["Cluster", "Workers", "open_workers"]

_log = logging.getLogger(__name__)
Piece = TypeVar("Piece")
Result = TypeVar("Result")
#: Seconds to wait for a scheduler, and for a first worker.
_PATIENCE_S = 15.0
#: Seconds without any worker after which a run gives up; one that is restarted comes back sooner.
_ALONE_S = 60.0
#: Seconds that a result may be on its way; longer than that its worker is gone.
_FETCH_S = 60.0
#: Seconds between two looks at who is there.
_LOOK_S = 0.5
#: Pieces for each worker that are sent ahead: one it is at, one that waits.
_AHEAD = 2
#: Packages whose version decides what is computed.
_PACKAGES = ("numpy", "torch", "opencv-python-headless|opencv-python|opencv-contrib-python", "pycolmap")


class Workers(AbstractContextManager["Workers"]):
    """This process alone."""

    #: How many pieces are done at a time.
    count = 1
    #: Whether pieces travel.
    far = False

    def each(self, work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[tuple[int, Result]]:
        """Number and result of every piece, in the order in which they are done.

        :param work: a function of a module. :param pieces: made one by one, as they are needed.
        """
        for number, piece in enumerate(pieces):
            yield number, work(piece)

    def close(self) -> None:
        """Let go of what was opened."""

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Cluster(Workers):
    """Workers of dask.distributed.

    :param address: of the scheduler (``tcp://host:8786``), or ``local:N`` for N processes on this machine.
    :raises ConfigError: dask.distributed is not installed, or an address that is none.
    :raises ClusterError: nobody answers there, no worker, or one of another version of this package.
    """

    far = True

    def __init__(self, address: str, patience_s: float = _PATIENCE_S) -> None:
        distributed = _distributed()
        self._dask, self._address, self._local = distributed, address, None
        self._seen, self._asked = 0, 0.0
        # What it says at length of workers that come and go is said here in one line where it matters.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        # A piece brings all along, the map that is asked, too: a worker that dies has nothing that others lack.
        warnings.filterwarnings("ignore", message="Sending large graph")
        where: Any = address
        kind, _, number = address.partition(":")
        if kind == "local":
            if not number.isdecimal() or not 1 <= int(number) <= 256:
                raise ConfigError(f"--cluster: expected an address or local:N with N of 1 to 256, found {address!r}")
            self._local = where = distributed.LocalCluster(
                n_workers=int(number), threads_per_worker=1, dashboard_address=":0", silence_logs=logging.ERROR
            )
        try:
            self._client = distributed.Client(where, timeout=patience_s)
        except (OSError, TimeoutError, distributed.TimeoutError, ValueError) as problem:
            self._stop_local()
            raise ClusterError(
                f"--cluster {address}: expected a scheduler of dask, found none that answers within {patience_s:g} s "
                f"({str(problem).splitlines()[0] if str(problem) else type(problem).__name__}); start it (dask "
                "scheduler), and workers (dask worker ADDRESS)"
            ) from problem
        try:
            self._checked(patience_s)
        except BaseException:
            self.close()
            raise

    def _checked(self, patience_s: float) -> None:
        try:
            self._client.wait_for_workers(1, timeout=patience_s)
        except (TimeoutError, self._dask.TimeoutError) as problem:
            raise ClusterError(
                f"--cluster {self._address}: expected workers, found a scheduler that has had none for {patience_s:g} "
                f"s; start some (dask worker {self._address})"
            ) from problem
        mine = versions()
        for worker, found in self._client.run(_told_by_value()).items():
            difference = differing(mine, found)
            if difference:
                raise ClusterError(
                    f"--cluster {self._address}: expected workers with {difference[0]} {difference[1]}, as here, found "
                    f"{worker} with {difference[2]}; install the same on all machines"
                )

    @property
    def count(self) -> int:  # type: ignore[override]
        return max(self._workers(), 1)

    def _workers(self) -> int:
        """How many there are; the scheduler is asked at most so often as they are looked for."""
        now = time.monotonic()
        if now - self._asked > _LOOK_S:
            self._seen = len(self._client.scheduler_info(n_workers=-1).get("workers", {}))
            self._asked = now
        return self._seen

    def each(self, work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[tuple[int, Result]]:
        waiting = enumerate(pieces)
        under_way: dict[Any, int] = {}
        seen = time.monotonic()
        try:
            while True:
                while len(under_way) < _AHEAD * self.count:
                    number, piece = next(waiting, (-1, None))
                    if number < 0:
                        break
                    under_way[self._client.submit(_done, versions(), work, piece, pure=False, retries=2)] = number
                if not under_way:
                    return
                try:
                    done = self._dask.wait(list(under_way), timeout=1.0, return_when="FIRST_COMPLETED").done
                except (TimeoutError, self._dask.TimeoutError):
                    done = ()
                for future in done:
                    try:
                        result = self._result(future)
                    except self._dask.TimeoutError:
                        if future.status == "error":  # the piece's own
                            raise
                        continue  # its worker died with it, and the scheduler gives it to another one
                    yield under_way.pop(future), result
                seen = self._still_there(seen)
        finally:
            self._client.cancel(list(under_way), force=True)

    def _still_there(self, seen: float) -> float:
        """When a worker was last there. :raises ClusterError: the scheduler is gone, or all workers for long."""
        if self._client.status != "running":
            raise ClusterError(self._lost("its scheduler, found that it is gone"))
        now = time.monotonic()
        if self._workers():
            return now
        if now - seen > _ALONE_S:
            raise ClusterError(self._lost(f"workers, found none for {_ALONE_S:g} s"))
        return seen

    def _lost(self, what: str) -> str:
        return f"--cluster {self._address}: expected {what}; what is done is kept: the same command goes on from there"

    def _result(self, future: Any) -> Any:
        try:
            return future.result(timeout=_FETCH_S)
        except (self._dask.KilledWorker, self._dask.client.FutureCancelledError) as problem:
            raise ClusterError(
                self._lost("a piece of work to be done, found that every worker that tried it died (out of memory?)")
            ) from problem

    def close(self) -> None:
        self._client.close()
        self._stop_local()

    def _stop_local(self) -> None:
        if self._local is not None:
            self._local.close()


def open_workers(address: str) -> Workers:
    """:class:`Cluster` where there is an address, else this process."""
    return Cluster(address) if address else Workers()


def versions() -> dict[str, str]:
    """Of this package and of those that decide what is computed, as they are installed here."""
    return dict(_versions())


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple(_told_by_value()().items())


def _told_by_value() -> Callable[[], dict[str, str]]:
    """A function that a worker can run whatever is installed there."""
    names = ("vloc_ros", *_PACKAGES)

    def told() -> dict[str, str]:
        from importlib import metadata

        def version(name: str) -> str:
            for distribution in name.split("|"):
                try:
                    return str(metadata.version(distribution))
                except metadata.PackageNotFoundError:
                    pass
            return "none"

        return {name.partition("|")[0]: version(name) for name in names}

    return told


def differing(mine: dict[str, str], theirs: dict[str, str]) -> tuple[str, str, str] | None:
    """The first package of another version, with both; this package comes first."""
    return next(((n, v, theirs.get(n, "none")) for n, v in mine.items() if theirs.get(n, "none") != v), None)


def _done(expected: dict[str, str], work: Callable[[Any], Any], piece: Any) -> Any:
    """A piece, on a worker. One that came later has not been asked for its version yet."""
    difference = differing(expected, versions())
    if difference:
        raise ClusterError(
            f"--cluster: expected workers with {difference[0]} {difference[1]}, found one with {difference[2]}"
        )
    _settle()
    return work(piece)


@cache
def _settle() -> None:
    """Workers with one thread each share a machine's cores: so do the libraries under them."""
    import cv2
    import torch
    from distributed import get_worker

    threads = int(get_worker().state.nthreads)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as problem:
        raise ConfigError(
            "--cluster: expected the package dask.distributed, found none; pip install 'vloc_ros[cluster]'"
        ) from problem
    return distributed
