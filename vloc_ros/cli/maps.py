"""``vloc map``: explain, check, pack, combine, calibrate, build, extend and densify maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vloc_ros.cli.plugins import add_command
from vloc_ros.errors import MapError

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Explain, check, pack, combine, calibrate, build, extend and densify maps."
)
MapArgument = Annotated[Path, typer.Argument(metavar="MAP", help="A map directory or .vmap file.")]


@app.command()
def info(path: MapArgument) -> None:
    """Explain a map: what it is for, how it was made, how good it is."""
    from rich.console import Console

    from vloc_ros.maps import read_map
    from vloc_ros.maps.describe import describe_map

    console = Console()
    for section in describe_map(read_map(path)):
        console.print(section)


@app.command()
def verify(path: MapArgument) -> None:
    """Check every file of a map: sizes, checksums, tensors. Exit code 1 when a check fails."""
    from rich.console import Console

    from vloc_ros.maps import verify_map
    from vloc_ros.maps.describe import describe_checks

    checks = verify_map(path)
    Console().print(describe_checks(checks))
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


@app.command()
def cascade(
    members: Annotated[
        list[Path],
        typer.Argument(
            metavar="MAP MAP [MAP]",
            help="Two or three maps in the order of the chain: one that proposes places (ImPosing, retrieval, ...), "
            "one of features that judges, one that refines (PixLoc).",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="The cascade to write; it names its maps by relative path, unless --inside.")
    ],
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, for example hypotheses=3 or fine.references=3.")
    ] = None,
    inside: Annotated[
        bool, typer.Option("--inside", help="Copy the maps into the cascade: one folder to pass on.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing cascade.")] = False,
) -> None:
    """Make one map of two or three: places are proposed, judged by the map's points in the image, and refined."""
    from vloc_ros.localizers.cascade.bundle import write_cascade
    from vloc_ros.localizers.cascade.settings import CascadeSettings
    from vloc_ros.settings import assigned, settings_from_mapping

    settings = settings_from_mapping(CascadeSettings, assigned(assign or [], "--set", {}), "--set")
    typer.echo(write_cascade(out, members, settings, inside=inside, overwrite=overwrite).path)


for _name, _about in {
    "calibrate": "Fit a map's covariance to another drive: vloc map calibrate MAP --data SRC.",
    "build": "Build a map of drives: vloc map build BACKEND --data SRC... --out MAP (vloc map build --help).",
    "add": "Add a drive's images to a retrieval map: vloc map add MAP --data SRC (vloc map add --help).",
    "densify": "Add regressed descriptors to a descriptor map: vloc map densify MAP --scheme ... --step ... --span ...",
}.items():
    add_command(app, _name, f"vloc map {_name}", _about)
