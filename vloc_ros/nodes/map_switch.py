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
    """

    def __init__(
        self, atlas: Atlas, current: int, load: Callable[[str], Localizer], report: Callable[[str], None]
    ) -> None:
        self.atlas, self.current = atlas, current
        self._load, self._report = load, report
        self._ready: dict[int, Localizer] = {}
        self._failed: dict[int, str] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def waiting(self) -> bool:
        """Whether a map is being loaded."""
        return self._thread is not None and self._thread.is_alive()

    def at(self, position: Array, in_use: Localizer) -> Localizer | None:
        """The vehicle is here: a localizer to go on with, or None to stay. :attr:`current` is its map's number.

        :param in_use: of the current map; it is kept while the vehicle is near that map.
        """
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
                self._thread = threading.Thread(target=self._fetch, args=(number,), name="vloc-map", daemon=True)
                self._thread.start()
                break
        return None

    def close(self) -> None:
        """Let go of what is loaded ahead."""
        self._closed = True
        for localizer in self._ready.values():
            localizer.close()
        self._ready.clear()

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
