"""Poses compared with a reference while they come: which frames can be judged already, and the figures so far."""

from __future__ import annotations

import bisect
import math
from dataclasses import replace
from typing import Any

import numpy as np

from vloc_ros.evaluation.metrics import FrameRecord, evaluate, frame_errors, frame_nees
from vloc_ros.evaluation.report import figures_of
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, LocalizationState

__all__ = ["RunningComparison"]

#: Figures that a reference without orientations cannot have.
_OF_ROTATION = ("rotation", "recall", "nees", "rmse_deg")
_KEPT = 10_000


class RunningComparison:
    """Frames, poses and references in whatever order they come, and what the poses are worth.

    A frame is judged as soon as the reference reaches beyond its stamp. Frames without a pose count as infinitely
    wrong, where frames are told of (:meth:`add_frame`); else only those with a pose are counted.

    :param max_gap_s: reference poses further apart are not interpolated between.
    :param oriented: the reference has orientations; satellite fixes have none.
    :param aligned: the reference is moved so that it meets the first pose: for odometry, which has a frame of its own.
    """

    def __init__(self, max_gap_s: float = 0.5, oriented: bool = True, aligned: bool = False) -> None:
        self._gap, self.oriented, self._aligned = max_gap_s, oriented, aligned
        self._alignment: Array | None = None
        self._waiting: dict[int, FrameRecord] = {}
        self._stamps: list[int] = []
        self._reference: list[Array] = []
        self._state = LocalizationState.INITIALIZING
        #: Judged frames, by their stamps.
        self.records: list[FrameRecord] = []

    def add_frame(self, stamp_ns: int) -> None:
        """A frame that the localizer was asked about."""
        if stamp_ns > 0:
            self._waiting.setdefault(stamp_ns, FrameRecord(stamp_ns, self._state))

    def add_state(self, state: LocalizationState) -> None:
        """The state from now on, of frames without a pose."""
        self._state = state

    def add_pose(self, stamp_ns: int, T_map_base: Array, covariance: Array | None) -> None:
        """A published pose of the base."""
        state = self._state if self._state is not LocalizationState.LOST else LocalizationState.DEGRADED
        self._waiting[stamp_ns] = FrameRecord(stamp_ns, state, T_map_base, covariance, T_estimated=T_map_base)

    def add_reference(self, stamp_ns: int, T_map_base: Array) -> None:
        """Where the base was."""
        at = bisect.bisect_left(self._stamps, stamp_ns)
        if at < len(self._stamps) and self._stamps[at] == stamp_ns:
            return
        self._stamps.insert(at, stamp_ns)
        self._reference.insert(at, T_map_base)
        if len(self._stamps) > _KEPT:
            del self._stamps[0], self._reference[0]

    def judge(self, patience_ns: int = 0) -> list[FrameRecord]:
        """The frames that can be judged now, oldest first; they are :attr:`records` from then on.

        :param patience_ns: frames this much older than the newest reference whose pose has not come never get one.
        """
        if not self._stamps:
            return []
        newest = self._stamps[-1]
        track = PoseTrack(self._stamps, np.stack(self._reference), round(self._gap * 1e9))
        out = []
        for stamp in sorted(self._waiting):
            record = self._waiting[stamp]
            if stamp > newest or (record.T_map_base is None and stamp > newest - patience_ns):
                continue
            del self._waiting[stamp]
            T, known = track.many(np.array([stamp], dtype=np.int64))
            if not known[0]:
                continue
            out.append(replace(record, T_reference=self._placed(T[0], record)))
        self.records += out
        return out

    def _placed(self, T: Array, record: FrameRecord) -> Array | None:
        if record.T_map_base is not None:
            if self._aligned and self._alignment is None:
                self._alignment = record.T_map_base @ inverse(T)
            if not self.oriented:
                T = T.copy()
                T[:3, :3] = record.T_map_base[:3, :3]
        if not self._aligned:
            return T
        return None if self._alignment is None else self._alignment @ T

    def errors(self, record: FrameRecord) -> tuple[float, float, float]:
        """Metres, degrees and NEES of one frame; NaN for what is not known."""
        translation, rotation = frame_errors([record])
        nees = frame_nees(record) if self.oriented else math.nan
        return float(translation[0]), float(rotation[0]) if self.oriented else math.nan, nees

    def figures(self) -> dict[str, Any]:
        """All figures so far, under the names of ``report.json``; None for what the reference cannot tell."""
        out = figures_of(evaluate(self.records))
        if not self.oriented:
            out.update({name: None for name in out if any(part in name for part in _OF_ROTATION)})
        return out
