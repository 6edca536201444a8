"""Positions of a GNSS receiver from its NMEA 0183 log: the GGA sentences, with their checksums verified.

A GGA has the time of day alone: the day is the one that brings it nearest to a stamp that is known, UTC. Height above
the ellipsoid is the sentence's height above the sea plus the geoid's. A log of a drive always has lines cut short, so
that a faulty one is left out and counted and never an error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import GnssTrack
from vloc_ros.datasets.tables import stamp_in_ns
from vloc_ros.errors import DatasetError

__all__ = ["checksum", "read_gga"]

_DAY_NS = 86_400 * 10**9


def checksum(body: str) -> int:
    """The exclusive or of the characters between ``$`` and ``*``."""
    out = 0
    for byte in body.encode("latin-1", errors="replace"):
        out ^= byte
    return out


def read_gga(path: Path, near_ns: int, problems: Problems, frame_id: str = "gnss") -> GnssTrack | None:
    """The fixes of a log, in the order of their stamps; None where there is not one.

    :param near_ns: a stamp of the same recording, which tells the day.
    :param frame_id: of the antenna.
    """
    fixes: dict[int, tuple[float, float, float]] = {}
    with path.open(encoding="latin-1") as file:
        for number, line in enumerate(file, 1):
            where, text = f"{path}:{number}", line.strip()
            if text[3:6] != "GGA" or text[:1] != "$":
                continue
            body, star, given = text[1:].partition("*")
            try:
                right = bool(star) and int(given[:2], 16) == checksum(body)
            except ValueError:
                right = False
            if not right:
                found = f"*{given[:2]}" if star else "none"
                problems.skip(
                    "NMEA line with a wrong checksum",
                    f"{where}: expected the checksum *{checksum(body):02X}, found {found}; left out",
                )
                continue
            fields = body.split(",")
            if len(fields) > 6 and fields[6] == "0":
                problems.skip("NMEA line without a fix", f"{where}: no fix; left out")
                continue
            try:
                stamp, fix = _gga(fields, near_ns)
            except (DatasetError, ValueError, IndexError):
                problems.skip("NMEA line that is malformed", f"{where}: expected a GGA sentence, found {text[:80]!r}")
                continue
            if stamp in fixes:
                problems.skip("NMEA line with a repeated stamp", f"{where}: {fields[1]} has been there; left out")
                continue
            fixes[stamp] = fix
    if not fixes:
        return None
    stamps = sorted(fixes)
    table = np.array([fixes[s] for s in stamps], dtype=np.float64)
    return GnssTrack(
        np.array(stamps, dtype=np.int64), table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy(), None, frame_id
    )


def _gga(fields: list[str], near_ns: int) -> tuple[int, tuple[float, float, float]]:
    """Stamp (ns) and latitude, longitude (deg), height over the ellipsoid (m). :raises ValueError: malformed."""
    clock = fields[1]
    hours, minutes = int(clock[:2]), int(clock[2:4])
    of_minute = stamp_in_ns(clock[4:], "s", "GGA", since_1970=False)
    if not (0 <= hours < 24 and 0 <= minutes < 60 and of_minute < 61 * 10**9):
        raise ValueError(clock)
    of_day = (hours * 60 + minutes) * 60 * 10**9 + of_minute
    stamp = near_ns - near_ns % _DAY_NS + of_day
    stamp += _DAY_NS * round((near_ns - stamp) / _DAY_NS)
    latitude = _degrees(fields[2], 2, 90.0) * {"N": 1.0, "S": -1.0}[_one_of(fields[3], "NS")]
    longitude = _degrees(fields[4], 3, 180.0) * {"E": 1.0, "W": -1.0}[_one_of(fields[5], "EW")]
    height = float(fields[9]) + (float(fields[11]) if fields[11] else 0.0)
    if not np.isfinite(height):
        raise ValueError(fields[9])
    return stamp, (latitude, longitude, height)


def _one_of(text: str, allowed: str) -> str:
    if len(text) != 1 or text not in allowed:
        raise ValueError(text)
    return text


def _degrees(text: str, digits: int, limit: float) -> float:
    """Degrees of ``ddmm.mmmm``."""
    degrees, minutes = int(text[:digits]), float(text[digits:])
    value = degrees + minutes / 60.0
    if not (0.0 <= minutes < 60.0 and 0 <= degrees and value <= limit):
        raise ValueError(text)
    return value
