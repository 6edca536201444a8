"""The manifest ``map.yaml``: typed dataclasses to and from YAML, validated field by field."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import yaml

from vloc_ros.errors import MapFormatError, MapVersionError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.settings import is_integer, settings_from_mapping, settings_to_mapping
from vloc_ros.types import CameraModel
from vloc_ros.yaml_text import parse_yaml

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "FileEntry",
    "MapManifest",
    "Scene",
    "check_file_name",
    "dump_manifest",
    "parse_manifest",
]

FORMAT_VERSION = 1
MANIFEST_NAME = "map.yaml"
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 100_000
MAX_PIXELS = 100_000_000
_NESTING = 32


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle beside the manifest: relative POSIX path, size, and hexadecimal SHA-256."""

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        check_file_name(self.name)
        if self.bytes < 0:
            raise MapFormatError(f"bytes: expected a size, found {self.bytes}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise MapFormatError(f"sha256: expected 64 lower-case hexadecimal digits, found {self.sha256[:80]!r}")


@dataclass(frozen=True)
class Scene:
    """One connected place of a map.

    :param name: what a :class:`~vloc_ros.types.Query` calls it.
    :param frame_id: the frame of the poses, normally ``map``.
    :param area_min: smallest x, y, z of the training positions, metres, in that frame.
    :param area_max: largest x, y, z.
    :param datum: where the frame's origin lies on the Earth, axes east, north, up; None when unknown.
    """

    name: str
    frame_id: str
    area_min: tuple[float, float, float]
    area_max: tuple[float, float, float]
    datum: Datum | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.frame_id:
            raise MapFormatError("expected a non-empty name and frame_id")
        for axis, low, high in zip("xyz", self.area_min, self.area_max, strict=True):
            if low > high:
                raise MapFormatError(f"area: expected area_min <= area_max, found {axis} from {low} to {high}")


@dataclass(frozen=True)
class MapManifest:
    """What a bundle says about itself.

    :param backend: the localizer that reads it.
    :param scenes: the places it covers; at least one, with distinct names.
    :param camera: the camera it was made with; live cameras are checked against its rectified view.
    :param preprocessing: arguments of :class:`vloc_ros.images.preprocess.Preprocess`.
    :param settings: the backend's own settings.
    :param provenance: how it was made: data sets, commit, date, settings of the trainer.
    :param validation: accuracy on data that the training did not see.
    :param calibration: what turns the backend's raw covariance into an honest one.
    :param files: every other file of the bundle; the writer fills it.
    :param format_version: see :data:`FORMAT_VERSION`.
    """

    backend: str
    scenes: tuple[Scene, ...]
    camera: CameraModel
    preprocessing: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", self.backend):
            raise MapFormatError(f"backend: expected a lower-case name, found {self.backend[:80]!r}")
        if not self.scenes:
            raise MapFormatError("scenes: expected at least one, found none")
        _distinct("scenes", [scene.name for scene in self.scenes])
        if self.camera.width * self.camera.height > MAX_PIXELS:
            raise MapFormatError(f"camera: expected at most {MAX_PIXELS} pixels, found {self.camera.size}")
        if len(self.files) > MAX_FILES:
            raise MapFormatError(f"files: expected at most {MAX_FILES}, found {len(self.files)}")
        _distinct("files", [entry.name for entry in self.files])

    def scene(self, name: str | None = None) -> Scene:
        """The scene called ``name``; without a name, the only one.

        :raises MapFormatError: no such scene, or several and no name.
        """
        names = [scene.name for scene in self.scenes]
        if name is None and len(names) == 1:
            return self.scenes[0]
        if name is None or name not in names:
            raise MapFormatError(f"expected one of the map's scenes {', '.join(names)}, found {name!r}")
        return self.scenes[names.index(name)]

    def file(self, name: str) -> FileEntry | None:
        """The entry of one file, or None."""
        return next((entry for entry in self.files if entry.name == name), None)

    def with_files(self, files: tuple[FileEntry, ...]) -> MapManifest:
        """The same manifest over other files."""
        return replace(self, files=files)


def check_file_name(name: str) -> str:
    """Accept a relative POSIX path that stays inside the bundle and is not the manifest.

    :raises MapFormatError: absolute, with ``..``, backslash, drive, control characters, or empty parts.
    """
    path = PurePosixPath(name)
    plain = bool(name) and name == path.as_posix() and not path.is_absolute() and len(name) <= 255
    if not plain or ".." in path.parts or name == "." or re.search(r"[\\:\x00-\x1f\x7f]", name):
        raise MapFormatError(f"expected a relative path inside the map, found file name {name[:80]!r}")
    if name == MANIFEST_NAME:
        raise MapFormatError(f"the manifest {MANIFEST_NAME} cannot list itself among its files")
    return name


def parse_manifest(text: str | bytes, where: str) -> MapManifest:
    """Read and validate the text of a manifest.

    :param where: the file to name in messages.
    :raises MapVersionError: written in another format version.
    :raises MapFormatError: not YAML, or a field unknown, missing, or of the wrong type; the message names it.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise MapFormatError(f"{where}: expected at most {MAX_MANIFEST_BYTES} bytes, found {len(text)}")
    try:
        data = parse_yaml(text, strict=True)
    except ValueError as problem:
        raise MapFormatError(f"{where}: expected YAML, found text that does not parse: {problem}") from problem
    if not isinstance(data, dict):
        raise MapFormatError(f"{where}: expected a mapping of fields, found {type(data).__name__}")
    version = data.get("format_version")
    if not is_integer(version):
        raise MapFormatError(f"{where}: format_version: expected an integer, found {str(version)[:40]!r}")
    if version != FORMAT_VERSION:
        raise MapVersionError(
            f"{where}: expected format version {FORMAT_VERSION}, found {version}; "
            f"{'update vloc_ros' if version > FORMAT_VERSION else 'make the map again with this release'}"
        )
    for section in _FREE_SECTIONS:
        if isinstance(data.get(section), dict):
            data[section] = plain_mapping(data[section], f"{where}: {section}")
    if "files" not in data:
        raise MapFormatError(f"{where}: missing field 'files' (list of name, bytes, sha256)")
    return settings_from_mapping(MapManifest, data, where, error=MapFormatError)


def dump_manifest(manifest: MapManifest, where: str = MANIFEST_NAME) -> str:
    """The manifest as YAML text that :func:`parse_manifest` reads back to an equal manifest.

    :raises MapFormatError: a free section holds something that YAML cannot say plainly.
    """
    data = settings_to_mapping(manifest)
    for section in _FREE_SECTIONS:
        data[section] = plain_mapping(getattr(manifest, section), f"{where}: {section}")
    ordered = {"format_version": data.pop("format_version"), **data}
    try:
        text = yaml.dump(ordered, Dumper=_ManifestDumper, sort_keys=False, allow_unicode=True, width=120)
    except yaml.representer.RepresenterError as problem:
        raise MapFormatError(f"{where}: expected plain values, found {' '.join(map(str, problem.args))}") from problem
    parse_manifest(text.encode(), where)
    return text


def plain_mapping(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy with str keys and None, bool, int, float, str, list and dict values only (NumPy scalars converted).

    :raises MapFormatError: anything else, or nesting deeper than 32 levels.
    """
    plain = _plain_value(value, where, 0)
    assert isinstance(plain, dict)
    return plain


_FREE_SECTIONS = ("preprocessing", "settings", "provenance", "validation", "calibration")


def _plain_value(value: Any, where: str, depth: int) -> Any:
    if depth > _NESTING:
        raise MapFormatError(f"{where}: expected at most {_NESTING} levels of nesting")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise MapFormatError(f"{where}: expected names (str) as keys, found {type(key).__name__}")
        return {key: _plain_value(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_value(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise MapFormatError(f"{where}: expected a number, text, list or mapping, found {type(value).__name__}")


def _distinct(what: str, names: list[str]) -> None:
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) != len(names) else set()
    if repeated:
        raise MapFormatError(f"{what}: expected distinct names, found {', '.join(sorted(repeated))} more than once")


class _ManifestDumper(yaml.SafeDumper):
    """SafeDumper that repeats equal lists instead of writing aliases, and keeps number lists on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        items = list(sequence)
        short = all(isinstance(item, (int, float)) and not math.isnan(item) for item in items)
        return super().represent_sequence(tag, items, flow_style=True if short else flow_style)
