"""Every data-set layout that can be read: by name, or found out from the folder.

A source is a path, or ``FORMAT:PATH[,OPTION=VALUE...]``, for example ``robotcar:/data/2014-12-09,camera=mono_rear``.
A reader is a module with

* ``matches(path) -> bool``: whether the folder or file looks like its layout (names alone, nothing is decoded),
* ``Options``: a frozen settings dataclass,
* ``open_drives(path, options, problems) -> list[PosedSequence]``: the drives in it.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vloc_ros.datasets.image_files import IMAGE_SUFFIXES
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.settings import settings_from_mapping
from vloc_ros.yaml_text import parse_yaml

__all__ = ["FORMATS", "Format", "Source", "detect", "open_source", "option_values"]


@dataclass(frozen=True)
class Format:
    """A layout's name, what it is, and the module that reads it (imported when it is used).

    ``second`` is the option that a source text may give right behind the path without naming it.
    """

    name: str
    about: str
    module: str
    second: str = ""

    def reader(self) -> Any:
        """The module."""
        return importlib.import_module(f"vloc_ros.datasets.{self.module}")


_ALL = (
    Format("bag", "rosbag2 (mcap, sqlite3) or ROS 1 bag", "bag.sequence"),
    Format("robotcar", "Oxford RobotCar", "robotcar"),
    Format("robotcar_seasons", "RobotCar Seasons", "robotcar_seasons"),
    Format("seven_scenes", "7-Scenes", "seven_scenes"),
    Format("cambridge", "Cambridge Landmarks", "cambridge"),
    Format("kapture", "kapture 1.1", "kapture"),
    Format("colmap", "COLMAP model with its images", "colmap", second="images"),
    Format("nerf", "NeRF capture (transforms.json) with its images", "nerf", second="images"),
    Format("fourseasons", "4Seasons", "fourseasons"),
    Format("euroc", "EuRoC MAV (ASL folders)", "euroc"),
    Format("apolloscape", "ApolloScape self-localization", "apolloscape"),
    Format("tum", "TUM RGB-D", "tum"),
    # Last: a flat folder of images with poses.txt is the least that can be told from a folder.
    Format("kitti", "KITTI odometry, and flat folders of images with poses.txt", "kitti"),
)
#: What lies beside data sets for the message that none was found: so many entries of a folder are looked at.
_LOOKED_AT = 1000
_VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_NAME_IT = "none of them; name the layout: FORMAT:PATH"
_POSES = "a map needs the pose of every image: docs/own_drive.md, Without poses"
#: By name, in the order in which a folder is tried.
FORMATS: dict[str, Format] = {item.name: item for item in _ALL}


@dataclass(frozen=True)
class Source:
    """What a source text says; ``format`` None: to be found out."""

    format: str | None
    path: Path
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Source:
        """``PATH``, ``PATH,NAME=VALUE,...`` or ``FORMAT:PATH,NAME=VALUE,...``; a path that exists is taken as it is.

        :raises ConfigError: an option without a value, or a layout that nobody knows.
        """
        if _exists(Path(text)):
            return cls(None, Path(text), {})
        name, separator, rest = text.partition(":")
        if not separator or name not in FORMATS:
            path, *fields = _at_commas(text)
            if fields and _exists(Path(path)):
                return cls(None, Path(path), option_values(fields, text))
            if separator and _exists(Path(_at_commas(rest)[0])):
                raise ConfigError(f"{text}: expected one of the layouts {', '.join(FORMATS)}, found {name!r}")
            return cls(None, Path(text), {})
        path, *fields = _at_commas(rest)
        first: dict[str, Any] = {}
        second = FORMATS[name].second
        if second and fields and fields[0].strip() and "=" not in fields[0]:
            first[second] = fields.pop(0).strip()
        options = {**first, **option_values(fields, text)}
        return cls(name, Path(path), options)


def option_values(fields: Iterable[str], where: str) -> dict[str, Any]:
    """``OPTION=VALUE`` texts as names and plain values. :raises ConfigError: one that is none; it names ``where``."""
    options: dict[str, Any] = {}
    where = " ".join(where.split())  # a message is one line, whatever was typed
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            raise ConfigError(f"{where}: expected OPTION=VALUE between commas, found {field!r}")
        try:
            options[key.strip()] = parse_yaml(value)
        except ValueError as problem:
            raise ConfigError(f"{where}: {' '.join(key.split())}: expected a plain value, found {value!r}") from problem
    return options


def detect(path: Path) -> str:
    """The name of the layout of a folder or file.

    :raises DatasetError: nothing is there, or no layout fits; the message lists them.
    """
    if not _exists(path):
        raise DatasetError(f"{path}: expected a bag or a data-set folder, found nothing")
    for item in FORMATS.values():
        if item.reader().matches(path):
            return item.name
    raise DatasetError(
        f"{path}: expected a bag or a folder in one of the known layouts ({', '.join(FORMATS)}), found {_found(path)}"
    )


def open_source(source: Source | str, problems: Problems | None = None, **options: Any) -> list[PosedSequence]:
    """The drives of a source, at least one.

    :param options: on top of those that the source text names; None values are left out.
    :raises ConfigError: an option that the layout does not have.
    :raises DatasetError, BagError: what is wrong with the data.
    """
    if isinstance(source, str):
        source = Source.parse(source)
    name = source.format or detect(source.path)
    reader = FORMATS[name].reader()
    given = {**source.options, **{key: value for key, value in options.items() if value is not None}}
    settings = settings_from_mapping(reader.Options, given, f"{name}:{source.path}")
    try:
        drives: list[PosedSequence] = reader.open_drives(source.path, settings, problems or Problems())
    except DatasetError as problem:  # of a check on the whole drive, which knows its name alone
        if str(source.path) in str(problem):
            raise
        raise DatasetError(f"{source.path}: {problem}") from problem
    if not drives:
        raise DatasetError(f"{source.path}: expected drives of {FORMATS[name].about}, found none")
    return drives


def _found(path: Path) -> str:
    """What lies there instead of a data set, and what to do."""
    if path.is_file():
        if path.suffix.lower() in _VIDEOS:
            return f"a video, which has no poses; {_POSES}"
        if inside := _layout_of(path.parent):
            return f"a file of a data set; give its folder ({inside})"
        return _NAME_IT
    try:
        entries = sorted(itertools.islice(path.iterdir(), _LOOKED_AT))
    except OSError as problem:
        return f"a folder that cannot be read: {problem.strerror}"
    below = [(e.name, kind) for e in entries if e.is_dir() and (kind := _layout_of(e))]
    if below:
        names = ", ".join(f"{name} ({kind})" for name, kind in below[:5])
        return f"a folder of data sets; give one of them: {names}{', ...' if len(below) > 5 else ''}"
    if any(e.suffix.lower() in IMAGE_SUFFIXES for e in entries):
        if inside := _layout_of(path.parent):
            return f"the images of a data set; give the folder above ({inside})"
        return f"images without poses; {_POSES}"
    return _NAME_IT


def _layout_of(path: Path) -> str | None:
    try:
        return next((item.name for item in FORMATS.values() if item.reader().matches(path)), None)
    except OSError:
        return None


def _exists(path: Path) -> bool:
    """Whether something is there; a text that no file can be named by, or a folder that is closed to us, is nothing."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _at_commas(text: str) -> list[str]:
    """Split at commas that are not inside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
