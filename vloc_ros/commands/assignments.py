"""``NAME=VALUE`` on the command line: values are read as YAML, dotted names are nested settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer

from vloc_ros.errors import ConfigError

__all__ = ["assigned", "numbers_of"]


def assigned(texts: Iterable[str], option: str, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """A mapping with every ``NAME=VALUE`` of ``texts`` set; ``a.b=1`` sets ``b`` in the mapping ``a``.

    :param option: the option to name in messages, for example ``--set``.
    :param base: where to set them; changed in place.
    :raises typer.BadParameter: no ``=``, a value that is not YAML, or a dotted name below a plain value.
    """
    import yaml

    out: dict[str, Any] = {} if base is None else base
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"expected NAME=VALUE, found {text!r}", param_hint=option)
        target = out
        *groups, leaf = name.split(".")
        for group in groups:
            target = target.setdefault(group, {})
            if not isinstance(target, dict):
                raise typer.BadParameter(f"{name}: expected {group} to hold settings", param_hint=option)
        try:
            target[leaf] = yaml.safe_load(value)
        except yaml.YAMLError as problem:
            message = f"{name}: expected a YAML value, found {value!r}: {' '.join(str(problem).split())}"
            raise typer.BadParameter(message, param_hint=option) from problem
    return out


def numbers_of(option: str, text: str | None, counts: tuple[int, ...]) -> tuple[float, ...] | None:
    """``1,2,3`` as numbers, as many as one of ``counts``; None for an option that was not given.

    :raises ConfigError: something else.
    """
    if text is None:
        return None
    try:
        values = tuple(float(v) for v in text.replace(",", " ").split())
    except ValueError as problem:
        raise ConfigError(f"{option}: expected numbers between commas, found {text!r}") from problem
    if len(values) not in counts:
        expected = " or ".join(map(str, counts))
        raise ConfigError(f"{option}: expected {expected} numbers between commas, found {len(values)} in {text!r}")
    return values
