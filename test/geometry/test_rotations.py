"""Rotations against scipy and against their own inverses, near zero and near pi included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vloc_ros.errors import GeometryError
from vloc_ros.geometry import rotations as rot

# Angles where formulas break: zero, tiny, series limits, close to pi.
ANGLES = st.one_of(
    st.floats(0.0, np.pi - 1e-3),
    st.sampled_from([0.0, 1e-300, 1e-16, 1e-12, 1e-9, 1e-8, 1e-6, 1e-4, 0.1, np.pi - 1e-3, np.pi - 1e-6]),
)
AXES = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 1e-3)


def vector(axis: tuple[float, ...], angle: float) -> np.ndarray:
    return np.array(axis) / np.linalg.norm(axis) * angle


@given(AXES, ANGLES)
def test_exp_agrees_with_scipy_and_is_a_rotation(axis, angle):
    R = rot.so3_exp(vector(axis, angle))
    np.testing.assert_allclose(R, Rotation.from_rotvec(vector(axis, angle)).as_matrix(), atol=1e-14)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)


@given(AXES, ANGLES)
def test_log_inverts_exp(axis, angle):
    phi = vector(axis, angle)
    np.testing.assert_allclose(rot.so3_log(rot.so3_exp(phi)), phi, rtol=1e-9, atol=1e-15)


@given(AXES)
def test_log_at_exactly_pi_gives_the_axis_up_to_sign(axis):
    phi = vector(axis, np.pi)
    out = rot.so3_log(rot.so3_exp(phi))
    assert min(np.abs(out - phi).max(), np.abs(out + phi).max()) < 1e-12


@given(AXES, ANGLES)
def test_quaternions_agree_with_scipy(axis, angle):
    R = rot.so3_exp(vector(axis, angle))
    q = rot.matrix_to_quaternion(R)
    expected = Rotation.from_matrix(R).as_quat()
    np.testing.assert_allclose(q, expected if expected[3] >= 0 else -expected, atol=1e-14)
    assert q[3] >= 0
    np.testing.assert_allclose(rot.quaternion_to_matrix(q), R, atol=1e-14)
    np.testing.assert_allclose(rot.quaternion_to_matrix(-3.0 * q), R, atol=1e-14)


def test_quaternions_of_half_turns_about_every_axis():
    for axis in np.eye(3):
        R = rot.so3_exp(axis * np.pi)
        np.testing.assert_allclose(np.abs(rot.matrix_to_quaternion(R)), [*axis, 0.0], atol=1e-15)


@given(AXES, ANGLES, AXES, ANGLES)
def test_product_and_conjugate_of_quaternions(axis_a, angle_a, axis_b, angle_b):
    Ra, Rb = rot.so3_exp(vector(axis_a, angle_a)), rot.so3_exp(vector(axis_b, angle_b))
    qa, qb = rot.matrix_to_quaternion(Ra), rot.matrix_to_quaternion(Rb)
    product = rot.quaternion_multiply(qa, rot.quaternion_conjugate(qb))
    np.testing.assert_allclose(rot.quaternion_to_matrix(product), Ra @ Rb.T, atol=1e-14)


@given(AXES, ANGLES, AXES)
def test_rotation_angle_is_exact_even_when_tiny(axis, angle, other):
    Rb = rot.so3_exp(np.array(other))
    Ra = rot.so3_exp(vector(axis, angle)) @ Rb
    np.testing.assert_allclose(rot.rotation_angle(Ra, Rb), angle, rtol=1e-7, atol=2e-15)


@given(st.floats(-3.1, 3.1), st.floats(-1.57, 1.57), st.floats(-3.1, 3.1))
def test_euler_angles_are_about_fixed_axes(roll, pitch, yaw):
    R = rot.euler_to_matrix([roll, pitch, yaw])
    np.testing.assert_allclose(R, Rotation.from_euler("xyz", [roll, pitch, yaw]).as_matrix(), atol=1e-14)
    np.testing.assert_allclose(rot.matrix_to_euler(R), [roll, pitch, yaw], atol=1e-10)


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2])
def test_gimbal_lock_gives_angles_of_the_same_rotation(pitch):
    R = rot.euler_to_matrix([0.3, pitch, 1.1])
    rpy = rot.matrix_to_euler(R)
    assert rpy[0] == 0.0
    np.testing.assert_allclose(rot.euler_to_matrix(rpy), R, atol=1e-8)


@given(AXES, ANGLES, AXES, st.floats(0, 1))
def test_slerp_turns_at_constant_speed_along_the_shorter_arc(axis, angle, start, fraction):
    R0 = rot.so3_exp(np.array(start))
    phi = vector(axis, angle)
    qa, qb = rot.matrix_to_quaternion(R0), rot.matrix_to_quaternion(R0 @ rot.so3_exp(phi))
    expected = R0 @ rot.so3_exp(fraction * phi)
    for sign in (1.0, -1.0):
        R = rot.quaternion_to_matrix(rot.slerp(qa, sign * qb, fraction))
        assert rot.rotation_angle(R, expected) < 1e-9


def test_skew_is_the_cross_product():
    v, u = np.random.default_rng(0).normal(size=(2, 7, 3))
    np.testing.assert_allclose((rot.skew(v) @ u[..., None])[..., 0], np.cross(v, u), atol=1e-15)


def test_batches_equal_single_calls():
    phi = np.random.default_rng(1).normal(size=(2, 5, 3))
    R = rot.so3_exp(phi)
    assert R.shape == (2, 5, 3, 3)
    np.testing.assert_array_equal(R[1, 3], rot.so3_exp(phi[1, 3]))
    np.testing.assert_array_equal(rot.so3_log(R)[1, 3], rot.so3_log(R[1, 3]))
    assert rot.matrix_to_euler(R).shape == (2, 5, 3)
    assert rot.rotation_angle(R, R[0, 0]).shape == (2, 5)


@pytest.mark.parametrize("q", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 1]])
def test_zero_and_non_finite_quaternions_are_refused(q):
    with pytest.raises(GeometryError, match="quaternion"):
        rot.quaternion_to_matrix(q)
    with pytest.raises(GeometryError, match="quaternion"):
        rot.quaternion_to_matrix([[0, 0, 0, 1], q])


def test_wrong_shapes_are_named():
    with pytest.raises(GeometryError, match=r"so3_exp.*3 values"):
        rot.so3_exp([1.0, 2.0])
    with pytest.raises(GeometryError, match=r"3x3"):
        rot.matrix_to_quaternion(np.eye(4))
