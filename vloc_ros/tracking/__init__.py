"""What a sequence of frames knows beyond each frame: states, gates, motion prior, recovery."""

from __future__ import annotations

from vloc_ros.tracking.settings import INITIAL_POSE_SIGMAS, TrackerSettings
from vloc_ros.tracking.store import SavedPose, load_pose, save_pose
from vloc_ros.tracking.tracker import Decision, Tracker

__all__ = [
    "INITIAL_POSE_SIGMAS",
    "Decision",
    "SavedPose",
    "Tracker",
    "TrackerSettings",
    "load_pose",
    "save_pose",
]
