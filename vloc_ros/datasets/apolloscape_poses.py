"""Pose files of ApolloScape, in both forms, and the stamps in the names of its images.

* ``image_name roll,pitch,yaw,x,y,z``: radians and metres, ``R = Rz(yaw) Ry(pitch) Rx(roll)``. The data set's own
  converter writes x,y,z first; such files are read with ``order="position_first"``, and told by their angles.
* 16 values of a 4x4 matrix, row by row, and the image name (at either end).

Both map the camera (optical axes) into a world with z up. Lines are in no order: the published ones are shuffled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import Row, read_rows, transform_from_matrix
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import euler_to_matrix
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.types import Array

__all__ = ["NamedPose", "Order", "name_stamp", "read_named_poses"]

Order = Literal["angles_first", "position_first"]
_STAMP = re.compile(r"(\d{6})_(\d{6})(\d{3})(?!\d)")
#: No angle in radians is larger; coordinates, and angles in degrees, nearly always are.
_LARGEST_ANGLE = 2.0 * np.pi + 1e-3


@dataclass(frozen=True)
class NamedPose:
    """``T_world_cam`` (4, 4) of an image, and where it is written (``path:line``)."""

    image: str
    T_world_cam: Array
    where: str


def name_stamp(name: str) -> int | None:
    """ns since 1970 of a name such as ``171206_034559609_Camera_5.jpg`` (yymmdd_HHMMSSmmm, taken as UTC), or None."""
    found = _STAMP.match(name)
    if not found:
        return None
    try:
        second = datetime.strptime(found[1] + found[2], "%y%m%d%H%M%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return int(second.timestamp()) * 10**9 + int(found[3]) * 10**6


def read_named_poses(path: Path, order: Order, problems: Problems) -> list[NamedPose]:
    """The poses of a file, in its order. :raises DatasetError: no such file, or a faulty line."""
    poses: dict[str, NamedPose] = {}
    # Spaces may follow the commas: the values are split again.
    for row in read_rows(path, problems, tuple(range(2, 18))):
        fields = " ".join(row.fields).replace(",", " ").split()
        name, values = (
            (fields[-1], fields[:-1]) if len(fields) == 17 and _is_number(fields[0]) else (fields[0], fields[1:])
        )
        if len(values) not in (6, 16):
            problems.fault(
                "row of the wrong length",
                f"{row.where}: expected an image name with roll,pitch,yaw,x,y,z or with the 16 values of a matrix, "
                f"found {len(values)} values",
            )
            continue
        numbers = Row(path, row.number, tuple(values)).numbers(problems)
        if numbers is None:
            continue
        T = (
            _from_angles(numbers, order, row.where, problems)
            if len(values) == 6
            else _rigid(numbers, row.where, problems)
        )
        if T is None:
            continue
        name = name.rsplit("/", 1)[-1]
        if name in poses:
            problems.fault("repeated image", f"{row.where}: expected one pose an image, found {name} twice")
            continue
        poses[name] = NamedPose(name, T, row.where)
    if not poses:
        raise DatasetError(f"{path}: expected poses, found none that can be used")
    return list(poses.values())


def _from_angles(values: Array, order: Order, where: str, problems: Problems) -> Array | None:
    angles, position = (values[:3], values[3:]) if order == "angles_first" else (values[3:], values[:3])
    if float(np.abs(angles).max()) > _LARGEST_ANGLE:
        other = "position_first" if order == "angles_first" else "angles_first"
        swapped = float(np.abs(position).max()) <= _LARGEST_ANGLE
        advice = f"the position stands in their place: order={other}" if swapped else "are they degrees?"
        problems.fault(
            "angles out of range",
            f"{where}: expected roll,pitch,yaw in radians, found {','.join(f'{a:g}' for a in angles)}; {advice}",
        )
        return None
    return make_transform(euler_to_matrix(angles), position)


def _rigid(values: Array, where: str, problems: Problems) -> Array | None:
    try:
        return transform_from_matrix(values.reshape(4, 4), where)
    except DatasetError as error:
        problems.fault("matrix that is no pose", str(error))
        return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which float() allows between digits, as names have it
