"""Where a bundle's bytes come from: a directory, or a ``.vmap`` zip. Both are untrusted."""

from __future__ import annotations

import os
import stat
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path

from vloc_ros.errors import MapChecksumError, MapFormatError, MapNotFoundError
from vloc_ros.maps.schema import MANIFEST_NAME, MAX_FILES, MAX_MANIFEST_BYTES, check_file_name

__all__ = ["DirectorySource", "PartSource", "Source", "ZipSource", "open_source"]


class Source(ABC):
    """Named byte strings under one path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """Every file but the manifest, sorted."""

    @abstractmethod
    def read(self, name: str, size: int) -> bytes:
        """At most ``size`` + 1 bytes of a file, so that a longer file shows without being read.

        :raises MapNotFoundError: no such file.
        """

    def where(self, name: str) -> str:
        """How messages call a file of this source."""
        return str(self.path / name)

    def read_manifest(self) -> bytes:
        """The manifest's bytes.

        :raises MapNotFoundError: no manifest: this is not a map.
        """
        return self.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)


class DirectorySource(Source):
    """A map as a directory. Links that lead out of it are refused."""

    def names(self) -> list[str]:
        found = []
        for folder, _, files in os.walk(self.path):
            for name in files:
                relative = (Path(folder) / name).relative_to(self.path).as_posix()
                if relative != MANIFEST_NAME:
                    found.append(relative)
        return sorted(found)

    def read(self, name: str, size: int) -> bytes:
        path = self.path / name
        try:
            resolved = path.resolve(strict=True)
        except (OSError, RuntimeError) as problem:
            raise _absent(self.path, name) from problem
        if not resolved.is_relative_to(self.path.resolve()):
            raise MapFormatError(f"{path}: expected a file inside the map, found a link to {resolved}")
        if not stat.S_ISREG(resolved.stat().st_mode):
            raise MapFormatError(f"{path}: expected a regular file")
        try:
            with resolved.open("rb") as stream:
                return stream.read(size + 1)
        except OSError as problem:
            raise MapNotFoundError(f"{path}: cannot be read: {problem.strerror}") from problem


class ZipSource(Source):
    """A map as a zip without compression. It is read in place and never extracted."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as problem:
            raise MapFormatError(
                f"{path}: expected a .vmap zip, found a file that does not open: {problem}"
            ) from problem
        if len(entries) > MAX_FILES:
            raise MapFormatError(f"{path}: expected at most {MAX_FILES} files, found {len(entries)}")
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            if entry.is_dir():
                continue
            if entry.filename != MANIFEST_NAME:
                check_file_name(entry.filename)
            if entry.filename in self._entries:
                raise MapFormatError(f"{path}: expected distinct file names, found {entry.filename} twice")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 0x1:
                raise MapFormatError(
                    f"{path}: expected files stored without compression or encryption, found {entry.filename} "
                    "otherwise; pack the map with vloc_ros.maps.pack_map or zip -0"
                )
            self._entries[entry.filename] = entry

    def names(self) -> list[str]:
        return sorted(name for name in self._entries if name != MANIFEST_NAME)

    def read(self, name: str, size: int) -> bytes:
        if name not in self._entries:
            raise _absent(self.path, name)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._entries[name]) as stream:
                return stream.read(size + 1)
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as problem:
            raise MapChecksumError(
                f"{self.where(name)}: cannot be read ({problem}); the file is truncated or altered: copy the map again"
            ) from problem


class PartSource(Source):
    """A map in a folder of another one, wherever that lies."""

    def __init__(self, whole: Source, folder: str) -> None:
        super().__init__(whole.path / folder)
        self._whole, self._folder = whole, folder

    def names(self) -> list[str]:
        start = f"{self._folder}/"
        own = [name.removeprefix(start) for name in self._whole.names() if name.startswith(start)]
        return [name for name in own if name != MANIFEST_NAME]

    def read(self, name: str, size: int) -> bytes:
        return self._whole.read(f"{self._folder}/{name}", size)


def open_source(path: str | os.PathLike[str]) -> Source:
    """The source for ``path``.

    :raises MapNotFoundError: nothing there.
    :raises MapFormatError: neither a directory nor a zip.
    """
    location = Path(path).expanduser()
    if location.is_dir():
        return DirectorySource(location)
    if location.is_file():
        return ZipSource(location)
    raise MapNotFoundError(f"{location}: expected a map directory or .vmap file, found nothing")


def _absent(path: Path, name: str) -> MapNotFoundError:
    if name == MANIFEST_NAME:
        return MapNotFoundError(f"{path}: expected a map, found no {MANIFEST_NAME} in it")
    return MapNotFoundError(f"{path / name}: named in {MANIFEST_NAME} but not there; copy or make the map again")
