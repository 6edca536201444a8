"""Which backends can be trained, and which maps are built without training.

The tables hold this project's own, imported when they are asked for. Other packages add theirs through the entry-point
group ``vloc_ros.trainers``: the name of a backend, and an object of a :class:`~vloc_train.training.recipe.Trainer`.
"""

from __future__ import annotations

from typing import Any

from vloc_ros.errors import ConfigError
from vloc_ros.plugins import PluginGroup
from vloc_train.training.recipe import Trainer

__all__ = ["BUILDERS", "GROUP", "TRAINERS", "find", "maker_for"]

GROUP = "vloc_ros.trainers"
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
    "auto": "vloc_train.auto:BUILDER",
}


def _wrong(made: Any) -> str | None:
    return None if isinstance(made, Trainer) else f"expected an object of a Trainer class, found {made!r}"


def find(table: dict[str, str], backend: str, doing: str) -> Trainer[Any]:
    """What ``table``, or another package, has for ``backend``.

    :param doing: ``train`` or ``map build``, for the message. :raises ConfigError: there is none, or it does not fit.
    """
    reserved = tuple(name for name in {**TRAINERS, **BUILDERS} if name not in table)
    if backend in reserved:
        raise ConfigError(f"{doing}: expected one of {', '.join(table)}, found {backend!r}, which has no {doing}")
    group = PluginGroup(GROUP, table, f"backend of {doing}", _wrong, reserved, extra="train")
    return group.load(backend)  # type: ignore[no-any-return]


def maker_for(backend: str, preset: str | None = None, with_extractor: bool = False) -> Trainer[Any]:
    """What makes a map of this backend in one go: its builder where there is one and it has what it needs, else its
    trainer.

    :param preset: a preset that only one of the two knows decides. :param with_extractor: a trained map is given.
    :raises ConfigError: no such backend.
    """
    if backend not in BUILDERS:
        return find(TRAINERS, backend, "map build")
    builder = find(BUILDERS, backend, "map build")
    if backend not in TRAINERS:
        return builder
    # Without a trained network there is nothing to build with, but for public weights and what is shipped.
    can_build = with_extractor or builder.needs is None or builder.shipped_extractor is not None
    if can_build and (preset is None or preset in builder.presets):
        return builder
    trainer = find(TRAINERS, backend, "map build")
    return builder if preset is not None and preset not in trainer.presets else trainer
