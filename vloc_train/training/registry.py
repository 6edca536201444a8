"""Which backends can be trained, and which maps are built without training: static tables of lazy imports."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vloc_ros.errors import ConfigError
from vloc_ros.maps import MapBundle

__all__ = ["BUILDERS", "TRAINERS", "Trainer", "find", "maker_for"]

#: ``vloc train BACKEND``.
TRAINERS = {
    "imposing": "vloc_train.imposing.train:TRAINER",
    "retrieval": "vloc_train.retrieval.train:TRAINER",
    "irpnet": "vloc_train.irpnet.train:TRAINER",
    "camnet": "vloc_train.camnet.train:TRAINER",
    "copr": "vloc_train.copr.train:TRAINER",
    "pixloc": "vloc_train.pixloc.train:TRAINER",
}
#: ``vloc map build BACKEND``.
BUILDERS = {
    "retrieval": "vloc_train.retrieval.build:BUILDER",
    "camnet": "vloc_train.camnet.build:BUILDER",
    "features": "vloc_train.features.build:BUILDER",
    "pixloc": "vloc_train.pixloc.build:BUILDER",
}


@dataclass(frozen=True)
class Trainer:
    """What makes a map of drives.

    :ivar presets: names of its settings, the default first.
    :ivar settings: ``settings(preset, changes, where)`` makes them.
    :ivar run: ``run(scenes, out, settings, options, calibration, work_dir, about, extractor)`` makes the map:
        drives by scene, the map to write, settings, :class:`~vloc_train.training.run.RunOptions`, other drives by scene
        for validation and calibration (or None), a working directory (or None: beside the map), more provenance (or
        None), and a map that holds the extractor to start from (or None).
    """

    presets: tuple[str, ...]
    settings: Callable[[str, dict[str, Any] | None, str], Any]
    run: Callable[..., MapBundle]


def find(table: dict[str, str], backend: str, doing: str) -> Trainer:
    """The entry of ``table`` for ``backend``. :raises ConfigError: there is none."""
    if backend not in table:
        raise ConfigError(f"{doing}: expected a backend out of {', '.join(table)}, found {backend!r}")
    module, _, name = table[backend].partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Trainer)
    return found


def maker_for(backend: str, preset: str | None = None, with_extractor: bool = False) -> Trainer:
    """What makes a map of this backend in one go: its builder where there is one and it has what it needs, else its
    trainer.

    :param preset: a preset that only one of the two knows decides. :param with_extractor: a trained map is given.
    :raises ConfigError: no such backend.
    """
    if backend not in BUILDERS:
        return find(TRAINERS, backend, "map build")
    builder = find(BUILDERS, backend, "map build")
    # Without a trained network there is nothing to build with, but for public weights.
    can_build = with_extractor or backend not in _BUILD_WITH_EXTRACTOR
    if can_build and (preset is None or preset in builder.presets):
        return builder
    trainer = find(TRAINERS, backend, "map build")
    return builder if preset is not None and preset not in trainer.presets else trainer


#: Builders that are nothing without ``--extractor``.
_BUILD_WITH_EXTRACTOR = ("camnet", "pixloc")
