"""``vloc demo``: watch a vehicle localize itself, without a vehicle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from vloc_ros.commands.progress import progress_bar

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the drive, the result bag, the report and the plots.")
    ] = Path("out/demo"),
    map_path: Annotated[Path | None, typer.Option("--map", help="Default: the map shipped with the package.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Render a drive that the shipped map has never seen, localize it, and report."""
    from vloc_ros.errors import ConfigError
    from vloc_ros.evaluation.report import print_table
    from vloc_ros.maps import read_map
    from vloc_ros.replay import replay
    from vloc_ros.resources import share_path

    path = map_path or share_path("models", "town_demo")
    made_of = read_map(path).manifest.provenance.get("town")
    if not isinstance(made_of, dict):
        raise ConfigError(
            f"{path}: expected a map of the synthetic town (provenance.town), found another; use vloc replay"
        )
    from vloc_ros.convert.town import convert_town

    drive = out / "drive"
    if drive.exists():
        shutil.rmtree(drive)
    held_out = int(made_of.get("held_out", 5))
    with progress_bar("rendering the drive") as progress:
        bags = convert_town(
            drive,
            seed=int(made_of["seed"]),
            loop_m=float(made_of["loop_m"]),
            traversals=1,
            first=held_out,
            width=int(made_of.get("width", 240)),
            height=int(made_of.get("height", 135)),
            overwrite=True,
            progress=progress,
        )
    with progress_bar("localizing") as progress:
        result = replay(bags[0], path, out, device=device, progress=progress)
    print_table(result.report)
    typer.echo(f"plots      {out / 'plots'}")
    typer.echo(f"report     {result.report_path}")
    typer.echo(f"result bag {result.bag_path}  (play it: ros2 bag play {result.bag_path} --clock)")
    result.raise_problem()
