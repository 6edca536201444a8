"""Write a bundle atomically: a crash leaves the old map or the new one, never half of either."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vloc_ros.errors import MapError
from vloc_ros.maps.checksums import file_entry
from vloc_ros.maps.reader import MapBundle, files_of, read_map
from vloc_ros.maps.schema import MANIFEST_NAME, MapManifest, check_file_name, dump_manifest
from vloc_ros.staging import install, staging_beside, umask, unwritten

if TYPE_CHECKING:
    import torch

__all__ = ["check_target", "pack_map", "write_map"]


class _Both(Mapping[str, bytes]):
    """Two sets of files with different names as one."""

    def __init__(self, held: Mapping[str, bytes], fetched: Mapping[str, bytes]) -> None:
        self._held, self._fetched = held, fetched

    def __getitem__(self, name: str) -> bytes:
        return self._held[name] if name in self._held else self._fetched[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._held
        yield from self._fetched

    def __len__(self) -> int:
        return len(self._held) + len(self._fetched)


def write_map(
    path: str | os.PathLike[str],
    manifest: MapManifest,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    *,
    extra_files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> MapBundle:
    """Write a map and open it.

    :param path: the directory to make, or a file name ending in ``.vmap``.
    :param manifest: its ``files`` are ignored and filled from what is written.
    :param tensors: safetensors files by name, for example ``{"weights.safetensors": {...}}``.
    :param extra_files: other files by name; read one at a time, so that a mapping that fetches them from disk
        (:mod:`vloc_ros.maps.reader`) keeps the memory of a large map bounded.
    :param overwrite: replace an existing map, by one atomic exchange; without it an existing path is refused.
    :raises MapError: the path exists (or holds something that is not a map), or cannot be written.
    :raises MapTensorError: a tensor is not finite.
    :raises MapFormatError: a file name or the manifest is not valid.
    """
    target = Path(path).expanduser()
    check_target(target, overwrite)
    encoded: dict[str, bytes] = {}
    from vloc_ros.maps.tensors import encode_tensors

    for name, group in tensors.items():
        encoded[check_file_name(name)] = encode_tensors(group, str(target / name))
    extra: Mapping[str, bytes] = extra_files or {}
    for name in extra:
        if check_file_name(name) in encoded:
            raise MapError(f"{target / name}: given both as tensors and as an extra file")
    contents = _Both(encoded, extra)
    entries = tuple(file_entry(name, contents[name]) for name in sorted(contents))
    text = dump_manifest(manifest.with_files(entries), str(target / MANIFEST_NAME))
    encoded[MANIFEST_NAME] = text.encode()
    try:
        if target.suffix == ".vmap":
            _write_zip(target, contents, overwrite)
        else:
            _write_directory(target, contents, overwrite)
    except OSError as problem:
        raise MapError(unwritten(target, problem)) from problem
    return read_map(target)


def pack_map(
    source: str | os.PathLike[str], target: str | os.PathLike[str] | None = None, *, overwrite: bool = False
) -> Path:
    """Pack a map into one uncompressed ``.vmap`` file, verifying every listed file on the way.

    :param target: default: beside the source, with the suffix ``.vmap``.
    :returns: the file written; equal maps give equal files.
    :raises MapError: as :func:`vloc_ros.maps.read_map` and :func:`write_map`.
    """
    bundle = read_map(source)
    file = Path(target).expanduser() if target is not None else bundle.path.with_name(bundle.path.name + ".vmap")
    if file.suffix != ".vmap":
        raise MapError(f"{file}: expected a file name that ends in .vmap")
    check_target(file, overwrite)
    manifest = {MANIFEST_NAME: dump_manifest(bundle.manifest, str(file)).encode()}
    contents = _Both(manifest, files_of(bundle))
    try:
        _write_zip(file, contents, overwrite)
    except OSError as problem:
        raise MapError(unwritten(file, problem)) from problem
    return file


def check_target(target: Path, overwrite: bool) -> None:
    """Whether a map may be written there; long work asks before it begins.

    :raises MapError: something is there, and without ``overwrite`` or not a map of the same form.
    """
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise MapError(f"{target}: exists already; choose another name or ask to overwrite")
    if target.is_symlink():
        raise MapError(f"{target}: is a link; overwrite the map that it leads to")
    # Overwriting removes what was there: insist that it is a map.
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST_NAME).is_file():
        raise MapError(f"{target}: expected a map to overwrite, found a directory without {MANIFEST_NAME}")
    if target.is_dir() == (target.suffix == ".vmap"):
        raise MapError(f"{target}: a .vmap file and a map directory do not replace each other")


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as problem:  # some network file systems cannot
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _write_directory(target: Path, contents: Mapping[str, bytes], overwrite: bool) -> None:
    with staging_beside(target, folder=True) as staging:
        for name, content in contents.items():
            file = staging / name
            file.parent.mkdir(parents=True, exist_ok=True)
            _write_file(file, content)
        for folder in sorted({(staging / name).parent for name in contents}):
            _sync_directory(folder)
        staging.chmod(0o777 & ~umask())  # mkdtemp makes it private
        if overwrite:
            install(staging, target)  # staging now holds the old map
        else:
            os.rename(staging, target)
        _sync_directory(target.parent)


def _write_zip(target: Path, contents: Mapping[str, bytes], overwrite: bool) -> None:
    with staging_beside(target, folder=False) as staging:
        with staging.open("wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                # The manifest first: it can be read without reading through the weights.
                for entry in sorted(contents, key=lambda item: (item != MANIFEST_NAME, item)):
                    info = zipfile.ZipInfo(entry, (1980, 1, 1, 0, 0, 0))
                    info.external_attr = 0o644 << 16
                    archive.writestr(info, contents[entry])
            stream.flush()
            os.fsync(stream.fileno())
        staging.chmod(0o666 & ~umask())
        if overwrite:
            os.replace(staging, target)
        else:
            os.link(staging, target)  # fails if the target has appeared meanwhile, where rename would replace it
        _sync_directory(target.parent)
