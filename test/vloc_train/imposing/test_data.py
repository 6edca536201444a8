from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
import tiny_drive
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.vectors import to_vectors
from vloc_train.imposing.data import KeyedFrames, KeyedSampler, TrainingData
from vloc_train.training.frames import cache_frames

scenes = st.lists(st.integers(1, 40), min_size=1, max_size=3)


def epoch_of(sampler: KeyedSampler, epoch: int):
    sampler.set_epoch(epoch)
    return list(sampler)


@given(scenes, st.integers(1, 9), st.integers(0, 5))
def test_every_frame_once_an_epoch_and_the_last_batch_filled_up(sizes, batch, epoch):
    sampler = KeyedSampler(sizes, batch, seed=1)
    batches = epoch_of(sampler, epoch)
    assert len(batches) == len(sampler)
    assert [b[0][1] for b in batches] == list(range(len(batches)))
    for b in batches:
        assert len(b) == batch and len({item[2] for item in b}) == 1 and {item[0] for item in b} == {epoch}
    for scene, size in enumerate(sizes):
        seen = [item[3] for b in batches for item in b if item[2] == scene]
        assert set(seen) == set(range(size)) and len(seen) == -(-size // batch) * batch
        counts = np.bincount(seen)
        assert counts.max() - counts.min() <= 1  # the filling spreads evenly


@given(scenes, st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_processes_share_each_global_batch(sizes, share, world, epoch):
    whole = epoch_of(KeyedSampler(sizes, share * world, seed=7), epoch)
    parts = [epoch_of(KeyedSampler(sizes, share * world, 7, rank, world), epoch) for rank in range(world)]
    for step, batch in enumerate(whole):
        pieces = [part[step] for part in parts]
        assert [len(p) for p in pieces] == [share] * world
        assert sorted(itertools.chain(*pieces)) == sorted(batch)


def test_epochs_and_seeds_have_their_own_order():
    sampler = KeyedSampler([30], 5, seed=0)
    first = epoch_of(sampler, 0)
    assert epoch_of(sampler, 0) == first == epoch_of(KeyedSampler([30], 5, seed=0), 0)
    frames = [[i[3] for b in epoch for i in b] for epoch in (first, epoch_of(sampler, 1))]
    assert frames[0] != frames[1]
    assert [i[3] for b in epoch_of(KeyedSampler([30], 5, seed=1), 0) for i in b] != frames[0]


@given(scenes, st.integers(1, 6), st.integers(0, 60))
def test_a_resumed_run_goes_on_with_the_next_batch(sizes, batch, steps):
    whole = KeyedSampler(sizes, batch, seed=3)
    n = len(whole)
    order = [b for epoch in range(steps // n + 2) for b in epoch_of(whole, epoch)]
    resumed = KeyedSampler(sizes, batch, seed=3, position=lambda: steps)
    assert list(resumed) == order[steps : (steps // n + 1) * n]


def test_a_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(DatasetError, match="multiple of the 3"):
        KeyedSampler([10], 8, 0, 0, 3)


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
    batches = [next(iter(TrainingData(data.scenes, data.settings, workers).train_dataloader())) for workers in (0, 1)]
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
