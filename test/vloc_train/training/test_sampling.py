"""Keyed batches: every item once an epoch, shared by processes, and found again by a resumed run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import DatasetError
from vloc_train.training.sampling import KeyedDataset, KeyedSampler, TrainingData

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


class Numbers(KeyedDataset[torch.Tensor]):
    """Items that are their keys."""

    def sizes(self):
        return [5, 11]

    def __getitem__(self, item):
        return torch.tensor(item)

    def collate(self, rows):
        return torch.stack(rows)


@pytest.mark.parametrize(("batch_size", "lengths"), [(4, [4] * 5), (64, [11, 11])])
def test_a_loader_has_every_item_and_no_batch_is_larger_than_a_scene(batch_size, lengths):
    batches = list(TrainingData(Numbers(batch_size, 0)).train_dataloader())
    assert [len(b) for b in batches] == lengths
    assert {tuple(row[2:].tolist()) for b in batches for row in b} == {(0, i) for i in range(5)} | {
        (1, i) for i in range(11)
    }
