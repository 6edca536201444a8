"""The poses of 7-Scenes: a 4x4 file for each frame, or tables of the SfM poses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import read_rows, transform_from_matrix, transform_from_quaternion
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array

__all__ = ["FramePose", "PoseFiles", "PoseTable", "Poses", "read_matrix"]

_NAME = re.compile(r"(?:.*/)?seq-(\d{1,6})[/-]frame-(\d{1,6})(?:\.color)?(?:\.png|\.jpg)?")


@dataclass(frozen=True)
class FramePose:
    """The camera's pose ``T_world_cam`` (4, 4), where it stands, and the focal length in pixels if one came with it."""

    T_world_cam: Array
    where: str
    focal: float | None = None


class Poses(Protocol):
    """Poses by sequence and frame; None where there is none, which has been counted."""

    def at(self, sequence: int, frame: int, problems: Problems) -> FramePose | None: ...


def read_matrix(path: Path) -> Array:
    """A 4x4 transform of four lines; its rotation, written with few digits, is made orthonormal again.

    :raises DatasetError: names the file and the line.
    """
    rows = []
    for row in read_rows(path, Problems(), 4):
        values = row.numbers(Problems())
        assert values is not None
        rows.append(values)
    if len(rows) != 4:
        raise DatasetError(f"{path}:{len(rows) + 1}: expected 4 rows of 4 values, found {len(rows)} rows")
    return transform_from_matrix(np.stack(rows), f"{path}:1")


@dataclass(frozen=True)
class PoseFiles:
    """``seq-XX/frame-NNNNNN.pose.txt`` below a folder; of a ``complete`` set, a missing one is a fault."""

    folder: Path
    complete: bool

    def at(self, sequence: int, frame: int, problems: Problems) -> FramePose | None:
        path = self.folder / f"seq-{sequence:02d}" / f"frame-{frame:06d}.pose.txt"
        if not path.is_file():
            message = f"{path}: expected a pose, found no file"
            if self.complete:
                problems.fault("missing pose", f"{message}; complete the sequence, or --keep-going")
            else:
                problems.skip("image without a pose", message)
            return None
        try:
            return FramePose(read_matrix(path), str(path))
        except DatasetError as problem:
            problems.fault("pose that cannot be used", str(problem))
            return None


class PoseTable:
    """Text files with lines ``seq-XX/frame-NNNNNN.color.png qw qx qy qz tx ty tz f``, world to camera.

    Frames that structure from motion did not find have no line; they are counted, and are no fault.
    """

    def __init__(self, paths: Sequence[Path], problems: Problems) -> None:
        self._what = ", ".join(str(p) for p in paths)
        self._poses: dict[tuple[int, int], FramePose] = {}
        for path in paths:
            self._read(path, problems)

    def _read(self, path: Path, problems: Problems) -> None:
        for row in read_rows(path, problems, (8, 9)):
            named = _NAME.fullmatch(row.fields[0])
            if named is None:
                problems.fault(
                    "name that cannot be read",
                    f"{row.where}: expected seq-XX/frame-NNNNNN.color.png, found {row.fields[0][:60]!r}",
                )
                continue
            values = row.numbers(problems, 1)
            if values is None:
                continue
            T = transform_from_quaternion(values[4:7], values[[1, 2, 3, 0]], row.where, problems)
            if T is None:
                continue
            key = int(named[1]), int(named[2])
            if key in self._poses:
                problems.fault(
                    "repeated pose", f"{row.where}: expected one pose of {row.fields[0]}, found one more, first at "
                    f"{self._poses[key].where}",
                )  # fmt: skip
                continue
            self._poses[key] = FramePose(inverse(T), row.where, float(values[7]) if len(values) == 8 else None)

    def at(self, sequence: int, frame: int, problems: Problems) -> FramePose | None:
        found = self._poses.get((sequence, frame))
        if found is None:
            problems.skip(
                "image without a pose", f"{self._what}: no pose of seq-{sequence:02d}/frame-{frame:06d}.color.png"
            )
        return found
