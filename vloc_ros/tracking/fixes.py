"""Satellite fixes beside a map that knows its place on the Earth: where to look first, and what cannot be.

A fix says where the antenna is within metres, and nothing of the heading. It is good for two things: while nothing
is known of the pose, only its surroundings need to be searched, and an estimate far from it is of another place that
looks alike. While a track stands, fixes only make the diagnostics speak: between houses a receiver errs by more, and
longer, than it admits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vloc_ros.errors import GeometryError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.rotations import skew
from vloc_ros.geometry.se3 import covariance_of_base, largest_sigma, make_transform
from vloc_ros.maps import Scene
from vloc_ros.settings import ranged
from vloc_ros.types import Array, PosePrior

__all__ = ["FixMemory", "FixSettings", "SatelliteFix"]

#: 99.9 % quantile of chi-square with three degrees of freedom.
_APART = 16.27
#: A base that stands on a road is level within this (rad); its heading may be any.
_LEVEL, _ANY = np.radians(10.0), np.pi
#: A map's area is that of its cameras: vehicles drive a little beside it (m).
_BESIDE_M = 50.0


@dataclass(frozen=True)
class FixSettings:
    """What satellite fixes are good for.

    :param use: ``search``, start in their surroundings and refuse first estimates that contradict them; ``gate``,
        refuse only; ``off``.
    :param least_sigma_m: a receiver's own figure is never believed below this, horizontally; twice that in height.
    :param default_sigma_m: of fixes that state no covariance.
    :param max_age_s: older fixes say nothing.
    """

    use: Literal["search", "gate", "off"] = "search"
    least_sigma_m: float = ranged(3.0, minimum=0.01, maximum=1000.0)
    default_sigma_m: float = ranged(10.0, minimum=0.01, maximum=10_000.0)
    max_age_s: float = ranged(2.0, minimum=0.1, maximum=60.0)


@dataclass(frozen=True)
class SatelliteFix:
    """What a receiver said.

    :ivar latitude_deg, longitude_deg, altitude_m: WGS-84, of the antenna.
    :ivar covariance: (3, 3) m^2, east, north, up; None where the receiver does not say.
    :ivar t_base_antenna: (3,) m, the antenna on the base.
    """

    stamp_ns: int
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    covariance: Array | None = None
    t_base_antenna: Array = field(default_factory=lambda: np.zeros(3))


class FixMemory:
    """The newest fix in the coordinates of a map.

    :param scenes: of the map.
    :ivar problem: why fixes cannot be used, or what contradicts them; empty where all is well.
    """

    def __init__(self, scenes: Sequence[Scene], settings: FixSettings, max_speed_mps: float) -> None:
        self.settings, self._scenes, self._speed = settings, list(scenes), max_speed_mps
        self.problem = ""
        self._fix: SatelliteFix | None = None
        self._placed: list[tuple[Scene, Array, Array]] = []

    @property
    def datum(self) -> Datum | None:
        """Of the first scene that has one."""
        return next((scene.datum for scene in self._scenes if scene.datum is not None), None)

    def offer(self, fix: SatelliteFix) -> bool:
        """Take a fix; False, and :attr:`problem`, where it is of no use.

        :raises GeometryError: a covariance that is none.
        """
        if self.settings.use == "off":
            return False
        if self.datum is None:
            self.problem = "the map does not know its place on the Earth (no datum): build it with --datum"
            return False
        values = (fix.latitude_deg, fix.longitude_deg, fix.altitude_m)
        if not np.isfinite(values).all() or abs(values[0]) > 90 or abs(values[1]) > 360:
            self.problem = f"expected latitude, longitude and altitude, found {values}"
            return False
        covariance = self._covariance(fix)
        placed = []
        nearest = np.inf
        for scene in self._scenes:
            if scene.datum is None:
                continue
            position = scene.datum.to_enu(*values)
            low, high = np.array(scene.area_min), np.array(scene.area_max)
            outside = float(np.linalg.norm(np.maximum(0.0, np.maximum(low - position, position - high))[:2]))
            reach = _BESIDE_M + 4.0 * largest_sigma(covariance[:2, :2])
            nearest = min(nearest, outside)
            if outside <= reach:
                placed.append((scene, position, covariance))
        if not placed:
            self.problem = (
                f"the fix is {nearest:.0f} m outside the map's area: another map, or a datum that is not the map's"
            )
            return False
        self._fix, self._placed, self.problem = fix, placed, ""
        return True

    def position(self, stamp_ns: int) -> Array | None:
        """(3,) where the newest fix is in the map's frame; None without a fresh one."""
        return self._placed[0][1] if self._fresh(stamp_ns) else None

    def prior(self, stamp_ns: int, T_base_cam: Array) -> PosePrior | None:
        """Where a camera may be by the newest fix: its position, and any heading. None without a fresh fix."""
        if self.settings.use != "search" or not self._fresh(stamp_ns):
            return None
        assert self._fix is not None
        _, position, covariance = self._placed[0]
        lever = float(np.linalg.norm(self._fix.t_base_antenna))
        P = np.zeros((6, 6))
        P[:3, :3] = self._grown(covariance, stamp_ns) + np.eye(3) * lever**2
        P[3:, 3:] = np.diag([_LEVEL**2, _LEVEL**2, _ANY**2])
        T = make_transform(np.eye(3), position)
        try:
            return PosePrior(T @ T_base_cam, covariance_of_base(T, P, T_base_cam))
        except GeometryError:
            return None

    def contradicts(self, T_map_base: Array, covariance: Array, stamp_ns: int, scene: str) -> bool:
        """Whether a pose of the base is farther from the newest fix than both can be wrong; False without one.

        :param covariance: (6, 6) of the pose.
        """
        if not self._fresh(stamp_ns):
            return False
        assert self._fix is not None
        lever = T_map_base[:3, :3] @ self._fix.t_base_antenna
        J = np.hstack([np.eye(3), -skew(lever)])
        for known, position, P in self._placed:
            if scene and known.name != scene:
                continue
            difference = T_map_base[:3, 3] + lever - position
            both = J @ covariance @ J.T + self._grown(P, stamp_ns)
            if float(difference @ np.linalg.solve(both, difference)) <= _APART:
                return False
        return True

    def _covariance(self, fix: SatelliteFix) -> Array:
        least = np.diag([self.settings.least_sigma_m**2] * 2 + [4.0 * self.settings.least_sigma_m**2])
        if fix.covariance is None:
            return np.diag([self.settings.default_sigma_m**2] * 2 + [4.0 * self.settings.default_sigma_m**2])
        stated = np.asarray(fix.covariance, dtype=np.float64).reshape(3, 3)
        if not np.isfinite(stated).all() or np.linalg.eigvalsh(0.5 * (stated + stated.T))[0] < -1e-9:
            raise GeometryError(f"fix: expected a covariance of position, found {stated.tolist()}")
        values, axes = np.linalg.eigh(0.5 * (stated + stated.T))
        return np.asarray((axes * np.maximum(values, 0.0)) @ axes.T + least)

    def _fresh(self, stamp_ns: int) -> bool:
        return self._fix is not None and abs(stamp_ns - self._fix.stamp_ns) <= self.settings.max_age_s * 1e9

    def _grown(self, covariance: Array, stamp_ns: int) -> Array:
        """The vehicle moves between the fix and the image; a third of its greatest speed is a standard deviation."""
        assert self._fix is not None
        moved = self._speed / 3.0 * abs(stamp_ns - self._fix.stamp_ns) * 1e-9
        return covariance + np.diag([moved**2, moved**2, 0.01 * moved**2])
