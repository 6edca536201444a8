"""What every benchmark shares: timing, memory, threads, and the form of its results."""

from __future__ import annotations

import dataclasses
import importlib
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vloc_ros.localizers.device import device_name

__all__ = ["MemoryGrowth", "Timing", "figures", "measure", "peak_memory_bytes", "quantiles", "threads_of"]


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one row: median, 95th percentile, slowest."""

    name: str
    ms_p50: float
    ms_p95: float
    ms_max: float


def measure(name: str, function: Callable[[], object], device: torch.device, repeats: int, warm: int = 3) -> Timing:
    """Call ``function`` ``repeats`` times after ``warm`` calls; on a GPU every call is waited for."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(warm):
        function()
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        function()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return Timing(name, *(round(float(v), 4) for v in (np.median(times), np.quantile(times, 0.95), max(times))))


def figures(
    backend: str,
    name: str,
    device: torch.device,
    rows: Sequence[Timing],
    *,
    ours: float,
    naive: float,
    floor: float,
    difference: float,
    **more: Any,
) -> dict[str, Any]:
    """A benchmark's JSON.

    :param name: of the map. :param ours: milliseconds of the package's own path.
    :param naive: of the literal transcription. :param floor: of what cannot be left out.
    :param difference: the largest one between both paths' results. :param more: figures of this backend alone.
    """
    return {
        "device": device_name(device),
        "backend": backend,
        "map": name,
        "rows": [dataclasses.asdict(row) for row in rows],
        "speedup_vs_naive": round(naive / ours, 3),
        "max_abs_difference": difference,
        "floor_ms": round(floor, 4),
        "times_floor": round(ours / floor, 3),
        "memory_bytes": peak_memory_bytes(device),
        **more,
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


class MemoryGrowth:
    """By how much the memory of the process, or of the GPU, grew at most in a block; None where that cannot be told."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None

    def __enter__(self) -> MemoryGrowth:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before: int | None = torch.cuda.memory_allocated(self._device)
            return self
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from here
        except OSError:
            self._before = None
        else:
            self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        cuda = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if cuda else _status("VmHWM")
        self.bytes = None if peak is None else max(0, peak - self._before)


def _status(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


@contextmanager
def threads_of(count: int | None) -> Iterator[None]:
    """So many threads of torch and faiss in a block; None leaves them as they are."""
    if count is None:
        yield
        return
    faiss: Any = None
    with suppress(ImportError):
        faiss = importlib.import_module("faiss")
    before, before_faiss = torch.get_num_threads(), faiss.omp_get_max_threads() if faiss else 0
    torch.set_num_threads(count)
    if faiss:
        faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if faiss:
            faiss.omp_set_num_threads(before_faiss)


def quantiles(values: Any) -> dict[str, float]:
    """Median, 95th percentile and largest, rounded."""
    found = np.asarray(values, dtype=np.float64)
    if not len(found):
        return {}
    return {"p50": round(float(np.median(found)), 4), "p95": round(float(np.quantile(found, 0.95)), 4),
            "max": round(float(found.max()), 4)}  # fmt: skip
