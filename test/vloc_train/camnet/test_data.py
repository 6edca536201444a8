from __future__ import annotations

import numpy as np
import pytest
import tiny_drive
import torch

from vloc_ros.geometry.vectors import from_vectors, to_vectors
from vloc_ros.localizers.camnet.relative import mirrored_poses, relative_poses
from vloc_ros.types import CameraModel
from vloc_train.camnet.data import KeyedGroups, Place, mirrored_image, mirrored_transform
from vloc_train.camnet.mining import mine
from vloc_train.camnet.settings import MiningSettings, TrainSettings
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.sampling import TrainingData

PLAIN = AugmentSettings(photometric=0.0, blur=0.0, erase=0.0, rotate_deg=(0.0, 0.0, 0.0))


def groups(tmp_path, **changes) -> KeyedGroups:
    base = {"mining": MiningSettings(similarity="assumed_depth", reach_m=12.0), "augment": PLAIN, "batch_size": 8}
    settings = TrainSettings(**{**base, **changes})
    frames = tiny_drive.frames(40)
    place = Place(frames, np.zeros(40, np.int64), mine(frames, settings.mining, 0, tmp_path))
    return KeyedGroups([place], settings)


def seen(T: np.ndarray, camera: CameraModel, mirrored_world: bool) -> np.ndarray:
    """What a camera sees of a painted cylinder, or of its mirror image: colours by the direction of the wall point."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)
    rays = rays @ T[:3, :3].T
    p = T[:3, 3]
    a, b = (rays[..., :2] ** 2).sum(-1), (rays[..., :2] * p[:2]).sum(-1)
    hit = p + rays * ((-b + np.sqrt(b * b - a * ((p[:2] ** 2).sum() - 900.0))) / a)[..., None]
    if mirrored_world:
        hit = hit * [-1.0, 1.0, 1.0]
    azimuth = np.arctan2(hit[..., 1], hit[..., 0])
    waves = [np.cos(k * azimuth + 0.1 * hit[..., 2] + k) for k in (3, 5, 8)]
    return np.round(128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("cx", [31.5, 29.0])
def test_a_mirrored_image_is_the_view_of_the_mirrored_pose_in_the_mirrored_world(cx):
    camera = CameraModel(64, 36, 42.0, 42.0, cx, 17.5)
    for T in tiny_drive.circle(5, phase=0.3):
        expected = seen(mirrored_transform(T), camera, mirrored_world=True)
        found = mirrored_image(seen(T, camera, mirrored_world=False), camera)
        columns = slice(0, round(2 * cx) + 1)  # what lies beyond was never seen
        np.testing.assert_allclose(found[:, columns].astype(int), expected[:, columns].astype(int), atol=1)


def test_transforms_and_vectors_mirror_alike():
    T = tiny_drive.circle(9, phase=0.2)
    found = from_vectors(mirrored_poses(torch.from_numpy(to_vectors(T))))
    np.testing.assert_allclose(found, mirrored_transform(T), atol=1e-5)


def test_an_item_is_an_anchor_with_a_partner_of_each_category(tmp_path):
    made = groups(tmp_path, flip=False)
    item, images, poses, overlap, valid, frames = made[(0, 0, 0, 5)]
    place = made.places[0]
    assert item == (0, 0, 0, 5) and images.shape == (4, 3, 36, 64) and images.dtype == torch.uint8
    assert frames[0] == made.anchors[0][5] == 5 and bool(valid.all())
    for i, frame in enumerate(frames.tolist()):
        np.testing.assert_array_equal(images[i].permute(1, 2, 0), place.frames.images[frame])
        np.testing.assert_allclose(poses[i], to_vectors(place.frames.T_map_cam[frame]), atol=1e-6)
    table = place.pairs
    for category, frame in enumerate(frames[1:].tolist()):
        row = np.flatnonzero((table.pairs == (5, frame)).all(axis=1))[0]
        assert table.category[row] == category
        np.testing.assert_array_equal(overlap[category], table.overlap[row])


def test_items_depend_on_seed_and_epoch_alone(tmp_path):
    made = groups(tmp_path, augment=AugmentSettings())
    one, again, other = made[(0, 0, 0, 5)], made[(0, 0, 0, 5)], made[(1, 0, 0, 5)]
    assert torch.equal(one[1], again[1]) and torch.equal(one[2], again[2])
    assert not torch.equal(one[1], other[1])


def test_a_batch_is_mirrored_as_a_whole_and_so_are_its_relative_poses(tmp_path):
    made, plain = groups(tmp_path), groups(tmp_path, flip=False)
    flags = [made.mirrors(0, step) for step in range(40)]
    assert 8 <= sum(flags) <= 32
    step = flags.index(True)
    batch = made.collate([made[(0, step, 0, i)] for i in range(8)])
    unmirrored = plain.collate([plain[(0, step, 0, i)] for i in range(8)])
    assert batch.mirrored and not unmirrored.mirrored and batch.images.shape == (8, 4, 3, 36, 64)
    assert np.array_equal(batch.frames, unmirrored.frames) and torch.equal(batch.overlap, unmirrored.overlap)
    assert torch.equal(batch.images, unmirrored.images.flip(-1))  # this camera's principal point is the centre
    found = relative_poses(batch.poses[:, :1], batch.poses[:, 1:])
    expected = mirrored_poses(relative_poses(unmirrored.poses[:, :1], unmirrored.poses[:, 1:]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_an_epoch_has_every_anchor_once(tmp_path):
    data = TrainingData(groups(tmp_path))
    batches = list(data.train_dataloader())
    assert [len(b.images) for b in batches] == [8] * 5
    assert sorted(np.concatenate([b.frames[:, 0] for b in batches]).tolist()) == list(range(40))
