from __future__ import annotations

import numpy as np
import pytest
import tiny_drive

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.types import CameraModel
from vloc_train.camnet.similarity import frustum_overlap, orb_descriptors, orb_similarity
from vloc_train.training.depth import grid_pixels

CAMERA = CameraModel(64, 36, 42.0, 40.0, 30.0, 18.5)


def pose(x: float = 0.0, z: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    return make_transform(so3_exp(np.array([0.0, np.radians(yaw_deg), 0.0])), np.array([x, 0.0, z]))


def transcribed(T_1, T_2, depth, camera, n=10) -> float:
    """Eq. 2 with the translation turned into camera 2, point by point."""
    inside = 0
    for k, (u, v) in enumerate(grid_pixels(camera, n)):
        X = np.array([u, v, 1.0])
        point = T_2[:3, :3].T @ (T_1[:3, :3] @ np.linalg.inv(camera.K) @ X * depth[k] + T_1[:3, 3] - T_2[:3, 3])
        if point[2] <= 0:
            continue
        x, y, _ = camera.K @ (point / point[2])
        inside += -0.5 <= x <= camera.width - 0.5 and -0.5 <= y <= camera.height - 0.5
    return inside / n**2


@pytest.mark.parametrize("seed", range(5))
def test_overlap_is_eq_2(seed):
    rng = np.random.default_rng(seed)
    one = make_transform(so3_exp(rng.normal(0, 0.3, (4, 3))), rng.normal(0, 2, (4, 3)))
    two = make_transform(so3_exp(rng.normal(0, 0.3, (4, 3))), rng.normal(0, 2, (4, 3)))
    depth = rng.uniform(1, 20, (4, 100))
    expected = [transcribed(a, b, d, CAMERA) for a, b, d in zip(one, two, depth, strict=True)]
    np.testing.assert_allclose(frustum_overlap(one, two, depth, CAMERA), expected)


def test_overlap_of_known_views():
    depth = np.full((1, 100), 10.0)

    def overlap(a, b, d=depth):
        return float(frustum_overlap(a[None], b[None], d, CAMERA)[0])

    assert overlap(pose(), pose()) == 1.0
    assert overlap(pose(), pose(yaw_deg=180.0)) == 0.0
    assert overlap(pose(), pose(z=20.0)) == 0.0  # everything lies behind
    # Driving on loses the borders, backing up keeps everything: the two directions differ.
    assert overlap(pose(), pose(z=3.0)) < 0.7 and overlap(pose(z=3.0), pose()) == 1.0
    # Half an image to the side at 10 m: 32 pixels are 32 / 42 * 10 m.
    assert overlap(pose(), pose(x=10 * 32 / 42)) == pytest.approx(0.5)
    # The sky moves with the rotation only.
    sky = np.full((1, 100), np.inf)
    assert overlap(pose(), pose(x=5.0, z=5.0), sky) == 1.0


def test_unknown_depth_is_left_out():
    depth = np.full((1, 100), 10.0)
    depth[0, ::2] = np.nan
    depth[0, 1] = 0.0
    T = pose()[None]
    assert float(frustum_overlap(T, T, depth, CAMERA)[0]) == 1.0
    assert float(frustum_overlap(T, T, np.full((1, 100), np.nan), CAMERA)[0]) == 0.0


def test_grid_covers_the_image_evenly():
    pixels = grid_pixels(CAMERA, 10)
    np.testing.assert_allclose(pixels.mean(axis=0), [31.5, 17.5])
    np.testing.assert_allclose(pixels[0], [2.7, 1.3])
    np.testing.assert_allclose(np.diff(pixels[:10, 0]), 6.4)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (90, 160, 3), dtype=np.uint8)


def test_orb_similarity_is_eq_3():
    a, b = orb_descriptors(noise(0)), orb_descriptors(noise(1))
    assert a.shape[1] == 32 and len(a) > 50
    assert orb_similarity(a, a) == 1.0
    # By hand: the nearest Hamming distance of each descriptor, and the share below the threshold.
    bits = np.unpackbits(a, axis=1).astype(int), np.unpackbits(b, axis=1).astype(int)
    nearest = np.array([(row != bits[1]).sum(axis=1).min() for row in bits[0]])
    for threshold in (30, 50, 70):
        assert orb_similarity(a, b, threshold) == pytest.approx(float((nearest < threshold).mean()))
    assert orb_similarity(a, b, 20) < 0.1


def test_orb_of_images_without_a_corner_is_no_similarity():
    flat = np.full((36, 64, 3), 90, np.uint8)
    assert orb_descriptors(flat).shape == (0, 32)
    assert orb_similarity(orb_descriptors(flat), orb_descriptors(noise(0))) == 0.0
    assert orb_similarity(orb_descriptors(noise(0)), orb_descriptors(flat)) == 0.0


def test_orb_reads_small_images():
    assert orb_descriptors(noise(2)[: tiny_drive.HEIGHT, : tiny_drive.WIDTH]).shape[0] > 0
