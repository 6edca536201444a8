"""A query of any map: its stages, and what a device would be asked for, counted by the simulated one.

Where no map is named it is the tiny one of the test data: what is counted does not depend on how good a map is.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.simulated_device import Counts, simulated_device
from bench.timing import Timing, peak_memory_bytes
from vloc_ros.datasets import PosedSequence, open_sequence
from vloc_ros.errors import ConfigError
from vloc_ros.localizers.base import Localizer, backend_class
from vloc_ros.localizers.device import device_name
from vloc_ros.maps import read_map
from vloc_ros.types import PosePrior, Query

__all__ = ["MEASURED", "bench_queries", "counts_of", "query_counts"]

#: Maps and their drive in the test data.
DATA = Path(__file__).resolve().parents[1] / "test" / "data" / "maps_0_1"
#: The backends whose queries are measured as a whole, for which there is no transcription to compare with.
MEASURED = ("features", "cascade", "copr", "camnet")


def default_map(backend: str) -> Path:
    """The test data's map of a backend."""
    return next(path for path in (DATA / backend, DATA / f"{backend}.vmap") if path.exists())


def question(sequence: PosedSequence, index: int, prior: bool) -> Query:
    """A frame, from its true pose where the localizer wants a prior."""
    guess = PosePrior(sequence.T_map_cam[index], np.diag([0.25] * 3 + [0.01] * 3)) if prior else None
    return Query(sequence.image(index), sequence.camera, int(sequence.stamps_ns[index]), prior=guess)


def counts_of(localizer: Localizer, query: Query, counted: Any) -> Counts:
    """Of the third time: what is made once is there, and recorded work is replayed."""
    for _ in range(2):
        localizer.localize(query)
    counted()
    localizer.localize(query)
    found: Counts = counted()
    return found


def query_counts(map_dir: Path, drive: Path | None = None) -> dict[str, Any]:
    """``launches``, ``recorded``, ``host_waits``, ``uploads``, bytes and operations of a query of a map.

    :param drive: frames to ask; default: the test data's.
    """
    bundle, sequence = read_map(map_dir), open_sequence(drive or DATA / "drive")
    with simulated_device() as (device, counted):
        localizer = backend_class(bundle.manifest.backend).from_map(bundle, device)
        query = question(sequence, len(sequence) // 2, localizer.needs_prior)
        return {**counts_of(localizer, query, counted).figures(), "counted_map": map_dir.name}


def bench_queries(
    backend: str, map_dir: Path | None, drive: Path | None, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Whole queries of a drive, and their stages.

    :param map_dir: default: the test data's, with its drive.
    :returns: the benchmark's JSON. ``floor_ms`` is what the query's bytes and operations would take at the rates that
        this device reaches in a copy and in a matrix product of float32. There is no transcription:
        ``speedup_vs_naive`` and ``max_abs_difference`` are null.
    :raises ConfigError: a map without a drive, or of another backend.
    """
    if (map_dir is None) != (drive is None):
        raise ConfigError(f"bench {backend}: expected --map with --queries, a drive to ask, found one of them")
    map_dir, drive = map_dir or default_map(backend), drive or DATA / "drive"
    bundle, sequence = read_map(map_dir), open_sequence(drive)
    if bundle.manifest.backend != backend:
        raise ConfigError(f"{map_dir}: expected a map of backend {backend!r}, found {bundle.manifest.backend!r}")
    laps: dict[str, list[float]] = {}
    with backend_class(backend).from_map(bundle, device) as localizer:
        frames = np.arange(repeats + 3) % len(sequence)
        for number, frame in enumerate(frames):
            query = question(sequence, int(frame), localizer.needs_prior)
            begin = time.perf_counter()
            estimate = localizer.localize(query)
            took = 1e3 * (time.perf_counter() - begin)
            if number >= 3:
                for name, value in {"query": took, **estimate.timings_ms}.items():
                    laps.setdefault(name, []).append(value)
    rows = [_row(name, values) for name, values in laps.items()]
    counts = query_counts(map_dir, drive)
    copied, multiplied = rates(device)
    floor = 1e3 * (counts["moved_bytes"] / copied + counts["operations"] / multiplied)
    return {
        "device": device_name(device), "backend": backend, "map": map_dir.name,
        "rows": [vars(row) for row in rows], "speedup_vs_naive": None, "speedup_like_for_like": None,
        "max_abs_difference": None, "floor_ms": round(floor, 4), "times_floor": round(rows[0].ms_p50 / floor, 3),
        "memory_bytes": peak_memory_bytes(device), **counts,
    }  # fmt: skip


def _row(name: str, values: list[float]) -> Timing:
    return Timing(name, *(round(float(v), 4) for v in (np.median(values), np.quantile(values, 0.95), max(values))))


def rates(device: torch.device) -> tuple[float, float]:
    """Bytes a second that a copy reads and writes, and operations a second of a product in float32."""
    words, square = torch.zeros(1 << 24, device=device), torch.rand(1024, 1024, device=device)

    def seconds(work: Any) -> float:
        work()
        times = []
        for _ in range(5):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            begin = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - begin)
        return min(times)

    return 2 * words.nbytes / seconds(words.clone), 2 * 1024**3 / seconds(lambda: square @ square)
