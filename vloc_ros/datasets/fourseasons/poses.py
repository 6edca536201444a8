"""The pose files of 4Seasons: cam0 to the visual odometry's world, each in columns, units and stamps of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import (
    Row,
    pose_samples,
    read_rows,
    stamp_of,
    transform_from_quaternion,
)
from vloc_ros.errors import DatasetError
from vloc_ros.types import Array

__all__ = ["FrameTimes", "PoseSample", "gnss_poses", "key_frame_poses", "read_times", "result_poses"]
#: ``(stamp_ns, T_cam, scale, where)``.
PoseSample = tuple[int, Array, float, str]
#: By frame id (ns, the name of the image): the frame's time (ns), and ``path:line``.
FrameTimes = Mapping[int, tuple[int, str]]
#: result.txt is rounded to 10 us, and frames are 33 ms apart.
_SAME_FRAME_NS = 2_000_000


def gnss_poses(path: Path, problems: Problems) -> list[PoseSample]:
    """``GNSSPoses.txt``: stamp_ns, t, q xyzw, scale, fusion quality and, in the header alone, v3.

    :raises DatasetError: no such file, or a faulty row.
    """
    samples = []
    for row in read_rows(path, problems, (10, 11), ","):
        if row.number == 1 and not row.fields[0].isdigit():
            continue  # the header, where it is no comment
        stamp = stamp_of(row, problems, "ns")
        values = None if stamp is None else row.numbers(problems, 1, 9)
        if stamp is None or values is None:
            continue
        if not values[7] > 0.0:
            problems.fault("pose without a scale", f"{row.where}: expected a positive scale, found {row.fields[8]}")
            continue
        T = transform_from_quaternion(values[:3], values[3:7], row.where, problems)
        if T is not None:
            samples.append((stamp, T, float(values[7]), row.where))
    return samples


def read_times(path: Path, problems: Problems) -> dict[int, tuple[int, str]]:
    """``times.txt``: by frame id (ns, the name of the image), the frame's time (ns), and the line.

    :raises DatasetError: no such file, or a row whose id and time differ by more than a millisecond.
    """
    times: dict[int, tuple[int, str]] = {}
    for row in read_rows(path, problems, (2, 3)):
        frame, time = stamp_of(row, problems, "ns"), stamp_of(row, problems, "s", 1)
        if frame is None or time is None:
            continue
        if abs(frame - time) > 1_000_000:
            problems.fault(
                "frame whose id is not its time",
                f"{row.where}: expected a frame id in ns and the same time in s, found {row.fields[0]} and "
                f"{row.fields[1]}",
            )
        elif frame in times:
            problems.fault("repeated stamp", f"{row.where}: expected one frame a stamp, found {frame} ns twice")
        else:
            times[frame] = time, row.where
    return times


def result_poses(path: Path, times: FrameTimes, problems: Problems) -> list[PoseSample]:
    """``result.txt``: time_s, t, q xyzw, at the stamps of the frames that they belong to.

    :param times: of :func:`read_times`.
    :raises DatasetError: no such file, a faulty row, or one with no frame within 2 ms.
    """
    frames = np.array(sorted(times, key=lambda frame: times[frame][0]), dtype=np.int64)
    at = np.array([times[int(frame)][0] for frame in frames], dtype=np.int64)
    if not len(frames):
        raise DatasetError(f"{path}: expected frames in times.txt to belong to, found none")
    samples = []
    for stamp, T, where in pose_samples(read_rows(path, problems, 8), problems, "s"):
        after = int(np.searchsorted(at, stamp))
        near = min(max(after - 1, 0), len(at) - 1), min(after, len(at) - 1)
        nearest = min(near, key=lambda row: abs(int(at[row]) - stamp))
        if abs(int(at[nearest]) - stamp) > _SAME_FRAME_NS:
            problems.fault(
                "pose without a frame",
                f"{where}: expected a frame of times.txt within 2 ms, found the nearest "
                f"{abs(int(at[nearest]) - stamp) / 1e6:.1f} ms away",
            )
            continue
        samples.append((int(frames[nearest]), T, 1.0, where))
    return samples


def key_frame_poses(folder: Path, problems: Problems) -> list[PoseSample]:
    """``KeyFrame_<ns>.txt``: seven comma values below the comment ``# camToWorld``.

    :raises DatasetError: no such files, or one without a pose.
    """
    named = {path: path.stem.partition("_")[2] for path in folder.glob("KeyFrame_*.txt")}
    paths = sorted(named, key=lambda path: (len(named[path]), named[path]))
    if not paths:
        raise DatasetError(f"{folder}: expected files KeyFrame_<ns>.txt, found none")
    samples = []
    for path in paths:
        row = _cam_to_world(path)
        if row is None:
            problems.fault(
                "key frame without a pose", f"{path}: expected a comment '# camToWorld' and seven values, found none"
            )
            continue
        stamp = stamp_of(Row(path, 1, (named[path],)), problems, "ns")
        if len(row.fields) != 7:
            problems.fault("row of the wrong length", f"{row.where}: expected 7 fields, found {len(row.fields)}")
            continue
        values = row.numbers(problems)
        if stamp is None or values is None:
            continue
        T = transform_from_quaternion(values[:3], values[3:], row.where, problems)
        if T is not None:
            samples.append((stamp, T, 1.0, row.where))
    return samples


def _cam_to_world(path: Path) -> Row | None:
    """The line below the comment; what comes after it, a point cloud, is not read."""
    tagged = False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if text.startswith("#"):
                tagged = "camtoworld" in text.lower()
            elif tagged and text:
                return Row(path, number, tuple(field.strip() for field in text.split(",")))
    return None
