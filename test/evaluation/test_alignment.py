"""Alignments: exact similarities come back, no rotation is better, reflections stay out, lines are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import GeometryError
from vloc_ros.evaluation.alignment import Similarity, align, umeyama
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform

SEEDS = st.integers(0, 2**32 - 1)


def cloud(rng, count=20, spread=(30.0, 8.0, 1.0)):
    return rng.normal(size=(count, 3)) * spread + rng.normal(size=3) * 100


def similarity(rng, scale=1.0):
    return Similarity(so3_exp(rng.normal(size=3)), rng.normal(size=3) * 50, scale)


def squares(a, b):
    return float(((a - b) ** 2).sum())


@given(SEEDS, st.floats(0.05, 20.0))
def test_an_exact_similarity_comes_back(seed, scale):
    rng = np.random.default_rng(seed)
    points, made = cloud(rng), similarity(rng, scale)
    found = umeyama(points, made.points(points), with_scale=True)
    assert found.scale == pytest.approx(scale, rel=1e-9)
    np.testing.assert_allclose(found.rotation, made.rotation, atol=1e-9)
    np.testing.assert_allclose(found.points(points), made.points(points), atol=1e-8)


@given(SEEDS, st.booleans())
def test_no_small_change_fits_better(seed, with_scale):
    rng = np.random.default_rng(seed)
    source, made = cloud(rng), similarity(rng, 1.3 if with_scale else 1.0)
    target = made.points(source) + rng.normal(size=source.shape)
    best = umeyama(source, target, with_scale)
    cost = squares(best.points(source), target)
    for _ in range(20):
        scale = best.scale * (1 + with_scale * 1e-3 * rng.normal())
        other = Similarity(
            so3_exp(1e-3 * rng.normal(size=3)) @ best.rotation, best.translation + 1e-2 * rng.normal(size=3), scale
        )
        assert squares(other.points(source), target) >= cost - 1e-9 * cost


@given(SEEDS)
def test_a_reflection_gives_the_best_rotation_all_the_same(seed):
    rng = np.random.default_rng(seed)
    source = cloud(rng)
    target = source * (1.0, 1.0, -1.0)
    found = umeyama(source, target)
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)
    cost = squares(found.points(source), target)
    for _ in range(50):
        rotation = so3_exp(rng.normal(size=3) * rng.choice([1e-2, 1.0]))
        turned = rotation @ found.rotation
        other = Similarity(turned, target.mean(axis=0) - turned @ source.mean(axis=0))
        assert squares(other.points(source), target) >= cost * (1 - 1e-9)


@given(SEEDS)
def test_a_plane_is_enough(seed):
    rng = np.random.default_rng(seed)
    source, made = cloud(rng, spread=(20.0, 5.0, 0.0)), similarity(rng)
    found = umeyama(source, made.points(source))
    np.testing.assert_allclose(found.points(source), made.points(source), atol=1e-8)
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)


@given(SEEDS, st.floats(0.0, 1e5))
def test_a_straight_line_is_refused(seed, away):
    rng = np.random.default_rng(seed)
    direction = so3_exp(rng.normal(size=3))[:, 0]
    line = away + np.sort(rng.uniform(0, 500, 30))[:, None] * direction
    with pytest.raises(GeometryError, match="on a line"):
        umeyama(line, line + rng.normal(size=line.shape))
    with pytest.raises(GeometryError, match="on a line"):
        umeyama(np.tile(line[:1], (5, 1)), line[:5])


def test_two_poses_are_too_few():
    with pytest.raises(GeometryError, match="at least 3"):
        umeyama(np.eye(3)[:2], np.eye(3)[:2])


@given(SEEDS)
def test_of_poses(seed):
    rng = np.random.default_rng(seed)
    T = make_transform(so3_exp(rng.normal(size=(12, 3))), cloud(rng, 12))
    made = similarity(rng)
    moved = make_transform(made.rotation @ T[:, :3, :3], made.points(T[:, :3, 3]))
    for how in ("se3", "sim3", "origin"):
        found = align(T, moved, how)
        np.testing.assert_allclose(found.poses(T), moved, atol=1e-7)
    np.testing.assert_array_equal(align(T, moved, "none").poses(T), T)
    with pytest.raises(GeometryError, match="at least one"):
        align(T[:0], moved[:0], "none")
