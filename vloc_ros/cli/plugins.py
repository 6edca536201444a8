"""Commands that live elsewhere: trainers and builders, found by the entry-point group ``vloc_ros.commands``.

An entry point is a function with typer annotations, or a ``typer.Typer``. The run time thus offers ``vloc train``
without depending on what trains. In a checkout that was never installed the project's own table stands in.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

import typer

from vloc_ros.errors import ConfigError

__all__ = ["GROUP", "run_plugin"]

GROUP = "vloc_ros.commands"
#: What this project's setup.py declares, for a checkout that is not installed.
FALLBACK = {
    "train": "vloc_train.cli:train",
    "calibrate": "vloc_train.cli:calibrate",
    "build": "vloc_train.cli:build",
    "add": "vloc_train.retrieval.build:add",
    "densify": "vloc_train.copr.densify:command",
    "evaluate": "vloc_train.benchmark.command:evaluate",
}


def run_plugin(name: str, arguments: list[str], usage: str) -> None:
    """Find command ``name`` and run it with the rest of the command line.

    :raises ConfigError: nobody provides it, or what it needs is not installed.
    """
    loaded = _load(name)
    if isinstance(loaded, typer.Typer):
        app = loaded
    else:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(loaded)
    try:
        typer.main.get_command(app)(args=arguments, prog_name=usage)
    except ModuleNotFoundError as error:  # a command may import what it needs when it runs
        raise _needs(name, error) from error


def _load(name: str) -> Any:
    points = [point for point in metadata.entry_points(group=GROUP) if point.name == name]
    target = points[0].value if points else FALLBACK.get(name, "")
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(
                f"no command {name!r}: expected module {module}, found none; is vloc_train installed?"
            ) from error
        raise _needs(name, error) from error
    except (AttributeError, ValueError) as error:
        raise ConfigError(
            f"no command {name!r} is provided by the installed packages (entry-point group {GROUP})"
        ) from error


def _needs(name: str, error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(f"{name} needs {error.name or error}: pip install 'vloc_ros[train]'")
