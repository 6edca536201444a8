"""SHA-256 and size of files: what the manifest promises, and whether it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from vloc_ros.errors import MapChecksumError
from vloc_ros.maps.schema import FileEntry

__all__ = ["bundle_id", "check_content", "content_digest", "file_entry"]


def file_entry(name: str, content: bytes) -> FileEntry:
    """The manifest's entry for ``content`` under ``name``."""
    return FileEntry(name, len(content), hashlib.sha256(content).hexdigest())


def check_content(entry: FileEntry, content: bytes, where: str) -> None:
    """Compare what was read with what the manifest promises.

    :raises MapChecksumError: another size or SHA-256.
    """
    advice = "the file is truncated or altered: copy or make the map again"
    if len(content) != entry.bytes:
        raise MapChecksumError(f"{where}: expected {entry.bytes} bytes, found {len(content)}; {advice}")
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise MapChecksumError(f"{where}: expected SHA-256 {entry.sha256[:16]}..., found {found[:16]}...; {advice}")


def content_digest(backend: str, files: Iterable[FileEntry]) -> str:
    """SHA-256 (hexadecimal) over the backend and the content of all files, whatever their order."""
    digest = hashlib.sha256(backend.encode())
    for entry in sorted(files, key=lambda item: item.name):
        digest.update(f"\n{entry.name} {entry.sha256}".encode())
    return digest.hexdigest()


def bundle_id(backend: str, files: Iterable[FileEntry]) -> str:
    """The first 16 hexadecimal digits of :func:`content_digest`."""
    return content_digest(backend, files)[:16]
