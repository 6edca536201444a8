"""Trajectories in TUM format, as evo reads them: ``stamp tx ty tz qx qy qz qw``, one pose a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.types import Array

__all__ = ["write_tum"]


def write_tum(path: str | Path, poses: Iterable[tuple[int, Array]]) -> int:
    """Write ``(stamp_ns, T_map_base)`` pairs and return how many; seconds keep all nine decimals."""
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for stamp, T in poses:
            values = (*T[:3, 3], *matrix_to_quaternion(T[:3, :3]))
            file.write(f"{stamp // 10**9}.{stamp % 10**9:09d} " + " ".join(f"{v:.9f}" for v in values) + "\n")
            count += 1
    return count
