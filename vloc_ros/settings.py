"""Typed settings from plain mappings (YAML, ROS parameters, a map's manifest), with strict validation.

A settings class is a frozen dataclass. Ranges stand beside the defaults (:func:`ranged`), the meaning of each
field in the class docstring (``:param name: ...``); checks between fields go into ``__post_init__`` and raise
:class:`~vloc_ros.errors.ConfigError`. The same engine reads map manifests, with another error class. Names that a class
had before stand in its ``FORMER``, so that maps and files written before are still read (:func:`current_names`).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeGuard, TypeVar, Union, cast, get_args, get_origin

import numpy as np
import typer

from vloc_ros.errors import ConfigError, VlocError
from vloc_ros.yaml_text import parse_yaml

__all__ = [
    "Fixed",
    "SettingDescription",
    "assigned",
    "current_names",
    "describe_settings",
    "is_integer",
    "is_number",
    "numbers_of",
    "ranged",
    "settings_from_mapping",
    "settings_to_mapping",
]

_log = logging.getLogger(__name__)

# ``NAME=VALUE`` on the command line: values are read as YAML, dotted names are nested settings.


def assigned(texts: Iterable[str], option: str, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """A mapping with every ``NAME=VALUE`` of ``texts`` set; ``a.b=1`` sets ``b`` in the mapping ``a``.

    :param option: the option to name in messages, for example ``--set``.
    :param base: where to set them; changed in place.
    :raises typer.BadParameter: no ``=``, a value that is not YAML, or a dotted name below a plain value.
    """

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
            target[leaf] = parse_yaml(value)
        except ValueError as problem:
            message = f"{name}: expected a YAML value, found {value!r}: {problem}"
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


#: No setting of anything is larger; squares of such numbers are still numbers, in single precision, too.
_LARGEST = 1e15
_LARGEST_INTEGER = 2**63 - 1

T = TypeVar("T")


def ranged(default: Any, *, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A dataclass field whose number (or every number of its tuple) lies in [minimum, maximum]."""
    return dataclasses.field(default=default, metadata={"minimum": minimum, "maximum": maximum})


def settings_from_mapping(
    cls: type[T], mapping: Mapping[str, Any] | None, where: str, *, error: type[VlocError] = ConfigError
) -> T:
    """Build the dataclass ``cls`` from ``mapping``; absent fields keep their defaults.

    :param cls: a dataclass whose fields are bool, int, float, str, Literal, Enum, Optional, tuple, list, dict,
        Any, or such dataclasses.
    :param mapping: names to plain values; None means empty. Integers become floats where floats are wanted;
        nothing else is converted.
    :param where: the place to name in messages, for example the file and section.
    :param error: the exception class to raise.
    :raises VlocError: (as ``error``) unknown or missing field, wrong type, number out of range or not finite.
    """
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, Mapping):
        raise error(f"{where}: expected a mapping of names to values, found {_kind(mapping)}")
    mapping = current_names(cls, mapping, where, error=error)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls)) if f.init}
    unknown = [str(key) for key in mapping if key not in fields]
    if unknown:
        raise error(f"{where}: unknown field {', '.join(map(repr, unknown))}; known: {', '.join(fields)}")
    hints = _hints(cast(Any, cls))
    values: dict[str, Any] = {}
    for name, item in fields.items():
        if name in mapping:
            value = _convert(hints[name], mapping[name], f"{where}: {name}", error)
            _check_range(value, item, f"{where}: {name}", error)
            values[name] = value
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise error(f"{where}: missing field {name!r} ({_name(hints[name])})")
    try:
        return cls(**values)
    except VlocError as problem:
        raise error(f"{where}: {problem}") from problem


@dataclass(frozen=True)
class Fixed:
    """What a setting is fixed at that is a constant now; see :func:`current_names`."""

    value: Any


def current_names(
    cls: type, mapping: Mapping[str, Any], where: str, *, error: type[VlocError] = ConfigError
) -> dict[str, Any]:
    """``mapping`` with the names that the settings of ``cls`` have today; those of before are warned of.

    A class lists its former names in a class variable ``FORMER``: the name of before to that of today (both may be
    dotted, into nested settings), or to a :class:`Fixed` value. A fixed setting is left out; it is warned of when the
    mapping wants another value.

    :raises VlocError: (as ``error``) both names are given.
    """
    out = dict(mapping)
    former = {old: now for base in cls.__mro__ for old, now in vars(base).get("FORMER", {}).items()}
    for old, now in former.items():
        found, value = _taken(out, old)
        if not found:
            continue
        if isinstance(now, Fixed):
            if _plain(value) != _plain(now.value):
                _log.warning("%s: %s is fixed now, at %s; %s is ignored", where, old, _plain(now.value), value)
            continue
        if _taken(out, now)[0]:
            raise error(f"{where}: expected one of {now!r} and {old!r}, its name of before, found both")
        _log.warning("%s: %s is called %s now", where, old, now)
        _set(out, now, value)
    hints = _hints(cls)
    for item in dataclasses.fields(cls):
        hint, value = hints[item.name], out.get(item.name)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            out[item.name] = current_names(hint, value, f"{where}: {item.name}", error=error)
    return out


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _taken(mapping: dict[str, Any], name: str) -> tuple[bool, Any]:
    """Take a dotted name out of a mapping, whose nested mappings are copied: whether it was there, and its value."""
    first, _, rest = name.partition(".")
    if not rest:
        return (True, mapping.pop(name)) if name in mapping else (False, None)
    inner = mapping.get(first)
    if not isinstance(inner, Mapping):
        return False, None
    mapping[first] = dict(inner)
    return _taken(mapping[first], rest)


def _set(mapping: dict[str, Any], name: str, value: Any) -> None:
    first, _, rest = name.partition(".")
    if rest:
        mapping[first] = dict(mapping.get(first) or {})
        _set(mapping[first], rest, value)
    else:
        mapping[name] = value


def settings_to_mapping(settings: Any) -> dict[str, Any]:
    """The inverse of :func:`settings_from_mapping`: plain dicts, lists, numbers and strings, ready for YAML."""
    return {f.name: _plain(getattr(settings, f.name)) for f in dataclasses.fields(settings) if f.init}


@dataclass(frozen=True)
class SettingDescription:
    """One row of a parameter table, in plain English with code in backquotes.

    :ivar name: dotted for nested settings. :ivar kind: what a value is: ``metres``, ``yes or no``, ``one of ...``.
    :ivar default: a plain value. :ivar range: of numbers; empty where every one is allowed. :ivar doc: what it means.
    """

    name: str
    kind: str
    default: Any
    range: str
    doc: str


def describe_settings(cls: type, prefix: str = "") -> list[SettingDescription]:
    """Every field of a settings class with kind, default, range and the text of its ``:param``, in order."""
    hints = _hints(cls)
    docs = {name: text for base in reversed(cls.__mro__) for name, text in _param_docs(base.__doc__ or "").items()}
    rows: list[SettingDescription] = []
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            rows.extend(describe_settings(hint, f"{prefix}{item.name}."))
            continue
        default: Any = None
        if item.default is not dataclasses.MISSING:
            default = _plain(item.default)
        elif item.default_factory is not dataclasses.MISSING:
            default = _plain(item.default_factory())
        low, high = item.metadata.get("minimum"), item.metadata.get("maximum")
        kind = _kind_of(hint, item.name.rsplit("_", 1)[-1] if "_" in item.name else "")
        rows.append(
            SettingDescription(f"{prefix}{item.name}", kind, default, _bounds(low, high), docs.get(item.name, ""))
        )
    return rows


def _param_docs(docstring: str) -> dict[str, str]:
    """The text of every ``:param``, without the marks of reStructuredText but for backquotes around code."""
    found = re.findall(r":param (\w+):(.*?)(?=\n\s*:\w+ |\n\s*\n|\Z)", docstring, flags=re.DOTALL)
    plain = {name: re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", " ".join(text.split())) for name, text in found}
    plain = {name: text.replace("``", "`") for name, text in plain.items()}
    return {name: re.sub(r"`(True|False)`|\bNone\b", lambda m: m[0].lower(), text) for name, text in plain.items()}


#: What the end of a setting's name says about its number.
_UNITS = {
    "m": "metres", "deg": "degrees", "s": "seconds", "minutes": "minutes", "ms": "milliseconds", "px": "pixels",
    "hz": "hertz", "mps": "metres per second", "mps2": "metres per second squared",
    "dps2": "degrees per second squared",
}  # fmt: skip


def _kind_of(hint: Any, unit: str = "") -> str:
    """What a value is, in English. :param unit: the end of the setting's name."""
    args = get_args(hint)
    origin = get_origin(hint)
    if origin is Union or origin is types.UnionType:
        kinds = [_kind_of(a, unit) for a in args if a is not type(None)]
        return ", or ".join([*kinds, "none"] if type(None) in args else kinds)
    if origin is Literal:
        return "one of " + ", ".join(f"`{a}`" for a in args)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(f"`{member.value}`" for member in hint)
    if origin in (list, tuple):
        several = len(args) == 1 or (len(args) == 2 and args[1] is Ellipsis)
        items = {float: "numbers", int: "whole numbers", str: "texts"}.get(args[0], "values")
        measure = f", in {_UNITS[unit]}" if unit in _UNITS and args[0] is float else ""
        return f"list of {items}{measure}" if several else f"{len(args)} {items}{measure}"
    if origin in (dict, Mapping) or hint is dict:
        return (
            f"mapping of names to {_kind_of(args[1])}" if args and args[1] is not Any else "mapping of names to values"
        )
    number = _UNITS.get(unit, "number")
    return {bool: "yes or no", int: "whole number", float: number, str: "text"}.get(hint, "value")


def _bounds(low: float | None, high: float | None) -> str:
    least, most = (None if v is None else f"{v:.12g}" for v in (low, high))
    if least is None or most is None:
        return f"{least} or more" if least is not None else f"at most {most}" if most is not None else ""
    return f"{least} to {most}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return settings_to_mapping(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _kind(value: Any) -> str:
    """What was found, short enough for one line even when the value is hostile."""
    text = repr(value) if isinstance(value, (bool, int, float, str, type(None))) else ""
    if len(text) > 60:
        text = text[:57] + "..."
    return f"{text} ({type(value).__name__})" if text else f"a {type(value).__name__}"


def _name(hint: Any) -> str:
    if isinstance(hint, type) and get_origin(hint) is None:
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "").replace("NoneType", "None")


def _convert(hint: Any, value: Any, where: str, error: type[VlocError]) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin is Union or origin is types.UnionType:
        return _convert_union(hint, value, where, error)
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in get_args(hint)):
            choices = ", ".join(repr(choice) for choice in get_args(hint))
            raise error(f"{where}: expected one of {choices}, found {_kind(value)}")
        return value
    if origin is tuple or origin is list:
        return _convert_sequence(hint, value, where, error)
    if origin is dict or origin is Mapping or hint is dict:
        if not isinstance(value, Mapping):
            raise error(f"{where}: expected a mapping, found {_kind(value)}")
        item_hint = get_args(hint)[1] if get_args(hint) else Any
        for key in value:
            if not isinstance(key, str):
                raise error(f"{where}: expected names (str) as keys, found {_kind(key)}")
        return {key: _convert(item_hint, item, f"{where}.{key}", error) for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else settings_from_mapping(hint, value, where, error=error)
    if isinstance(hint, type) and issubclass(hint, Enum):
        if isinstance(value, hint):
            return value
        if value not in [member.value for member in hint]:
            choices = ", ".join(repr(member.value) for member in hint)
            raise error(f"{where}: expected one of {choices}, found {_kind(value)}")
        return hint(value)
    return _convert_scalar(hint, value, where, error)


def _convert_union(hint: Any, value: Any, where: str, error: type[VlocError]) -> Any:
    options = get_args(hint)
    if value is None and type(None) in options:
        return None
    remaining = [option for option in options if option is not type(None)]
    if len(remaining) == 1:
        return _convert(remaining[0], value, where, error)
    for option in remaining:
        try:
            return _convert(option, value, where, error)
        except error:
            continue
    raise error(f"{where}: expected {_name(hint)}, found {_kind(value)}")


def _convert_sequence(hint: Any, value: Any, where: str, error: type[VlocError]) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise error(f"{where}: expected a list, found {_kind(value)}")
    args = get_args(hint)
    if get_origin(hint) is list or (len(args) == 2 and args[1] is Ellipsis):
        hints: tuple[Any, ...] = (args[0],) * len(value)
    else:
        hints = args
        if len(value) != len(hints):
            raise error(f"{where}: expected {len(hints)} values, found {len(value)}")
    items = [_convert(h, item, f"{where}[{i}]", error) for i, (h, item) in enumerate(zip(hints, value, strict=True))]
    return items if get_origin(hint) is list else tuple(items)


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a value that somebody wrote is an integer; true and false are none, though Python counts with them."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value that somebody wrote is a number, NaN and infinity included."""
    return is_integer(value) or isinstance(value, float)


def _convert_scalar(hint: Any, value: Any, where: str, error: type[VlocError]) -> Any:
    if hint is float and is_number(value):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise error(f"{where}: expected a finite number, found {_kind(value)}")
        if abs(number) > _LARGEST:
            raise error(f"{where}: expected a number up to {_LARGEST:g}, found {_kind(value)}")
        return number
    if hint is int and is_integer(value):
        if abs(value) > _LARGEST_INTEGER:
            raise error(f"{where}: expected a whole number of 64 bits, found {_kind(value)}")
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint in (bool, int, float, str):
        advice = ""
        if hint is float and isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
            advice = "; YAML reads 1e-4 as text: write 1.0e-4"
        raise error(f"{where}: expected {_name(hint)}, found {_kind(value)}{advice}")
    raise TypeError(f"{where}: settings of type {hint!r} are not supported")


def _check_range(value: Any, item: dataclasses.Field[Any], where: str, error: type[VlocError]) -> None:
    low, high = item.metadata.get("minimum"), item.metadata.get("maximum")
    if low is None and high is None:
        return
    for number in value if isinstance(value, (list, tuple)) else (value,):
        if number is None:
            continue
        if (low is not None and number < low) or (high is not None and number > high):
            bounds = f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]"
            raise error(f"{where}: expected a number in {bounds}, found {number!r}")
