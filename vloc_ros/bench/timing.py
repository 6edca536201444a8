"""Timing, and the form of a benchmark's results."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Timing", "measure", "peak_memory_bytes"]


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


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
