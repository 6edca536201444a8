"""WGS-84: geodetic coordinates, ECEF, and the local east-north-up frame of a map.

Angles of the public interface are in degrees here (as sensor_msgs/NavSatFix has them), lengths in metres;
float64 throughout: float32 resolves no better than half a metre on the Earth's surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import GeometryError
from vloc_ros.types import Array

__all__ = ["Datum", "ecef_to_geodetic", "geodetic_to_ecef"]

_A = 6378137.0
_F = 1.0 / 298.257223563
_B = _A * (1.0 - _F)
_E2 = _F * (2.0 - _F)


def geodetic_to_ecef(latitude_deg: npt.ArrayLike, longitude_deg: npt.ArrayLike, altitude_m: npt.ArrayLike) -> Array:
    """Earth-centred, Earth-fixed coordinates; latitude, longitude (deg), ellipsoidal height (m) -> [..., 3] m."""
    lat, lon = np.radians(np.asarray(latitude_deg, np.float64)), np.radians(np.asarray(longitude_deg, np.float64))
    alt = np.asarray(altitude_m, np.float64)
    n = _A / np.sqrt(1.0 - _E2 * np.sin(lat) ** 2)
    return np.stack(
        np.broadcast_arrays(
            (n + alt) * np.cos(lat) * np.cos(lon),
            (n + alt) * np.cos(lat) * np.sin(lon),
            (n * (1.0 - _E2) + alt) * np.sin(lat),
        ),
        axis=-1,
    )


def ecef_to_geodetic(xyz: npt.ArrayLike) -> tuple[Array, Array, Array]:
    """Latitude, longitude (deg) and ellipsoidal height (m) of ECEF points; [..., 3] -> three of [...].

    Bowring's iteration on the reduced latitude; under a nanometre after three rounds from the ocean floor
    to low orbits.
    """
    p = np.asarray(xyz, dtype=np.float64)
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    rho = np.hypot(x, y)
    ep2 = _E2 / (1.0 - _E2)
    lat = np.arctan2(z, rho * (1.0 - _E2))
    for _ in range(4):
        beta = np.arctan2((1.0 - _F) * np.sin(lat), np.cos(lat))
        lat = np.arctan2(z + ep2 * _B * np.sin(beta) ** 3, rho - _E2 * _A * np.cos(beta) ** 3)
    n = _A / np.sqrt(1.0 - _E2 * np.sin(lat) ** 2)
    # Projected onto the normal: exact at the poles and at the equator alike.
    alt = rho * np.cos(lat) + z * np.sin(lat) - _A**2 / n
    return np.degrees(lat), np.degrees(np.arctan2(y, x)), np.asarray(alt)


@dataclass(frozen=True)
class Datum:
    """The origin of a map frame: x east, y north, z up (REP-105), tangent to the WGS-84 ellipsoid there."""

    latitude_deg: float
    longitude_deg: float
    altitude_m: float

    def __post_init__(self) -> None:
        values = (self.latitude_deg, self.longitude_deg, self.altitude_m)
        if not np.isfinite(values).all() or abs(self.latitude_deg) > 90 or abs(self.longitude_deg) > 360:
            raise GeometryError(f"datum: expected latitude, longitude in deg and altitude in m, found {values}")

    @cached_property
    def _origin(self) -> Array:
        return geodetic_to_ecef(self.latitude_deg, self.longitude_deg, self.altitude_m)

    @cached_property
    def R_enu_ecef(self) -> Array:
        """The rotation [3, 3] from ECEF axes into the map's."""
        lat, lon = np.radians(self.latitude_deg), np.radians(self.longitude_deg)
        sl, cl, so, co = np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)
        return np.array([[-so, co, 0.0], [-sl * co, -sl * so, cl], [cl * co, cl * so, sl]])

    def to_enu(self, latitude_deg: npt.ArrayLike, longitude_deg: npt.ArrayLike, altitude_m: npt.ArrayLike) -> Array:
        """Map coordinates (east, north, up) in m; three of [...] -> [..., 3]."""
        ecef = geodetic_to_ecef(latitude_deg, longitude_deg, altitude_m)
        return np.asarray((ecef - self._origin) @ self.R_enu_ecef.T)

    def to_geodetic(self, enu: npt.ArrayLike) -> tuple[Array, Array, Array]:
        """Latitude, longitude (deg), height (m) of map coordinates; [..., 3] m -> three of [...]."""
        return ecef_to_geodetic(np.asarray(enu, dtype=np.float64) @ self.R_enu_ecef + self._origin)
