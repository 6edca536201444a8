"""Relative poses against matrices, and mirrored images against real geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import inverse, make_transform
from vloc_ros.geometry.vectors import from_vectors, to_vectors
from vloc_ros.localizers.camnet.relative import (
    absolute_poses,
    mirrored_poses,
    nearest_poses,
    pose_distance,
    relative_poses,
    rotation_half_turns,
)

NUMBER = st.floats(-3.0, 3.0, allow_nan=False)
TRANSFORM = st.lists(NUMBER, min_size=6, max_size=6).map(
    lambda v: make_transform(so3_exp(np.array(v[:3])), 5.0 * np.array(v[3:]))
)


def vector(T: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(to_vectors(T).astype(np.float64))


@settings(max_examples=60, deadline=None)
@given(TRANSFORM, TRANSFORM)
def test_body_frame_is_the_product_of_transforms(one, two):
    found = from_vectors(relative_poses(vector(one), vector(two), "body"))
    np.testing.assert_allclose(found, inverse(one) @ two, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(TRANSFORM, TRANSFORM)
def test_world_frame_is_the_papers(one, two):
    found = relative_poses(vector(one), vector(two), "world")
    np.testing.assert_allclose(found[:3], two[:3, 3] - one[:3, 3], atol=2e-5)
    np.testing.assert_allclose(from_vectors(found)[:3, :3], one[:3, :3].T @ two[:3, :3], atol=2e-5)
    assert float(found[6]) >= 0.0


@settings(max_examples=60, deadline=None)
@given(TRANSFORM, TRANSFORM, st.sampled_from(["body", "world"]), st.floats(0.2, 4.0))
def test_the_query_comes_back_from_the_reference(one, two, frame, length):
    relative = relative_poses(vector(one), vector(two), frame)
    relative = torch.cat((relative[:3], length * relative[3:]))  # regressors do not give unit quaternions
    np.testing.assert_allclose(from_vectors(absolute_poses(vector(two), relative, frame)), one, atol=3e-5)


@settings(max_examples=60, deadline=None)
@given(TRANSFORM, TRANSFORM, st.lists(NUMBER, min_size=3, max_size=3))
def test_mirrored_poses_are_where_the_mirrored_camera_stands(one, two, point):
    """The camera seen in a mirror sees the mirrored point at the mirrored column; pairs mirror with their images."""
    S = np.diag([-1.0, 1.0, 1.0, 1.0])
    T = from_vectors(mirrored_poses(vector(one)))
    np.testing.assert_allclose(T, S @ one @ S, atol=2e-5)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0, abs=1e-6)
    p = np.array([*point, 1.0])
    seen, mirrored = inverse(one) @ p, inverse(T) @ S @ p
    np.testing.assert_allclose(mirrored[:3], seen[:3] * [-1.0, 1.0, 1.0], atol=1e-4)
    pair = relative_poses(mirrored_poses(vector(one)), mirrored_poses(vector(two)), "body")
    relative = from_vectors(relative_poses(vector(one), vector(two), "body"))
    np.testing.assert_allclose(from_vectors(pair), S @ relative @ S, atol=3e-5)
    np.testing.assert_allclose(from_vectors(mirrored_poses(mirrored_poses(vector(one)))), one, atol=2e-5)


def test_half_turns():
    turn = so3_exp(np.array([0.0, 0.0, np.pi / 2]))
    one, two = vector(np.eye(4)), vector(make_transform(turn, np.zeros(3)))
    assert float(rotation_half_turns(one[3:], two[3:])) == pytest.approx(0.5, abs=1e-6)
    assert float(rotation_half_turns(one[3:], -two[3:])) == pytest.approx(0.5, abs=1e-6)
    assert float(pose_distance(one, two, 18.0)) == pytest.approx(9.0, abs=1e-5)


def test_nearest_poses_are_those_of_the_distance():
    rng = np.random.default_rng(0)
    T = make_transform(so3_exp(rng.normal(0, 2, (40, 3))), rng.normal(0, 3, (40, 3)))
    references, poses = vector(T[:30]), vector(T[30:])
    for weight in (0.0, 1.0, 18.0):
        expected = pose_distance(poses[:, None], references[None], weight).argmin(dim=1)
        assert nearest_poses(poses, references, weight).tolist() == expected.tolist()
    excluded = torch.zeros(10, 30, dtype=torch.bool)
    first = nearest_poses(poses, references, 1.0)
    excluded[torch.arange(10), first] = True
    second = nearest_poses(poses, references, 1.0, excluded)
    assert (first != second).all()
    distance = pose_distance(poses[:, None], references[None], 1.0)
    assert second.tolist() == distance.argsort(dim=1)[:, 1].tolist()
