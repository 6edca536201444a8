from __future__ import annotations

import numpy as np
import pytest
import tiny_drive

from vloc_ros.errors import ConfigError, DatasetError
from vloc_train.camnet import mining
from vloc_train.camnet.mining import PairTable, candidate_pairs, mine, pair_similarity
from vloc_train.camnet.settings import MiningSettings
from vloc_train.camnet.similarity import orb_descriptors, orb_similarity

ASSUMED = MiningSettings(similarity="assumed_depth", assumed_depth_m=20.0, reach_m=12.0)


def test_candidates_are_within_reach_and_the_same_again():
    T = tiny_drive.circle(60)
    pairs = candidate_pairs(T, ASSUMED, 0)
    apart = np.linalg.norm(T[pairs[:, 0], :3, 3] - T[pairs[:, 1], :3, 3], axis=1)
    assert apart.max() <= 12.0 and (pairs[:, 0] != pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    # Nothing was left out: every frame of this lap has at most 64 others within reach.
    everything = np.linalg.norm(T[:, None, :3, 3] - T[None, :, :3, 3], axis=-1) <= 12.0
    assert len(pairs) == everything.sum() - 60
    few = MiningSettings(similarity="assumed_depth", reach_m=12.0, candidates=6)
    limited = candidate_pairs(T, few, 0)
    assert np.bincount(limited[:, 0]).tolist() == [6] * 60
    np.testing.assert_array_equal(limited, candidate_pairs(T, few, 0))
    assert not np.array_equal(limited, candidate_pairs(T, few, 1))
    apart = np.linalg.norm(T[limited[:, 0], :3, 3] - T[limited[:, 1], :3, 3], axis=1)
    assert (apart <= few.near_m[1]).sum() >= 3 * 60  # at least half of them near


def test_categories_by_overlap_distance_and_angle(tmp_path):
    frames = tiny_drive.frames(59)  # no multiple of the limits in degrees
    table = mine(frames, ASSUMED, 0, tmp_path)
    T, (one, two) = frames.T_map_cam, table.pairs.T
    apart = np.linalg.norm(T[one, :3, 3] - T[two, :3, 3], axis=1)
    heading = np.degrees(2 * np.arcsin(np.minimum(1.0, apart / 24.0)))  # chord of a circle of 12 m: the turn
    mean = table.overlap.mean(axis=1)
    easy = (mean >= 0.6) & (apart <= 3.0) & (heading <= 10.0)
    moderate = (mean >= 0.3) & (apart <= 8.0) & (heading <= 30.0) & ~easy
    np.testing.assert_array_equal(table.category, np.where(easy, 0, np.where(moderate, 1, 2)))
    assert set(np.unique(table.category)) == {0, 1, 2}
    assert (np.diff(table.pairs[:, 0]) >= 0).all() and table.anchors.tolist() == list(range(59))


def test_draws_one_of_each_category_and_says_what_is_missing():
    pairs = np.array([[0, 1], [0, 2], [0, 3], [1, 0], [1, 2]])
    table = PairTable(pairs, np.ones((5, 2), np.float32), np.array([0, 1, 2, 2, 2], np.int8), np.array([0, 3, 5, 5]))
    rows, valid = table.draw(0, np.random.default_rng(0))
    assert rows.tolist() == [0, 1, 2] and valid.all()
    rows, valid = table.draw(1, np.random.default_rng(0))
    assert set(rows) <= {3, 4} and valid.tolist() == [False, False, True]
    assert table.anchors.tolist() == [0, 1]


def test_similarities_are_cached_and_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    frames = tiny_drive.frames(30)
    monkeypatch.setattr(mining, "_CHUNK", 50)
    calls: list[int] = []
    plain = mining.frustum_overlap

    def counted(*args):
        calls.append(len(args[0]))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(mining, "frustum_overlap", counted)
    with pytest.raises(KeyboardInterrupt):
        mine(frames, ASSUMED, 0, tmp_path)
    first = len(calls)
    table = mine(frames, ASSUMED, 0, tmp_path)
    chunks = -(-len(table.pairs) // 50)
    assert len(calls) - first == 2 * (chunks - 2)  # two chunks, in both directions, were already there
    calls.clear()
    calls += [0] * 10
    again = mine(frames, ASSUMED, 0, tmp_path)
    assert len(calls) == 10
    np.testing.assert_array_equal(again.overlap, table.overlap)
    other = MiningSettings(similarity="assumed_depth", assumed_depth_m=5.0, reach_m=12.0)
    assert not np.array_equal(mine(frames, other, 0, tmp_path).overlap, table.overlap)


def test_depth_where_there_is_any_else_orb():
    frames = tiny_drive.frames(6)
    auto = MiningSettings(grid=4)
    pairs = np.array([[0, 1], [2, 5]])
    assert pair_similarity(frames, auto)[0] == "orb"
    name, overlap = pair_similarity(frames, auto, np.full((6, 16), 20.0))
    assert name == "depth"
    same = MiningSettings(grid=4, similarity="assumed_depth", assumed_depth_m=20.0)
    np.testing.assert_allclose(overlap(pairs), pair_similarity(frames, same)[1](pairs))
    with pytest.raises(DatasetError, match="orb or assumed_depth"):
        pair_similarity(frames, MiningSettings(similarity="depth"))


def test_orb_similarities_of_both_directions():
    frames = tiny_drive.frames(6)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 90, 160, 3), dtype=np.uint8)
    frames = type(frames)(images, frames.T_map_cam, frames.stamps_ns, frames.camera)
    found = pair_similarity(frames, MiningSettings(similarity="orb"))[1](np.array([[0, 1], [3, 3]]))
    a, b = orb_descriptors(images[0]), orb_descriptors(images[1])
    np.testing.assert_allclose(found, [[orb_similarity(a, b), orb_similarity(b, a)], [1.0, 1.0]])


def test_images_out_of_each_others_reach_are_an_error(tmp_path):
    with pytest.raises(DatasetError, match="reach_m"):
        mine(tiny_drive.frames(4), MiningSettings(similarity="assumed_depth", reach_m=1.0), 0, tmp_path)


def test_limits_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match="easy pairs"):
        MiningSettings(overlap=(0.2, 0.5))
