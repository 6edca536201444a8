from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import tiny_drive
import torch

from vloc_ros.geometry.vectors import to_vectors
from vloc_train.imposing.data import KeyedFrames
from vloc_train.training.frames import cache_frames
from vloc_train.training.sampling import TrainingData


def keyed(**changes) -> KeyedFrames:
    frames = [tiny_drive.frames(10, "a"), tiny_drive.frames(8, "b", paint=1)]
    return KeyedFrames(frames, tiny_drive.settings(**changes))


def same(a, b) -> bool:
    return a[0] == b[0] and all(torch.equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))


def test_items_are_the_same_whoever_asks():
    one, other = keyed(), keyed()
    items = [(0, 0, 0, 3), (4, 2, 1, 7), (0, 1, 0, 3)]
    backwards = [other[item] for item in reversed(items)][::-1]
    for item, found in zip(items, backwards, strict=True):
        assert same(one[item], found)
    # The step is where an image is used, not part of it.
    assert torch.equal(one[items[0]][1], one[items[2]][1])
    assert not torch.equal(one[(0, 0, 0, 3)][1], one[(1, 0, 0, 3)][1])
    assert not torch.equal(one[(0, 0, 0, 3)][3], one[(0, 0, 1, 3)][3])
    assert not torch.equal(one[(0, 0, 0, 3)][3], keyed(seed=1)[(0, 0, 0, 3)][3])


def test_batches_are_the_same_from_another_process(tmp_path):
    # OpenCV's threads exist here, as they do in a training: a worker that was forked would wait for them forever.
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (900, 900), interpolation=cv2.INTER_AREA)
    mapped = cache_frames([tiny_drive.drive(12)], tiny_drive.preprocess(), tmp_path, "a").select(np.arange(2, 10))
    data = KeyedFrames([mapped, tiny_drive.frames(8, "b", paint=1)], tiny_drive.settings())
    batches = [next(iter(TrainingData(data, workers).train_dataloader())) for workers in (0, 1)]
    mine, theirs = (dataclasses.asdict(batch) for batch in batches)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name], name


def test_shapes_of_items_and_batches():
    data = keyed()
    s = data.settings
    _, image, truth, normal, uniform = data[(0, 0, 1, 2)]
    assert image.shape == (3, 36, 64) and image.dtype == torch.uint8 and truth.shape == (7,)
    assert normal.shape == (s.search.refinements - 1, 16, 6) and uniform.shape == normal.shape[:2]
    batch = data.collate([data[(0, 5, 1, f)] for f in (1, 2, 3)])
    assert batch.images.shape == (3, 3, 36, 64) and batch.truth.shape == (3, 7) and batch.scene == 1
    assert batch.initial.shape == (32, 7) and batch.initial_noise.abs().max() <= 1
    assert batch.rival == 0 and batch.rival_poses.shape == (32, 7)
    training = to_vectors(data.scenes[1].T_map_cam)
    assert all((training == pose).all(axis=1).any() for pose in batch.initial.numpy())


def test_first_candidates_belong_to_the_step_so_that_processes_share_them():
    data = keyed()
    a, b, c = (data.collate([data[item]]) for item in [(0, 5, 0, 1), (0, 5, 0, 2), (0, 6, 0, 1)])
    assert torch.equal(a.initial, b.initial) and torch.equal(a.initial_noise, b.initial_noise)
    assert not torch.equal(a.initial, c.initial)
