"""The satellite fixes of a bag, as the live node would have heard them."""

from __future__ import annotations

import numpy as np

from vloc_ros import messages as msgs
from vloc_ros.datasets.bag.drive import BagDrive
from vloc_ros.errors import BagError
from vloc_ros.tracking.fixes import SatelliteFix

__all__ = ["recorded_fixes"]


def recorded_fixes(drive: BagDrive, topic: str | None) -> list[tuple[int, SatelliteFix]]:
    """The fixes on a topic with when they were recorded (ns), the last one first; none without a topic.

    :raises BagError: the bag has no NavSatFix there.
    """
    if topic is None:
        return []
    there = drive.reader.of_type("NavSatFix")
    if topic not in there:
        raise BagError(
            f"{drive.reader.path}: --fix: expected NavSatFix on {topic}, found them on: {', '.join(there) or 'none'}"
        )
    out = []
    for item in drive.reader.messages([topic]):
        found = msgs.satellite_fix(item.message)
        if found is None:
            continue
        lever = np.zeros(3) if drive.options.antenna is None else np.asarray(drive.options.antenna, dtype=np.float64)
        frame = msgs.frame_id(item.message)
        if drive.options.antenna is None and frame not in ("", drive.options.base_frame):
            try:
                T = drive.tree.at(drive.options.base_frame, frame, item.time_ns, latest=True)
            except BagError:
                T = None
            lever = lever if T is None else T[:3, 3]
        out.append((item.time_ns, SatelliteFix(msgs.stamp_ns(item.message), *found[0], found[1], lever)))
    return out[::-1]
