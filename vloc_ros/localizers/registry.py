"""Which backends exist: a static table for the built-in ones, entry points for everybody else's."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING

from vloc_ros.errors import ConfigError

if TYPE_CHECKING:
    from vloc_ros.localizers.base import Localizer

__all__ = ["BUILT_IN", "ENTRY_POINT_GROUP", "available_backends", "backend_class"]

#: Built-in backends as ``module:Class``, imported when first asked for; no installation is needed to find them.
BUILT_IN: dict[str, str] = {
    "imposing": "vloc_ros.localizers.imposing.localizer:ImPosingLocalizer",
    "retrieval": "vloc_ros.localizers.retrieval.localizer:RetrievalLocalizer",
    "irpnet": "vloc_ros.localizers.irpnet.localizer:IRPNetLocalizer",
    "camnet": "vloc_ros.localizers.camnet.localizer:CamNetLocalizer",
    "copr": "vloc_ros.localizers.copr.localizer:CoPRLocalizer",
    "pixloc": "vloc_ros.localizers.pixloc.localizer:PixLocLocalizer",
    "cascade": "vloc_ros.localizers.cascade.localizer:CascadeLocalizer",
}

#: A third-party distribution declares ``my_method = "my_package.module:MyLocalizer"`` under this group.
ENTRY_POINT_GROUP = "vloc_ros.localizers"


def available_backends() -> dict[str, str]:
    """Names and ``module:Class`` of every backend that can be asked for. Built-in names cannot be taken over."""
    found = {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINT_GROUP)}
    return {**found, **BUILT_IN}


def backend_class(name: str) -> type[Localizer]:
    """Import the class of a backend.

    :raises ConfigError: no such backend, or its class does not fit.
    """
    from vloc_ros.localizers.base import Localizer

    table = available_backends()
    if name not in table:
        raise ConfigError(
            f"expected a known backend ({', '.join(sorted(table))}), found {name!r}; a third-party backend must be "
            f"installed with an entry point in the group {ENTRY_POINT_GROUP}"
        )
    module_name, _, class_name = table[name].partition(":")
    try:
        loaded = getattr(importlib.import_module(module_name), class_name)
    except ImportError as problem:
        raise ConfigError(
            f"backend {name!r}: cannot import {table[name]}: {problem}; install what it needs"
        ) from problem
    except AttributeError as problem:
        raise ConfigError(
            f"backend {name!r}: expected a class {class_name!r} in {module_name}, found none"
        ) from problem
    if not (isinstance(loaded, type) and issubclass(loaded, Localizer)):
        raise ConfigError(f"backend {name!r}: expected {table[name]} to be a Localizer class, found {loaded!r}")
    return loaded
