"""The judge: right poses are believed, wrong ones, lines and twins are not, and chance is told apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_points
import torch

from vloc_ros.features.verification import JudgeSettings, Support, decide, judge, refine_and_judge
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import pose_error, se3_exp
from vloc_ros.settings import settings_from_mapping

CAMERA = tiny_points.CAMERA
ALIKE = 0.8


def world(count: int = 300, seen: float = 0.5, noise_px: float = 0.5, seed: int = 0, strangers: int = 200):
    """A cloud in front of a camera at the origin; features at some of its points, and strangers anywhere."""
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform(-4, 4, count), rng.uniform(-3, 3, count), rng.uniform(3, 12, count)])
    look = tiny_points.unit(count, seed)
    pixels, valid = project(CAMERA, points)
    rows = np.flatnonzero(valid & (rng.uniform(size=count) < seen))
    at = np.concatenate([pixels[rows] + rng.normal(0, noise_px, (len(rows), 2)), rng.uniform(0, 240, (strangers, 2))])
    query = tiny_points.described(torch.cat([look[rows], tiny_points.unit(strangers, seed + 99)]), at)
    return points, tiny_points.points_of(look, points), query, len(rows)


def test_a_right_pose_is_believed_and_what_it_rests_on_is_told():
    _, points, query, count = world()
    found = judge(np.eye(4), CAMERA, query, points, ALIKE)
    assert found.support(JudgeSettings()) is Support.STRONG
    assert found.matched >= 0.95 * count and found.accidental < 3 and found.cells > 30
    assert 0.3 < found.error_px < 1.0 and 0.4 < found.share < 0.6
    assert found.score(JudgeSettings()) > 0.8
    np.testing.assert_array_equal(found.ids, np.sort(found.ids))


@pytest.mark.parametrize("off", [(0.5, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0.1, 0), (50.0, 0, 0, 0, 0, 0)])
def test_a_wrong_pose_is_not(off):
    _, points, query, _ = world()
    found = judge(se3_exp(off), CAMERA, query, points, ALIKE)
    assert found.support(JudgeSettings()) is Support.NONE and found.score(JudgeSettings()) < 0.3


def test_what_repeats_everywhere_is_chance():
    """Every point and feature looks the same: there is always one near, and that says nothing."""
    rng = np.random.default_rng(1)
    points, _, _, _ = world(600)
    one = tiny_points.unit(1, 0)
    query = tiny_points.described(one.expand(600, -1), rng.uniform((0, 0), (320, 240), (600, 2)))
    found = judge(np.eye(4), CAMERA, query, tiny_points.points_of(one.expand(600, -1), points), ALIKE)
    assert found.matched > 10 and found.support(JudgeSettings()) is Support.NONE


def test_matches_on_a_line_or_in_a_corner_are_weak_at_most():
    s = np.linspace(-1, 1, 80)[:, None]
    line = np.array([0.0, 0.2, 6.0]) + s * np.array([3.0, 0.4, 1.0])
    corner = np.random.default_rng(2).uniform((-3.0, -2.0, 6.0), (-2.5, -1.6, 7.0), (80, 3))
    look = tiny_points.unit(80, 3)
    for points in (line, corner):
        query = tiny_points.described(look, project(CAMERA, points)[0])
        found = judge(np.eye(4), CAMERA, query, tiny_points.points_of(look, points), ALIKE)
        assert found.matched > 70 and found.support(JudgeSettings()) is Support.WEAK


def patch(low, high, count: int, chance: int = 0, hidden: int = 1000):
    """The evidence where ``count`` points inside shares ``low`` to ``high`` of the image agree, ``chance`` elsewhere by
    luck, and ``hidden`` more are in view and do not."""
    rng = np.random.default_rng(5)
    size = np.array([CAMERA.width, CAMERA.height])
    at = rng.uniform(np.array(low) * size, np.array(high) * size, (count, 2))
    ray = np.column_stack([(at - (CAMERA.cx, CAMERA.cy)) / (CAMERA.fx, CAMERA.fy), np.ones(count)])
    others = np.column_stack([rng.uniform(-1, 1, hidden), rng.uniform(-0.8, 0.8, hidden), np.full(hidden, 4.0)])
    points = np.concatenate([ray * rng.uniform(3, 9, (count, 1)), others])
    look = tiny_points.unit(len(points), 7)
    query = tiny_points.described(look[:count], at)
    found = judge(np.eye(4), CAMERA, query, tiny_points.points_of(look, points), ALIKE)
    return replace(found, matched=found.matched + chance, accidental=found.accidental + chance)


def test_few_of_the_points_in_view_support_a_pose_where_they_are_all_over_the_image():
    """A right pose from a changed view, and one thing that looks like another: as many points, of as many in view."""
    changed, thing = patch((0.05, 0.05), (0.95, 0.95), 40), patch((0.13, 0.17), (0.49, 0.49), 40)
    for found in (changed, thing):
        assert found.matched == 40 and found.share < 0.05 and found.flat > 0.02 and found.cells >= 6
    assert changed.support(JudgeSettings()) is Support.STRONG and thing.support(JudgeSettings()) is Support.WEAK
    # Most of what is in view: it may lie together.
    assert patch((0.13, 0.17), (0.49, 0.49), 40, hidden=20).support(JudgeSettings()) is Support.STRONG
    # What luck put all over the image is no extent.
    assert patch((0.13, 0.17), (0.49, 0.49), 40, chance=40).extent < 0.6 * thing.extent


@pytest.mark.parametrize("seed", range(5))
def test_extent_grows_with_the_parts_and_the_share_and_falls_with_chance(seed):
    rng = np.random.default_rng(seed)
    found = patch((0.05, 0.05), (0.95, 0.95), 40)

    def extent(visible, matched, accidental, cells):
        share = max(matched - accidental, 0.0) / visible
        return replace(found, visible=visible, matched=matched, accidental=accidental, share=share, cells=cells).extent

    visible, matched, cells = int(rng.integers(60, 3000)), int(rng.integers(20, 60)), int(rng.integers(4, 40))
    chance = float(rng.uniform(0.0, 0.5 * matched))
    here = extent(visible, matched, chance, cells)
    kept = matched - chance
    assert here == pytest.approx(cells * kept / matched * (kept / visible) ** 0.25, rel=1e-12)
    assert extent(visible, matched, chance, cells + 1) > here > extent(2 * visible, matched, chance, cells)
    assert extent(visible, matched, chance + 1.0, cells) < here < extent(visible, matched + 1, chance, cells)
    # A quarter as many cells need 256 times the share.
    assert extent(256 * visible, matched, chance, 4 * cells) == pytest.approx(here, rel=1e-12)
    assert extent(visible, matched, float(matched), cells) == extent(visible, 0, 0.0, 0) == 0.0


def test_a_share_of_before_is_read_and_left_out(caplog):
    stored = {"radius_px": 3.0, "least_share": 0.04, "least_cells": 6}
    assert settings_from_mapping(JudgeSettings, stored, "map") == JudgeSettings() and not caplog.records
    assert settings_from_mapping(JudgeSettings, {"least_share": 0.2}, "map") == JudgeSettings()
    assert "least_share" in caplog.text and "ignored" in caplog.text


def test_nothing_to_see_is_no_evidence():
    _, points, query, _ = world()
    empty = query.strongest(0)
    for T, features in ((np.eye(4), empty), (se3_exp([0, 0, 0, 0, np.pi, 0]), query)):
        found = judge(T, CAMERA, features, points, ALIKE)
        assert (found.matched, found.surplus) == (0, 0.0) and found.support(JudgeSettings()) is Support.NONE
        assert refine_and_judge(T, CAMERA, features, points, ALIKE).refined is None


def test_a_pose_nearby_is_improved_and_one_far_away_is_not():
    _, points, query, _ = world(noise_px=0.3)
    near = refine_and_judge(se3_exp([0.1, -0.05, 0.1, 0.01, -0.01, 0.01]), CAMERA, query, points, ALIKE)
    assert near.refined is not None and np.linalg.norm(pose_error(near.T_map_cam, np.eye(4))[:3]) < 0.02
    assert near.evidence.support(JudgeSettings()) is Support.STRONG
    far = refine_and_judge(se3_exp([2.0, 0, 0, 0, 0, 0]), CAMERA, query, points, ALIKE)
    assert far.evidence.support(JudgeSettings()) is Support.NONE


def test_a_prior_s_reach_is_given_point_by_point():
    _, points, query, _ = world(noise_px=0.3)
    start = se3_exp([0.6, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert refine_and_judge(start, CAMERA, query, points, ALIKE).evidence.support(JudgeSettings()) is Support.NONE
    wide = refine_and_judge(start, CAMERA, query, points, ALIKE, radius_px=np.full(len(points), 60.0))
    assert wide.evidence.support(JudgeSettings()) is Support.STRONG


def test_two_places_that_explain_an_image_alike_are_both_not_believed():
    _, points, query, _ = world()
    evidence = judge(np.eye(4), CAMERA, query, points, ALIKE)
    there = se3_exp([20.0, 0, 0, 0, 0, 0])
    weaker = replace(evidence, matched=int(0.7 * evidence.matched))
    weak = replace(evidence, matched=int(0.3 * evidence.matched))
    assert decide([(np.eye(4), evidence)]).support is Support.STRONG
    twins = decide([(np.eye(4), evidence), (there, weaker)])
    assert (twins.best, twins.support, twins.rival) == (0, Support.NONE, 1) and 0.6 < twins.rivalry < 0.8
    assert decide([(there, weak), (np.eye(4), evidence)]).support is Support.STRONG
    # The same pose found twice is no rival of itself; one that is turned is.
    assert decide([(np.eye(4), evidence), (se3_exp(np.full(6, 0.01)), weaker)]).support is Support.STRONG
    assert decide([(np.eye(4), evidence), (se3_exp([0, 0, 0, 0, 1.0, 0]), weaker)]).support is Support.NONE
