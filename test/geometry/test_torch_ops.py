"""The torch twins against the float64 numpy functions; gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.geometry import averaging, rotations, se3
from vloc_ros.geometry import torch_ops as ops

ANGLES = st.one_of(st.floats(0.0, np.pi - 1e-3), st.sampled_from([0.0, 1e-12, 1e-8, 1e-5, 1e-4, 0.0999, 0.1001, 3.141]))
AXES = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 1e-3)


@st.composite
def twists(draw) -> np.ndarray:
    axis = np.array(draw(AXES))
    rho = draw(st.tuples(*[st.floats(-50, 50)] * 3))
    return np.concatenate([rho, axis / np.linalg.norm(axis) * draw(ANGLES)])


@given(twists())
def test_float64_agrees_with_numpy(xi):
    t = torch.tensor(xi)
    T = se3.se3_exp(xi)
    np.testing.assert_allclose(ops.se3_exp(t), T, atol=1e-12)
    np.testing.assert_allclose(ops.so3_exp(t[3:]), T[:3, :3], atol=1e-14)
    np.testing.assert_allclose(ops.se3_log(torch.tensor(T)), se3.se3_log(T), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(
        ops.so3_log(torch.tensor(T[:3, :3])), rotations.so3_log(T[:3, :3]), rtol=1e-9, atol=1e-15
    )
    q = rotations.matrix_to_quaternion(T[:3, :3])
    np.testing.assert_allclose(ops.matrix_to_quaternion(torch.tensor(T[:3, :3])), q, atol=1e-14)
    np.testing.assert_allclose(ops.quaternion_to_matrix(torch.tensor(2 * q)), T[:3, :3], atol=1e-14)
    sign = np.sign(q @ ops.quaternion_from_rotation_vector(t[3:]).numpy())
    np.testing.assert_allclose(sign * ops.quaternion_from_rotation_vector(t[3:]).numpy(), q, atol=1e-14)


@given(twists())
def test_float32_is_accurate_to_its_resolution(xi):
    xi[:3] *= 0.02
    t = torch.tensor(xi, dtype=torch.float32)
    T = ops.se3_exp(t)
    assert T.dtype == torch.float32
    np.testing.assert_allclose(T, se3.se3_exp(xi), atol=1e-6)
    np.testing.assert_allclose(ops.se3_exp(ops.se3_log(T)), T, atol=3e-6)


@given(twists(), twists())
def test_quaternion_product_and_angle(a, b):
    Ra, Rb = rotations.so3_exp(a[3:]), rotations.so3_exp(b[3:])
    qa, qb = (torch.tensor(rotations.matrix_to_quaternion(R)) for R in (Ra, Rb))
    np.testing.assert_allclose(ops.quaternion_to_matrix(ops.quaternion_multiply(qa, qb)), Ra @ Rb, atol=1e-14)
    expected = rotations.rotation_angle(Ra, Rb)
    for sign in (1, -1):
        np.testing.assert_allclose(ops.rotation_angle_quaternion(qa, sign * qb), expected, rtol=1e-7, atol=3e-15)


def test_float32_angles_are_resolved_below_a_hundredth_of_a_degree():
    angle = np.radians(0.005)
    q = torch.tensor([0.0, 0.0, np.sin(angle / 2), np.cos(angle / 2)], dtype=torch.float32)
    found = ops.rotation_angle_quaternion(q, torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert abs(float(found) / angle - 1) < 1e-3


def test_angle_broadcasts_over_pairs():
    q = ops.quaternion_from_rotation_vector(torch.randn(5, 3, dtype=torch.float64))
    angles = ops.rotation_angle_quaternion(q[:, None], q[None])
    assert angles.shape == (5, 5)
    assert float(angles.diagonal().abs().max()) == 0.0
    torch.testing.assert_close(angles, angles.T)


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-3, 0.09, 0.11, 1.0, 3.0])
def test_gradients_are_right_and_finite(scale):
    axis = torch.tensor([0.6, -0.48, 0.64], dtype=torch.float64)
    xi = torch.cat([torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), axis * scale]).requires_grad_()
    assert torch.autograd.gradcheck(ops.se3_exp, xi, eps=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(ops.quaternion_from_rotation_vector, xi[3:].detach().requires_grad_(), atol=1e-6)
    # Through exp, so that the argument of log stays a rotation under the finite differences.
    assert torch.autograd.gradcheck(lambda v: ops.se3_log(ops.se3_exp(v)), xi, eps=1e-6, atol=1e-6)


def test_gradient_of_the_angle():
    q = torch.nn.functional.normalize(torch.randn(6, 2, 4, dtype=torch.float64), dim=-1)
    a, b = q[:, 0].clone().requires_grad_(), q[:, 1].clone()
    assert torch.autograd.gradcheck(
        lambda v: ops.rotation_angle_quaternion(torch.nn.functional.normalize(v, dim=-1), b), a, atol=1e-5
    )
    a = b.clone().requires_grad_()
    ops.rotation_angle_quaternion(a, b).sum().backward()
    assert a.grad is not None and torch.isfinite(a.grad).all()


def test_markley_mean_agrees_with_numpy_in_batches():
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(3, 40, 3, dtype=torch.float64, generator=generator) * 0.4
    phi += torch.tensor([0.5, 2.0, -1.0])
    q = ops.quaternion_from_rotation_vector(phi)
    q[:, ::3] *= -1
    w = torch.rand(3, 40, dtype=torch.float64, generator=generator)
    mean = ops.markley_mean(q, w)
    for k in range(3):
        np.testing.assert_allclose(mean[k], averaging.markley_mean(q[k].numpy(), w[k].numpy()), atol=1e-12)
    single = ops.markley_mean(q.float(), w.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, mean.float(), atol=1e-6, rtol=0)


def test_batches_keep_shape_and_dtype():
    xi = torch.randn(2, 3, 6)
    T = ops.se3_exp(xi)
    assert T.shape == (2, 3, 4, 4)
    assert ops.se3_log(T).shape == (2, 3, 6)
    torch.testing.assert_close(T[1, 2], ops.se3_exp(xi[1, 2]))
    v, u = torch.randn(2, 4, 3, dtype=torch.float64)
    torch.testing.assert_close((ops.skew(v) @ u[..., None])[..., 0], torch.linalg.cross(v, u))
