"""Drives of the synthetic town by name, with depth: ``town:seed=2,index=0,width=640,height=384``.

Bags hold no depth. A drive that is named like this is rendered when it is first used, images and depths alike, and
kept: in ``$VLOC_CACHE``, or in ``vloc_ros`` below the user's cache folder.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from vloc_ros.datasets import PosedSequence
from vloc_ros.datasets.formats import option_values
from vloc_ros.settings import settings_from_mapping
from vloc_train.evaluate.drives import Drives
from vloc_train.evaluate.protocol import Drive, TownDrive
from vloc_train.evaluate.selection import Selection

__all__ = ["PREFIX", "cache_folder", "open_town"]

#: What tells such a name from a path.
PREFIX = "town:"

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where rendered drives are kept."""
    chosen = os.environ.get("VLOC_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vloc_ros"


def open_town(name: str, cache: Path | None = None) -> PosedSequence:
    """The drive that ``town:FIELD=VALUE,...`` names; the fields are those of :class:`TownDrive`.

    :param cache: where rendered drives are kept; default :func:`cache_folder`.
    :raises ConfigError: no such field, or a value out of range.
    """
    fields = option_values(filter(None, name.removeprefix(PREFIX).split(",")), name)
    drive = settings_from_mapping(TownDrive, fields, name)
    drives = Drives({name: Drive(town=drive)}, None, cache or cache_folder(), _log.info)
    return drives.part(Selection(name)).sequence
