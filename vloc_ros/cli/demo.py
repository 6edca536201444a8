"""``vloc demo``: watch a vehicle localize itself, without a vehicle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vloc_ros.cli.progress import progress_bar

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the drive, the result bag, the report and the plots.")
    ] = Path("out/demo"),
    map_path: Annotated[
        Path | None, typer.Option("--map", help="Another map of the same town; default: the one shipped.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Render a drive that the shipped map has never seen, localize it, and report."""
    from vloc_ros.convert.town import convert_town
    from vloc_ros.evaluation.report import print_table
    from vloc_ros.maps import read_map
    from vloc_ros.replay import replay
    from vloc_ros.resources import share_path

    plan = _plan(share_path("models", "demo.yaml"))
    path = map_path or share_path("models", str(plan["map"]))
    read_map(path)  # says what is wrong with it before the drive is rendered
    town = plan["town"]
    number = int(town["traversal"])
    light = town.get("light")
    where = f"Synthetic town, {float(town['loop_m']):g} m loop, drive {number}"
    typer.echo(f"{where}: streets that the map {path.name} knows, a drive that it has never seen.")
    with progress_bar("rendering the drive") as progress:
        bags = convert_town(
            out / "drive",
            seed=int(town["seed"]),
            loop_m=float(town["loop_m"]),
            traversals=1,
            first=number,
            lights=[str(light)] if light else None,
            overwrite=True,
            progress=progress,
        )
    with progress_bar("localizing") as progress:
        result = replay(bags[0], path, out, device=device, progress=progress)
    print_table(result.report)
    typer.echo(f"plots       {out / 'plots'}")
    typer.echo(f"report      {result.report_path}")
    typer.echo(f"drive       {bags[0]}")
    typer.echo(f"result bag  {result.bag_path}")
    typer.echo(f"watch it    ros2 bag play {result.bag_path} --clock   (RViz: config/vloc.rviz)")
    result.raise_problem()


def _plan(path: Path) -> dict[str, Any]:
    """The demo's map and drive.

    :raises ConfigError: the file does not say them.
    """
    import yaml

    from vloc_ros.errors import ConfigError

    plan: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    town = plan.get("town") if isinstance(plan, dict) else None
    if not isinstance(town, dict) or "map" not in plan or not {"seed", "loop_m", "traversal"} <= set(town):
        raise ConfigError(f"{path}: expected map, and town with seed, loop_m and traversal, found {plan!r}")
    return plan
