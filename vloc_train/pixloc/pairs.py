"""Covisible pairs of training frames: which frames see enough of the same (Section 5, Training)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array, CameraModel
from vloc_train.mapping.frame_points import FramePoints
from vloc_train.pixloc.settings import PairSettings
from vloc_train.training.frames import FrameSet, keyed_rng

__all__ = ["PairTable", "mine_pairs", "overlap"]

#: Points of a frame that stand for what it sees.
_PROBES = 64


@dataclass(frozen=True)
class PairTable:
    """Partners of anchors: anchor ``anchors[i]`` has partners ``partners[offsets[i]:offsets[i + 1]]``.

    :ivar shared: (P,) the smaller of the two shares of points that the other frame sees.
    :ivar drive: (N,) the drive of every frame.
    """

    anchors: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    partners: npt.NDArray[np.int64]
    shared: npt.NDArray[np.float32]
    drive: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.anchors)

    def draw(self, number: int, cross_drive: float, rng: np.random.Generator) -> int:
        """A partner of an anchor; of another drive with probability ``cross_drive`` where there is one."""
        found = self.partners[self.offsets[number] : self.offsets[number + 1]]
        other = self.drive[found] != self.drive[self.anchors[number]]
        wanted = other == (rng.random() < cross_drive)
        return int(rng.choice(found[wanted] if wanted.any() else found))


def overlap(
    points: npt.NDArray[np.floating], T_map_from: Array, T_map_to: Array, camera: CameraModel
) -> npt.NDArray[np.float32]:
    """Share of points that other cameras have in view; what stands between does not count.

    :param points: (..., K, 3) in the axes of the cameras ``T_map_from`` (..., 4, 4); ``T_map_to`` (..., 4, 4).
    """
    T = inverse(T_map_to) @ T_map_from
    p = points @ np.swapaxes(T[..., :3, :3], -1, -2) + T[..., None, :3, 3]
    z = np.maximum(p[..., 2], 1e-6)
    u, v = camera.fx * p[..., 0] / z + camera.cx, camera.fy * p[..., 1] / z + camera.cy
    seen = (p[..., 2] > 1e-6) & (u >= -0.5) & (u <= camera.width - 0.5) & (v >= -0.5) & (v <= camera.height - 0.5)
    return np.asarray(seen.mean(axis=-1), dtype=np.float32)


def mine_pairs(
    frames: FrameSet,
    points: FramePoints,
    drive: npt.NDArray[np.int64],
    settings: PairSettings,
    seed: int,
    anchors_of: npt.NDArray[np.bool_] | None = None,
    partners_of: npt.NDArray[np.bool_] | None = None,
) -> PairTable:
    """For every frame the frames within reach that share enough of its view, and it of theirs.

    :param drive: (N,) the drive of each frame.
    :param anchors_of: (N,) frames that may be anchors. :param partners_of: (N,) frames that may be partners.
    :raises DatasetError: not one pair.
    """
    n = len(frames)
    probes = np.zeros((n, _PROBES, 3), np.float32)
    enough = points.counts >= settings.least_points
    usable: list[int] = np.flatnonzero(enough).tolist()
    for frame in usable:
        _, own = points.of(frame)
        probes[frame] = own[keyed_rng(seed, 52, frame).integers(0, len(own), _PROBES)]
    T, position, forward = frames.T_map_cam, frames.T_map_cam[:, :3, 3], frames.T_map_cam[:, :3, 2]
    least_cos = np.cos(np.radians(settings.max_angle_deg))
    allowed = enough if partners_of is None else enough & partners_of
    anchors, partners, shared = [], [], []
    for frame in usable:
        if anchors_of is not None and not anchors_of[frame]:
            continue
        near = np.linalg.norm(position - position[frame], axis=1)
        reach = allowed & (near <= settings.reach_m) & (near >= settings.nearest_m)
        reach &= forward @ forward[frame] >= least_cos
        reach[frame] = False
        found = np.flatnonzero(reach)
        if len(found) > settings.candidates:
            found = np.sort(keyed_rng(seed, 53, frame).choice(found, settings.candidates, replace=False))
        if not len(found):
            continue
        one = np.broadcast_to(T[frame], (len(found), 4, 4))
        mine = overlap(np.broadcast_to(probes[frame], (len(found), _PROBES, 3)), one, T[found], frames.camera)
        least = np.minimum(mine, overlap(probes[found], T[found], one, frames.camera))
        kept = least >= settings.overlap
        if kept.any():
            anchors.append(frame)
            partners.append(found[kept])
            shared.append(least[kept])
    if not anchors:
        raise DatasetError(
            f"{frames.scene}: expected frames within {settings.reach_m} m that share {settings.overlap:.0%} of their "
            f"points, found none among {n} ({int(enough.sum())} with {settings.least_points} points or more)"
        )
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in partners])]).astype(np.int64)
    return PairTable(
        np.array(anchors, dtype=np.int64), offsets, np.concatenate(partners), np.concatenate(shared), drive
    )
