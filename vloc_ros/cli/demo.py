"""``vloc demo``: watch a vehicle localize itself, without a vehicle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vloc_ros.cli.progress import progress_bar

__all__ = ["demo"]

#: What is said of each run, and how it stands in its report.
_ROWS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "frames": lambda r: f"{r['frames']}",
    "LOCALIZED": lambda r: f"{100 * r['localized'] / max(r['frames'], 1):.1f} %",
    "median error": lambda r: f"{r['median_translation_m']:.3f} m {r['median_rotation_deg']:.3f} deg",
    "within 5 cm 5 deg": lambda r: _within(r, 0.05),
    "within 0.25 m 2 deg": lambda r: _within(r, 0.25),
    "within 2 m 5 deg": lambda r: _within(r, 2.0),
    "worst LOCALIZED": lambda r: f"{r['max_translation_localized_m']:.2f} m {r['max_rotation_localized_deg']:.2f} deg",
    "LOCALIZED inside the 95 % ellipsoid": lambda r: f"{100 * r['nees_localized']['share_in_95']:.1f} %",
    "time a frame, median": lambda r: f"{r['latency_ms']['p50']:.0f} ms",
    "map": lambda r: f"{r['map_bytes'] / 1e6:.1f} MB",
}


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the drive, the result bags, the reports and the plots.")
    ] = Path("out/demo"),
    map_path: Annotated[
        Path | None, typer.Option("--map", help="Another map of the same town, by itself; default: the shipped ones.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Render a drive that the shipped maps have never seen, localize it coarsely and refined to centimetres."""
    from vloc_ros.convert.town import convert_town
    from vloc_ros.localizers.cascade.bundle import write_cascade
    from vloc_ros.maps import read_map
    from vloc_ros.replay import replay
    from vloc_ros.resources import share_path

    plan = _plan(share_path("models", "demo.yaml"))
    path = map_path or share_path("models", str(plan["map"]))
    coarse = read_map(path)  # says what is wrong with it before the drive is rendered
    refined = map_path is None and "features" in plan
    judge = read_map(share_path("models", str(plan["features"]))) if refined else None
    town = plan["town"]
    number = int(town["traversal"])
    light = town.get("light")
    typer.echo(
        f"Synthetic town, {float(town['loop_m']):g} m loop, drive {number}: streets that the shipped maps know, "
        "a drive that they have never seen."
    )
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
    backend = coarse.manifest.backend
    with progress_bar(f"localizing: {backend}") as progress:
        results = {f"{backend} alone": replay(bags[0], path, out, device=device, progress=progress)}
    if judge is not None:
        chain = write_cascade(out / "chain" / "map", [path, judge.path], overwrite=(out / "chain" / "map").exists())
        every = int(plan.get("every", 1))
        with progress_bar(f"localizing: {backend}, then features") as progress:
            results[f"{backend}, then features"] = replay(
                bags[0], chain.path, out / "chain", device=device, progress=progress, frames=f"::{every}"
            )
    _print({name: result.report for name, result in results.items()})
    for name, result in results.items():
        typer.echo(f"{name}: {result.report_path.with_suffix('.html')}, plots and result bag beside it")
    last = list(results.values())[-1]
    typer.echo(f"drive       {bags[0]}")
    typer.echo(f"watch it    ros2 bag play {last.bag_path} --clock   (RViz: config/vloc.rviz)")
    for result in results.values():
        result.raise_problem()


def _print(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """The runs beside each other."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="the same drive, every frame by itself", title_justify="left")
    for name in ("", *reports):
        table.add_column(name)
    for name, said in _ROWS.items():
        table.add_row(name, *(said(report) for report in reports.values()))
    Console().print(table)


def _within(report: Mapping[str, Any], metres: float) -> str:
    shares: Sequence[Mapping[str, float]] = report["recall"]
    return f"{100 * next(r['share'] for r in shares if r['translation_m'] == metres):.1f} %"


def _plan(path: Path) -> dict[str, Any]:
    """The demo's maps and drive.

    :raises ConfigError: the file does not say them.
    """
    import yaml

    from vloc_ros.errors import ConfigError

    plan: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    town = plan.get("town") if isinstance(plan, dict) else None
    if not isinstance(town, dict) or "map" not in plan or not {"seed", "loop_m", "traversal"} <= set(town):
        raise ConfigError(f"{path}: expected map, and town with seed, loop_m and traversal, found {plan!r}")
    return plan
