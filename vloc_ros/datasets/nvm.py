"""Cameras of a VisualSFM model (NVM): names, focal lengths and poses; the points are never read.

``NVM_V3``, empty lines, the number of cameras, then a line for each: ``name focal qw qx qy qz cx cy cz radial 0``,
quaternion world to camera, w first, and the centre of the camera in the world. Axes are x right, y down, z forward.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import Row, too_far, transform_from_quaternion
from vloc_ros.errors import DatasetError
from vloc_ros.types import Array

__all__ = ["NvmCamera", "read_nvm"]

_COUNT = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class NvmCamera:
    """One camera of a model: ``T_world_cam`` (4, 4); ``where`` is ``file:line``, for messages."""

    name: str
    focal: float
    T_world_cam: Array
    radial: float
    where: str


def read_nvm(path: Path, problems: Problems) -> list[NvmCamera]:
    """The cameras of the file's first model, in its order; ``./`` before a name is taken away.

    :raises DatasetError: no such model, or a faulty line (unless ``problems`` keeps going).
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = ((number, line.strip()) for number, line in enumerate(file, 1) if line.strip())
        number, first = next(lines, (1, ""))
        if not first.startswith("NVM_V3"):
            raise DatasetError(f"{path}:{number}: expected NVM_V3, found {first[:40]!r}")
        number, count = next(lines, (number + 1, ""))
        if not _COUNT.fullmatch(count):
            raise DatasetError(f"{path}:{number}: expected the number of cameras, found {count[:40]!r}")
        return list(_cameras(path, lines, int(count), problems))


def _cameras(path: Path, lines: Iterator[tuple[int, str]], count: int, problems: Problems) -> Iterator[NvmCamera]:
    number = 0
    for done in range(count):
        number, line = next(lines, (number + 1, ""))
        if not line:
            problems.fault(
                "camera that is not there",
                f"{path}:{number}: expected {count} cameras, found the end of the file after {done}",
            )
            return
        # From the right: names may hold spaces.
        fields = line.rsplit(maxsplit=10)
        if len(fields) != 11:
            problems.fault(
                "row of the wrong length",
                f"{path}:{number}: expected name focal qw qx qy qz cx cy cz radial 0, found {line[:60]!r}",
            )
            continue
        row = Row(path, number, tuple(fields))
        values = row.numbers(problems, 1)
        if values is None:
            continue
        w, x, y, z = values[1:5]
        T_cam_world = transform_from_quaternion(np.zeros(3), np.array([x, y, z, w]), row.where, problems)
        if T_cam_world is None or too_far(values[5:8], row.where, problems):
            continue
        T = np.eye(4)
        T[:3, :3] = T_cam_world[:3, :3].T
        T[:3, 3] = values[5:8]
        yield NvmCamera(fields[0].removeprefix("./"), float(values[0]), T, float(values[8]), row.where)
