"""Poses as the long-term visual localization benchmark takes them: ``name qw qx qy qz tx ty tz``, world to camera.

The world is that of the data set, not our map: a reader that turns or moves the world leaves ``T_world_map`` with the
sequence. Camera axes are the optical ones, which the benchmark shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from vloc_ros.geometry.se3 import inverse
from vloc_ros.staging import write_text
from vloc_ros.types import Array

__all__ = ["query_name", "read_submission", "write_submission"]


def query_name(path: Path, folders: int = 1) -> str:
    """The benchmark's name of an image: the file with so many folders above it.

    RobotCar Seasons wants the camera's folder (``rear/1418721355999668.jpg``), the other data sets the file alone.
    """
    return "/".join(Path(path).parts[-1 - folders :])


def write_submission(path: str | Path, poses: Iterable[tuple[str, Array]], T_world_map: Array | None = None) -> int:
    """Write ``(name, T_map_cam)`` pairs in the order given and return how many.

    Numbers are written so that they are read back as they were.

    :param T_world_map: (4, 4), from our map to the world of the data set; None: they are one.
    :raises DatasetError: a name with a blank, or twice; a pose that is not finite.
    """
    lines, seen = [], set()
    for name, T_map_cam in poses:
        if not name or name in seen or any(c.isspace() for c in name):
            raise DatasetError(f"{path}: expected each query once and by a name without blanks, found {name!r}")
        seen.add(name)
        T_world_cam = T_map_cam if T_world_map is None else T_world_map @ T_map_cam
        T_cam_world = inverse(np.asarray(T_world_cam, dtype=np.float64))
        if not np.isfinite(T_cam_world).all():
            raise DatasetError(f"{path}: expected a finite pose for {name}, found {T_cam_world.tolist()}")
        x, y, z, w = matrix_to_quaternion(T_cam_world[:3, :3])
        values = (w, x, y, z, *T_cam_world[:3, 3])
        lines.append(" ".join([name, *(repr(float(v)) for v in values)]))
    write_text(Path(path), "".join(line + "\n" for line in lines))
    return len(lines)


def read_submission(path: str | Path, T_world_map: Array | None = None) -> tuple[Sequence[str], Array]:
    """Names, and ``T_map_cam`` (N, 4, 4): the inverse of :func:`write_submission`.

    :raises DatasetError: (with file and line) not eight fields, no numbers, no unit quaternion.
    """
    names: list[str] = []
    poses = []
    T_map_world = None if T_world_map is None else inverse(T_world_map)
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            values = np.array([float(v) for v in fields[1:]])
        except ValueError as problem:
            raise DatasetError(f"{path}:{number}: expected numbers after the name, found {line[:60]!r}") from problem
        if len(values) != 7 or not np.isfinite(values).all():
            raise DatasetError(f"{path}:{number}: expected name qw qx qy qz tx ty tz, found {line[:60]!r}")
        norm = float(np.linalg.norm(values[:4]))
        if not 0.99 < norm < 1.01:
            raise DatasetError(f"{path}:{number}: expected a unit quaternion, found one of length {norm:.3g}")
        w, x, y, z = values[:4] / norm
        T_cam_world = np.eye(4)
        T_cam_world[:3, :3], T_cam_world[:3, 3] = quaternion_to_matrix(np.array([x, y, z, w])), values[4:]
        T_world_cam = inverse(T_cam_world)
        poses.append(T_world_cam if T_map_world is None else T_map_world @ T_world_cam)
        names.append(fields[0])
    return names, np.array(poses).reshape(-1, 4, 4)
