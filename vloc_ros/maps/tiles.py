"""Tiles of reference features: read when they are needed, kept while they are, and fetched ahead of the vehicle.

A map of many kilometres does not fit into the memory of a GPU. Its features lie in files of some megabytes that hold
the references of a stretch of road; at any time only as many of them are in memory as a bound allows.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from vloc_ros.errors import VlocError

__all__ = ["Tile", "TileCache", "TileCounters"]

_log = logging.getLogger(__name__)
#: Tensors by name.
Tile = Mapping[str, Tensor]


@dataclass
class TileCounters:
    """What a cache has done: tiles read from the map, served from memory, fetched ahead, waited for, let go."""

    read: int = 0
    hits: int = 0
    ahead: int = 0
    waited: int = 0
    evicted: int = 0


class TileCache:
    """The tiles used last, within a bound on their memory.

    One thread asks (:meth:`get`); a second one reads ahead. Reading verifies a tile every time it comes from disk.

    :param read: reads a tile by number onto the device, checked.
    :param size: bytes of a tile before it is read.
    :param bound_bytes: most memory that tiles may hold; a single tile that is larger is still held, alone.
    """

    def __init__(self, read: Callable[[int], Tile], size: Callable[[int], int], bound_bytes: int) -> None:
        self._read, self._size, self._bound = read, size, bound_bytes
        self._tiles: OrderedDict[int, tuple[Tile, int]] = OrderedDict()
        self._coming: dict[int, Future[Tile]] = {}
        self._needed: set[int] = set()
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self.counters = TileCounters()

    @property
    def held_bytes(self) -> int:
        """Memory of the tiles that are held now."""
        with self._lock:
            return sum(size for _, size in self._tiles.values())

    def __contains__(self, number: int) -> bool:
        with self._lock:
            return number in self._tiles

    def get(self, number: int) -> Tile:
        """A tile, read now if nobody has read it yet.

        :raises MapError: it is missing, altered, or not what the map says.
        """
        with self._lock:
            held = self._tiles.get(number)
            if held is not None:
                self._tiles.move_to_end(number)
                self.counters.hits += 1
                return held[0]
            coming = self._coming.get(number)
        if coming is not None:
            try:
                tile = coming.result()
                self.counters.waited += 1
                with self._lock:  # it may have been dropped for want of room
                    self._keep(number, tile, None)
                return tile
            except VlocError:
                pass  # read it here, where somebody hears what is wrong
        tile = self._read(number)
        with self._lock:
            self.counters.read += 1
            self._keep(number, tile, None)
        return tile

    def need(self, numbers: Iterable[int]) -> None:
        """The tiles of the current frame: reading ahead never displaces them."""
        with self._lock:
            self._needed = set(numbers)

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Read tiles in the background, the most urgent first, as far as they fit beside those that are needed now."""
        with self._lock:
            room = self._bound - sum(self._held(n) for n in self._needed)
            for number in numbers:
                room -= self._held(number) if number not in self._needed else 0
                if room < 0:
                    return
                if number in self._tiles:
                    self._tiles.move_to_end(number)  # wanted soon: the last to go
                elif number not in self._coming:
                    if self._thread is None:
                        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vloc-tiles")
                    self._coming[number] = self._thread.submit(self._fetch, number)

    def wait(self) -> None:
        """Until everything that is being read ahead has come."""
        with self._lock:
            coming = list(self._coming.values())
        for future in coming:
            future.exception()

    def close(self) -> None:
        """Stop reading ahead, and let go of all tiles. Calling twice is harmless."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._tiles.clear()
            self._coming.clear()

    def _held(self, number: int) -> int:
        held = self._tiles.get(number)
        return self._size(number) if held is None else held[1]

    def _fetch(self, number: int) -> Tile:
        try:
            tile = self._read(number)
        except VlocError as problem:
            _log.warning("reading ahead: %s", problem)
            with self._lock:
                self._coming.pop(number, None)
            raise
        with self._lock:
            self.counters.read += 1
            self.counters.ahead += 1
            self._keep(number, tile, self._needed)
            self._coming.pop(number, None)
        return tile

    def _keep(self, number: int, tile: Tile, spare: set[int] | None) -> None:
        """Hold a tile and let go of the oldest beyond the bound; with ``spare`` rather of itself than of those."""
        if number in self._tiles:
            return
        size = sum(t.numel() * t.element_size() for t in tile.values())
        total = size + sum(held for _, held in self._tiles.values())
        for old in list(self._tiles):
            if total <= self._bound:
                break
            if spare is None or old not in spare:
                total -= self._tiles.pop(old)[1]
                self.counters.evicted += 1
        if spare is None or total <= self._bound:
            self._tiles[number] = (tile, size)
