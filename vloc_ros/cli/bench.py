"""``vloc bench``: time a backend's stages against a literal transcription of its paper, in the same run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vloc_ros.errors import ConfigError

__all__ = ["bench"]


def bench(
    backend: Annotated[
        str, typer.Argument(help="Backend to measure: imposing, irpnet, retrieval or pixloc.")
    ] = "imposing",
    out: Annotated[Path | None, typer.Option("--out", help="Write the figures as JSON.")] = None,
    map_path: Annotated[
        Path | None,
        typer.Option(
            "--map", help="A map; default: the paper's settings with random weights; retrieval: made-up descriptors."
        ),
    ] = None,
    accuracy: Annotated[
        Path | None,
        typer.Option(help="A drive with reference poses: also compare the accuracy of both paths (needs --map)."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="retrieval: a drive that the map does not hold, or a map of it with the same extractor."),
    ] = None,
    rows: Annotated[
        list[int] | None,
        typer.Option(min=1, help="retrieval: descriptors to search; repeat. Default: 10000, 100000 and 1000000."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a CPU; default: retrieval 2, others as torch has it.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls of each stage.")] = 50,
) -> None:
    """Measure a backend's stages, throughput and memory against the direct transcription of its paper."""
    _find_benches()
    from bench.imposing import bench_imposing
    from bench.irpnet import bench_irpnet
    from bench.pixloc import bench_pixloc
    from bench.retrieval import SIZES, bench_retrieval
    from bench.timing import threads_of
    from vloc_ros.localizers.base import select_device

    if backend not in ("imposing", "irpnet", "retrieval", "pixloc"):
        raise ConfigError(
            f"bench: expected a backend that can be measured (imposing, irpnet, retrieval, pixloc), found {backend!r}"
        )
    if backend == "irpnet" and map_path is not None:
        raise ConfigError("bench irpnet: measures the paper's settings with random weights; leave out --map")
    if backend != "retrieval" and (queries is not None or rows):
        raise ConfigError("bench: --queries and --rows are of the benchmark of retrieval: vloc bench retrieval")
    if backend != "imposing" and accuracy is not None:
        raise ConfigError("bench: --accuracy is of the benchmark of imposing; retrieval takes --queries")
    if accuracy is not None and map_path is None:
        raise ConfigError("bench: --accuracy needs a trained map: add --map")
    where = select_device(device)
    with threads_of(2 if threads is None and backend == "retrieval" else threads):
        if backend == "irpnet":
            result = bench_irpnet(where, repeats)
        elif backend == "retrieval":
            result = bench_retrieval(map_path, queries, where, rows or SIZES, repeats)
        elif backend == "pixloc":
            result = bench_pixloc(map_path, where, repeats)
        else:
            result = bench_imposing(map_path, where, repeats, accuracy_bag=accuracy)
    title = Text(f"{result['map']} on {result['device']}")
    table = (
        _searches(result, title)
        if backend == "retrieval"
        else Table("stage", "p50 ms", "p95 ms", "max ms", title=title)
    )
    for row in result["rows"] if backend != "retrieval" else ():
        table.add_row(row["name"], *(f"{row[key]:.2f}" for key in ("ms_p50", "ms_p95", "ms_max")))
    console = Console()
    console.print(table)
    for key in (
        "precision", "speedup_vs_naive", "max_abs_difference", "pose_difference_float64", "pose_difference_default_m",
        "precision_m", "error_m", "floor_ms", "times_floor", "memory_bytes", "bytes_per_observation", "parameters",
        "accuracy", "auto",
    ):  # fmt: skip
        if key in result:
            console.print(f"{key}: {result[key]}", markup=False)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
        console.print(f"written: {out}", markup=False)


def _searches(result: dict[str, Any], title: Text) -> Table:
    """What searching costs and finds, a row a size and index."""
    table = Table(title=title, caption="r@1: recall@1 of exact search; m: median error of the position; *: computed")
    for head in ("rows", "index", "p50 ms", "r@1", "m", "build s", "MB", "regr."):
        table.add_column(head, no_wrap=True, justify="left" if head == "index" else "right")

    def shown(row: dict[str, Any], key: str, form: str, scale: float = 1.0) -> str:
        return "" if row.get(key) is None else format(row[key] * scale, form)

    for row in result["rows"]:
        size = f"{row['descriptors']}{'*' if row.get('computed') else ''}"
        found = (shown(row, "recall_at_1", ".3f"), shown(row, "median_m", ".2f"))
        cost = (shown(row, "build_s", ".1f"), shown(row, "index_bytes", ".0f", 1e-6))
        table.add_row(size, row["index"], f"{row['ms_p50']:.2f}", *found, *cost, shown(row, "regressed_share", ".1%"))
    return table


def _find_benches() -> None:
    """Put the checkout on the path: the benches, with the literal transcriptions that they compare with, are no part of
    an installed package.

    :raises ConfigError: there is no checkout.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "bench" / "timing.py").is_file():
        raise ConfigError(f"vloc bench: expected a checkout of vloc_ros with its folder bench/, found none at {root}")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
