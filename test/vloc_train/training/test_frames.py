from __future__ import annotations

import dataclasses
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import tiny_drive

from vloc_ros.errors import CameraMismatchError, DatasetError
from vloc_ros.types import CameraModel
from vloc_train.training.frames import cache_frames, keyed_rng


def test_keyed_numbers_depend_on_the_key_alone():
    a, b, c = keyed_rng(1, 2, 3), keyed_rng(1, 2, 3), keyed_rng(1, 3, 2)
    first = a.random(5)
    np.testing.assert_array_equal(first, b.random(5))
    assert not np.array_equal(first, c.random(5))


def test_the_cache_is_made_once_and_serves_again(tmp_path, monkeypatch):
    drives = [tiny_drive.drive(6), tiny_drive.drive(5, "second", phase=0.2)]
    first = cache_frames(drives, tiny_drive.preprocess(), tmp_path, "place")
    assert len(first) == 11 and first.scene == "place" and first.images.shape == (11, 36, 64, 3)
    np.testing.assert_array_equal(first.images[7], drives[1].image(1))
    np.testing.assert_array_equal(first.T_map_cam[6:], drives[1].T_map_cam)

    def forbidden(self):
        raise AssertionError("images were read again")

    monkeypatch.setattr(tiny_drive.Pictures, "frames", forbidden)
    again = cache_frames(drives, tiny_drive.preprocess(), tmp_path, "place")
    np.testing.assert_array_equal(again.images, first.images)
    with pytest.raises(AssertionError, match="read again"):
        cache_frames([drives[0]], tiny_drive.preprocess(), tmp_path, "place")


@pytest.mark.parametrize("changed", [0, 5])
def test_other_images_with_the_same_poses_are_not_taken_from_the_cache(tmp_path, monkeypatch, changed):
    drives = [tiny_drive.drive(6)]
    old = cache_frames(drives, tiny_drive.preprocess(), tmp_path)
    image = tiny_drive.Pictures.image
    monkeypatch.setattr(
        tiny_drive.Pictures, "image", lambda self, i: 255 - image(self, i) if i == changed else image(self, i)
    )
    new = cache_frames(drives, tiny_drive.preprocess(), tmp_path)
    np.testing.assert_array_equal(new.images[changed], 255 - old.images[changed])


def test_an_interrupted_cache_is_made_again(tmp_path, monkeypatch):
    drives = [tiny_drive.drive(6)]

    def broken(self):
        yield 0, self.image(0)
        raise OSError("pulled out")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_drive.Pictures, "frames", broken)
        with pytest.raises(OSError, match="pulled out"):
            cache_frames(drives, tiny_drive.preprocess(), tmp_path)
    assert not list(tmp_path.iterdir())
    found = cache_frames(drives, tiny_drive.preprocess(), tmp_path)
    np.testing.assert_array_equal(found.images[5], drives[0].image(5))


def test_what_cannot_be_trained_on(tmp_path):
    with pytest.raises(DatasetError, match="nothing"):
        cache_frames([], tiny_drive.preprocess(), tmp_path)
    empty = tiny_drive.drive(3).select(np.array([], dtype=np.int64))
    with pytest.raises(DatasetError, match="lap"):
        cache_frames([empty], tiny_drive.preprocess(), tmp_path)
    lost = tiny_drive.drive(4)
    lost.T_map_cam[2, 0, 3] = np.nan
    with pytest.raises(DatasetError, match="frame 2"):
        cache_frames([lost], tiny_drive.preprocess(), tmp_path)
    c = tiny_drive.CAMERA
    other = dataclasses.replace(
        tiny_drive.drive(4), camera=CameraModel(c.width, c.height, 1.5 * c.fx, 1.5 * c.fy, c.cx, c.cy)
    )
    with pytest.raises(CameraMismatchError):
        cache_frames([tiny_drive.drive(4), other], tiny_drive.preprocess(), tmp_path)


def test_a_cache_travels_by_name(tmp_path):
    cached = cache_frames([tiny_drive.drive(12)], tiny_drive.preprocess(), tmp_path)
    part = cached.select(np.arange(1, 12, 2)).select(np.array([4, 0, 2]))
    sent = bytes(ForkingPickler.dumps(part.images))  # as a worker process gets it
    assert len(sent) < 1000 < part.images[0].nbytes
    for images in (part.images, ForkingPickler.loads(sent)):
        np.testing.assert_array_equal(images, np.array(cached.images)[[9, 1, 5]])
        assert images.shape == (3, *cached.images.shape[1:]) and len(images) == 3
        np.testing.assert_array_equal(images[1:], np.array(cached.images)[[1, 5]])


def test_selecting_frames():
    frames = tiny_drive.frames(10)
    some = frames.select(np.array([2, 5]))
    np.testing.assert_array_equal(some.images, frames.images[[2, 5]])
    np.testing.assert_array_equal(some.stamps_ns, frames.stamps_ns[[2, 5]])
    np.testing.assert_array_equal(some.T_map_cam, frames.T_map_cam[[2, 5]])
