"""Trajectories as files: TUM format, as evo reads it (``stamp tx ty tz qx qy qz qw``), and the poses of a bag."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vloc_ros import messages as msgs
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import pose_samples, read_rows, track_of
from vloc_ros.errors import BagError, DatasetError, VlocError
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.staging import replacing
from vloc_ros.types import Array

__all__ = ["read_bag_trajectory", "read_trajectory", "read_tum", "write_tum"]


def write_tum(path: str | Path, poses: Iterable[tuple[int, Array]]) -> int:
    """Write ``(stamp_ns, T_map_base)`` pairs and return how many; seconds keep all nine decimals."""
    count = 0
    with replacing(Path(path)) as file:
        for stamp, T in poses:
            values = (*T[:3, 3], *matrix_to_quaternion(T[:3, :3]))
            line = f"{stamp // 10**9}.{stamp % 10**9:09d} " + " ".join(f"{v:.9f}" for v in values)
            file.write(f"{line}\n".encode())
            count += 1
    return count


def read_tum(path: str | Path, problems: Problems | None = None) -> PoseTrack:
    """A trajectory in TUM format; stamps are decimal seconds, also as ``1.7e+09`` (evo writes them so).

    :raises DatasetError: no such file, no pose, or a faulty line (unless ``problems`` keeps going): columns, NaN, a
        quaternion that is none, stamps of another unit or that do not increase.
    """
    path, problems = Path(path), problems or Problems()
    samples = pose_samples(read_rows(path, problems, 8), problems, "s", since_1970=False)
    return track_of(samples, str(path), problems)


def read_trajectory(
    path: str | Path, topic: str | None = None, problems: Problems | None = None, usual: Sequence[str] = ()
) -> PoseTrack:
    """A TUM file, or a topic of a bag: the one asked for, else the first of the ``usual`` ones, else the only one.

    :raises DatasetError: no such file, or a faulty one (unless ``problems`` keeps going). :raises BagError: a bag
        without such a topic.
    """
    path, problems = Path(path), problems or Problems()
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder; expected a TUM trajectory or a bag")
    from vloc_ros.datasets.bag.sequence import matches

    if matches(path):
        return read_bag_trajectory(path, topic, problems, usual)
    if path.is_dir():
        raise DatasetError(f"{path}: expected a TUM trajectory or a bag, found a folder without a bag")
    if topic:
        raise DatasetError(f"{path}: expected a bag for the topic {topic}, found a file of another kind")
    return read_tum(path, problems)


def read_bag_trajectory(
    path: str | Path, topic: str | None = None, problems: Problems | None = None, usual: Sequence[str] = ()
) -> PoseTrack:
    """The poses of a topic of a bag (PoseStamped, PoseWithCovarianceStamped, TransformStamped, Odometry), or of one
    transform (``/tf:map.base_link``). A pose without a stamp is a fault.

    :raises BagError: no such topic, or several to choose from. :raises DatasetError: no pose, or stamps that do not
        increase.
    """
    from vloc_ros.datasets.bag.reader import BagReader

    path, problems = Path(path), problems or Problems()
    with BagReader(path) as reader:
        edge: tuple[str, str] | None = None
        if topic is not None and topic.startswith("/tf:"):
            parent, _, child = topic[4:].partition(".")
            if not parent or not child or "/tf" not in reader.topics:
                raise BagError(f"{path}: {topic}: expected /tf:PARENT.CHILD and transforms on /tf")
            edge, name = (parent, child), "/tf"
        else:
            name = _topic(reader, topic, usual)
        rows: list[tuple[int, Array, str]] = []
        for item in reader.messages([name]):
            where = f"{path}: {topic or name} at {item.time_ns} ns"
            for message in [item.message] if edge is None else item.message.transforms:
                try:
                    if edge is not None and edge != (msgs.frame_id(message), str(message.child_frame_id).lstrip("/")):
                        continue
                    stamp, T = msgs.stamp_ns(message), msgs.transform(message)
                except VlocError as error:
                    problems.fault("pose that is none", f"{where}: {error}")
                    continue
                if stamp > 0:
                    rows.append((stamp, T, where))
                else:
                    problems.fault("pose without a stamp", f"{where}: expected a stamp, found {stamp}")
        if reader.problem:
            problems.fault("unfinished bag", f"{path}: {reader.problem}")
    return track_of(rows, f"{path}: {topic or name}", problems)


def _topic(reader: Any, asked: str | None, usual: Sequence[str]) -> str:
    from vloc_ros.datasets.bag.truth import POSE_TYPES

    topics = reader.of_type(*POSE_TYPES)
    if asked is not None:
        if asked in topics:
            return asked
        raise BagError(f"{reader.path}: no poses on {asked}; topics with poses: {', '.join(topics) or 'none'}")
    found = next((name for name in usual if name in topics), None) or (topics[0] if len(topics) == 1 else None)
    if found is None:
        raise BagError(
            f"{reader.path}: expected {' or '.join(usual) or 'one topic with poses'}, found "
            f"{', '.join(topics) or 'no topic with poses'}; name one (--topic, --reference-topic)"
        )
    return found
