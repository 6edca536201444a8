from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse, se3_exp, transform_points
from vloc_ros.types import CameraModel
from vloc_train.mapping.points import SparseModel, observations_csr
from vloc_train.mapping.pose_adjustment import adjust_poses

CAMERA = CameraModel(640, 480, 400.0, 400.0, 319.5, 239.5)
BENT = replace(CAMERA, distortion_model="plumb_bob", distortion=(-0.1, 0.02, 0.001, -0.001, 0.0))


def street(frames: int = 9, points: int = 300, noise_px: float = 0.0, seed: int = 0) -> SparseModel:
    """A drive along x of a camera that looks sideways and one that looks ahead in turn, through a box of points."""
    rng = np.random.default_rng(seed)
    cloud = rng.uniform([-2.0, 4.0, -3.0], [12.0, 12.0, 3.0], (points, 3))
    T = np.tile(np.eye(4), (frames, 1, 1))
    # x right, y down, z forward of the camera: it looks along the map's y.
    T[:, :3, :3] = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    T[:, 0, 3] = np.linspace(0.0, 8.0, frames)
    T = np.stack([pose @ se3_exp(x) for pose, x in zip(T, rng.normal(0, 0.05, (frames, 6)), strict=True)])
    cameras = np.arange(frames) % 2
    seen_by, ids, pixels = [], [], []
    for frame in range(frames):
        at, valid = project((CAMERA, BENT)[cameras[frame]], transform_points(inverse(T[frame]), cloud))
        rows = np.flatnonzero(valid)
        seen_by.append(np.full(len(rows), frame))
        ids.append(rows)
        pixels.append(at[rows] + rng.normal(0, noise_px, (len(rows), 2)))
    offsets, point_ids, where = observations_csr(
        np.concatenate(seen_by), np.concatenate(ids), np.concatenate(pixels), frames
    )
    return SparseModel(
        cloud, np.bincount(point_ids, minlength=points).astype(np.int32), np.zeros(points, np.float32), offsets,
        point_ids, where, T, 10**8 * np.arange(1, frames + 1), cameras, (CAMERA, BENT), np.zeros(frames, np.int64),
        np.arange(frames),
    )  # fmt: skip


def disturbed(model: SparseModel, sigma_m: float, sigma_deg: float, seed: int = 1) -> SparseModel:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(len(model), 6)) * np.repeat([sigma_m, np.radians(sigma_deg)], 3)
    return replace(model, T_map_cam=np.stack([T @ se3_exp(x) for T, x in zip(model.T_map_cam, noise, strict=True)]))


def steps(T: np.ndarray) -> np.ndarray:
    return inverse(T[:-1]) @ T[1:]


def test_true_poses_stay_to_rounding():
    model = street()
    np.testing.assert_allclose(adjust_poses(model, 0.05, 0.3), model.T_map_cam, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_the_poses_goes_and_the_map_stays(seed):
    model = street(noise_px=0.5, seed=seed)
    rough = disturbed(model, 0.05, 0.3, seed + 10)
    found = adjust_poses(rough, 0.05, 0.3)
    truth = steps(model.T_map_cam)
    before, after = (np.abs(steps(T) - truth).max(axis=(1, 2)).mean() for T in (rough.T_map_cam, found))
    assert after < 0.3 * before
    # What is left is common to all: as the mean of the given ones, and no nearer.
    offset = np.linalg.norm((found - model.T_map_cam)[:, :3, 3], axis=1)
    assert offset.max() < 0.08


def test_one_pose_that_is_badly_wrong_moves_and_the_others_do_not():
    model = street()
    T = model.T_map_cam.copy()
    T[4] = T[4] @ se3_exp(np.array([0.4, 0.0, 0.3, 0.0, 0.05, 0.0]))
    found = adjust_poses(replace(model, T_map_cam=T), 0.02, 0.2)
    assert np.linalg.norm((found - model.T_map_cam)[:, :3, 3], axis=1).max() < 0.02


def test_the_sigmas_say_what_moves():
    model = disturbed(street(), 0.05, 0.0)
    firm, loose = (adjust_poses(model, sigma, 0.3) for sigma in (1e-4, 0.5))
    moved = [np.linalg.norm((T - model.T_map_cam)[:, :3, 3], axis=1).max() for T in (firm, loose)]
    assert moved[0] < 0.2 * moved[1]


def test_wrong_observations_have_no_say():
    model = street(noise_px=0.3)
    rng = np.random.default_rng(5)
    pixels = model.pixels.copy()
    wrong = rng.random(len(pixels)) < 0.1
    pixels[wrong] += rng.uniform(20, 200, (int(wrong.sum()), 2))
    found = adjust_poses(replace(model, pixels=pixels), 0.05, 0.3)
    assert np.linalg.norm((found - model.T_map_cam)[:, :3, 3], axis=1).max() < 0.02


def test_frames_that_see_nothing_keep_their_poses():
    model = street()
    alone = model.keep(model.frame_of != 3)
    found = adjust_poses(disturbed(alone, 0.02, 0.1), 0.05, 0.3)
    np.testing.assert_allclose(found[3], disturbed(alone, 0.02, 0.1).T_map_cam[3], atol=1e-9)
    nothing = model.keep(np.zeros(len(model.point_ids), dtype=bool))
    np.testing.assert_array_equal(adjust_poses(nothing, 0.05, 0.3), model.T_map_cam)
