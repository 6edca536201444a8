"""``vloc align``: how a PixLoc map aligns the frames of a drive, as plots and a table of its convergence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vloc_ros.cli.progress import progress_bar

__all__ = ["align"]


def align(
    map_path: Annotated[Path, typer.Option("--map", help="A PixLoc map.")],
    drive: Annotated[str, typer.Argument(metavar="DRIVE", help="A bag or data-set folder with reference poses.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the plots and basin.json.")],
    frames: Annotated[int, typer.Option(min=1, help="Frames of the drive, evenly chosen.")] = 10,
    priors: Annotated[int, typer.Option(min=1, help="Priors of each frame.")] = 10,
    offset_m: Annotated[float, typer.Option(min=0.0, help="Largest offset of a prior; uniform from 0.")] = 2.0,
    offset_deg: Annotated[
        float, typer.Option(min=0.0, max=90.0, help="Largest turn of a prior; uniform from 0.")
    ] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the priors.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the backend; repeatable."),
    ] = None,
) -> None:
    """Show how PixLoc aligns: reprojections, confidences, residuals by level, and from how far off it converges."""
    from vloc_ros.evaluation.basin import align_drive
    from vloc_ros.settings import assigned

    settings = assigned(set_ or [], "--set")
    with progress_bar("aligning") as progress:
        result = align_drive(
            map_path, drive, out, frames, priors, offset_m, offset_deg, seed, device, settings, progress
        )
    typer.echo(json.dumps(result, indent=2))
    typer.echo(f"plots and basin.json: {out}")
