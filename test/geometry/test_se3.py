"""SE(3) against scipy's matrix exponential; covariance transport against Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from vloc_ros.errors import GeometryError
from vloc_ros.geometry import se3
from vloc_ros.geometry.rotations import skew, so3_exp

ANGLES = st.one_of(
    st.floats(0.0, np.pi - 1e-3), st.sampled_from([0.0, 1e-12, 1e-8, 1e-5, 0.0999, 0.1001, np.pi - 1e-6])
)
AXES = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 1e-3)
POINTS = st.tuples(*[st.floats(-100, 100)] * 3)


@st.composite
def twists(draw) -> np.ndarray:
    axis = np.array(draw(AXES))
    return np.concatenate([draw(POINTS), axis / np.linalg.norm(axis) * draw(ANGLES)])


def hat(xi: np.ndarray) -> np.ndarray:
    out = np.zeros((4, 4))
    out[:3, :3], out[:3, 3] = skew(xi[3:]), xi[:3]
    return out


@given(twists())
def test_exp_is_the_matrix_exponential(xi):
    np.testing.assert_allclose(se3.se3_exp(xi), expm(hat(xi)), atol=1e-11)


@given(twists())
def test_log_inverts_exp(xi):
    np.testing.assert_allclose(se3.se3_log(se3.se3_exp(xi)), xi, rtol=1e-8, atol=1e-10)


@given(twists(), twists())
def test_adjoint_carries_a_twist_to_the_other_side(a, b):
    T, xi = se3.se3_exp(a), b * 0.1
    left = T @ se3.se3_exp(xi) @ se3.inverse(T)
    np.testing.assert_allclose(left, se3.se3_exp(se3.adjoint(T) @ xi), atol=1e-9)


@given(twists(), POINTS)
def test_inverse_and_points(xi, p):
    T = se3.se3_exp(xi)
    np.testing.assert_allclose(se3.inverse(T) @ T, np.eye(4), atol=1e-11)
    moved = se3.transform_points(T, p)
    np.testing.assert_allclose(moved, (T @ [*p, 1.0])[:3], atol=1e-11)
    np.testing.assert_allclose(se3.transform_points(se3.inverse(T), moved), p, atol=1e-10)


def test_batches_equal_single_calls():
    rng = np.random.default_rng(0)
    xi = rng.normal(size=(2, 3, 6))
    T = se3.se3_exp(xi)
    np.testing.assert_allclose(T[1, 2], se3.se3_exp(xi[1, 2]), atol=1e-15)
    np.testing.assert_allclose(se3.se3_log(T), xi, atol=1e-12)
    p = rng.normal(size=(2, 3, 5, 3))
    np.testing.assert_allclose(se3.transform_points(T, p)[1, 2], se3.transform_points(T[1, 2], p[1, 2]), atol=1e-14)
    np.testing.assert_allclose(se3.adjoint(T)[0, 1], se3.adjoint(T[0, 1]), atol=1e-15)
    with pytest.raises(GeometryError, match="batched"):
        se3.transform_points(T, [1.0, 2.0, 3.0])


def random_covariance(rng: np.random.Generator, sigma_t: float, sigma_r: float) -> np.ndarray:
    A = rng.normal(size=(6, 6)) * np.array([sigma_t] * 3 + [sigma_r] * 3)[:, None]
    return A @ A.T


def perturbed(T: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Estimates whose pose error is exactly e."""
    return se3.make_transform(so3_exp(e[:, 3:]) @ T[:3, :3], T[:3, 3] + e[:, :3])


def test_pose_error_is_what_was_put_in():
    rng = np.random.default_rng(1)
    T = se3.se3_exp(rng.normal(size=6))
    e = rng.normal(size=(20, 6)) * 0.5
    np.testing.assert_allclose(se3.pose_error(perturbed(T, e), T), e, atol=1e-12)


def test_covariance_of_base_agrees_with_monte_carlo():
    rng = np.random.default_rng(2)
    T_map_cam = se3.se3_exp(np.array([10.0, -4.0, 2.0, 0.7, -1.2, 0.4]))
    T_cam_base = se3.se3_exp(np.array([0.3, 1.6, -2.1, 1.2, -1.2, 1.2]))
    S = random_covariance(rng, 0.05, 0.005)
    e = rng.multivariate_normal(np.zeros(6), S, size=200_000)
    errors = se3.pose_error(perturbed(T_map_cam, e) @ T_cam_base, T_map_cam @ T_cam_base)
    measured = np.cov(errors.T)
    predicted = se3.covariance_of_base(T_map_cam, S, T_cam_base)
    scale = np.sqrt(np.outer(np.diag(predicted), np.diag(predicted)))
    np.testing.assert_allclose(measured / scale, predicted / scale, atol=0.02)
    # The transport matters here: the untouched covariance would fail.
    assert np.abs(S / scale - predicted / scale).max() > 0.1


@given(twists(), twists())
def test_covariance_goes_to_the_base_and_back(a, b):
    S = random_covariance(np.random.default_rng(3), 0.3, 0.02)
    T_map_cam, T_cam_base = se3.se3_exp(a), se3.se3_exp(b * 0.02)
    there = se3.covariance_of_base(T_map_cam, S, T_cam_base)
    back = se3.covariance_of_base(T_map_cam @ T_cam_base, there, se3.inverse(T_cam_base))
    np.testing.assert_allclose(back, S, atol=1e-10)


def test_nees_of_consistent_errors_has_mean_six():
    rng = np.random.default_rng(4)
    S = random_covariance(rng, 0.5, 0.02)
    e = rng.multivariate_normal(np.zeros(6), S, size=50_000)
    values = se3.nees(e, S)
    assert values.shape == (50_000,)
    assert abs(values.mean() - 6.0) < 0.1
    assert abs((values <= 12.59).mean() - 0.95) < 0.005
    np.testing.assert_allclose(values[0], e[0] @ np.linalg.inv(S) @ e[0])
    np.testing.assert_allclose(se3.nees(e[:3], np.stack([S, 4 * S, S])), values[:3] * [1, 0.25, 1])
    np.testing.assert_allclose(se3.nees(e[0], S), values[0])


def test_nees_refuses_a_singular_covariance():
    with pytest.raises(GeometryError, match="singular"):
        se3.nees(np.ones(6), np.diag([1.0, 1, 1, 1, 1, 0]))


def test_wrong_shapes_are_named():
    with pytest.raises(GeometryError, match="4x4"):
        se3.inverse(np.eye(3))
    with pytest.raises(GeometryError, match="6 values"):
        se3.se3_exp(np.zeros(3))
    with pytest.raises(GeometryError, match="make_transform"):
        se3.make_transform(np.eye(4), np.zeros(3))
