"""The command line ``vloc``.

Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage.
"""

from __future__ import annotations

import gc
import io
import signal
import sys
import threading
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import vloc_ros
from vloc_ros.cli import align, bench, demo, maps, replay, trajectory
from vloc_ros.cli.plugins import add_command, foreign_commands
from vloc_ros.errors import VlocError, printable

__all__ = ["app", "main"]


class _Convert(TyperGroup):
    """``vloc convert``: the readers of its layouts are imported when its commands are asked for."""

    @property
    def commands(self) -> Any:
        """By name."""
        from vloc_ros.cli.convert import app as layouts

        return typer.main.get_command(layouts).commands  # type: ignore[attr-defined]

    @commands.setter
    def commands(self, _: Any) -> None:
        pass  # the base class begins with none


app = typer.Typer(
    name="vloc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Visual localization: a vehicle's camera in, a trustworthy pose out.",
)
_CONVERT = "Turn a data set into a rosbag2 with images, CameraInfo, TF and reference poses."
app.add_typer(typer.Typer(cls=_Convert, no_args_is_help=True, help=_CONVERT), name="convert")
app.add_typer(maps.app, name="map")
app.command()(replay.replay)
app.command()(demo.demo)
app.command()(bench.bench)
app.command()(align.align)
app.command()(trajectory.trajectory)

#: So many new objects, and the collector looks for garbage. By default it looks after 700, while commands import
#: hundreds of thousands that stay.
_COLLECTED_AFTER = 50_000
#: What typer exits with after Ctrl-C.
INTERRUPTED = 130


for _name, _about in {
    "try": "Try it on your own recording: vloc try DRIVE (vloc try --help).",
    "train": "Train a map: vloc train BACKEND --data SRC... --out MAP (vloc train --help).",
    "evaluate": "A whole table, methods x splits: vloc evaluate NAME|FILE --out DIR (vloc evaluate --help).",
}.items():
    add_command(app, _name, f"vloc {_name}", _about)

#: Commands of other packages that ``app`` has.
_foreign: set[str] = set()


def _add_foreign_commands() -> None:
    """Commands of other packages, behind the own ones; nothing of theirs is imported yet."""
    own = typer.main.get_command(app).commands.keys() - _foreign  # type: ignore[attr-defined]
    for name in foreign_commands(own):
        if name in _foreign:
            continue
        _foreign.add(name)
        add_command(app, name, f"vloc {name}", f"A command of another package (vloc {name} --help).")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(vloc_ros.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    gc.enable()  # before any command begins


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a name shows its escapes
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    gc.disable()  # what is imported to parse the command line stays: there is nothing to collect
    gc.set_threshold(_COLLECTED_AFTER)
    try:
        _add_foreign_commands()
        app(args=arguments, prog_name="vloc")
    except (VlocError, OSError, ImportError) as error:  # a package that is missing or broken is told like a file
        print(f"vloc: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _interrupted()
        raise
    sys.exit(0)


def _terminated(*_: object) -> NoReturn:
    """SIGTERM ends like Ctrl-C: what a writer has begun is removed or kept to go on with, as it says."""
    raise KeyboardInterrupt


def _interrupted() -> NoReturn:
    print("vloc: interrupted", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
