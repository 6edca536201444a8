"""Means of rotations against an independent optimum, and their invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vloc_ros.errors import GeometryError
from vloc_ros.geometry.averaging import average_poses, markley_mean
from vloc_ros.geometry.rotations import quaternion_to_matrix, rotation_angle, so3_exp
from vloc_ros.geometry.se3 import make_transform


def cloud(seed: int, count: int = 30, spread: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mean = Rotation.from_rotvec(rng.normal(size=3))
    q = (Rotation.from_rotvec(rng.normal(size=(count, 3)) * spread) * mean).as_quat()
    return q, rng.uniform(0.01, 1.0, count)


@given(st.integers(0, 10_000))
def test_agrees_with_scipy(seed):
    # scipy's Rotation.mean is the same criterion, written independently.
    q, w = cloud(seed)
    expected = Rotation.from_quat(q).mean(weights=w).as_matrix()
    assert rotation_angle(quaternion_to_matrix(markley_mean(q, w)), expected) < 1e-10


@given(st.integers(0, 10_000))
def test_maximises_the_criterion(seed):
    # Eq. 12 of the paper: no other unit quaternion has a larger q^T M q.
    q, w = cloud(seed, count=8, spread=1.0)
    M = (q * w[:, None]).T @ q
    best = markley_mean(q, w)
    others = np.random.default_rng(seed).normal(size=(200, 4))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    assert (np.einsum("ni,ij,nj->n", others, M, others) <= best @ M @ best + 1e-12).all()


@given(st.integers(0, 10_000))
def test_signs_and_scale_do_not_matter(seed):
    q, w = cloud(seed)
    flips = np.random.default_rng(seed).choice([-1.0, 1.0], size=(len(q), 1))
    np.testing.assert_allclose(markley_mean(q * flips * 2.0, w * 7.0), markley_mean(q, w), atol=1e-10)


def test_weights_move_the_mean():
    a, b = np.array([0.0, 0, 0, 1]), Rotation.from_rotvec([0, 0, 0.2]).as_quat()
    middle = Rotation.from_quat(markley_mean([a, b])).as_rotvec()
    np.testing.assert_allclose(middle, [0, 0, 0.1], atol=1e-12)
    assert Rotation.from_quat(markley_mean([a, b], [1, 3])).as_rotvec()[2] > 0.14
    np.testing.assert_allclose(markley_mean([a, b], [0, 1]), b, atol=1e-12)


def test_average_of_poses():
    T = make_transform(so3_exp([[0, 0, 0.1], [0, 0, 0.3]]), [[0.0, 0, 0], [4.0, 0, 8]])
    mean = average_poses(T, [1, 3])
    np.testing.assert_allclose(mean[:3, 3], [3, 0, 6])
    assert 0.1 < Rotation.from_matrix(mean[:3, :3]).as_rotvec()[2] < 0.3
    np.testing.assert_allclose(average_poses(T[:1]), T[0], atol=1e-15)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, np.nan]])
def test_bad_weights_are_refused(weights):
    with pytest.raises(GeometryError, match="weights"):
        markley_mean([[0, 0, 0, 1], [0, 0, 0, 1]], weights)


def test_nothing_to_average_is_refused():
    with pytest.raises(GeometryError, match="at least one"):
        markley_mean(np.zeros((0, 4)))
    with pytest.raises(GeometryError, match="N, 4, 4"):
        average_poses(np.eye(4))
