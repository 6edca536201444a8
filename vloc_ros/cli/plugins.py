"""Commands that live elsewhere: this project's trainers and tools, and those of other packages.

A command is a function with typer annotations, or a ``typer.Typer``. The run time thus offers ``vloc train`` without
depending on what trains. Other packages add commands of their own names through the entry-point group
``vloc_ros.commands``; a backend of theirs needs none, ``vloc train`` and ``vloc map build`` find its trainer in the
group ``vloc_ros.trainers``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import typer

from vloc_ros.errors import ConfigError
from vloc_ros.plugins import PluginGroup

__all__ = ["COMMANDS", "add_command", "command_of", "foreign_commands", "run_plugin"]


def _wrong(made: Any) -> str | None:
    return None if callable(made) else f"expected a function or a typer.Typer, found {made!r}"


COMMANDS = PluginGroup(
    "vloc_ros.commands",
    {
        "try": "vloc_train.cli:try_drive",
        "train": "vloc_train.cli:train",
        "calibrate": "vloc_train.cli:calibrate",
        "build": "vloc_train.cli:build",
        "add": "vloc_train.cli:add",
        "densify": "vloc_train.cli:densify",
        "evaluate": "vloc_train.benchmark.command:evaluate",
    },
    "command",
    _wrong,
    extra="train",
)


def command_of(name: str) -> Any:
    """The command of this name, as click has it.

    :raises ConfigError: nobody provides it, or what it needs is not installed.
    """
    loaded = COMMANDS.load(name)
    if isinstance(loaded, typer.Typer):
        app = loaded
    else:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(loaded)
    return typer.main.get_command(app)


def run_plugin(name: str, arguments: list[str], usage: str) -> None:
    """Run command ``name`` with the rest of the command line. :raises ConfigError: see :func:`command_of`."""
    command = command_of(name)
    try:
        command(args=arguments, prog_name=usage)
    except ModuleNotFoundError as error:  # a command may import what it needs when it runs
        raise ConfigError(f"{name} needs {error.name or error}: pip install 'vloc_ros[{COMMANDS.extra}]'") from error


def add_command(app: typer.Typer, name: str, usage: str, about: str) -> None:
    """Let ``app`` have command ``name``, which is found and imported when it runs.

    :param usage: the command as typed, for example ``vloc map build``. :param about: its line of help.
    """

    def run(context: typer.Context) -> None:
        run_plugin(name, context.args, usage)

    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(name, help=about, context_settings=passed_on, add_help_option=False)(run)


def foreign_commands(own: Collection[str]) -> list[str]:
    """Names of the commands of other packages. :param own: those of ``vloc`` itself, which stay."""
    group = replace(COMMANDS, reserved=tuple(own))
    return [name for name in group.names() if name not in COMMANDS.builtin]
