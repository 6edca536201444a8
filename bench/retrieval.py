"""What searching a database of descriptors costs and finds, by its size: every index against the definition."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.retrieval_inputs import Inputs, made_up, of_map
from bench.timing import MemoryGrowth, measure, peak_memory_bytes
from vloc_ros.errors import ConfigError
from vloc_ros.localizers.device import device_name
from vloc_ros.localizers.retrieval.database import Database
from vloc_ros.localizers.retrieval.index import FaissIndex, Index, IndexKind, build_index, chosen_kind, exact_distances
from vloc_ros.localizers.retrieval.localizer import INDEX_RECALL, RetrievalSettings

__all__ = ["SIZES", "bench_retrieval", "definition", "sample"]

SIZES = (10_000, 100_000, 1_000_000)
#: What rows beyond the largest measured size are computed for.
COMPUTED = 10_000_000
#: Rows compared at a time by the definition.
_ROWS = 4096


def bench_retrieval(
    map_path: Path | None,
    queries: Path | None,
    device: torch.device,
    sizes: Sequence[int] = SIZES,
    repeats: int = 50,
    seed: int = 0,
    computed: int = COMPUTED,
) -> dict[str, Any]:
    """Search databases of ``sizes`` rows, drawn at random from a map's, one query at a time as a localizer does.

    :param map_path: a map with a database of at least the largest size; without it descriptors are made up.
    :param queries: a drive that the map does not hold, or a map of it with the same extractor.
    :param repeats: timed queries of each row; the definition has a tenth of them (at least three).
    :returns: the benchmark's JSON. Rows name the index and the number of descriptors; ``recall_at_1`` is the share of
        queries whose answer is the nearest row, or one as near, by the definition: float32 differences to every row.
        ``speedup_vs_naive`` is the time of the definition over that of index ``auto``, ``max_abs_difference`` the
        largest difference of the nearest distance in exact search, ``floor_ms`` the time to read the descriptors once,
        ``times_floor`` that of exact search over it; all at the largest size.
    :raises ConfigError: fewer rows than asked for; queries without a map, or a map without.
    """
    wanted = sorted(set(sizes))
    if not wanted or wanted[0] < 1:
        raise ConfigError(f"bench retrieval: expected numbers of rows of at least 1, found {list(sizes)}")
    if (map_path is None) != (queries is None):
        raise ConfigError(
            "bench retrieval: expected --map with --queries (a drive that the map does not hold, or a map of it), "
            "found one of them; without both, descriptors are made up"
        )
    start = time.perf_counter()
    if map_path is None or queries is None:
        inputs = made_up(wanted[-1], seed=seed)
    else:
        inputs = of_map(map_path, queries, device)
    _check_size(len(inputs.database), wanted[-1], inputs.name)
    figures: dict[str, Any] = {
        "device": device_name(device),
        "backend": "retrieval",
        "map": inputs.name,
        "queries": {"name": inputs.queries_name, "count": len(inputs.queries)},
        "dimension": inputs.database.dimension,
        "metric": inputs.database.metric,
        "threads": torch.get_num_threads(),
        "inputs_s": round(time.perf_counter() - start, 3),
        "rows": [],
    }
    for size in wanted:
        rows, more = _size_rows(inputs, size, device, repeats, seed)
        figures["rows"] += rows
    figures.update(more)
    figures["rows"] += [_computed(row, computed) for row in rows if computed > wanted[-1]]
    figures["memory_bytes"] = peak_memory_bytes(device)
    return figures


def _check_size(found: int, wanted: int, name: str) -> None:
    if found < wanted:
        raise ConfigError(
            f"bench retrieval: expected a database of at least {wanted} rows, found {found} in {name}; make it denser "
            "with vloc map densify (half of --step makes four times as many), or ask for fewer: --rows"
        )


def sample(database: Database, size: int, seed: int) -> Database:
    """So many rows, each with the same probability, in their order."""
    if size == len(database):
        return database
    return database.select(np.sort(np.random.default_rng((seed, size)).choice(len(database), size, replace=False)))


@torch.inference_mode()
def definition(queries: Tensor, descriptors: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Distances and rows ``(Q,)`` of the nearest, from float32 differences to every row; the lower of equal rows."""
    best = torch.full((len(queries),), torch.inf, device=descriptors.device)
    rows = torch.zeros(len(queries), dtype=torch.int64, device=descriptors.device)
    q = queries.to(descriptors.device, torch.float32)
    if metric == "cosine":
        q = torch.nn.functional.normalize(q, dim=1)
    for start in range(0, len(descriptors), _ROWS):
        part = descriptors[start : start + _ROWS].float()
        if metric == "cosine":
            part = torch.nn.functional.normalize(part, dim=1)
        found = torch.cdist(q, part, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        nearer = found.values < best
        best = torch.where(nearer, found.values, best)
        rows = torch.where(nearer, found.indices + start, rows)
    return best.square() / 2 if metric == "cosine" else best, rows


def _size_rows(
    inputs: Inputs, size: int, device: torch.device, repeats: int, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of one size, and figures about it."""
    database = sample(inputs.database, size, seed)
    settings = RetrievalSettings()
    stored = database.descriptors.to(device)
    nearest, true_rows = definition(inputs.queries, stored, database.metric)
    nearest, true_rows = nearest.cpu(), true_rows.cpu()
    about = {"descriptors": size, "regressed_share": round(database.regressed_share, 6)}

    def timed(name: str, search: Callable[[Tensor], object], count: int) -> dict[str, Any]:
        timing = measure(f"{name}, {size} descriptors", _each(search, inputs.queries.to(device)), device, count)
        return {**dataclasses.asdict(timing), "index": name, **about}

    naive = timed("definition", lambda q: definition(q, stored, database.metric)[1].cpu(), max(3, repeats // 10))
    naive |= {"recall_at_1": 1.0, "median_m": _median_m(inputs, database, true_rows)}
    rows = [naive]
    kinds: list[IndexKind] = ["torch"] if device.type != "cpu" else ["torch", "faiss_flat", "faiss_ivf"]
    for kind in kinds:
        with MemoryGrowth(device) as growth:
            start = time.perf_counter()
            try:
                index = build_index(database, device, kind, INDEX_RECALL)
            except ConfigError:  # faiss is an option
                continue
            built = time.perf_counter() - start
            row = timed(kind, lambda q, i=index: i.search(q, settings.neighbours)[1].cpu(), repeats)  # type: ignore[misc]
        rows.append(row | {"build_s": round(built, 3), **_found(index, inputs, database, nearest, settings.neighbours)})
        rows[-1]["growth_bytes"] = growth.bytes
        if kind == "torch":
            exact = index.search(inputs.queries, 1)[0][:, 0].cpu()
            difference = float((exact - nearest).abs().max())
        del index
    words = stored.view(torch.int64 if stored.shape[1] % 4 == 0 else torch.int16)
    floor = measure("read once", lambda: words.sum(), device, repeats).ms_p50
    auto = chosen_kind(size, database.dimension, device)
    by_kind = {row["index"]: row["ms_p50"] for row in rows}
    return rows, {
        "auto": auto,
        "speedup_vs_naive": round(by_kind["definition"] / by_kind.get(auto, by_kind["torch"]), 3),
        # Every row compared by both, in float32 from float16.
        "speedup_like_for_like": round(by_kind["definition"] / by_kind["torch"], 3),
        "max_abs_difference": difference,
        "floor_ms": floor,
        "times_floor": round(by_kind["torch"] / floor, 3),
    }


def _each(search: Callable[[Tensor], object], queries: Tensor) -> Callable[[], object]:
    """Another query at every call."""
    number = iter(range(1 << 62))

    def run() -> object:
        at = next(number) % len(queries)
        return search(queries[at : at + 1])

    return run


def _median_m(inputs: Inputs, database: Database, rows: Tensor) -> float:
    apart = torch.linalg.vector_norm(database.poses[rows, :3] - inputs.positions, dim=1)
    return round(float(apart.median()), 4)


def _found(index: Index, inputs: Inputs, database: Database, nearest: Tensor, neighbours: int) -> dict[str, Any]:
    """How good the answers are, and what the index holds."""
    answers = [index.search(part, neighbours)[1].cpu() for part in torch.split(inputs.queries, 64)]
    rows = torch.cat(answers)[:, 0]
    distances = exact_distances(inputs.queries, database.descriptors[rows][:, None], database.metric)[:, 0]
    as_near = distances <= nearest * (1 + 1e-5) + 1e-6
    more = {"lists": index.lists, "nprobe": index.nprobe} if isinstance(index, FaissIndex) and index.lists > 1 else {}
    return {
        "recall_at_1": round(float(as_near.float().mean()), 4),
        "median_m": _median_m(inputs, database, rows),
        "index_bytes": index.memory_bytes,
        **more,
    }


def _computed(row: dict[str, Any], size: int) -> dict[str, Any]:
    """A row of a larger database from a measured one: time and memory a descriptor stay as they are.

    Lists are searched in a fixed share, so that their time grows with the rows, too; finding the nearest lists grows
    with the square root, so that this is an upper bound.
    """
    factor = size / row["descriptors"]
    scaled: dict[str, Any] = {
        key: round(row[key] * factor, 4) for key in ("ms_p50", "ms_p95", "ms_max", "build_s") if key in row
    }
    if "index_bytes" in row:
        scaled["index_bytes"] = int(row["index_bytes"] * factor)
    name = re.sub(r", \d+ descriptors$", f", {size} descriptors (computed)", row["name"])
    return {"name": name, **scaled, "index": row["index"], "descriptors": size, "computed": True}
