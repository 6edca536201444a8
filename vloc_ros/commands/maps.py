"""``vloc map``: explain, check, pack, calibrate and build maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vloc_ros.commands.plugins import run_plugin
from vloc_ros.errors import MapError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Explain, check, pack, calibrate and build maps.")
MapArgument = Annotated[Path, typer.Argument(metavar="MAP", help="A map directory or .vmap file.")]


@app.command()
def info(path: MapArgument) -> None:
    """Explain a map: what it is for, how it was made, how good it is."""
    from vloc_ros.maps import read_map

    bundle = read_map(path)
    manifest = bundle.manifest
    table = Table(title=str(path), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("backend", manifest.backend)
    table.add_row("id", bundle.id)
    table.add_row("size", f"{bundle.size_bytes / 1e6:.2f} MB in {len(manifest.files)} files")
    for scene in manifest.scenes:
        area = " to ".join("(" + ", ".join(f"{v:.1f}" for v in c) + ")" for c in (scene.area_min, scene.area_max))
        datum = "" if scene.datum is None else f", datum {scene.datum}"
        table.add_row(f"scene {scene.name}", f"frame {scene.frame_id}, area {area} m{datum}")
    camera = manifest.camera
    table.add_row(
        "camera",
        f"{camera.width}x{camera.height}, fx {camera.fx:.2f} fy {camera.fy:.2f} cx {camera.cx:.2f} cy {camera.cy:.2f}, "
        f"{camera.distortion_model}",
    )
    for title in ("preprocessing", "settings", "provenance", "validation", "calibration"):
        for key, value in getattr(manifest, title).items():
            table.add_row(f"{title}.{key}", _short(value))
    Console().print(table)


@app.command()
def verify(path: MapArgument) -> None:
    """Check every file of a map: sizes, checksums, tensors. Exit code 1 when a check fails."""
    from vloc_ros.maps import verify_map

    checks = verify_map(path)
    console = Console()
    for check in checks:
        mark = "[green]ok[/]" if check.passed else "[red]failed[/]"
        console.print(f"{mark:>6} {check.name}: {check.reason}", highlight=False)
    failed = [check for check in checks if not check.passed]
    if failed:
        raise MapError(
            f"{path}: {len(failed)} of {len(checks)} checks failed; first: {failed[0].name}: {failed[0].reason}"
        )


@app.command()
def pack(
    path: MapArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT.vmap", help="The file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Turn a map directory into one .vmap file."""
    from vloc_ros.maps import pack_map

    typer.echo(pack_map(path, out, overwrite=overwrite))


_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_PASS_ON, add_help_option=False)
def calibrate(context: typer.Context) -> None:
    """Fit a map's covariance to another drive: vloc map calibrate MAP --data SRC (vloc map calibrate --help)."""
    run_plugin("calibrate", context.args, "vloc map calibrate")


@app.command(context_settings=_PASS_ON, add_help_option=False)
def build(context: typer.Context) -> None:
    """Build a map without training: vloc map build BACKEND --data SRC... --out MAP."""
    run_plugin("build", context.args, "vloc map build")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else text[:297] + "..."
