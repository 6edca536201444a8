"""The posed frames of a bag as a sequence, and what is left out of it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from vloc_ros.datasets.bag.drive import BagDrive, BagImages, BagOptions
from vloc_ros.datasets.bag.truth import candidates, read_places, read_world
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import BagError
from vloc_ros.types import Array, CameraModel

__all__ = ["Options", "matches", "open_bag_sequence", "open_drives"]


# Bags among the layouts of :mod:`vloc_ros.datasets.formats`.


Options = BagOptions


def matches(path: Path) -> bool:
    """Whether a path looks like a bag: a rosbag2 folder (finished or not), or an .mcap, .db3 or .bag file."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(p.suffix in (".mcap", ".db3", ".bag") for p in path.iterdir())
    return path.suffix in (".mcap", ".db3", ".bag")


def open_drives(path: Path, options: BagOptions, problems: Problems) -> list[PosedSequence]:
    """The one drive of a bag; an unfinished bag is a fault."""
    return [open_bag_sequence(path, options, allow_partial=problems.keep_going, report=problems)]


_log = logging.getLogger(__name__)

#: Clocks further apart than this are told of: images wait for exposure and transport, but not as long.
_CLOCK_WARNING_S = 1.0


def open_bag_sequence(
    path: str | Path,
    options: BagOptions | None = None,
    allow_partial: bool = False,
    report: Problems | None = None,
) -> PosedSequence:
    """The posed frames of a bag: those with a reference pose and intrinsics, once per stamp.

    :param report: told of what is left out; a pose that is none is a fault.
    :raises BagError: see :class:`BagDrive`; also no truth, no camera_info, cameras that differ, not one posed
        frame, or an unfinished bag (unless ``allow_partial``).
    :raises DatasetError: a pose that is none.
    """
    report = report or Problems()
    with BagDrive(path, options) as drive:
        if not drive.has_truth:
            raise BagError(
                f"{path}: the bag has images but no truth; expected poses on /reference/pose, or name them with "
                f"--truth (--pose-topic); poses are on: {candidates(drive.reader)}"
            )
        source = drive.heading_topic, drive.truth_topic
        for text in drive.skipped:
            if text.partition(" at ")[0] in source:
                report.fault("pose that is none", f"{path}: {text}; --keep-going leaves such poses out")
        for kind, count in (drive.fixes.counts if drive.fixes else {}).items():
            report.skip(kind, f"{path}: {drive.truth_topic}: {count} x {kind}", count)
        stamps: list[int] = []
        times: list[int] = []
        poses: list[Array] = []
        odometry: list[Array | None] = []
        cameras: set[CameraModel] = set()
        problems: set[str] = set()
        left: dict[str, int] = {}
        for frame in drive.frames():
            T_map_base = drive.T_map_base(frame.stamp_ns)
            drive.clocks.add(str(drive.image_topic), frame.stamp_ns, frame.time_ns)
            if frame.camera is None:
                problems.add(frame.problem)
                left[frame.problem] = left.get(frame.problem, 0) + 1
            elif T_map_base is None:
                left["image without a pose"] = left.get("image without a pose", 0) + 1
            elif frame.stamp_ns <= 0 or (stamps and frame.stamp_ns <= stamps[-1]):
                left["image with a stamp that is zero, repeated or late"] = (
                    left.get("image with a stamp that is zero, repeated or late", 0) + 1
                )
            else:
                stamps.append(frame.stamp_ns)
                times.append(frame.time_ns)
                poses.append(T_map_base @ drive.T_base_cam)
                odometry.append(drive.T_odom_base(frame.stamp_ns))
                cameras.add(frame.camera)
        if not allow_partial:
            drive.reader.require_complete()
        if not stamps:
            clocks = drive.clocks.in_words(str(drive.image_topic), str(drive.truth_topic), drive.options.time_offset_s)
            why = f" ({'; '.join(sorted(problems))})" if problems else f": {clocks}"
            if "no camera_info" in problems:
                why += "; --camera-info FILE takes a YAML file of camera_calibration"
            raise BagError(
                f"{path}: not one of {drive.frame_count} images has both a reference pose and intrinsics{why}"
            )
        if len(cameras) > 1:
            raise BagError(f"{path}: the intrinsics change during the drive ({len(cameras)} different camera_info)")
        for kind, count in left.items():
            report.skip(kind, f"{path}: {count} of {drive.frame_count} images: {kind}", count)
        offset = drive.clocks.offset_s(str(drive.image_topic), str(drive.truth_topic))
        if offset is not None and abs(offset) > _CLOCK_WARNING_S:
            _log.warning(
                "%s: by the times of recording, the clocks of %s and %s are %.3f s apart; is --time-offset %.3f right?",
                path, drive.image_topic, drive.truth_topic, offset, drive.options.time_offset_s + offset,
            )  # fmt: skip
        # Fixes that the poses are made of have the poses' clock.
        receiver = drive.truth_topic if drive.fixes is not None else None
        _, gnss = read_places(drive.reader, receiver, round(drive.options.time_offset_s * 1e9))
        rig = drive.tree.mountings(drive.options.base_frame)
        rig.pop(drive.camera_frame, None)
        unknown = np.full((4, 4), np.nan)
        T_odom_base = None
        if any(T is not None for T in odometry):
            T_odom_base = np.stack([unknown if T is None else T for T in odometry])
        camera = cameras.pop()
        return PosedSequence(
            Path(path).name,
            np.array(stamps, dtype=np.int64),
            np.stack(poses),
            drive.T_base_cam,
            camera,
            BagImages(Path(path), str(drive.image_topic), stamps, times, camera.size),
            T_odom_base,
            drive.frame_id,
            drive.datum,
            gnss,
            rig,
            dict(report.counts),
            **read_world(path),
        )
