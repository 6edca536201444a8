"""Open a bundle. The manifest is validated at once, each file when it is first used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vloc_ros.errors import MapFormatError, MapNotFoundError
from vloc_ros.maps.checksums import bundle_id, check_content
from vloc_ros.maps.schema import MANIFEST_NAME, FileEntry, MapManifest, dump_manifest, parse_manifest
from vloc_ros.maps.source import PartSource, Source, open_source

if TYPE_CHECKING:
    import torch

__all__ = ["LazyFiles", "MapBundle", "files_as_part", "files_below", "files_of", "read_map"]
#: Larger files are refused before a byte of them is read; tile a map that needs more.
MAX_FILE_BYTES = 16 << 30


def read_map(path: str | os.PathLike[str]) -> MapBundle:
    """Open a map directory or ``.vmap`` file and validate its manifest.

    :raises MapNotFoundError: nothing there, or no manifest in it.
    :raises MapVersionError: another format version.
    :raises MapFormatError: the manifest or the zip is malformed.
    """
    source = open_source(path)
    manifest = parse_manifest(source.read_manifest(), source.where(MANIFEST_NAME))
    return MapBundle(source, manifest)


class MapBundle:
    """An opened map. Nothing is kept in memory but the manifest.

    :ivar manifest: the validated manifest.
    :ivar id: 16 hexadecimal digits over backend and file contents; equal maps have equal ids wherever they lie.
    :ivar path: where it was opened.
    """

    def __init__(self, source: Source, manifest: MapManifest) -> None:
        self._source = source
        self.manifest = manifest
        self.path: Path = source.path
        self.id: str = bundle_id(manifest.backend, manifest.files)

    def __repr__(self) -> str:
        return f"MapBundle({str(self.path)!r}, backend={self.manifest.backend!r}, id={self.id!r})"

    @property
    def size_bytes(self) -> int:
        """Size of all files together, by the manifest."""
        return sum(entry.bytes for entry in self.manifest.files)

    def entry(self, name: str) -> FileEntry:
        """The manifest's entry of a file.

        :raises MapNotFoundError: the manifest lists no such file.
        """
        entry = self.manifest.file(name)
        if entry is None:
            listed = ", ".join(item.name for item in self.manifest.files[:8]) or "none"
            raise MapNotFoundError(f"{self.path}: expected file {name!r} in {MANIFEST_NAME}, found {listed}")
        return entry

    def read(self, name: str) -> bytes:
        """The bytes of a file, after their size and SHA-256 have been checked.

        :raises MapNotFoundError: not listed, or not there.
        :raises MapChecksumError: truncated or altered.
        """
        entry = self.entry(name)
        where = self._source.where(name)
        if entry.bytes > MAX_FILE_BYTES:
            raise MapFormatError(f"{where}: expected at most {MAX_FILE_BYTES} bytes, the manifest says {entry.bytes}")
        content = self._source.read(name, entry.bytes)
        # The bytes that were checked are the bytes that are used: the file may change behind our back.
        check_content(entry, content, where)
        return content

    def stored_tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Checked tensors exactly as stored: int8 weights stay pairs."""
        where = self._source.where(name)
        from vloc_ros.maps.tensors import check_finite, decode_tensors

        tensors = decode_tensors(self.read(name), where)
        check_finite(tensors, where)
        return tensors

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of a safetensors file on the CPU: checksum-verified, finite, int8 weights as float32.

        Half-precision tensors keep their type.

        :param name: the file, for example ``weights.safetensors``.
        :raises MapNotFoundError: not listed, or not there.
        :raises MapChecksumError: truncated or altered.
        :raises MapFormatError: not safetensors.
        :raises MapTensorError: a tensor is not finite, or an int8 weight lacks its scale.
        """
        where = self._source.where(name)
        from vloc_ros.maps.tensors import check_finite, decode_tensors, dequantise_tensors

        tensors = dequantise_tensors(decode_tensors(self.read(name), where), where)
        check_finite(tensors, where)
        return tensors

    def part(self, folder: str) -> MapBundle:
        """The map in a folder of this one; its files are files of this map, too.

        :raises MapNotFoundError: no manifest is listed there. :raises MapChecksumError: it was altered.
        :raises MapFormatError: it is malformed. :raises MapVersionError: another format version.
        """
        name = f"{folder}/{MANIFEST_NAME}"
        return MapBundle(PartSource(self._source, folder), parse_manifest(self.read(name), self._source.where(name)))

    def unlisted_files(self) -> list[str]:
        """Files that lie in the bundle without being listed; they are never read."""
        listed = {entry.name for entry in self.manifest.files}
        return [name for name in self._source.names() if name not in listed]


class LazyFiles(Mapping[str, bytes]):
    """Names whose bytes are fetched each time they are asked for; for :func:`vloc_ros.maps.write_map`.

    A map of many tiles then never lies in memory as a whole.
    """

    def __init__(self, names: Sequence[str], read: Callable[[str], bytes]) -> None:
        self._names, self._read = {name: None for name in names}, read

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def files_as_part(bundle: MapBundle, folder: str) -> LazyFiles:
    """Every file of a map, its manifest too, for a map that holds it in a folder (:meth:`MapBundle.part`)."""

    def read(name: str) -> bytes:
        inner = name.removeprefix(f"{folder}/")
        if inner == MANIFEST_NAME:
            return dump_manifest(bundle.manifest, str(bundle.path / MANIFEST_NAME)).encode()
        return bundle.read(inner)

    names = [MANIFEST_NAME, *(entry.name for entry in bundle.manifest.files)]
    return LazyFiles([f"{folder}/{name}" for name in names], read)


def files_of(bundle: MapBundle) -> LazyFiles:
    """Every file of a map but its manifest; each is checked when it is read."""
    return LazyFiles([entry.name for entry in bundle.manifest.files], bundle.read)


def files_below(folder: Path, names: Sequence[str]) -> LazyFiles:
    """Files on disk by their POSIX path below ``folder``."""
    return LazyFiles(names, lambda name: (folder / name).read_bytes())
