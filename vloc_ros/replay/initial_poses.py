"""Where a replay is told to look: the pose that a person gives a live node on ``/initialpose``, or its ``pose_file``.

It enters the pipeline as the node's does: the pose's covariance is the search window, and the state is INITIALIZING
until estimates confirm it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vloc_ros import messages as msgs
from vloc_ros.datasets.bag.drive import BagDrive, BagFrame
from vloc_ros.datasets.bag.truth import POSE_TYPES
from vloc_ros.errors import BagError, ConfigError, VlocError
from vloc_ros.geometry.rotations import euler_to_matrix
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.pipeline import Pipeline
from vloc_ros.tracking import INITIAL_POSE_SIGMAS, load_pose
from vloc_ros.types import Array

__all__ = ["INITIAL_POSE_TOPIC", "InitialPose", "InitialPoses", "initial_poses", "parse_sigma"]

INITIAL_POSE_TOPIC = "/initialpose"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORMS = "X,Y,Z,ROLL,PITCH,YAW (m, degrees), truth, a topic of the bag, a pose file, or none"


@dataclass(frozen=True)
class InitialPose:
    """Given before the first frame recorded at ``time_ns`` or later; ``stamp_ns`` 0 holds for that frame."""

    time_ns: int
    stamp_ns: int
    T_map_base: Array
    covariance: Array
    scene: str = ""


@dataclass
class InitialPoses:
    """Hands poses to a pipeline when their time has come.

    :ivar description: what is given, for the report; empty for nothing.
    :ivar given: how many have been.
    """

    description: str = ""
    waiting: list[InitialPose] = field(default_factory=list)
    truth_covariance: Array | None = None
    notes: list[str] = field(default_factory=list)
    given: int = 0

    def offer(self, pipeline: Pipeline, drive: BagDrive, frame: BagFrame) -> None:
        """Give what is due before this frame."""
        if self.truth_covariance is not None and frame.stamp_ns > 0:
            T = drive.T_map_base(frame.stamp_ns)
            if T is not None:
                self.waiting.append(InitialPose(frame.time_ns, frame.stamp_ns, T, self.truth_covariance))
                self.truth_covariance = None
        while self.waiting and self.waiting[0].time_ns <= frame.time_ns:
            pose = self.waiting.pop(0)
            T_odom_base = drive.T_odom_base(pose.stamp_ns) if pose.stamp_ns > 0 else None
            pipeline.set_initial_pose(pose.T_map_base, pose.covariance, pose.stamp_ns, T_odom_base, pose.scene)
            self.given += 1


def initial_poses(
    asked: str | None,
    drive: BagDrive,
    map_frame: str,
    map_id: str,
    needed: bool = False,
    sigma: tuple[float, float] | None = None,
) -> InitialPoses:
    """What the user asked for.

    :param asked: ``X,Y,Z,ROLL,PITCH,YAW`` of the base in the map (metres, degrees; rotations about the fixed axes, as
        in REP-103), given before the first frame; ``truth``: the reference pose of the first frame that has one; a
        topic of poses in the bag, each given when it was recorded; a file that the node's ``pose_file`` made;
        ``none``. None: nothing, unless it is ``needed``.
    :param needed: the map finds nothing without: then ``/initialpose`` of the bag is the default.
    :param sigma: standard deviations (m, degrees) in place of the message's or the usual ones.
    :raises ConfigError: none of these, or none is given though it is needed. :raises BagError: the topic or the truth
        does not hold a pose. :raises GeometryError: a pose that is none.
    """
    covariance = np.diag(np.square(INITIAL_POSE_SIGMAS))
    if sigma is not None:
        if not (np.isfinite(sigma).all() and min(sigma) > 0):
            raise ConfigError(f"--initial-sigma: expected two positive numbers (m, degrees), found {sigma}")
        covariance = np.diag([sigma[0] ** 2] * 3 + [np.radians(sigma[1]) ** 2] * 3)
    if asked is None:
        if not needed:
            _refuse_sigma(sigma)
            return InitialPoses()
        if INITIAL_POSE_TOPIC not in drive.reader.of_type(*POSE_TYPES):
            raise ConfigError(
                f"expected a first pose, without which this map finds nothing: say --initial-pose ({_FORMS}), "
                "or make a cascade (vloc map cascade)"
            )
        asked = INITIAL_POSE_TOPIC
    if asked == "none":
        _refuse_sigma(sigma)
        return InitialPoses()
    if asked == "truth":
        if not drive.has_truth:
            raise BagError(f"{drive.reader.path}: --initial-pose truth: expected reference poses, found none")
        return InitialPoses("the reference pose of the first frame that has one", truth_covariance=covariance)
    if asked in drive.reader.of_type(*POSE_TYPES):
        return _recorded(asked, drive, map_frame, covariance, override=sigma is not None)
    numbers = [part.strip() for part in asked.split(",")]
    if len(numbers) == 6 and all(re.fullmatch(_NUMBER, part) for part in numbers):
        values = np.array([float(part) for part in numbers])
        T = make_transform(euler_to_matrix(np.radians(values[3:])), values[:3])
        return InitialPoses(f"({asked}) before the first frame", [InitialPose(-1, 0, T, covariance)])
    if Path(asked).is_file():
        return _stored(asked, map_id, covariance, override=sigma is not None)
    topics = ", ".join(drive.reader.of_type(*POSE_TYPES)) or "none"
    raise ConfigError(f"--initial-pose: expected {_FORMS}, found {asked!r}; topics that fit: {topics}")


def _refuse_sigma(sigma: tuple[float, float] | None) -> None:
    """What is said of a pose that is not given would be silently without effect."""
    if sigma is not None:
        raise ConfigError(f"--initial-sigma: expected --initial-pose ({_FORMS}) with it, found no pose")


def _recorded(topic: str, drive: BagDrive, map_frame: str, default: Array, override: bool) -> InitialPoses:
    poses: list[InitialPose] = []
    notes: list[str] = []
    for item in drive.reader.messages([topic]):
        try:
            T, found = msgs.transform(item.message), msgs.pose_covariance(item.message)
            covariance = default if override or found is None else found
            stamp, source = msgs.stamp_ns(item.message), msgs.frame_id(item.message) or map_frame
            if source != map_frame:
                T_map_source = drive.tree.at(map_frame, source, stamp or item.time_ns)
                if T_map_source is None:
                    raise BagError(f"TF does not connect its frame {source!r} with {map_frame!r} at its stamp")
                rotate = np.kron(np.eye(2), T_map_source[:3, :3])
                T, covariance = T_map_source @ T, rotate @ covariance @ rotate.T
        except (VlocError, AttributeError) as error:
            notes.append(f"a pose on {topic} at {item.time_ns} ns was refused: {error}")
            continue
        poses.append(InitialPose(item.time_ns, stamp, T, covariance))
    if not poses:
        why = f": {notes[0]}" if notes else ""
        raise BagError(f"{drive.reader.path}: expected poses on {topic}, found none that can be used{why}")
    return InitialPoses(f"{len(poses)} on {topic}", sorted(poses, key=lambda p: p.time_ns), notes=notes)


def _stored(path: str, map_id: str, covariance: Array, override: bool) -> InitialPoses:
    stored = load_pose(path)
    if stored is None or stored.map_id != map_id:
        found = "nothing" if stored is None else f"one of map {stored.map_id[:12]}"
        raise ConfigError(f"{path}: expected a pose in map {map_id[:12]}, found {found}")
    # As the node: the vehicle may have been moved a little since.
    window = covariance if override else stored.covariance + covariance
    return InitialPoses(f"that of {path}", [InitialPose(-1, 0, stored.T_map_base, window, stored.scene)])


def parse_sigma(text: str | None) -> tuple[float, float] | None:
    """``METRES,DEGREES``. :raises ConfigError: something else."""
    if text is None:
        return None
    parts: Sequence[str] = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(re.fullmatch(_NUMBER, part) for part in parts):
        raise ConfigError(f"--initial-sigma: expected METRES,DEGREES, found {text!r}")
    return float(parts[0]), float(parts[1])
