"""Several maps of one frame: which of them a place is in, and which will be needed soon."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vloc_ros.errors import ConfigError
from vloc_ros.maps.schema import MapManifest
from vloc_ros.types import Array

__all__ = ["Atlas"]


class Atlas:
    """Areas of maps, seen from above.

    :param maps: name and manifest of each, all in one frame: their coordinates continue each other.
    :param hysteresis_m: another map is wanted only when it is nearer by more than this, so that a vehicle on the border
        does not change maps with every metre.
    :param ahead_m: a map this near will be needed soon.
    :raises ConfigError: no map, or maps whose frames lie at different places on the Earth.
    """

    def __init__(self, maps: Sequence[tuple[str, MapManifest]], hysteresis_m: float, ahead_m: float) -> None:
        if not maps:
            raise ConfigError("maps: expected at least one map, found none")
        self.names = [name for name, _ in maps]
        self._hysteresis, self._ahead = hysteresis_m, ahead_m
        datums = {name: scene.datum for name, m in maps for scene in m.scenes}
        known = {d for d in datums.values() if d is not None}
        if len(known) > 1 or (known and None in datums.values()):
            told = "; ".join(f"{name}: {'none' if datum is None else datum}" for name, datum in datums.items())
            raise ConfigError(
                f"maps: expected one datum for all of them, found {told}: at the border the pose would jump; build "
                "them with one --datum"
            )
        frames = {scene.frame_id for _, m in maps for scene in m.scenes}
        if len(frames) > 1:
            raise ConfigError(f"maps: expected maps of one frame, found {', '.join(sorted(frames))}")
        self._areas = [[(np.array(s.area_min[:2]), np.array(s.area_max[:2])) for s in m.scenes] for _, m in maps]

    def distances(self, position: Array) -> Array:
        """(M,) metres from a position (at least x and y, map frame) to the area of each map; 0 inside."""
        p = np.asarray(position, dtype=np.float64)[:2]
        return np.array(
            [
                min(float(np.linalg.norm(np.maximum(0.0, np.maximum(low - p, p - high)))) for low, high in areas)
                for areas in self._areas
            ]
        )

    def wanted(self, position: Array, current: int) -> int:
        """The map to be in: the current one, unless another is nearer by more than the hysteresis."""
        distances = self.distances(position)
        best = int(np.argmin(distances))
        return best if distances[best] + self._hysteresis < distances[current] else current

    def near(self, position: Array) -> list[int]:
        """The maps that a position is in or near, the nearest first."""
        distances = self.distances(position)
        return [int(n) for n in np.argsort(distances, kind="stable") if distances[n] <= self._ahead]
