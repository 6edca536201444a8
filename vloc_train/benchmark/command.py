"""``vloc evaluate``, which the command line finds by its entry point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import vloc_ros
from vloc_ros.errors import ConfigError, VlocError

__all__ = ["evaluate"]


def evaluate(
    protocol: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A built-in protocol, or a YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for table.json, table.md, plots and trajectories.")],
    root: Annotated[
        Path | None, typer.Option(help="The folder that holds the protocol's data sets, where it needs any.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where drives, maps and answers are kept (default: OUT/cache).")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="ROWS", help="Methods to compute, with commas; SPLIT/METHOD and * work too. Default: all."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random; default: the protocol's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that augment images in training.")] = 0,
    plots: Annotated[bool, typer.Option(help="Draw a plot for every split.")] = True,
    progress: Annotated[bool, typer.Option(help="Show the progress bars of training.")] = True,
) -> None:
    """A whole table of methods and splits, with the retrieval baseline and the oracle beside every method.

    Data and maps are made where they are missing and kept: the same command continues after an interruption and, run
    again, redoes only what has changed.
    """
    from vloc_ros.cli.progress import show_progress
    from vloc_ros.evaluation.figure import require_matplotlib
    from vloc_ros.localizers.device import select_device
    from vloc_train.benchmark.protocol import load
    from vloc_train.benchmark.runner import evaluate_protocol, wanted
    from vloc_train.benchmark.table import write_table
    from vloc_train.training.run import RunOptions

    loaded = load(protocol)
    if seed is not None:
        loaded = replace(loaded, seed=seed)
    chosen = [text.strip() for text in (only or "").split(",") if text.strip()]
    for text in chosen:
        if not any(wanted([text], split, row) for split, row in loaded.table()):
            methods = ", ".join(dict.fromkeys(row.method for row in loaded.rows))
            raise ConfigError(
                f"--only: expected methods of {loaded.name}, found {text!r}; it has {methods} "
                f"on {', '.join(loaded.splits)}"
            )
    if root is not None and not root.is_dir():
        raise ConfigError(f"--root: expected a folder, found nothing at {root}")
    if plots:
        require_matplotlib()
    show_progress()
    # "auto" would not say what the figures are of.
    computed_on = str(select_device(device))
    options = RunOptions(device, workers=workers, progress=progress)
    table = evaluate_protocol(loaded, root, cache or out / "cache", out, options, chosen)
    about = {"seed": loaded.seed, "device": computed_on, "version": vloc_ros.__version__}
    typer.echo(write_table(table, loaded, about, out, plots))
    if table.failed:
        first = table.failed[0]
        raise VlocError(
            f"{len(table.failed)} rows failed, the first {first['split']} / {first['method']}: {first['problem']}; "
            "the others are in the table"
        )
