"""Sparse models: their observations, selections and files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse, transform_points
from vloc_ros.types import CameraModel
from vloc_train.mapping.points import SparseModel, joined, observations_csr
from vloc_train.mapping.subsample import SubsampleSettings, subsample

CAMERA = CameraModel(200, 100, 120.0, 118.0, 99.0, 50.0, "plumb_bob", (-0.1, 0.02, 0.001, -0.001))


def scene(frames: int = 6, points: int = 300, seed: int = 0) -> SparseModel:
    """A camera that drives towards a cloud of points, and what it sees of them, exactly."""
    rng = np.random.default_rng(seed)
    cloud = rng.uniform((-15, -6, 4), (15, 6, 40), (points, 3))
    T = np.tile(np.eye(4), (frames, 1, 1))
    T[:, 2, 3] = np.arange(frames)
    seen = [project(CAMERA, transform_points(inverse(t), cloud)) for t in T]
    rows = [np.flatnonzero(valid) for _, valid in seen]
    length = np.bincount(np.concatenate(rows), minlength=points)
    model = SparseModel(
        cloud, length.astype(np.int32), rng.uniform(0, 1, points).astype(np.float32),
        np.concatenate([[0], np.cumsum([len(r) for r in rows])]), np.concatenate(rows),
        np.concatenate([pixels[valid] for pixels, valid in seen]), T, np.arange(1, frames + 1) * 10**8,
        np.zeros(frames, dtype=np.int64), (CAMERA,), np.zeros(frames, dtype=np.int64), np.arange(frames),
    )  # fmt: skip
    return model.keep(np.ones(len(model.point_ids), dtype=bool))


def test_observations_reproject_through_the_lens():
    model = scene()
    assert model.reprojection_errors().max() < 1e-9
    moved = replace(model, points=model.points - np.array([0.0, 0.0, 100.0]))
    assert np.isinf(moved.reprojection_errors()).all()


def test_observations_by_point_and_by_frame_agree():
    model = scene()
    for point in (0, len(model.points) // 2, len(model.points) - 1):
        frames = model.frames_of(point)
        assert len(frames) == model.track_length[point]
        assert all(point in model.observations(int(f))[0] for f in frames)
    together = model.covisible(2)
    expected = [len(np.intersect1d(model.observations(2)[0], model.observations(k)[0])) for k in range(len(model))]
    assert together.tolist() == expected


def test_selection_of_frames_keeps_what_they_see():
    model = scene()
    part = model.select([4, 1])
    assert len(part) == 2 and part.number.tolist() == [1, 4]
    assert part.reprojection_errors().max() < 1e-9
    both = model.select([1, 4], minimum_track=2)
    assert set(np.bincount(both.point_ids)) == {2} and len(both.points) < len(part.points)
    with pytest.raises(DatasetError, match=r"frames in \[0, 6\)"):
        model.select([6])


def test_a_model_comes_back_from_its_file(tmp_path):
    model = scene()
    back = SparseModel.load(model.save(tmp_path / "a" / "model.npz"))
    assert back.cameras == model.cameras
    for name in ("points", "offsets", "point_ids", "pixels", "T_map_cam", "stamps_ns", "drive", "number", "error"):
        np.testing.assert_array_equal(getattr(back, name), getattr(model, name))


def test_a_damaged_file_is_named(tmp_path):
    file = scene().save(tmp_path / "model.npz")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"model\.npz: expected a sparse model"):
        SparseModel.load(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"point_ids": np.array([99] * 10)}, "point_ids|pixels"),
        ({"T_map_cam": np.full((6, 4, 4), np.nan)}, "finite T_map_cam"),
        ({"offsets": np.zeros(7, dtype=np.int64)}, "offsets"),
        ({"camera_index": np.ones(6, dtype=np.int64)}, "camera_index"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    with pytest.raises(DatasetError, match=message):
        replace(scene(), **change)


def test_joined_models_keep_their_frames_apart():
    one, two = scene(seed=1), scene(4, seed=2)
    both = joined([one, two])
    assert len(both) == 10 and set(both.drive) == {0, 1} and len(both.cameras) == 2
    assert both.reprojection_errors().max() < 1e-9
    assert both.covisible(0)[6:].sum() == 0
    with pytest.raises(DatasetError, match="at least one"):
        joined([])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=40))
def test_observations_sort_into_frames_once_each(pairs):
    frames = np.array([f for f, _ in pairs], dtype=np.int64)
    points = np.array([p for _, p in pairs], dtype=np.int64)
    offsets, ids, pixels = observations_csr(frames, points, np.stack([frames, points], 1).astype(float), 4)
    assert offsets[-1] == len(set(pairs)) == len(ids)
    for f in range(4):
        mine = slice(offsets[f], offsets[f + 1])
        assert ids[mine].tolist() == sorted({p for g, p in pairs if g == f})
        assert (pixels[mine] == np.stack([np.full(len(ids[mine]), f), ids[mine]], 1)).all()


def test_subsampling_prefers_long_tracks_and_covers_the_image():
    model = scene(8, 4000)
    settings = SubsampleSettings(per_frame=96, minimum_track=2, maximum_error_px=0.9)
    small = subsample(model, settings)
    counts = np.diff(small.offsets)
    assert counts.max() <= 96 and counts.min() > 60
    assert small.error.max() <= 0.9 and small.track_length.min() >= 2
    assert small.track_length.mean() > model.track_length.mean()
    seen = model.select([0]).pixels
    kept = small.select([0]).pixels
    cells = [{tuple(c) for c in np.floor((p + 0.5) / 25)} for p in (seen, kept)]
    assert len(cells[1]) >= 0.9 * len(cells[0])
    # Track length alone would keep the farthest points, which say little about the position.
    near = [np.quantile(m.points_cam()[:, 2], 0.1) for m in (model, small)]
    assert near[1] < 2.0 * near[0]


def test_subsampling_leaves_a_small_model_alone_but_for_bad_points():
    model = scene()
    assert len(subsample(model, SubsampleSettings(minimum_track=2)).points) == (model.track_length >= 2).sum()
    assert (
        len(subsample(model, SubsampleSettings(per_frame=0, minimum_track=2)).points) == (model.track_length >= 2).sum()
    )
    assert len(subsample(model, SubsampleSettings(maximum_error_px=0.0)).points) == 0
