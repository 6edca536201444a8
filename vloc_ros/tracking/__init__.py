"""What a sequence of frames knows beyond each frame: states, gates, motion prior, recovery."""

from __future__ import annotations

from vloc_ros.tracking.repeats import STUCK_S, PictureMemory
from vloc_ros.tracking.settings import INITIAL_POSE_SIGMAS, TrackerSettings
from vloc_ros.tracking.store import SavedPose, load_pose, save_pose
from vloc_ros.tracking.tracker import Decision, Tracker

__all__ = [
    "INITIAL_POSE_SIGMAS",
    "STUCK_S",
    "Decision",
    "PictureMemory",
    "SavedPose",
    "Tracker",
    "TrackerSettings",
    "load_pose",
    "save_pose",
]
