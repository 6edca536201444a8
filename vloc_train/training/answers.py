"""Many queries to one map, here or by workers that get the map."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vloc_ros.localizers.base import Localizer, backend_class
from vloc_ros.localizers.device import select_device
from vloc_ros.maps import pack_map, read_map
from vloc_ros.types import Estimate, Query
from vloc_train.training.cluster import Workers

__all__ = ["answers"]

_log = logging.getLogger(__name__)
#: Larger maps do not travel: their queries are asked here.
_LARGEST_MAP = 256_000_000
#: Pieces for each worker: each brings the map along, and the last ones end together.
_SHARES = 3


@dataclass(frozen=True)
class _Asked:
    """Queries, and the map as a file."""

    packed: bytes
    name: str
    queries: list[list[Query]]
    on_gpu: bool


def answers(
    localizer: Localizer, queries: Callable[[int], list[Query]], count: int, workers: Workers | None = None
) -> Iterator[list[Estimate]]:
    """The estimates of every list of queries, in their order.

    :param queries: makes the list of a number below ``count``.
    """
    if workers is not None and workers.far and count:
        packed = _packed(localizer)
        if packed is not None:
            share = -(-count // (_SHARES * workers.count))
            starts = range(0, count, share)
            on_gpu = localizer.device.type == "cuda"
            pieces = (
                _Asked(*packed, [queries(n) for n in range(start, min(start + share, count))], on_gpu)
                for start in starts
            )
            found = dict(workers.each(_answered, pieces))
            for number in range(len(starts)):
                yield from found[number]
            return
    for number in range(count):
        yield [localizer.localize(query) for query in queries(number)]


def _packed(localizer: Localizer) -> tuple[bytes, str] | None:
    """The map as a file, and its name; None where it is too large to travel."""
    size = read_map(localizer.map_path).size_bytes
    if size > _LARGEST_MAP:
        _log.info("%s: %.0f MB are too many to send: its frames are localized here", localizer.map_path, size / 1e6)
        return None
    with tempfile.TemporaryDirectory(prefix="vloc_map_") as folder:
        packed = pack_map(localizer.map_path, Path(folder) / "map.vmap").read_bytes()
    return packed, hashlib.sha256(packed).hexdigest()


@dataclass
class _Held:
    """The map that a worker was last asked about."""

    name: str
    folder: tempfile.TemporaryDirectory[str]
    localizer: Localizer

    def close(self) -> None:
        self.localizer.close()
        self.folder.cleanup()


_held: list[_Held] = []


def _answered(asked: _Asked) -> list[list[Estimate]]:
    localizer = _loaded(asked)
    return [[localizer.localize(query) for query in each] for each in asked.queries]


def _loaded(asked: _Asked) -> Localizer:
    if not _held or _held[0].name != asked.name:
        while _held:
            _held.pop().close()
        folder = tempfile.TemporaryDirectory(prefix="vloc_map_")
        file = Path(folder.name) / "map.vmap"
        file.write_bytes(asked.packed)
        bundle = read_map(file)
        device = select_device("auto" if asked.on_gpu else "cpu")
        _held.append(_Held(asked.name, folder, backend_class(bundle.manifest.backend).from_map(bundle, device)))
    return _held[0].localizer
