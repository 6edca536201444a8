from __future__ import annotations

import numpy as np
import pytest
import tiny_drive
import torch

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.town import Renderer, Town, Traversal, default_camera
from vloc_train.training.augment import AugmentSettings, augment, photometric, virtual_rotation, virtual_step

OFF = AugmentSettings(photometric=0.0, blur=0.0, erase=0.0, rotate_deg=(0.0, 0.0, 0.0))


def noise_image(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 36, 64), dtype=np.uint8))


@pytest.fixture(scope="module")
def scene():
    town = Town(5, 160.0)
    return Traversal(town, 0, traffic=0.0), Renderer(town, default_camera(160, 90), antialias=False, noise=False)


@pytest.mark.parametrize("degrees", [(0.0, 3.0, 0.0), (2.0, 0.0, 0.0), (0.0, 0.0, 4.0), (-1.5, -2.5, 2.0)])
def test_a_virtual_rotation_is_what_the_turned_camera_sees(scene, degrees):
    drive, renderer = scene
    R = so3_exp(np.radians(degrees))
    T = drive.T_map_cam[20]
    turned = T.copy()
    turned[:3, :3] = T[:3, :3] @ R
    before = renderer.render_at(drive, 20, T).rgb
    after = renderer.render_at(drive, 20, turned).rgb.astype(float)
    warped = virtual_rotation(before, renderer.camera, R).astype(float)
    margin = (slice(14, -14), slice(14, -14))
    difference = np.abs(warped - after)[margin].mean(axis=-1)
    unturned = np.abs(before.astype(float) - after)[margin].mean(axis=-1)
    wrong = np.abs(virtual_rotation(before, renderer.camera, R.T).astype(float) - after)[margin].mean(axis=-1)
    assert np.median(difference) < 2.0  # of 255; edges and fine textures are interpolated differently
    assert difference.mean() < 0.5 * unturned.mean() < wrong.mean()


@pytest.mark.parametrize("step", [0.5, -0.4])
def test_a_virtual_step_comes_near_what_the_moved_camera_sees(scene, step):
    drive, renderer = scene
    before, after, wrong = [], [], []
    for frame in range(10, 250, 40):
        T = drive.T_map_cam[frame]
        moved = T.copy()
        moved[:3, 3] += step * T[:3, 0]
        image = renderer.render_at(drive, frame, T).rgb
        seen = renderer.render_at(drive, frame, moved).rgb.astype(float)
        before.append(np.abs(image.astype(float) - seen).mean())
        after.append(np.abs(virtual_step(image, renderer.camera, step, OFF).astype(float) - seen).mean())
        wrong.append(np.abs(virtual_step(image, renderer.camera, -step, OFF).astype(float) - seen).mean())
    # The street is a model, not the scene: it explains a good part of the change, not all of it.
    assert np.mean(after) < 0.8 * np.mean(before) < np.mean(wrong)


def test_a_step_moves_the_pose_to_the_side():
    T = tiny_drive.circle(5)[2]
    settings = AugmentSettings(photometric=0.0, blur=0.0, erase=0.0, rotate_deg=(0.0, 0.0, 0.0), shift_m=0.5)
    steps = []
    for seed in range(8):
        _, moved = augment(tiny_drive.picture(T), T, tiny_drive.CAMERA, settings, np.random.default_rng(seed))
        offset = T[:3, :3].T @ (moved[:3, 3] - T[:3, 3])
        np.testing.assert_allclose(moved[:3, :3], T[:3, :3])
        np.testing.assert_allclose(offset[1:], 0.0, atol=1e-12)
        steps.append(offset[0])
    assert max(map(abs, steps)) <= 0.5 and min(steps) < -0.05 and max(steps) > 0.05


def test_no_rotation_keeps_the_image():
    image = tiny_drive.picture(tiny_drive.circle(1)[0])
    np.testing.assert_array_equal(virtual_rotation(image, tiny_drive.CAMERA, np.eye(3)), image)
    np.testing.assert_array_equal(virtual_step(image, tiny_drive.CAMERA, 0.0, OFF), image)


def test_augment_turns_image_and_pose_together():
    T = tiny_drive.circle(5)[2]
    image = tiny_drive.picture(T)
    settings = AugmentSettings(photometric=0.0, blur=0.0, erase=0.0, rotate_deg=(2.0, 6.0, 2.0))
    for seed in range(4):
        found, turned = augment(image, T, tiny_drive.CAMERA, settings, np.random.default_rng(seed))
        np.testing.assert_allclose(turned[:3, 3], T[:3, 3])
        np.testing.assert_allclose(turned[:3, :3] @ turned[:3, :3].T, np.eye(3), atol=1e-12)
        assert not np.allclose(turned, T, atol=1e-4)
        expected = tiny_drive.picture(turned).astype(float)
        inner = (slice(6, -6), slice(9, -9))
        difference = np.abs(found.permute(1, 2, 0).numpy().astype(float) - expected)[inner]
        assert difference.mean() < 3.0 < np.abs(image.astype(float) - expected)[inner].mean()
    np.testing.assert_array_equal(T, tiny_drive.circle(5)[2])  # the input is not touched


def test_everything_off_changes_nothing():
    T = tiny_drive.circle(1)[0]
    image = tiny_drive.picture(T)
    found, pose = augment(image, T, tiny_drive.CAMERA, OFF, np.random.default_rng(0))
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), image)
    np.testing.assert_array_equal(pose, T)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_photometric_changes_keep_shape_and_follow_the_generator(strength, share):
    settings = AugmentSettings(photometric=strength, blur=share, erase=share)
    image = noise_image()
    kept = image.clone()
    first, again, other = (photometric(image, settings, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.shape == (3, 36, 64) and first.dtype == torch.uint8
    assert torch.equal(first, again) and torch.equal(image, kept)
    assert torch.equal(first, other) == (strength == share == 0.0)


def test_the_shares_of_blur_and_erasing_are_kept():
    image = noise_image()
    blurred = erased = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        blurred += not torch.equal(photometric(image, AugmentSettings(photometric=0, blur=0.3, erase=0.0), rng), image)
        erased += not torch.equal(photometric(image, AugmentSettings(photometric=0, blur=0.0, erase=0.6), rng), image)
    assert 0.2 < blurred / 200 < 0.4 and 0.5 < erased / 200 < 0.7


def test_the_smallest_allowed_image_can_be_erased():
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    for seed in range(50):
        photometric(image, AugmentSettings(photometric=1.0, blur=1.0, erase=1.0), np.random.default_rng(seed))
