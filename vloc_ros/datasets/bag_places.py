"""Where a bag is on the Earth, and what else is mounted on the vehicle: datum, GNSS fixes and the rig.

The datum of the map frame is a latched ``sensor_msgs/NavSatFix`` on ``/map/datum`` whose ``frame_id`` is the map's: a
message type that every installation has, unlike those of geographic_msgs. How the map lies in the coordinates of the
data set that the bag was made of no message type can say: that is text in ``custom_data`` of metadata.yaml.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vloc_ros import messages as msgs
from vloc_ros.datasets.bag_reader import BagReader
from vloc_ros.datasets.sequence import GnssTrack, PosedSequence
from vloc_ros.errors import BagError
from vloc_ros.geometry.geodesy import Datum

__all__ = ["DATUM_TOPIC", "GNSS_TOPIC", "read_datum", "read_places", "read_world", "world_as_text"]

DATUM_TOPIC, GNSS_TOPIC = "/map/datum", "/gnss/fix"
_ORIGIN, _WORLD = "vloc_origin_m", "vloc_T_world_map"
_KNOWN_DIAGONAL, _KNOWN = 2, 3


def read_datum(reader: BagReader) -> Datum | None:
    """The place of the map frame on the Earth, where the bag says so on ``/map/datum``."""
    return _read(reader, [DATUM_TOPIC] if DATUM_TOPIC in reader.of_type("NavSatFix") else [])[0]


def read_places(
    reader: BagReader, receiver: str | None = None, offset_ns: int = 0
) -> tuple[Datum | None, GnssTrack | None]:
    """The datum and the fixes of a bag, each None where there are none.

    Fixes are those of ``receiver``, moved by ``offset_ns`` to the clock of the images; without one those of
    ``/gnss/fix``, or of the only other NavSatFix topic. Messages that say "no fix", or hold no finite place, are left
    out.
    """
    topics = reader.of_type("NavSatFix")
    others = [topic for topic in topics if topic != DATUM_TOPIC]
    usual = GNSS_TOPIC if GNSS_TOPIC in others else others[0] if len(others) == 1 else None
    chosen = receiver or usual
    datum, track = _read(reader, [t for t in (DATUM_TOPIC, chosen) if t in topics and t is not None])
    if receiver and track is not None:
        track = replace(track, stamps_ns=track.stamps_ns + offset_ns)
    return datum, track


def world_as_text(sequence: PosedSequence) -> dict[str, str]:
    """``origin_m`` and ``T_world_map`` of a drive for ``custom_data``, where they say anything."""
    out = {}
    if any(sequence.origin_m):
        out[_ORIGIN] = " ".join(repr(float(v)) for v in sequence.origin_m)
    if sequence.T_world_map is not None:
        out[_WORLD] = " ".join(repr(float(v)) for v in np.asarray(sequence.T_world_map).reshape(-1))
    return out


def read_world(path: str | Path) -> dict[str, Any]:
    """What :func:`world_as_text` wrote of a bag, as fields of a sequence; empty for bags that say nothing.

    :raises BagError: it is not as many finite numbers as it should be.
    """
    file = Path(path) / "metadata.yaml"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]["custom_data"]
    except (OSError, KeyError, TypeError, UnicodeDecodeError, yaml.YAMLError):
        return {}  # whether the bag is one is for its reader to say
    out: dict[str, Any] = {}
    for key, name, count in ((_ORIGIN, "origin_m", 3), (_WORLD, "T_world_map", 16)):
        text = found.get(key) if isinstance(found, dict) else None
        if text is None:
            continue
        try:
            values = np.array([float(v) for v in str(text).split()])
        except ValueError:
            values = np.empty(0)
        if len(values) != count or not np.isfinite(values).all():
            raise BagError(
                f"{file}: {key}: expected {count} numbers, found {text!r}; delete the line, or convert again"
            )
        out[name] = tuple(values.tolist()) if count == 3 else values.reshape(4, 4)
    return out


def _read(reader: BagReader, topics: list[str]) -> tuple[Datum | None, GnssTrack | None]:
    datum: Datum | None = None
    rows: dict[int, tuple[float, ...]] = {}
    frame_id, known = "gnss", True
    for item in reader.messages(topics) if topics else ():
        fix = item.message
        place = (float(fix.latitude), float(fix.longitude), float(fix.altitude))
        if not np.isfinite(place).all() or abs(place[0]) > 90 or abs(place[1]) > 360:
            continue
        if item.topic == DATUM_TOPIC:
            datum = datum or Datum(*place)
        elif int(fix.status.status) >= 0:
            frame_id = msgs.frame_id(fix) or frame_id
            known &= int(fix.position_covariance_type) in (_KNOWN_DIAGONAL, _KNOWN)
            variance = np.asarray(fix.position_covariance, dtype=np.float64)[[0, 4, 8]]
            rows[msgs.stamp_ns(fix)] = (*place, *(float(v) for v in variance))
    if not rows:
        return datum, None
    stamps = sorted(rows)
    table = np.array([rows[stamp] for stamp in stamps], dtype=np.float64)
    variance_m2 = table[:, 3:] if known else None
    track = GnssTrack(np.array(stamps, dtype=np.int64), table[:, 0], table[:, 1], table[:, 2], variance_m2, frame_id)
    return datum, track
