from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_drive
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.vectors import to_vectors
from vloc_train.retrieval.sampling import GroupSampler, KeyedImages, SamplingSettings, pairs_of, triplets_of
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.sampling import TrainingData


def drives(counts=(12, 10), scenes=("a", "a"), **more):
    return [tiny_drive.frames(n, s, phase=0.05 * i) for i, (n, s) in enumerate(zip(counts, scenes, strict=True))]


def sampler(sets=None, seed=1, rank=0, world=1, position=None, **changes):
    settings = SamplingSettings(**{"batch_size": 8, "group_size": 4, "near_m": 8.0, **changes})
    return GroupSampler(drives() if sets is None else sets, settings, seed, rank, world, position)


def epoch_of(made, epoch):
    made.set_epoch(epoch)
    return list(made)


@pytest.mark.parametrize(("near_m", "near_deg"), [(None, None), (8.0, None), (8.0, 25.0), (None, 40.0)])
def test_neighbours_are_near_and_of_the_place(near_m, near_deg):
    sets = [*drives((12, 10, 9), ("a", "a", "b"))]
    made = sampler(sets, near_m=near_m, near_deg=near_deg)
    for batch in epoch_of(made, 0):
        assert len(batch) == 8 and [i.slot for i in batch] == list(range(8))
        for group in range(2):
            first, *others = [i for i in batch if i.group == group]
            assert len(others) == 3
            T = sets[first.drive].T_map_cam[first.frame]
            for other in others:
                U = sets[other.drive].T_map_cam[other.frame]
                assert sets[other.drive].scene == sets[first.drive].scene
                assert near_m is None or np.linalg.norm(T[:3, 3] - U[:3, 3]) <= near_m
                angle = math.degrees(math.acos(np.clip((np.trace(T[:3, :3].T @ U[:3, :3]) - 1) / 2, -1, 1)))
                assert near_deg is None or angle <= near_deg + 1e-4


def test_neighbours_come_from_other_drives_first():
    sets = drives((12, 12, 12), ("a", "a", "a"))
    for batch in epoch_of(sampler(sets, batch_size=6, group_size=3, near_m=9.0), 3):
        for group in range(2):
            assert {i.drive for i in batch if i.group == group} == {0, 1, 2}
    alone = [
        {i.drive for i in b if i.group == 0}
        for e in range(8)
        for b in epoch_of(sampler(sets, batch_size=6, group_size=3, near_m=9.0, across_drives=False), e)
    ]
    assert any(len(found) < 3 for found in alone)


def test_a_lone_frame_stands_there_more_than_once():
    sets = [tiny_drive.frames(2, "a"), tiny_drive.frames(8, "b")]
    rows = sampler(sets, near_m=1.0).neighbourhood(0, np.random.default_rng(0))
    assert list(rows) == [0, 0, 0, 0]


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 5))
def test_an_epoch_is_as_many_images_as_frames(a, b, epoch):
    sets = drives((a, b))
    made = sampler(sets)
    batches = epoch_of(made, epoch)
    assert len(batches) == len(made) == max(1, -(-(a + b) // 8))
    firsts = [(i.drive, i.frame) for batch in batches for i in batch if i.slot % 4 == 0]
    assert len(set(firsts)) == min(len(firsts), a + b)


def test_seeds_epochs_and_resumed_runs():
    made = sampler()
    first = epoch_of(made, 0)
    assert epoch_of(made, 0) == first == epoch_of(sampler(), 0)
    order = lambda batches: [(i.drive, i.frame) for b in batches for i in b]  # noqa: E731
    assert order(epoch_of(made, 1)) != order(first) != order(epoch_of(sampler(seed=2), 0))
    steps = len(first) + 1
    assert list(sampler(position=lambda: steps)) == epoch_of(made, 1)[1:]


@pytest.mark.parametrize("world", [1, 2])
def test_processes_share_neighbourhoods(world):
    whole = epoch_of(sampler(batch_size=16), 2)
    parts = [epoch_of(sampler(batch_size=16, rank=rank, world=world), 2) for rank in range(world)]
    for step, batch in enumerate(whole):
        shared = [item for part in parts for item in part[step]]
        assert sorted(shared, key=lambda i: i.slot) == batch
        for part in parts:
            assert all(sum(i.group == g for i in part[step]) in (0, 4) for g in range(4))
    with pytest.raises(DatasetError, match="multiple of the 3"):
        sampler(world=3)


def test_items_are_the_same_whoever_asks():
    item = epoch_of(sampler(), 1)[1][5]
    one, other = (KeyedImages(drives(), SamplingSettings(), AugmentSettings(), 4) for _ in range(2))
    a, b = one[item], other[item]
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2:] == b[2:]
    assert a[0].shape == (3, 36, 64) and a[0].dtype == torch.uint8 and a[1].shape == (7,)
    assert not torch.equal(a[0], KeyedImages(drives(), SamplingSettings(), AugmentSettings(), 5)[item][0])


def test_the_loader_makes_batches():
    data = KeyedImages(drives((12, 10), ("a", "b")), SamplingSettings(8, 4, 8.0), AugmentSettings(), 0)
    batch = next(iter(TrainingData(data).train_dataloader()))
    assert batch.images.shape == (8, 3, 36, 64) and batch.poses.shape == (8, 7)
    assert batch.group.tolist() == [0] * 4 + [1] * 4 and set(batch.place.tolist()) <= {0, 1}


def scattered(seed, count=8):
    rng = np.random.default_rng(seed)
    T = np.tile(np.eye(4), (count, 1, 1))
    yaw = rng.uniform(-2, 2, count)
    T[:, 0, 0], T[:, 0, 1], T[:, 1, 0], T[:, 1, 1] = np.cos(yaw), -np.sin(yaw), np.sin(yaw), np.cos(yaw)
    T[:, :2, 3] = rng.uniform(0, 20, (count, 2))
    place, group = torch.from_numpy(rng.integers(0, 2, count // 2)).repeat_interleave(2), torch.arange(count) // 2
    return T, torch.from_numpy(to_vectors(T)), place, group


limits = st.none() | st.floats(1.0, 12.0)


@given(st.integers(0, 1000), limits, st.none() | st.floats(10, 120), st.none() | st.floats(12.0, 20.0))
def test_triplets_are_what_the_settings_say(seed, positive_m, positive_deg, negative_m):
    T, poses, place, group = scattered(seed)
    s = SamplingSettings(8, 2, compare="batch", positive_m=positive_m, positive_deg=positive_deg, negative_m=negative_m)
    found = {tuple(row) for row in triplets_of(poses, place, group, s).tolist()}
    for q in range(8):
        for p in range(8):
            for n in range(8):
                away = lambda i, q=q: float(np.linalg.norm(T[q, :3, 3] - T[i, :3, 3]))  # noqa: E731
                trace = np.trace(T[q, :3, :3].T @ T[p, :3, :3])
                angle = math.degrees(math.acos(np.clip((trace - 1) / 2, -1, 1)))
                good = (
                    q != p
                    and place[q] == place[p]
                    and (positive_m is None or away(p) <= positive_m)
                    and (positive_deg is None or angle <= positive_deg)
                    and (place[q] != place[n] or (negative_m is not None and away(n) > negative_m))
                )
                assert good == ((q, p, n) in found)
    paper = triplets_of(poses, place, group, SamplingSettings(8, 2, positive_m=positive_m, negative_m=negative_m))
    everything = triplets_of(
        poses, place, group, SamplingSettings(8, 2, compare="batch", positive_m=positive_m, negative_m=negative_m)
    )
    everything = {tuple(row) for row in everything.tolist()}
    wanted = {(q, p) for q, p, _ in everything if group[q] == group[p]}
    assert [(q, p) for q, p, _ in paper.tolist()] == sorted(wanted)  # each once
    assert {tuple(row) for row in paper.tolist()} <= everything


def test_pairs():
    place, group = torch.tensor([0, 0, 1, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 2, 2])
    rows, elsewhere = pairs_of(place, group, "group")
    assert rows.tolist() == [[0, 1], [2, 3], [4, 5]] and not elsewhere.any()
    rows, elsewhere = pairs_of(place, group, "batch")
    assert len(rows) == 15 and bool((rows[:, 0] < rows[:, 1]).all())
    assert elsewhere.tolist() == [bool(place[a] != place[b]) for a, b in rows.tolist()]


def test_settings_that_contradict_each_other():
    with pytest.raises(ConfigError, match="multiple of group_size"):
        SamplingSettings(10, 4)
    with pytest.raises(ConfigError, match="negative_m"):
        SamplingSettings(positive_m=5.0, negative_m=3.0)
