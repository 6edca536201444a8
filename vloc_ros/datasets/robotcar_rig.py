"""Where the sensors of Oxford RobotCar sit, and which way round each file says so.

Files ``<sensor>.txt`` hold ``x y z roll pitch yaw`` (m, rad; R = Rz Ry Rx; x forward, y right, z down). The vehicle
frame is the left eye of the stereo camera. The files are not all the same way round:

* ``stereo``, ``mono_left``, ``mono_right`` and ``mono_rear`` hold the *vehicle in the camera's axes*,
  ``T_sensor_vehicle``: the data set's tools multiply points of the vehicle by them to get points of the camera. Turned
  round, mono_left sits 1.54 m behind and 0.60 m left of the stereo camera and looks left; taken as they are, it would
  sit 1.64 m to the right. RobotCar Seasons' ``rear_extrinsics.txt`` equals the inverse of mono_rear to 1e-6.
* ``ins`` and the lasers hold the *sensor in the vehicle's axes*, ``T_vehicle_sensor``: the INS 1.71 m behind the stereo
  camera and 1.19 m below.

``base_link`` here is the vehicle frame with the axes of REP-103 (x forward, y left, z up): at the left eye of the
stereo camera, not on the ground.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import read_rows
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import euler_to_matrix
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.types import Array

__all__ = ["INVERTED", "PUBLISHED", "T_BASE_VEHICLE", "se3_of", "sensor_mountings"]

_log = logging.getLogger(__name__)

#: From x forward, y right, z down to x forward, y left, z up; its own inverse.
T_BASE_VEHICLE: Array = np.diag([1.0, -1.0, -1.0, 1.0])
#: The numbers as the data set publishes them, for where its files are not at hand.
PUBLISHED: dict[str, tuple[float, ...]] = {
    "stereo": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "mono_left": (-0.0905, 1.6375, 0.2803, 0.2079, -0.2339, 1.2321),
    "mono_right": (-0.2587, -1.6810, 0.3226, -0.1961, -0.2469, -1.2675),
    "mono_rear": (-2.0582, 0.0894, 0.3675, -0.0119, -0.2498, 3.1283),
    "ins": (-1.7132, 0.1181, 1.1948, -0.0125, 0.0400, 0.0050),
}
#: Sensors whose file holds the vehicle in the sensor's axes; all others hold the sensor in the vehicle's.
INVERTED = frozenset({"stereo", "mono_left", "mono_right", "mono_rear"})
#: Read where a file is there; no numbers are built in.
_OTHERS = ("lms_front", "lms_rear", "ldmrs", "radar", "velodyne_left", "velodyne_right")


def se3_of(xyzrpy: Array) -> Array:
    """[..., 6] x, y, z (m), roll, pitch, yaw (rad) -> [..., 4, 4]."""
    values = np.asarray(xyzrpy, dtype=np.float64)
    return make_transform(euler_to_matrix(values[..., 3:]), values[..., :3])


def sensor_mountings(folder: Path | None) -> dict[str, Array]:
    """``T_base_sensor`` (4, 4) by sensor, each in the sensor's own axes (x forward, y right, z down).

    :param folder: with ``<sensor>.txt``; None, or where a file is absent: the published numbers.
    :raises DatasetError: a malformed file, with file and line.
    """
    out: dict[str, Array] = {}
    for name in (*PUBLISHED, *_OTHERS):
        path = None if folder is None else folder / f"{name}.txt"
        if path is not None and path.is_file():
            values = _read(path)
        elif name in PUBLISHED:
            values = np.array(PUBLISHED[name])
            _log.info("%s: no file with its mounting; taken: the published %s", name, PUBLISHED[name])
        else:
            continue
        T = se3_of(values)
        out[name] = T_BASE_VEHICLE @ (inverse(T) if name in INVERTED else T)
    return out


def _read(path: Path) -> Array:
    strict = Problems()
    rows = [(row, row.numbers(strict)) for row in read_rows(path, strict, 6)]
    if len(rows) != 1:
        raise DatasetError(f"{path}: expected one line x y z roll pitch yaw, found {len(rows)}")
    row, values = rows[0]
    if values is None or bool((np.abs(values[3:]) > 2 * np.pi).any()):
        raise DatasetError(f"{row.where}: expected roll, pitch and yaw in radians, found angles beyond a full turn")
    return values
