"""Points of frames from depth and from sparse models: each lies where its frame sees it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_aligned
import tiny_drive

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.cameras import project
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.types import CameraModel
from vloc_train.mapping.frame_points import FramePoints, depth_points, detail, model_points
from vloc_train.training.frames import cache_frames

LENS = CameraModel(64, 36, 42.0, 42.0, 31.5, 17.5, "plumb_bob", (-0.1, 0.01, 0.0, 0.0))


def test_points_from_depth_lie_on_the_walls_and_project_where_they_are_seen(tmp_path):
    drives = [tiny_aligned.drive(4), tiny_aligned.drive(3, "second", phase=0.2)]
    frames = cache_frames(drives, Preprocess(32, 18), tmp_path)
    points = depth_points(drives, frames, 100, 80.0, 0, tmp_path)
    assert len(points) == 7 and points.counts.tolist() == [100] * 7
    for i in range(7):
        pixels, cam = points.of(i)
        found, valid = project(frames.camera, cam)
        assert valid.all()
        np.testing.assert_allclose(found, pixels, atol=1e-3)
        T = frames.T_map_cam[i]
        world = cam @ T[:3, :3].T + T[:3, 3]
        walls = tiny_aligned.Walls
        gaps = [np.abs(np.abs(world[:, :2]) - walls.half).min(axis=1), abs(world[:, 2]), abs(world[:, 2] - walls.roof)]
        assert np.min(gaps, axis=0).max() < 1e-3
    again = depth_points(drives, frames, 100, 80.0, 0, tmp_path)  # from the file
    np.testing.assert_array_equal(again.pixels, points.pixels)
    near = depth_points(drives, frames, 100, 9.0, 0, tmp_path)
    assert near.points_cam[:, 2].max() <= 9.0 < points.points_cam[:, 2].max()


def test_detail_is_where_the_image_changes():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = 200
    weights = detail(image)
    assert weights.mean() == pytest.approx(1.0) and weights[5, 15] > 5 * weights[5, 3] == pytest.approx(1.25, rel=1e-5)


def test_drives_without_usable_depth(tmp_path):
    plain = tiny_drive.drive(3)
    frames = cache_frames([plain], Preprocess(64, 36), tmp_path)
    with pytest.raises(DatasetError, match="found none"):
        depth_points([plain], frames, 10, 80.0, 0, tmp_path)
    bent = replace(tiny_aligned.drive(3), camera=LENS)
    with pytest.raises(DatasetError, match="undistorted"):
        depth_points([bent], frames, 10, 80.0, 0, tmp_path)


def test_some_frames_of_a_drive_with_depth_have_it_too():
    drive = tiny_aligned.drive(5)
    np.testing.assert_array_equal(drive.select(np.array([1, 3])).source.depth(1), drive.source.depth(3))
    assert not hasattr(tiny_drive.drive(3).select(np.array([0])).source, "depth")


def test_a_sparse_model_is_carried_from_the_image_on_disk_to_the_cached_one(tmp_path):
    drive = replace(tiny_aligned.drive(24), camera=LENS)
    frames = cache_frames([drive], Preprocess(32, 18), tmp_path)
    model, points = tiny_aligned.sparse_model(drive)
    found = model_points(model, frames)
    assert len(found) == 24 and found.counts[1] == 0 and found.counts[0] >= 10
    for row, frame in enumerate((0, 2)):
        pixels, cam = found.of(frame)
        at, _ = project(frames.camera, cam)
        np.testing.assert_allclose(pixels, at, atol=1e-3)
        T = frames.T_map_cam[frame]
        ids, _ = model.observations(row)
        assert len(cam) <= len(ids)
        world = cam @ T[:3, :3].T + T[:3, 3]
        assert np.abs(world[:, None] - points[ids][None]).sum(-1).min(axis=1).max() < 1e-4
    some = model_points(model, frames.select(np.arange(2, 9)))  # others are held out
    assert len(some) == 7 and some.counts[0] == found.counts[2] and not some.counts[1:].any()
    with pytest.raises(DatasetError, match="other frames"):
        model_points(replace(model, stamps_ns=model.stamps_ns + 1), frames)


def test_selected_frames_keep_their_points():
    points = FramePoints(
        np.array([0, 2, 2, 5]), np.arange(10, dtype=np.float32).reshape(5, 2), np.zeros((5, 3), np.float32)
    )
    chosen = points.select(np.array([2, 0, 1]))
    assert chosen.counts.tolist() == [3, 2, 0]
    np.testing.assert_array_equal(chosen.of(0)[0], points.of(2)[0])
    np.testing.assert_array_equal(chosen.of(1)[0], points.of(0)[0])
