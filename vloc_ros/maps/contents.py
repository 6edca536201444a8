"""Files of a map that are read when they are written: a map of many tiles never lies in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from vloc_ros.maps.reader import MapBundle

__all__ = ["LazyFiles", "files_below", "files_of"]


class LazyFiles(Mapping[str, bytes]):
    """Names whose bytes are fetched each time they are asked for; for :func:`vloc_ros.maps.write_map`."""

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


def files_of(bundle: MapBundle) -> LazyFiles:
    """Every file of a map but its manifest; each is checked when it is read."""
    return LazyFiles([entry.name for entry in bundle.manifest.files], bundle.read)


def files_below(folder: Path, names: Sequence[str]) -> LazyFiles:
    """Files on disk by their POSIX path below ``folder``."""
    return LazyFiles(names, lambda name: (folder / name).read_bytes())
