"""The last stage of structure from motion: blocks of frames triangulated one after another, and put together."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros.geometry.cameras import undistorted_camera
from vloc_ros.staging import replacing
from vloc_ros.types import Array, CameraModel
from vloc_train.mapping import colmap
from vloc_train.mapping.keypoints import FeatureStore
from vloc_train.mapping.neighbours import blocks
from vloc_train.mapping.points import SparseModel, observations_csr
from vloc_train.mapping.pose_adjustment import adjust_poses
from vloc_train.mapping.sfm_frames import Frames, Progress, SfmSettings, digest_of
from vloc_train.mapping.uncertainty import adjusted
from vloc_train.training.cluster import Workers

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
    frames: Frames,
    store: FeatureStore,
    folder: Path,
    settings: SfmSettings,
    report: Progress,
    workers: Workers | None = None,
) -> SparseModel:
    workers = workers or Workers()
    groups = blocks(frames.T_map_cam[:, :3, 3], settings.block_frames)
    digest = digest_of(settings.minimum_matches, settings.angle_deg, settings.error_px, settings.two_view)
    parts = [folder / f"points-{digest}-{len(groups)}-{number}.npz" for number in range(len(groups))]
    missing = [number for number, file in enumerate(parts) if not file.exists()]
    done = len(groups) - len(missing)
    pieces = (_block(frames, store, folder, settings, groups[number]) for number in missing)
    for at, found in workers.each(_triangulated, pieces):
        with replacing(parts[missing[at]]) as stream:
            np.savez(stream, **found)  # type: ignore[arg-type]
        done += 1
        report("points", done, len(groups))
    return _assembled(frames, store, parts, settings)


@dataclass(frozen=True)
class _Block:
    """Points whose first frame is one of ``core``, of these frames and their neighbours, are to be made of this.

    :ivar rows: (R,) numbers of the frames. :ivar core: (R,) bool. :ivar features: (K, 2) pixels of each.
    :ivar matches: places among the rows, and pairs of features.
    """

    rows: Ints
    core: npt.NDArray[np.bool_]
    cameras: Sequence[CameraModel]
    camera_index: Ints
    T_map_cam: Array
    features: Sequence[Array]
    matches: Sequence[tuple[int, int, npt.NDArray[np.uint16]]]
    settings: SfmSettings


def _block(frames: Frames, store: FeatureStore, folder: Path, settings: SfmSettings, core: Ints) -> _Block:
    inside = np.zeros(len(frames), dtype=bool)
    inside[core] = True
    wanted = inside.copy()
    known: dict[int, list[tuple[int, npt.NDArray[np.uint16]]]] = {}  # what is needed below is read once
    for frame in range(len(frames)):
        found = list(_matches_of(folder, frame, settings.minimum_matches))
        near = [other for other, _ in found if inside[frame] or inside[other]]
        if near:
            wanted[[frame, *near]] = True
            known[frame] = found
    rows = np.flatnonzero(wanted | inside)
    place = np.full(len(frames), -1)
    place[rows] = np.arange(len(rows))
    pinholes = [undistorted_camera(c) if c.is_distorted else c for c in frames.cameras]
    of = [pinholes[frames.camera_index[frame]] for frame in rows]
    matches = [
        (int(place[frame]), int(place[other]), pairs)
        for frame in rows
        for other, pairs in known.get(int(frame)) or _matches_of(folder, int(frame), settings.minimum_matches)
        if place[other] >= 0
    ]
    return _Block(
        rows,
        inside[rows],
        pinholes,
        frames.camera_index[rows],
        frames.T_map_cam[rows],
        [store.plane(int(frame)) * (c.fx, c.fy) + (c.cx, c.cy) for frame, c in zip(rows, of, strict=True)],
        matches,
        settings,
    )


def _triangulated(block: _Block) -> dict[str, npt.NDArray[Any]]:
    """Arrays of the block's file."""
    settings, rows = block.settings, block.rows
    with tempfile.TemporaryDirectory(prefix="vloc_block_") as scratch:
        made = colmap.triangulate(
            Path(scratch) / "colmap",
            block.cameras,
            block.camera_index.tolist(),
            block.T_map_cam,
            iter(block.features),
            iter(block.matches),
            colmap.TriangulationOptions(settings.angle_deg, settings.error_px, settings.two_view),
        )
    points = made.points
    first = np.full(len(points), len(rows))
    np.minimum.at(first, made.point_ids, made.frames)
    mine = (first < len(rows)) & block.core[np.minimum(first, len(rows) - 1)]
    kept = mine[made.point_ids]
    number = np.cumsum(mine) - 1
    return {
        "points": points[mine],
        "point_ids": number[made.point_ids[kept]],
        "frames": rows[made.frames[kept]],
        "features": made.features[kept],
    }


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
