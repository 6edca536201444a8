"""``vloc bench``: time a backend's stages against a literal transcription of its paper, in the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["bench"]


def bench(
    backend: Annotated[str, typer.Argument(help="Backend to measure: imposing, irpnet or pixloc.")] = "imposing",
    out: Annotated[Path | None, typer.Option("--out", help="Write the figures as JSON.")] = None,
    map_path: Annotated[
        Path | None, typer.Option("--map", help="A map; default: the paper's settings with random weights.")
    ] = None,
    accuracy: Annotated[
        Path | None,
        typer.Option(help="A drive with reference poses: also compare the accuracy of both paths (needs --map)."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls of each stage.")] = 50,
) -> None:
    """Measure a backend's stages, throughput and memory against the direct transcription of its paper."""
    from vloc_ros.bench.imposing import bench_imposing
    from vloc_ros.bench.irpnet import bench_irpnet
    from vloc_ros.bench.pixloc import bench_pixloc
    from vloc_ros.errors import ConfigError
    from vloc_ros.localizers.base import select_device

    if backend not in ("imposing", "irpnet", "pixloc"):
        raise ConfigError(
            f"bench: expected a backend that can be measured (imposing, irpnet, pixloc), found {backend!r}"
        )
    if backend == "irpnet" and map_path is not None:
        raise ConfigError("bench irpnet: measures the paper's settings with random weights; leave out --map")
    if accuracy is not None and backend != "imposing":
        raise ConfigError(f"bench {backend}: compares no accuracy; leave out --accuracy")
    if accuracy is not None and map_path is None:
        raise ConfigError("bench: --accuracy needs a trained map: add --map")
    if backend == "irpnet":
        result = bench_irpnet(select_device(device), repeats)
    elif backend == "pixloc":
        result = bench_pixloc(map_path, select_device(device), repeats)
    else:
        result = bench_imposing(map_path, select_device(device), repeats, accuracy_bag=accuracy)
    table = Table("stage", "p50 ms", "p95 ms", "max ms", title=Text(f"{result['map']} on {result['device']}"))
    for row in result["rows"]:
        table.add_row(row["name"], *(f"{row[key]:.2f}" for key in ("ms_p50", "ms_p95", "ms_max")))
    console = Console()
    console.print(table)
    for key in (
        "precision", "speedup_vs_naive", "max_abs_difference", "pose_difference_float64", "pose_difference_default_m",
        "precision_m", "error_m", "floor_ms", "times_floor", "memory_bytes", "bytes_per_observation", "parameters",
        "accuracy",
    ):  # fmt: skip
        if key in result:
            console.print(f"{key}: {result[key]}", markup=False)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
        console.print(f"written: {out}", markup=False)
