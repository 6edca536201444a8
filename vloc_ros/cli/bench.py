"""``vloc bench``: time a backend's stages against a literal transcription of its paper, in the same run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vloc_ros.errors import ConfigError
from vloc_ros.staging import write_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["bench"]

#: The backends that have a benchmark, and the options that theirs takes besides those of all.
_OPTIONS = {
    "imposing": ("--map", "--accuracy"),
    "irpnet": (),
    "retrieval": ("--map", "--queries", "--rows"),
    "pixloc": ("--map",),
    **dict.fromkeys(("features", "cascade", "copr", "camnet"), ("--map", "--queries")),
}


def bench(
    backend: Annotated[
        str,
        typer.Argument(help="imposing, irpnet, retrieval or pixloc; features, cascade, copr or camnet: whole queries."),
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
        typer.Option(
            help="A drive to ask about --map; retrieval: one that the map does not hold, or a map of it with the same "
            "extractor."
        ),
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
    if backend not in _OPTIONS:
        raise ConfigError(f"bench: expected a backend that can be measured ({', '.join(_OPTIONS)}), found {backend!r}")
    given = {"--map": map_path, "--accuracy": accuracy, "--queries": queries, "--rows": rows}
    for option, value in given.items():
        if value and option not in _OPTIONS[backend]:
            takers = " or ".join(name for name, options in _OPTIONS.items() if option in options)
            raise ConfigError(f"bench {backend}: {option} is an option of the benchmark of {takers}; leave it out")
    if accuracy is not None and map_path is None:
        raise ConfigError("bench: --accuracy needs a trained map: add --map")
    _find_benches()
    from bench.timing import threads_of
    from vloc_ros.localizers.base import select_device

    where = select_device(device)
    with threads_of(2 if threads is None and backend == "retrieval" else threads):
        if backend == "irpnet":
            from bench.irpnet import bench_irpnet

            result = bench_irpnet(where, repeats)
        elif backend == "retrieval":
            from bench.retrieval import SIZES, bench_retrieval

            result = bench_retrieval(map_path, queries, where, rows or SIZES, repeats)
        elif backend == "pixloc":
            from bench.pixloc import bench_pixloc

            result = bench_pixloc(map_path, where, repeats)
        elif backend != "imposing":
            from bench.queries import bench_queries

            result = bench_queries(backend, map_path, queries, where, repeats)
        else:
            from bench.imposing import bench_imposing

            result = bench_imposing(map_path, where, repeats, accuracy_bag=accuracy)
    if "launches" not in result:
        from bench.queries import default_map, query_counts

        result.update(query_counts(default_map(backend)))
    _show(result, backend)
    if out is not None:
        write_text(out, json.dumps(result, indent=2) + "\n")
        typer.echo(f"written: {out}")


def _show(result: dict[str, Any], backend: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{result['map']} on {result['device']}"))
    (_add_searches if backend == "retrieval" else _add_stages)(table, result)
    console = Console()
    console.print(table)
    for key in (
        "precision", "speedup_vs_naive", "speedup_like_for_like", "max_abs_difference", "pose_difference_float64",
        "pose_difference_default_m",
        "precision_m", "error_m", "floor_ms", "times_floor", "memory_bytes", "bytes_per_observation", "parameters",
        "accuracy", "auto", "counted_map", "launches", "recorded", "host_waits", "uploaded_bytes", "moved_bytes",
        "operations",
    ):  # fmt: skip
        if key in result:
            console.print(f"{key}: {result[key]}", markup=False)


def _add_stages(table: Table, result: dict[str, Any]) -> None:
    for head in ("stage", "p50 ms", "p95 ms", "max ms"):
        table.add_column(head)
    for row in result["rows"]:
        table.add_row(row["name"], *(f"{row[key]:.2f}" for key in ("ms_p50", "ms_p95", "ms_max")))


def _add_searches(table: Table, result: dict[str, Any]) -> None:
    """What searching costs and finds, a row a size and index."""
    table.caption = "r@1: recall@1 of exact search; m: median error of the position; *: computed"
    for head in ("rows", "index", "p50 ms", "r@1", "m", "build s", "MB", "regr."):
        table.add_column(head, no_wrap=True, justify="left" if head == "index" else "right")

    def shown(row: dict[str, Any], key: str, form: str, scale: float = 1.0) -> str:
        return "" if row.get(key) is None else format(row[key] * scale, form)

    for row in result["rows"]:
        size = f"{row['descriptors']}{'*' if row.get('computed') else ''}"
        found = (shown(row, "recall_at_1", ".3f"), shown(row, "median_m", ".2f"))
        cost = (shown(row, "build_s", ".1f"), shown(row, "index_bytes", ".0f", 1e-6))
        table.add_row(size, row["index"], f"{row['ms_p50']:.2f}", *found, *cost, shown(row, "regressed_share", ".1%"))


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
