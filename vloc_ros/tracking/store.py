"""The last pose on disk, so that a restarted node starts its search where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.errors import ConfigError, VlocError, WriteError
from vloc_ros.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.settings import settings_from_mapping
from vloc_ros.staging import replacing
from vloc_ros.types import Array, check_covariance, check_transform

__all__ = ["SavedPose", "load_pose", "save_pose"]

_MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class SavedPose:
    """The vehicle's base in a map. A pose of another map (``map_id``) or frame means nothing: compare before use."""

    map_id: str
    frame_id: str
    stamp_ns: int
    T_map_base: Array
    covariance: Array
    scene: str = ""


@dataclass(frozen=True)
class _File:
    map_id: str
    frame_id: str
    stamp_ns: int
    position: tuple[float, float, float]
    orientation_xyzw: tuple[float, float, float, float]
    covariance: tuple[float, ...]
    scene: str = ""


def save_pose(path: str | os.PathLike[str], pose: SavedPose) -> None:
    """Write JSON atomically: a crash leaves the old pose or the new one.

    :raises ConfigError: the place cannot be written.
    :raises GeometryError: the pose is not one.
    """
    T = check_transform(pose.T_map_base, "saved pose")
    data = {
        "map_id": pose.map_id,
        "frame_id": pose.frame_id,
        "stamp_ns": int(pose.stamp_ns),
        "position": T[:3, 3].tolist(),
        "orientation_xyzw": np.asarray(matrix_to_quaternion(T[:3, :3])).tolist(),
        "covariance": check_covariance(pose.covariance, "saved covariance").reshape(-1).tolist(),
        "scene": pose.scene,
    }
    target = Path(path).expanduser()
    try:
        with replacing(target) as stream:
            stream.write(json.dumps(data, indent=1).encode())
            stream.flush()
            os.fsync(stream.fileno())
    except WriteError as problem:
        raise ConfigError(f"the last pose cannot be saved: {problem}") from problem


def load_pose(path: str | os.PathLike[str]) -> SavedPose | None:
    """The saved pose, or None when there is no file yet.

    :raises ConfigError: a file that is not a saved pose; delete it.
    """
    source = Path(path).expanduser()
    try:
        with source.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise ConfigError(f"{source}: the saved pose cannot be read: {problem.strerror}") from problem
    try:
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{source}: expected at most {_MAX_BYTES} bytes")
        data: Any = json.loads(content)
        if not isinstance(data, Mapping):
            raise ConfigError(f"{source}: expected an object of fields, found {type(data).__name__}")
        file = settings_from_mapping(_File, data, str(source))
        T = check_transform(make_transform(quaternion_to_matrix(file.orientation_xyzw), file.position), "saved pose")
        covariance = check_covariance(np.asarray(file.covariance), "saved covariance")
    except (ValueError, RecursionError, VlocError) as problem:
        raise ConfigError(f"{source}: expected a saved pose: {problem}; delete the file") from problem
    return SavedPose(file.map_id, file.frame_id, file.stamp_ns, T, covariance, file.scene)
