from __future__ import annotations

import numpy as np
import pytest
import tiny_drive

from vloc_ros.geometry.rotations import quaternion_to_matrix
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.imposing.initial import grid_candidates, initial_candidates
from vloc_ros.localizers.imposing.settings import SearchSettings


def settings(count: int, initial: str = "training") -> SearchSettings:
    return SearchSettings(candidates=count, components=min(10, count), averaged=min(10, count), initial=initial)


def test_many_training_poses_are_thinned_evenly():
    training = to_vectors(tiny_drive.circle(100))
    found = initial_candidates(settings(25), training, 0).numpy()
    rows = [int(np.flatnonzero((training == pose).all(axis=1))[0]) for pose in found]
    assert rows[0] == 0 and rows[-1] == 99 and set(np.diff(rows)) <= {4, 5}


def test_few_training_poses_are_all_taken_and_copied_with_noise():
    training = to_vectors(tiny_drive.circle(10))
    made = settings(64)
    found = initial_candidates(made, training, 3).numpy()
    assert found.shape == (64, 7) and found.dtype == np.float32
    np.testing.assert_array_equal(found[:10], training)
    assert len(np.unique(found, axis=0)) == 64
    moved = np.abs(found[10:, :3] - training[np.resize(np.arange(10), 54), :3])
    assert (moved <= 0.5 * np.array(made.noise_translation_m) + 1e-5).all() and moved.max() > 1.0
    np.testing.assert_array_equal(found, initial_candidates(made, training, 3).numpy())
    assert not np.array_equal(found, initial_candidates(made, training, 4).numpy())


@pytest.mark.parametrize("count", [7, 64, 500])
def test_the_grid_covers_the_area_with_all_headings(count):
    training = to_vectors(tiny_drive.circle(40))
    found = initial_candidates(settings(count, "grid"), training, 0).numpy()
    assert found.shape == (count, 7) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found[:, 3:], axis=1), 1.0, atol=1e-5)
    assert (np.abs(found[:, :2]) <= 12.0 + 4.0 + 20.0).all()
    R = quaternion_to_matrix(found[:, 3:].astype(np.float64))
    np.testing.assert_allclose(R[:, 2, 1], -1.0, atol=1e-5)  # still level: the image's down is the world's
    np.testing.assert_allclose(found[:, 2], 1.5, atol=1e-6)
    if count == 500:
        nearest = np.linalg.norm(found[None, :, :2] - training[:, None, :2], axis=-1).min(axis=1)
        assert nearest.max() < 3.5  # cells of 4 m
        headings = np.degrees(np.arctan2(R[:, 1, 2], R[:, 0, 2])) % 360
        assert (np.histogram(headings, bins=8, range=(0, 360))[0] > 20).all()


def test_a_grid_over_a_single_place():
    training = to_vectors(tiny_drive.circle(1))
    assert np.isfinite(grid_candidates(32, training)).all()
