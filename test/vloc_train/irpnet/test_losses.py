"""IRPNet's losses against float64 transcriptions, gradients against differences, and shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vloc_ros.localizers.irpnet.network import Regressed, rotation_quaternion
from vloc_train.irpnet import losses

seeds = st.integers(0, 2**31)


def case(seed: int, images: int = 5, size: int = 4):
    """Regressed positions and rotations, and true poses ``(B, 7)``, float64."""
    rng = np.random.default_rng(seed)
    q = Rotation.from_rotvec(rng.normal(0, 0.9, (images, 3))).as_quat()
    q = np.where(q[:, 3:] < 0, -q, q)
    truth = np.concatenate([rng.normal(0, 30, (images, 3)), q], axis=1)
    return rng.normal(0, 30, (images, 3)), rng.normal(0, 2, (images, size)), truth


def transcribed(x, q, truth):
    """(L_x, L_q) of one image, number by number, as equation 1 has them."""
    norm = math.sqrt(sum(v * v for v in q))
    return math.dist(x, truth[:3]), math.dist([v / norm for v in q], truth[3:])


def torches(*arrays):
    return [torch.from_numpy(np.asarray(a)) for a in arrays]


@given(seeds, st.floats(0.0, 5.0), st.floats(0.0, 500.0))
def test_pose_loss_is_equation_1(seed, s_x, s_q):
    x, q, truth = case(seed)
    terms = np.array([transcribed(*row) for row in zip(x, q, truth, strict=True)])
    found, rotation, true = torches(x, q, truth)
    loss = losses.pose_loss(Regressed(found, rotation), true, (s_x, s_q))
    assert loss.dtype == torch.float64 and loss.shape == ()
    assert float(loss) == pytest.approx(s_x * terms[:, 0].mean() + s_q * terms[:, 1].mean(), rel=1e-12, abs=1e-12)


def test_terms_have_one_value_an_image():
    x, q, truth = torches(*case(1, images=3))
    assert losses.position_loss(x, truth[:, :3]).shape == (3,)
    assert losses.orientation_loss(q, truth[:, 3:]).shape == (3,)
    assert losses.orientation_loss(torch.cat((q, q[:, :2]), dim=1), truth[:, 3:]).shape == (3,)


def test_a_term_without_weight_needs_no_branch():
    x, q, truth = torches(*case(2))
    assert float(losses.pose_loss(Regressed(x, None), truth, (1.0, 0.0))) > 0
    assert float(losses.pose_loss(Regressed(None, q), truth, (0.0, 1.0))) > 0


@given(seeds, st.floats(0.1, 10.0))
def test_the_length_of_the_regressed_quaternion_does_not_count(seed, factor):
    _, q, truth = torches(*case(seed))
    assert torch.allclose(
        losses.orientation_loss(q, truth[:, 3:]), losses.orientation_loss(factor * q, truth[:, 3:]), atol=1e-12
    )


@given(seeds, st.floats(1e-4, 0.1))
def test_both_forms_are_about_half_a_small_angle(seed, angle):
    rng = np.random.default_rng(seed)
    R = Rotation.from_rotvec(rng.normal(0, 0.3, 3))
    axis = rng.normal(0, 1, 3)
    turned = R * Rotation.from_rotvec(angle * axis / np.linalg.norm(axis))
    truth = torch.from_numpy(R.as_quat())[None]
    quaternion = torch.from_numpy(3.0 * turned.as_quat())[None]
    columns = torch.from_numpy(np.concatenate([turned.as_matrix()[:, 0], turned.as_matrix()[:, 1]]))[None]
    assert float(losses.orientation_loss(quaternion, truth)) == pytest.approx(2 * math.sin(angle / 4), rel=1e-6)
    assert float(losses.orientation_loss(columns, truth)) == pytest.approx(math.sin(angle / 2), rel=1e-6)


@given(seeds)
def test_columns_are_made_orthonormal(seed):
    _, columns, _ = case(seed, size=6)
    first, second = columns[:, :3], columns[:, 3:]
    wanted = []
    for a, b in zip(first, second, strict=True):
        a = a / np.linalg.norm(a)
        b = b - (a @ b) * a
        b = b / np.linalg.norm(b)
        wanted.append(Rotation.from_matrix(np.stack([a, b, np.cross(a, b)], axis=1)).as_quat())
    found = rotation_quaternion(torch.from_numpy(columns)).numpy()
    assert np.abs((found * np.asarray(wanted)).sum(axis=1)) == pytest.approx(1.0, abs=1e-9)


@given(seeds)
def test_learned_weights_are_their_equation(seed):
    x, q, truth = case(seed)
    rng = np.random.default_rng(seed)
    weighting = losses.LearnedWeights().double()
    assert weighting.s.tolist() == [0.0, -3.0]
    s_x, s_q = rng.normal(0, 1, 2)
    with torch.no_grad():
        weighting.s.copy_(torch.tensor([s_x, s_q]))
    l_x, l_q = np.array([transcribed(*row) for row in zip(x, q, truth, strict=True)]).mean(axis=0)
    found, rotation, true = torches(x, q, truth)
    wanted = l_x * math.exp(-s_x) + s_x + l_q * math.exp(-s_q) + s_q
    assert float(weighting(Regressed(found, rotation), true).detach()) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("size", [4, 6])
def test_gradients(size):
    x, q, truth = torches(*case(3, images=3, size=size))
    x, q = x.requires_grad_(), q.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: losses.pose_loss(Regressed(a, b), truth, (1.0, 250.0)), (x, q))
    weighting = losses.LearnedWeights().double()
    s = weighting.s

    def learned(a, b, s):
        return torch.func.functional_call(weighting, {"s": s}, (Regressed(a, b), truth))

    assert torch.autograd.gradcheck(learned, (x, q, s))


def test_the_gradient_at_the_truth_is_finite():
    _, _, truth = torches(*case(4))
    x, q = truth[:, :3].clone().requires_grad_(), truth[:, 3:].clone().requires_grad_()
    losses.pose_loss(Regressed(x, q), truth, (1.0, 1.0)).backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(q.grad).all()
