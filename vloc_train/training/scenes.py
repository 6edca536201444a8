"""Source texts of the command line (``SRC``, ``SCENE=SRC``) as drives by scene that lie in one map frame."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vloc_ros.datasets import PosedSequence, open_source
from vloc_ros.datasets.formats import Source, detect
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.geodesy import Datum

__all__ = ["by_scene", "check_bag_options", "common_datum", "datum_option", "is_bag_source", "of_known_scenes"]

_log = logging.getLogger(__name__)

Drives = Mapping[str, Sequence[PosedSequence]]


def by_scene(
    sources: list[str],
    truth: str | None,
    bag: Mapping[str, Any] | None = None,
    problems: Problems | None = None,
) -> dict[str, list[PosedSequence]]:
    """``SRC`` or ``SCENE=SRC`` arguments to drives by scene; sources without a name belong to the scene ``map``.

    A source is a bag, a data-set folder or a COLMAP model (:mod:`vloc_ros.datasets.formats`), or a drive of the
    synthetic town (:mod:`vloc_train.training.town`).

    :param bag: more options for bags (:class:`vloc_ros.datasets.bag.drive.BagOptions`); the first origin that a drive
        has is that of the satellite fixes of all further bags, where none is named.
    :param problems: told of what is left out.
    :raises VlocError: what a reader has to say.
    """
    from vloc_train.training.town import PREFIX, open_town

    scenes: dict[str, list[PosedSequence]] = {}
    common = {"truth": truth, **(bag or {})}
    for source in sources:
        name, path = _parts(source)
        opened = [open_town(path)] if path.startswith(PREFIX) else _open(path, common, problems)
        first = datum_option({name: opened})
        if first is not None:
            common.setdefault("datum", first)
        scenes.setdefault(name, []).extend(opened)
    return scenes


def of_known_scenes(drives: Mapping[str, list[PosedSequence]], known: Sequence[str]) -> dict[str, list[PosedSequence]]:
    """Drives for calibration by the scenes of a map; those without a name belong to the only scene.

    :raises ConfigError: a scene that the map does not have, which nothing would be calibrated on.
    """
    out = {known[0] if name == "map" and len(known) == 1 else name: value for name, value in drives.items()}
    for name in out:
        if name not in known:
            raise ConfigError(
                f"--calibration-data: expected drives of scene {' or '.join(known)}, found {name!r}; write SCENE=SRC"
            )
    return out


def check_bag_options(bag: Mapping[str, Any], sources: Sequence[str]) -> None:
    """:raises ConfigError: options that only bags have, and no bag to use them on."""
    if bag and not any(is_bag_source(source) for source in sources):
        names = ", ".join(f"--{name.removesuffix('_s').replace('_', '-')}" for name in bag)
        raise ConfigError(
            f"{names}: expected a bag that this is said of, found none among {', '.join(sources)}; other layouts take "
            "options as FORMAT:PATH,NAME=VALUE"
        )


def common_datum(*groups: Drives | None) -> Datum | None:
    """The origin that all drives agree on, or None where no drive knows its own.

    :raises DatasetError: they do not agree, which would put their places on top of each other.
    """
    drives = [d for group in groups for many in (group or {}).values() for d in many]
    found: dict[Datum, str] = {}
    for drive in drives:
        if drive.datum is not None:
            found.setdefault(drive.datum, drive.name)
    if len(found) > 1:
        texts = [f"{name}: {d.latitude_deg},{d.longitude_deg},{d.altitude_m}" for d, name in found.items()]
        raise DatasetError(
            f"expected drives with one map origin, found {'; '.join(texts[:2])}; name one with --datum, for bags whose "
            "poses are satellite fixes"
        )
    silent = [d.name for d in drives if d.datum is None]
    if found and silent:
        _log.warning("%s: no origin is known; counts as that of %s", ", ".join(silent), next(iter(found.values())))
    return next(iter(found), None)


def datum_option(scenes: Drives) -> list[float] | None:
    """The first origin among drives, as the option of a bag."""
    found = next((d.datum for drives in scenes.values() for d in drives if d.datum is not None), None)
    return None if found is None else [found.latitude_deg, found.longitude_deg, found.altitude_m]


def is_bag_source(text: str) -> bool:
    """Whether a source text, with or without ``SCENE=``, names a bag."""
    from vloc_train.training.town import PREFIX

    path = _parts(text)[1]
    if path.startswith(PREFIX):
        return False
    source = Source.parse(path)
    return (source.format or detect(source.path)) == "bag"


def _parts(text: str) -> tuple[str, str]:
    """Scene and source."""
    name, separator, path = text.partition("=")
    return (name, path) if separator and name.isidentifier() else ("map", text)


def _open(text: str, options: Mapping[str, Any], problems: Problems | None) -> list[PosedSequence]:
    # A fresh count for each: a drive tells what it left out itself.
    mine = Problems(problems.keep_going) if problems is not None else None
    if not is_bag_source(text):
        return open_source(Source.parse(text), mine)
    topics = options.get("image") or [None]
    topics = [topics] if isinstance(topics, str) else topics
    _check_rig(topics, options)
    opened = []
    for topic in topics:  # of a rig: a drive for each camera
        chosen = {**options, "image": topic} if topic else {k: v for k, v in options.items() if k != "image"}
        drives = open_source(Source.parse(text), mine, **chosen)
        opened += [replace(d, name=f"{d.name}:{topic}") for d in drives] if len(topics) > 1 else drives
    return opened


def _check_rig(topics: Sequence[str | None], options: Mapping[str, Any]) -> None:
    for name in ("camera_info", "extrinsics"):
        if len(topics) > 1 and options.get(name) is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')}: expected one --image with it, found {len(topics)}: cameras differ in that"
            )
    if len(set(topics)) != len(topics):
        raise ConfigError(f"--image: expected different topics, found {', '.join(map(str, topics))}")
