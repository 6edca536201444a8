"""The last stage of structure from motion: blocks of frames triangulated one after another, and put together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vloc_ros.geometry.cameras import undistorted_camera
from vloc_ros.staging import replacing
from vloc_ros.types import Array
from vloc_train.mapping import colmap
from vloc_train.mapping.keypoints import FeatureStore
from vloc_train.mapping.neighbours import blocks
from vloc_train.mapping.points import SparseModel, observations_csr
from vloc_train.mapping.pose_adjustment import adjust_poses
from vloc_train.mapping.sfm_frames import Frames, Progress, SfmSettings, digest_of
from vloc_train.mapping.uncertainty import adjusted

__all__ = ["triangulated", "with_statistics"]

Ints = npt.NDArray[np.int64]


def _matches_of(folder: Path, frame: int, minimum: int) -> Iterator[tuple[int, npt.NDArray[np.uint16]]]:
    with np.load(folder / f"{frame:07d}.npz", allow_pickle=False) as stored:
        others, counts, pairs = stored["others"], stored["counts"], stored["pairs"]
    ends = np.cumsum(counts)
    for other, count, end in zip(others, counts, ends, strict=True):
        if count >= minimum:
            yield int(other), pairs[end - count : end]


def triangulated(
    frames: Frames, store: FeatureStore, folder: Path, settings: SfmSettings, report: Progress
) -> SparseModel:
    groups = blocks(frames.T_map_cam[:, :3, 3], settings.block_frames)
    digest = digest_of(settings.minimum_matches, settings.angle_deg, settings.error_px, settings.two_view)
    parts = []
    for number, core in enumerate(groups):
        file = folder / f"points-{digest}-{len(groups)}-{number}.npz"
        if not file.exists():
            _triangulate_block(frames, store, folder, settings, core, file)
        parts.append(file)
        report("points", number + 1, len(groups))
    return _assembled(frames, store, parts, settings)


def _triangulate_block(
    frames: Frames, store: FeatureStore, folder: Path, settings: SfmSettings, core: Ints, file: Path
) -> None:
    """Points whose first frame is one of ``core``, of these frames and their neighbours."""
    inside = np.zeros(len(frames), dtype=bool)
    inside[core] = True
    wanted = inside.copy()
    for frame in range(len(frames)):
        for other, _ in _matches_of(folder, frame, settings.minimum_matches):
            if inside[frame] or inside[other]:
                wanted[[frame, other]] = True
    rows = np.flatnonzero(wanted | inside)
    place = np.full(len(frames), -1)
    place[rows] = np.arange(len(rows))
    pinholes = [undistorted_camera(c) if c.is_distorted else c for c in frames.cameras]

    def features() -> Iterator[Array]:
        for frame in rows:
            c = pinholes[frames.camera_index[frame]]
            yield store.plane(int(frame)) * (c.fx, c.fy) + (c.cx, c.cy)

    def matches() -> Iterator[tuple[int, int, npt.NDArray[np.uint16]]]:
        for frame in rows:
            for other, pairs in _matches_of(folder, int(frame), settings.minimum_matches):
                if place[other] >= 0:
                    yield int(place[frame]), int(place[other]), pairs

    scratch = folder / f"{file.stem}.colmap"
    shutil.rmtree(scratch, ignore_errors=True)
    made = colmap.triangulate(
        scratch,
        pinholes,
        frames.camera_index[rows].tolist(),
        frames.T_map_cam[rows],
        features(),
        matches(),
        colmap.TriangulationOptions(settings.angle_deg, settings.error_px, settings.two_view),
    )
    shutil.rmtree(scratch, ignore_errors=True)
    points = made.points
    seen_by = rows[made.frames]
    first = np.full(len(points), len(frames))
    np.minimum.at(first, made.point_ids, seen_by)
    mine = inside[np.minimum(first, len(frames) - 1)] & (first < len(frames))
    kept = mine[made.point_ids]
    number = np.cumsum(mine) - 1
    with replacing(file) as stream:
        np.savez(
            stream,
            points=points[mine],
            point_ids=number[made.point_ids[kept]],
            frames=seen_by[kept],
            features=made.features[kept],
        )


def _assembled(frames: Frames, store: FeatureStore, parts: Sequence[Path], settings: SfmSettings) -> SparseModel:
    points, ids, seen_by, features = [], [], [], []
    before = 0
    for file in parts:
        with np.load(file, allow_pickle=False) as stored:
            points.append(stored["points"])
            ids.append(stored["point_ids"] + before)
            seen_by.append(stored["frames"])
            features.append(stored["features"])
        before += len(points[-1])
    frame_of, feature = np.concatenate(seen_by), np.concatenate(features)
    pixels = np.zeros((len(frame_of), 3))
    pixels[:, 2] = feature  # travels with its observation
    order = np.argsort(frame_of, kind="stable")
    edges = np.searchsorted(frame_of[order], np.arange(len(frames) + 1))
    for frame in range(len(frames)):
        mine = order[edges[frame] : edges[frame + 1]]
        if len(mine):
            pixels[mine, :2] = store.pixels(frame)[feature[mine]]
    offsets, point_ids, pixels = observations_csr(frame_of, np.concatenate(ids), pixels, len(frames))
    raw = SparseModel(
        np.concatenate(points),
        np.zeros(before, dtype=np.int32),
        np.zeros(before, dtype=np.float32),
        offsets,
        point_ids,
        np.ascontiguousarray(pixels[:, :2]),
        frames.T_map_cam,
        frames.stamps_ns,
        frames.camera_index,
        frames.cameras,
        frames.drive,
        frames.number,
        pixels[:, 2].astype(np.int64),
    )
    shortest = 2 if settings.two_view else 3
    model = with_statistics(raw, settings.error_px, shortest)
    if not settings.refine_poses or not len(model.points):
        return model
    T = adjust_poses(model, settings.pose_sigma_m, settings.pose_sigma_deg)
    moved = adjusted(replace(model, T_map_cam=T), settings.error_px, shortest)
    return with_statistics(moved, settings.error_px, shortest)


def with_statistics(model: SparseModel, error_px: float, minimum_track: int) -> SparseModel:
    """Without observations of a larger error through the real lens; track lengths and errors counted anew."""
    error = model.reprojection_errors()
    good = error <= error_px
    kept = model.keep(good, minimum_track)
    left = np.bincount(model.point_ids[good], minlength=len(model.points)) >= max(minimum_track, 1)
    error = error[good & left[model.point_ids]]
    length = np.bincount(kept.point_ids, minlength=len(kept.points))
    squares = np.bincount(kept.point_ids, weights=error**2, minlength=len(kept.points))
    return replace(
        kept,
        track_length=length.astype(np.int32),
        error=np.sqrt(squares / np.maximum(length, 1)).astype(np.float32),
    )
