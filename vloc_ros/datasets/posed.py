"""Poses of one clock for the images of another: tracks from tables, and the frames that a track covers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.types import Array

__all__ = ["covered_frames", "track_of"]


def track_of(
    samples: Sequence[tuple[int, Array, str]], what: str, problems: Problems, max_gap_s: float = 0.5
) -> PoseTrack:
    """A track of ``(stamp_ns, T, where)`` rows in file order.

    A stamp that does not come after the one before is a fault: sorted and rid of repeats only with ``keep_going``.

    :param what: the file, for messages.
    :param max_gap_s: poses further apart are not interpolated between.
    :raises DatasetError: no rows, or stamps that do not increase.
    """
    kept: dict[int, Array] = {}
    last = -1
    for stamp, T, where in samples:
        if stamp in kept:
            problems.fault("repeated stamp", f"{where}: expected one pose a stamp, found {stamp} ns twice")
            continue
        if stamp < last:
            problems.fault(
                "stamp out of order",
                f"{where}: expected increasing stamps, found {stamp} ns after {last} ns; sort it, or --keep-going",
            )
        kept[stamp] = T
        last = max(last, stamp)
    if not kept:
        raise DatasetError(f"{what}: expected poses, found none that can be used")
    stamps = sorted(kept)
    return PoseTrack(np.array(stamps, dtype=np.int64), np.stack([kept[s] for s in stamps]), round(max_gap_s * 1e9))


def covered_frames(
    stamps_ns: npt.NDArray[np.int64], track: PoseTrack, what: str, problems: Problems
) -> tuple[npt.NDArray[np.int64], Array]:
    """Which of the images at ``stamps_ns`` (N,) have a pose, and the poses (M, 4, 4) by SLERP and linear interpolation.

    Images before the first pose, after the last, or in a gap of the track are counted as skipped.

    :raises DatasetError: not one image has a pose.
    """
    T, valid = track.many(stamps_ns)
    kept = np.flatnonzero(valid).astype(np.int64)
    if not len(kept):
        gap = "" if track.max_gap_ns is None else f" at most {track.max_gap_ns / 1e9:g} s apart"
        raise DatasetError(
            f"{what}: expected images while poses were recorded{gap}, found none: images from {int(stamps_ns[0])} to "
            f"{int(stamps_ns[-1])} ns and poses from {track.start_ns} to {track.end_ns} ns"
        )
    missing = len(stamps_ns) - len(kept)
    if missing:
        problems.skip("image without a pose", f"{what}: {missing} of {len(stamps_ns)} images have no pose", missing)
    return kept, T[kept]
