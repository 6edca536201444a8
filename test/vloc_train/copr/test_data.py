from __future__ import annotations

import numpy as np
import pytest
import tiny_drive
import torch

from vloc_ros.errors import DatasetError
from vloc_ros.geometry.vectors import to_vectors
from vloc_train.copr.data import Described, KeyedPairs, Pairs
from vloc_train.copr.settings import PairSettings
from vloc_train.training.sampling import TrainingData


def described(counts=(12, 10), places=(0, 0)) -> Described:
    poses = [to_vectors(tiny_drive.circle(n, phase=0.05 * i)) for i, n in enumerate(counts)]
    return Described(
        torch.arange(sum(counts), dtype=torch.float32)[:, None].expand(-1, 4),
        torch.from_numpy(np.concatenate(poses)),
        np.repeat(np.arange(len(counts)), counts),
        np.repeat(places, counts),
    )


@pytest.mark.parametrize("across", [True, False])
def test_pairs_keep_the_limits(across):
    of = described()
    settings = PairSettings(radius_m=9.0, max_angle_deg=50.0, across_drives=across)
    pairs = Pairs(of, settings)
    drawn = pairs.draw(np.repeat(pairs.anchors, 5), np.random.default_rng(0))
    a, b = drawn.T
    assert (a != b).all()
    p = of.poses.double().numpy()
    assert (np.linalg.norm(p[a, :3] - p[b, :3], axis=1) <= 9.0).all()
    turn = 2 * np.degrees(np.arccos(np.clip(np.abs((p[a, 3:] * p[b, 3:]).sum(axis=1)), 0, 1)))
    assert (turn <= 50.0 + 1e-3).all()
    assert across or (of.drive[a] == of.drive[b]).all()
    assert not across or (of.drive[a] != of.drive[b]).any()


def test_pairs_are_of_one_place():
    of = described(places=(0, 1))
    drawn = Pairs(of, PairSettings(radius_m=9.0)).draw(np.arange(22), np.random.default_rng(1))
    assert (of.place[drawn[:, 0]] == of.place[drawn[:, 1]]).all()


def test_frames_too_far_apart_are_refused():
    with pytest.raises(DatasetError, match="radius_m"):
        Pairs(described((4, 4)), PairSettings(radius_m=0.01))


def test_every_frame_is_an_anchor_as_often_as_asked_and_a_step_has_its_pairs():
    data = KeyedPairs(Pairs(described(), PairSettings(radius_m=9.0)), 11, repeats=2, seed=5)
    batches = list(TrainingData(data).train_dataloader())
    assert all(b.shape == (11, 2) for b in batches)
    assert np.bincount(torch.cat(batches)[:, 0].numpy()).tolist() == [2] * 22
    items = list(data.sampler())[2]
    assert torch.equal(data.__getitems__(items), batches[2])
    assert not torch.equal(data.__getitems__([(1, *item[1:]) for item in items]), batches[2])
