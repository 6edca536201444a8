"""Poses of kapture: rigs, which may hold rigs, and trajectories of sensors or of the rigs that they are in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import Row, read_rows, transform_from_quaternion
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array

__all__ = ["Mounting", "Trajectories", "read_mounting", "read_trajectories", "timestamp"]


#: No int64 has more digits.
_LONGEST = 19


@dataclass(frozen=True)
class Mounting:
    """What is mounted on what: ``T_device_rig`` (4, 4) by device, then by each rig that holds it directly."""

    parents: Mapping[str, Mapping[str, Array]]

    def above(self, device: str) -> dict[str, Array]:
        """``T_device_holder`` of the device itself and of every rig above it, nearest first."""
        out = {device: np.eye(4)}
        waiting = [device]
        for name in waiting:
            for rig, T_name_rig in self.parents.get(name, {}).items():
                if rig not in out:
                    out[rig] = out[name] @ T_name_rig
                    waiting.append(rig)
        return out

    def beside(self, device: str) -> dict[str, Array]:
        """``T_device_other`` of every other device on the same outermost rig, rigs included."""
        above = self.above(device)
        out = {}
        for other in {*self.parents, *above}:
            if other == device:
                continue
            shared = [(rig, T) for rig, T in self.above(other).items() if rig in above]
            if shared:
                rig, T_other_rig = shared[0]
                out[other] = above[rig] @ inverse(T_other_rig)
        return dict(sorted(out.items()))


@dataclass(frozen=True)
class Trajectories:
    """Poses ``T_device_world`` (4, 4) by timestamp and device."""

    poses: Mapping[tuple[int, str], Array]

    def at(self, time: int, above: Mapping[str, Array]) -> Array | None:
        """``T_device_world`` of the device that all this is ``above``: its own pose, or from the nearest rig's."""
        for holder, T_device_holder in above.items():
            T_holder_world = self.poses.get((time, holder))
            if T_holder_world is not None:
                out: Array = T_device_holder @ T_holder_world
                return out
        return None


def read_mounting(path: Path, problems: Problems) -> Mounting:
    """``rigs.txt``, which need not exist: ``rig, sensor, qw, qx, qy, qz, tx, ty, tz``, rig to sensor.

    :raises DatasetError: a rig that holds itself; a malformed row (with file and line).
    """
    parents: dict[str, dict[str, Array]] = {}
    if not path.is_file():
        return Mounting(parents)
    for row in read_rows(path, problems, 9, separator=","):
        rig, device = row.fields[:2]
        T_device_rig = _pose(row, problems)
        if T_device_rig is None:
            continue
        if rig in parents.get(device, {}):
            problems.fault("repeated mounting", f"{row.where}: expected {device} once on {rig}, found it a second time")
            continue
        if device == rig or device in Mounting(parents).above(rig):
            raise DatasetError(
                f"{row.where}: expected rigs without loops, found {device} on {rig}, which it holds itself"
            )
        parents.setdefault(device, {})[rig] = T_device_rig
    return Mounting(parents)


def read_trajectories(path: Path, problems: Problems) -> Trajectories:
    """``trajectories.txt``: ``timestamp, device, qw, qx, qy, qz, tx, ty, tz``, world to device, in any order.

    Poses with an empty rotation or translation, which kapture allows, are counted and left out.
    """
    poses: dict[tuple[int, str], Array] = {}
    for row in read_rows(path, problems, 9, separator=","):
        time = timestamp(row, problems)
        if time is None:
            continue
        if "" in row.fields[2:]:
            problems.skip("pose that is incomplete", f"{row.where}: a pose without rotation or translation")
            continue
        T = _pose(row, problems)
        if T is None:
            continue
        if (time, row.fields[1]) in poses:
            problems.fault(
                "repeated stamp",
                f"{row.where}: expected one pose of {row.fields[1]} at {time}, found a second; remove one, or "
                "--keep-going to keep the first",
            )
            continue
        poses[time, row.fields[1]] = T
    return Trajectories(poses)


def timestamp(row: Row, problems: Problems) -> int | None:
    """The first field as the integer that it is; None (a fault) where it is none."""
    text = row.fields[0]
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST):
        problems.fault(
            "timestamp that is no integer", f"{row.where}: expected an integer as timestamp, found {text[:40]!r}"
        )
        return None
    return int(text)


def _pose(row: Row, problems: Problems) -> Array | None:
    values = row.numbers(problems, 2)
    if values is None:
        return None
    return transform_from_quaternion(values[4:7], values[[1, 2, 3, 0]], row.where, problems)
