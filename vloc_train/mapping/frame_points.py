"""Points that each training frame sees, whatever they come from: depth images, or a sparse model.

Training knows a point by the frame that sees it alone: its pixel in the cached image, and its place in that camera's
own axes. So a map's coordinates never meet float32, and depth and structure from motion look the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.cameras import project, unproject
from vloc_ros.staging import replacing
from vloc_ros.types import CameraModel, RgbImage
from vloc_train.mapping.points import SparseModel
from vloc_train.training.depth import DepthSource
from vloc_train.training.frames import FrameSet, keyed_rng

__all__ = ["FramePoints", "depth_points", "detail", "model_points"]

F32 = npt.NDArray[np.float32]


#: Frames of equal stamps are the same when a refinement has moved them less than this (m).
_SAME_M = 0.5


@dataclass(frozen=True)
class FramePoints:
    """Points of N frames: frame ``i`` sees rows ``offsets[i]`` to ``offsets[i + 1]``.

    :ivar offsets: (N + 1,) int64.
    :ivar pixels: (O, 2) float32, in the cached images.
    :ivar points_cam: (O, 3) float32, metres in the optical axes of the frame that sees the point.
    """

    offsets: npt.NDArray[np.int64]
    pixels: F32
    points_cam: F32

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(N,) points of each frame."""
        return np.diff(self.offsets)

    def of(self, frame: int) -> tuple[F32, F32]:
        """Pixels (K, 2) and points (K, 3) of a frame."""
        span = slice(int(self.offsets[frame]), int(self.offsets[frame + 1]))
        return self.pixels[span], self.points_cam[span]

    def select(self, frames: npt.NDArray[np.int64]) -> FramePoints:
        """Those of some frames, in the order given."""
        rows = [np.arange(self.offsets[f], self.offsets[f + 1]) for f in frames]
        picked = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
        return FramePoints(offsets, self.pixels[picked], self.points_cam[picked])


def detail(image: RgbImage) -> F32:
    """How much there is to see at each pixel, mean 1: the gradient of the image, and a floor of a quarter.

    Points of structure from motion lie on detail alone; plain surfaces must be known, too, to be doubted.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gx, gy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength = np.sqrt(gx * gx + gy * gy)
    out = 0.75 * strength / max(float(strength.mean()), 1e-6) + 0.25
    return np.asarray(out, dtype=np.float32)


def depth_points(
    sequences: Sequence[PosedSequence], frames: FrameSet, per_frame: int, max_depth_m: float, seed: int, work: Path
) -> FramePoints:
    """Points from depth images, drawn where the image has detail; kept in ``work`` for a resumed run.

    :param frames: every frame of the drives in order, the whole view squashed (not cropped) to their size.
    :param max_depth_m: what lies farther has no parallax to speak of, and is left out.
    :raises DatasetError: a drive without depth, or with a distorted camera.
    """
    for sequence in sequences:
        if not isinstance(sequence.source, DepthSource):
            raise DatasetError(f"{sequence.name}: expected a drive with depth images, found none")
        if sequence.camera.is_distorted:
            raise DatasetError(f"{sequence.name}: expected depth of an undistorted camera; rectify it first")
    key = (per_frame, max_depth_m, seed, frames.camera, [(s.name, len(s), s.camera) for s in sequences])
    digest = hashlib.sha256(repr(key).encode() + frames.T_map_cam.tobytes() + np.asarray(frames.images[0]).tobytes())
    file = work / f"points-{digest.hexdigest()[:16]}.npz"
    if file.exists():
        with np.load(file, allow_pickle=False) as stored:
            return FramePoints(stored["offsets"], stored["pixels"], stored["points_cam"])
    pixels, points, row = [], [], 0
    for sequence in sequences:
        source = sequence.source
        assert isinstance(source, DepthSource)
        for index in range(len(sequence)):
            depth = np.asarray(source.depth(index), dtype=np.float32)
            weights = detail(np.asarray(frames.images[row]))
            rng = keyed_rng(seed, 51, row)
            uv, xyz = _drawn(depth, sequence.camera, weights, frames.camera, per_frame, max_depth_m, rng)
            pixels.append(uv)
            points.append(xyz)
            row += 1
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in points])]).astype(np.int64)
    made = FramePoints(offsets, np.concatenate(pixels), np.concatenate(points))
    with replacing(file) as stream:
        np.savez(stream, offsets=made.offsets, pixels=made.pixels, points_cam=made.points_cam)
    return made


def _drawn(
    depth: F32, camera: CameraModel, weights: F32, cached: CameraModel, count: int, far: float, rng: np.random.Generator
) -> tuple[F32, F32]:
    """Up to ``count`` pixels of a depth image by weights of the cached image, and their points."""
    height, width = depth.shape
    if (height, width) != weights.shape:
        weights = np.asarray(cv2.resize(weights, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    seen = np.flatnonzero((np.isfinite(depth) & (depth > 1e-3) & (depth <= far)).ravel())
    if len(seen) > count:
        # Without replacement by weight: the smallest of exponential times.
        times = rng.exponential(size=len(seen)) / weights.ravel()[seen]
        seen = np.sort(seen[np.argpartition(times, count)[:count]])
    v, u = np.divmod(seen, width)
    uv = np.stack([u, v], axis=1).astype(np.float64)
    z = depth.ravel()[seen].astype(np.float64)
    points = unproject(camera, uv) * z[:, None]
    scale = np.array([cached.width / camera.width, cached.height / camera.height])
    return ((uv + 0.5) * scale - 0.5).astype(np.float32), points.astype(np.float32)


def _row_in_model(model: SparseModel, frames: FrameSet) -> npt.NDArray[np.int64]:
    """(N,) which of a model's frames each frame is, by its stamp and place; -1 for none.

    Numbers of drives and frames will not do: some of the model's frames may be held out here, or not chosen.
    """
    by_stamp: dict[int, list[int]] = {}
    for row, stamp in enumerate(model.stamps_ns.tolist()):
        by_stamp.setdefault(stamp, []).append(row)
    out = np.full(len(frames), -1, dtype=np.int64)
    for index, stamp in enumerate(frames.stamps_ns.tolist()):
        rows = by_stamp.get(stamp)
        if rows:
            apart = np.linalg.norm(model.T_map_cam[rows, :3, 3] - frames.T_map_cam[index, :3, 3], axis=1)
            if apart.min() <= _SAME_M:
                out[index] = rows[int(apart.argmin())]
    return out


def model_points(model: SparseModel, frames: FrameSet) -> FramePoints:
    """The points of a sparse model for every frame; frames that it lacks have none.

    Pixels are carried from the image on disk, lens and all, to the cached one.

    :raises DatasetError: the model holds none of these frames.
    """
    order = _row_in_model(model, frames)
    if len(model) and (order < 0).all():
        raise DatasetError("expected a sparse model of these drives, found one of other frames")
    points_cam = model.points_cam()
    pixels = np.empty((len(model.pixels), 2))
    camera_of = model.camera_index[model.frame_of]
    for index, camera in enumerate(model.cameras):
        mine = np.flatnonzero(camera_of == index)
        pixels[mine], _ = project(frames.camera, unproject(camera, model.pixels[mine]))
    inside = np.isfinite(pixels).all(axis=1) & (points_cam[:, 2] > 1e-3)
    inside &= ((pixels >= -0.5) & (pixels <= (frames.camera.width - 0.5, frames.camera.height - 0.5))).all(axis=1)
    rows = [
        np.zeros(0, np.int64) if r < 0 else np.arange(model.offsets[r], model.offsets[r + 1]) for r in order.tolist()
    ]
    rows = [r[inside[r]] for r in rows]
    picked = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return FramePoints(offsets, pixels[picked].astype(np.float32), points_cam[picked].astype(np.float32))
