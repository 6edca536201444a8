"""Matches by descriptor alone and near projections, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_points import CAMERA, described, points_of, unit

from bench.simulated_device import simulated_device
from vloc_ros.features import matching
from vloc_ros.features.matching import alike_in_all, alike_pairs, match_descriptors, match_points, near_pairs
from vloc_ros.features.points import MapPoints
from vloc_ros.geometry.cameras import project


def test_mutual_neighbours_with_a_clear_second():
    a = unit(60, 0)
    order = torch.from_numpy(np.random.default_rng(1).permutation(60))
    pairs, quotients = match_descriptors(a, a[order], 0.8)
    assert len(pairs) == 60 and (order.numpy()[pairs[:, 1]] == pairs[:, 0]).all()
    assert (np.diff(quotients) >= 0).all()
    assert len(match_descriptors(a, torch.cat([a, a]), 0.8)[0]) == 0  # nothing tells the copies apart
    assert match_descriptors(a[:0], a)[0].shape == (0, 2) and len(match_descriptors(a, a[:1])[0]) == 1


def test_groups_do_not_spoil_each_other_and_several_descriptors_of_a_point_are_one_point():
    a = unit(40, 2)
    query = described(a, np.zeros((40, 2)))
    # The same 40 places twice, and every point of the second copy knows another look of itself as well.
    twice = torch.cat([a, a, unit(40, 3)])
    owner = np.concatenate([np.arange(80), np.arange(40, 80)])
    points = MapPoints(
        np.arange(80), np.zeros((80, 3)), np.zeros((80, 3, 3)), np.full(80, np.nan), twice, owner, (80, 120)
    )
    first, second = np.arange(40), np.arange(40, 80)
    # By its other look a point is found just as well, and its own two looks do not compete.
    other = described(twice[80:], np.zeros((40, 2)))
    asked = [(query, points, [first, second]), (query, points, [np.arange(80)]), (other, points, [second])]
    apart, together, looks = match_points(asked, 0.8)
    for group, (pairs, _) in zip((first, second), apart, strict=True):
        assert len(pairs) == 40 and (group[pairs[:, 0]] == pairs[:, 1]).all()
    assert len(together[0][0]) == 0 and len(looks[0][0]) == 40


def test_candidates_near_a_pose_agree_with_a_loop():
    rng = np.random.default_rng(4)
    points = np.column_stack([rng.uniform(-3, 3, 200), rng.uniform(-2, 2, 200), rng.uniform(2, 9, 200)])
    projected, valid = project(CAMERA, points)
    rows = np.flatnonzero(valid)
    look = unit(200, 5)
    # Features near their points, some far off, in another order, and each place once more with a stranger's look.
    chosen = rng.permutation(rows)[:80]
    pixels = projected[chosen] + rng.normal(0, 4.0, (len(chosen), 2))
    query = described(torch.cat([look[chosen], unit(len(chosen), 6)]), np.concatenate([pixels, pixels]))
    candidates = alike_pairs(query, points_of(look, points), 0.7)
    pairs, distance, cosines = candidates.near(np.eye(4), CAMERA, query, points_of(look, points), 6.0, 1.0)
    expected = [
        (point, number)
        for number, point in enumerate(chosen)
        if np.linalg.norm(query.features.pixels[number] - projected[point]) <= 6.0
    ]
    assert sorted(map(tuple, pairs.tolist())) == sorted(expected)
    assert (distance <= 6.0).all() and (cosines > 0.99).all()
    assert (np.diff(pairs[:, 0]) > 0).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radius", [2.0, 9.0, 60.0, "each"])
def test_compared_where_they_are_near_or_everywhere_is_the_same(seed, radius):
    """Points that look different from different sides, points out of view, sizes that are known and not."""
    rng = np.random.default_rng(seed)
    at = np.column_stack([rng.uniform(-4, 4, 150), rng.uniform(-3, 3, 150), rng.uniform(-1, 9, 150)])
    extents = np.where(rng.uniform(size=150) < 0.3, np.nan, rng.uniform(0.05, 0.5, 150))
    owner = np.concatenate([np.arange(150), np.arange(40, 90), np.arange(60, 70)])
    points = MapPoints(
        np.arange(150), at, np.zeros((150, 3, 3)), extents, unit(210, seed + 1), owner, (150, 200, 210)
    )  # fmt: skip
    look = points.prototypes[torch.from_numpy(rng.integers(0, 210, 400))] + 0.4 * unit(400, seed + 2)
    query = described(torch.nn.functional.normalize(look, dim=-1), rng.uniform((0, 0), (320, 240), (400, 2)))
    reach = rng.uniform(0, 50, 150) if radius == "each" else radius
    asked = (np.eye(4), CAMERA, query, points, reach, 1.0)
    expected = alike_pairs(query, points, 0.1).near(*asked)
    found = near_pairs(*asked, 0.1)
    assert len(found[0]) >= (0 if radius == 2.0 else 10)
    for mine, other, digits in zip(found, expected, (0, 0, 1e-6), strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=digits)
    with simulated_device() as (device, counted):
        there = replace(query, unit=query.unit.to(device))
        there.__dict__["on_host"] = query.on_host  # made-up features have no bytes
        counted()
        for mine, other in zip(near_pairs(np.eye(4), CAMERA, there, points, reach, 1.0, 0.1), found, strict=True):
            np.testing.assert_array_equal(mine, other)
        assert (counted().waits, counted().launches) == (0, 0)
    nothing = near_pairs(np.eye(4), CAMERA, described(look[:0], np.zeros((0, 2))), points, reach, 1.0, 0.1)
    assert [len(part) for part in nothing] == [0, 0, 0]


def test_a_feature_of_another_size_than_the_point_should_have_is_none():
    look, pixels = unit(1, 7), np.array([[159.5, 119.5]])
    at = np.array([[0.0, 0.0, 5.0]])  # 0.16 m there are 8 px
    for extent, expected in ((0.16, 1), (0.3, 1), (0.5, 0), (0.05, 0), (np.nan, 1)):
        points, query = points_of(look, at, extent), described(look, pixels)
        near = alike_pairs(query, points, 0.9).near(np.eye(4), CAMERA, query, points, 3.0, 1.0)
        assert len(near[0]) == expected, extent


def test_selected_points_keep_their_own_descriptors():
    look = unit(9, 8)
    owner = np.array([0, 1, 2, 3, 4, 1, 3, 4, 3])
    points = MapPoints(
        np.arange(10, 15), np.arange(15.0).reshape(5, 3), np.zeros((5, 3, 3)), np.arange(5.0), look, owner, (5, 8, 9)
    )
    part = points.select(np.array([1, 3]))
    assert part.ids.tolist() == [11, 13] and part.rounds == (2, 4, 5)
    assert part.owner.tolist() == [0, 1, 0, 1, 1]
    torch.testing.assert_close(part.prototypes, look[[1, 3, 5, 6, 8]])
    assert list(part.further()) == [(2, 4), (4, 5)]


def test_on_a_device_the_same_look_alike_even_where_it_keeps_too_few_places(monkeypatch):
    look = unit(30, 9)
    points, query = points_of(look, np.zeros((30, 3))), described(look, np.zeros((30, 2)))
    second = described(look[:7], np.zeros((7, 2)))
    wanted = [alike_pairs(q, points, 0.3) for q in (query, second)]
    for places in (8, 1):
        monkeypatch.setattr(matching, "_PLACES", places)
        with simulated_device() as (device, counted):
            there = replace(points, prototypes=look.to(device))
            asked = [(replace(q, unit=q.unit.to(device)), there) for q in (query, second)]
            counted()
            found = alike_in_all(asked, 0.3)
            assert counted().waits <= 1 + (places == 1) * len(asked)
        for a, b in zip(found, wanted, strict=True):
            assert len(a.rows) > 0
            np.testing.assert_array_equal(a.rows, b.rows)
            np.testing.assert_array_equal(a.features, b.features)
            np.testing.assert_array_equal(a.cosines, b.cosines)
