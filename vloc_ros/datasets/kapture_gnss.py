"""Satellite positions of kapture: ``records_gnss.txt`` of receivers that speak WGS-84."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from vloc_ros.datasets.kapture_poses import timestamp
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import GnssTrack
from vloc_ros.datasets.tables import Row, read_rows
from vloc_ros.types import Array

__all__ = ["WGS84", "read_gnss"]

WGS84 = "EPSG:4326"


def read_gnss(
    path: Path,
    systems: Mapping[str, str],
    stamp_of: Callable[[int, Row], int | None],
    problems: Problems,
) -> GnssTrack | None:
    """``timestamp, device, longitude, latitude, altitude, utc, dop``; None without the file, or without a WGS-84 row.

    Receivers of other coordinate systems are counted and left out; of several receivers the first one is taken.

    :param systems: the coordinate system by receiver, ``EPSG:4326`` where sensors.txt says nothing.
    :param stamp_of: nanoseconds of a timestamp, on the images' clock; None is a fault that has been told.
    :raises DatasetError: a malformed row (with file and line).
    """
    if not path.is_file():
        return None
    chosen: str | None = None
    found: dict[int, Array] = {}
    for row in read_rows(path, problems, 7, separator=","):
        device = row.fields[1]
        if device not in systems:
            problems.fault(
                "record of no receiver", f"{row.where}: expected a gnss {device!r} in sensors.txt, found none"
            )
            continue
        if systems[device] != WGS84:
            problems.skip("position of another system", f"{row.where}: {device} speaks {systems[device]}, not {WGS84}")
            continue
        chosen = chosen or device
        if device != chosen:
            problems.skip("position of another receiver", f"{row.where}: {chosen} was before {device}")
            continue
        time, values = timestamp(row, problems), row.numbers(problems, 2, 5)
        if time is None or values is None:
            continue
        if abs(values[0]) > 180.0 or abs(values[1]) > 90.0:
            problems.fault(
                "position that is none",
                f"{row.where}: expected longitude, latitude in degrees, found {values[0]:g}, {values[1]:g}; x is the "
                "longitude",
            )
            continue
        stamp = stamp_of(time, row)
        if stamp is None:
            continue
        if stamp in found:
            problems.fault("repeated stamp", f"{row.where}: expected one position a stamp, found {time} twice")
            continue
        found[stamp] = values
    if not found or chosen is None:
        return None
    stamps = np.array(sorted(found), dtype=np.int64)
    table = np.stack([found[int(s)] for s in stamps])
    return GnssTrack(stamps, table[:, 1], table[:, 0], table[:, 2], frame_id=chosen)
