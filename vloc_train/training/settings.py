"""Settings of a trainer from the name of a preset and what the user changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from vloc_ros.errors import ConfigError
from vloc_ros.settings import settings_from_mapping, settings_to_mapping

__all__ = ["from_preset"]

Settings = TypeVar("Settings")

#: Mappings that belong to one network: a change replaces them.
_WHOLE = ("backbone_options", "encoder_options")


def from_preset(
    presets: Mapping[str, Callable[[], Settings]], name: str, changes: Mapping[str, Any] | None = None, where: str = ""
) -> Settings:
    """The settings of a preset with some fields changed.

    :param presets: what makes the settings, by name.
    :param changes: nested mappings of fields, as in a configuration file.
    :param where: where the changes come from, for messages.
    :raises ConfigError: unknown preset or field, or a value out of range.
    """
    if name not in presets:
        raise ConfigError(f"preset: expected one of {', '.join(presets)}, found {name!r}")
    base = presets[name]()
    merged = _merged(settings_to_mapping(base), changes or {})
    return settings_from_mapping(type(base), merged, where or "training settings")


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(out.get(key), Mapping) and key not in _WHOLE
        out[key] = _merged(out[key], value) if nested else value
    return out
