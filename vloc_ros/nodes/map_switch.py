"""The map in use among several: the next one is loaded in the background before the vehicle is there."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vloc_ros.localizers.base import Localizer
from vloc_ros.maps.atlas import Atlas
from vloc_ros.types import Array

__all__ = ["MapSwitch"]


class MapSwitch:
    """Loads and lets go of maps as a vehicle moves. All but the loading happens in the caller's thread.

    :param load: of a map's name; may raise. Called in a thread of its own.
    :param report: told in words what was loaded, or why it could not be.
    :param search_s: how long each map is looked into while nothing is known; 0: the current one stays.
    """

    def __init__(
        self,
        atlas: Atlas,
        current: int,
        load: Callable[[str], Localizer],
        report: Callable[[str], None],
        search_s: float = 3.0,
    ) -> None:
        self.atlas, self.current = atlas, current
        self._load, self._report = load, report
        self._ready: dict[int, Localizer] = {}
        self._failed: dict[int, str] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self._search_ns, self._searching_since = round(search_s * 1e9), 0

    @property
    def waiting(self) -> bool:
        """Whether a map is being loaded."""
        return self._thread is not None and self._thread.is_alive()

    def at(self, position: Array, in_use: Localizer) -> Localizer | None:
        """The vehicle is here: a localizer to go on with, or None to stay. :attr:`current` is its map's number.

        :param in_use: of the current map; it is kept while the vehicle is near that map.
        """
        self._searching_since = 0
        if self.waiting:
            return None
        wanted = self.atlas.wanted(position, self.current)
        near = self.atlas.near(position)
        for number in list(self._ready):
            if number != wanted and number not in near:
                self._ready.pop(number).close()
        if wanted != self.current and wanted in self._ready:
            self._ready[self.current], self.current = in_use, wanted
            return self._ready.pop(wanted)
        for number in (wanted, *near):
            if number != self.current and number not in self._ready and number not in self._failed:
                self._start_fetching(number)
                break
        return None

    def search(self, stamp_ns: int, in_use: Localizer) -> Localizer | None:
        """Nothing is known of the place: the maps are looked into in turn, two of them in memory. As :meth:`at`."""
        if not self._searching_since or stamp_ns < self._searching_since:
            self._searching_since = stamp_ns
        others = [(self.current + k) % len(self.atlas.names) for k in range(1, len(self.atlas.names))]
        others = [number for number in others if number not in self._failed]
        if self.waiting or not others or not self._search_ns:
            return None
        if stamp_ns - self._searching_since < self._search_ns:
            return None
        for number in list(self._ready):
            if number != others[0]:
                self._ready.pop(number).close()
        if others[0] not in self._ready:
            self._start_fetching(others[0])
            return None
        self._searching_since = stamp_ns
        self._ready[self.current], self.current = in_use, others[0]
        return self._ready.pop(others[0])

    def close(self) -> None:
        """Let go of what is loaded ahead."""
        self._closed = True
        for localizer in self._ready.values():
            localizer.close()
        self._ready.clear()

    def _start_fetching(self, number: int) -> None:
        self._thread = threading.Thread(target=self._fetch, args=(number,), name="vloc-map", daemon=True)
        self._thread.start()

    def _fetch(self, number: int) -> None:
        name = self.atlas.names[number]
        try:
            localizer = self._load(name)
        except Exception as problem:  # of any backend; told, and not tried again with every frame
            self._failed[number] = str(problem)
            self._report(f"map {name} cannot be loaded: {problem}")
            return
        if self._closed:
            localizer.close()
            return
        self._ready[number] = localizer
        self._report(f"map {name} is loaded ahead")
