"""Images that have a pose each: what the readers of such collections share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import first_usable, is_file
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL
from vloc_ros.errors import DatasetError
from vloc_ros.types import Array

__all__ = [
    "FARTHEST_M",
    "START_NS",
    "T_MAP_WORLD",
    "Shot",
    "World",
    "counted_stamp",
    "in_map",
    "size_of_images",
    "stamps_of",
    "usable_shots",
]

#: How the world of a data set's poses stands: as its first camera (x right, y down), or with y or z up.
World = Literal["camera", "y_up", "z_up"]
#: From such a world to a map frame with z up.
T_MAP_WORLD: dict[World, Array] = {
    "camera": T_BODY_OPTICAL,
    "y_up": np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
    "z_up": np.eye(4),
}
#: The first stamp of a clock that starts at 0 (KITTI's) or of none: 0 itself means "no stamp" to ROS.
START_NS = 1_000_000_000
#: Beyond this, float32 is coarser than 4 mm.
FARTHEST_M = 5e4


@dataclass(frozen=True)
class Shot:
    """One image: its stamp, its file, the pose ``T_world_cam`` (4, 4) of its optical camera, and where that stands."""

    stamp_ns: int
    path: Path
    T_world_cam: Array
    where: str


def counted_stamp(number: int, rate_hz: float, begin_ns: int = START_NS) -> int:
    """The stamp of frame ``number`` of a recording that has none: regular from ``begin_ns`` (above 0) on."""
    return begin_ns + round(number * 1e9 / rate_hz)


def usable_shots(shots: Sequence[Shot], problems: Problems) -> list[Shot]:
    """Those whose file is there, by stamp; a missing file and a repeated stamp are faults."""
    out: dict[int, Shot] = {}
    for shot in shots:
        if not is_file(shot.path):
            problems.fault(
                "missing image",
                f"{shot.where}: expected the image {shot.path}, which is missing; complete the data, or --keep-going",
            )
        elif shot.stamp_ns in out:
            before = out[shot.stamp_ns]
            problems.fault(
                "repeated stamp",
                f"{shot.where}: expected one image a stamp, found {shot.stamp_ns} ns twice, first at {before.where}; "
                "remove one, or --keep-going to keep the first",
            )
        else:
            out[shot.stamp_ns] = shot
    return [out[stamp] for stamp in sorted(out)]


def size_of_images(
    shots: Sequence[Shot], problems: Problems, expected: tuple[int, int] | None = None
) -> tuple[list[Shot], tuple[int, int]]:
    """Width and height of the first image that can be decoded and is as ``expected``, and the shots from it on.

    Those before it are faults.

    :raises DatasetError: there is none.
    """
    begin, size = first_usable([shot.path for shot in shots], problems, expected)
    return list(shots[begin:]), size


def in_map(shots: Sequence[Shot], world: World, what: str, origin: Sequence[float] | None = None) -> Array:
    """``T_map_cam`` (N, 4, 4): the map has z up, and its origin at ``origin`` of the data set's world.

    :raises DatasetError: coordinates that no float32 map can hold.
    """
    T = np.stack([shot.T_world_cam for shot in shots])
    if origin is not None:
        T[:, :3, 3] -= np.asarray(origin, dtype=np.float64)
    far = np.abs(T[:, :3, 3]).max(axis=1)
    if float(far.max()) > FARTHEST_M:
        worst = int(far.argmax())
        place = ",".join(str(round(float(v))) for v in shots[0].T_world_cam[:3, 3])
        named = f"name the place that is to be the map's origin: origin=[{place}]"
        advice = "are these poses in metres?" if origin is None else named
        raise DatasetError(
            f"{shots[worst].where}: expected coordinates of {what} within {FARTHEST_M:g} m, found {far[worst]:.6g} m; "
            f"{advice}"
        )
    out: Array = T_MAP_WORLD[world] @ T
    return out


def stamps_of(shots: Sequence[Shot]) -> npt.NDArray[np.int64]:
    """(N,) int64."""
    return np.array([shot.stamp_ns for shot in shots], dtype=np.int64)
