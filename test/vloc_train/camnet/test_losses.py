"""Every loss against a float64 transcription of its equation, its gradient, and its shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vloc_ros.geometry.rotations import quaternion_to_matrix, so3_exp
from vloc_train.camnet.losses import (
    angle_loss,
    angle_target,
    frustum_loss,
    hard_triplet_loss,
    nearest_of,
    relative_pose_loss,
    rotation_share,
)

RNG = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def same_numbers():
    """In whatever order the tests run."""
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state


def tensor(*shape: int, grad: bool = False) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(0, 1, shape)).requires_grad_(grad)


def unit(rows: int) -> torch.Tensor:
    q = torch.nn.functional.normalize(tensor(rows, 4), dim=-1)
    return torch.where(q[:, 3:] < 0, -q, q)


def test_frustum_loss_is_eq_4():
    predicted, target = tensor(6, 2), torch.rand(6, 2, dtype=torch.float64)
    expected = 0.0
    for (p1, p2), (d1, d2) in zip(predicted.tolist(), target.tolist(), strict=True):
        expected += math.sqrt((p1 - d1) ** 2) + math.sqrt((p2 - d2) ** 2)
    assert float(frustum_loss(predicted, target)) == pytest.approx(expected / 6, rel=1e-12)
    assert torch.autograd.gradcheck(lambda p: frustum_loss(p, target), (tensor(6, 2, grad=True),))
    assert frustum_loss(tensor(2, 3, 2), tensor(2, 3, 2)).shape == ()


def test_angle_is_eq_5_and_lies_between_0_and_1():
    R_1, R_2 = (so3_exp(RNG.normal(0, 1.5, (50, 3))) for _ in range(2))
    expected = [
        math.acos(max(-1.0, min(1.0, (np.trace(a.T @ b) - 1) / 2))) / math.pi for a, b in zip(R_1, R_2, strict=True)
    ]
    found = rotation_share(torch.from_numpy(R_1), torch.from_numpy(R_2))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert float(found.min()) >= 0.0 and float(found.max()) <= 1.0


def test_angle_at_its_ends_has_a_value_and_a_gradient():
    half_turn = torch.from_numpy(np.diag([1.0, -1.0, -1.0]))
    eye = torch.eye(3, dtype=torch.float64).requires_grad_()
    for other, value in ((torch.eye(3, dtype=torch.float64), 0.0), (half_turn, 1.0)):
        found = rotation_share(eye, other)
        assert float(found.detach()) == value
        (gradient,) = torch.autograd.grad(found, eye)
        assert bool(torch.isfinite(gradient).all())
    R = torch.from_numpy(so3_exp(np.array([0.3, -0.4, 0.8])))
    assert torch.autograd.gradcheck(
        lambda a: rotation_share(a, R), (torch.eye(3, dtype=torch.float64).requires_grad_(),)
    )


def test_angle_target_takes_poses():
    poses = torch.cat((tensor(5, 3), unit(5)), dim=1)
    others = torch.cat((tensor(5, 3), unit(5)), dim=1)
    expected = rotation_share(
        torch.from_numpy(quaternion_to_matrix(poses[:, 3:].numpy())),
        torch.from_numpy(quaternion_to_matrix(others[:, 3:].numpy())),
    )
    torch.testing.assert_close(angle_target(poses, others), expected)


def test_angle_loss_is_eq_6():
    predicted, target = tensor(9), torch.rand(9, dtype=torch.float64)
    expected = sum(math.sqrt((p - t) ** 2) for p, t in zip(predicted.tolist(), target.tolist(), strict=True)) / 9
    assert float(angle_loss(predicted, target)) == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda p: angle_loss(p, target), (tensor(9, grad=True),))


def transcribed_triplet(a, e, m, h, valid, beta: float) -> float:
    def distances(other, column):
        return [
            math.dist(x, y) for x, y, v in zip(a.tolist(), other.tolist(), valid[:, column].tolist(), strict=True) if v
        ]

    easy, moderate, hard = distances(e, 0), distances(m, 1), distances(h, 2)
    out = 0.0
    if easy and moderate:
        out += max(max(easy) - min(moderate) + beta, 0.0)
    if moderate and hard:
        out += max(max(moderate) - min(hard) + beta, 0.0)
    return out


@pytest.mark.parametrize("seed", range(6))
def test_hard_triplet_loss_is_eq_7(seed):
    rng = np.random.default_rng(seed)
    a = torch.from_numpy(rng.normal(0, 1, (8, 5)))
    e, m, h = (a + torch.from_numpy(rng.normal(0, s, (8, 5))) for s in (0.2, 0.5, 1.0))
    valid = torch.from_numpy(rng.random((8, 3)) < 0.7)
    expected = transcribed_triplet(a, e, m, h, valid, 0.1)
    assert float(hard_triplet_loss(a, e, m, h, valid, 0.1)) == pytest.approx(expected, rel=1e-12)


def test_hard_triplet_loss_gradient_and_ends():
    every = torch.ones(4, 3, dtype=torch.bool)
    a, e, m, h = (tensor(4, 3, grad=True) for _ in range(4))
    assert torch.autograd.gradcheck(lambda *x: hard_triplet_loss(*x, every, 5.0), (a, e, m, h))
    # Well apart: nothing to learn. All alike: the margins, and no NaN in the gradient of a distance of zero.
    near, far = torch.zeros(4, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    assert float(hard_triplet_loss(near, near, far, 9 * far, every, 0.1)) == 0.0
    same = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    loss = hard_triplet_loss(same, same * 1, same * 1, same * 1, every, 0.1)
    assert float(loss.detach()) == pytest.approx(0.2)
    (gradient,) = torch.autograd.grad(loss, same)
    assert bool(torch.isfinite(gradient).all())
    assert float(hard_triplet_loss(near, near, near, near, torch.zeros(4, 3, dtype=torch.bool))) == 0.0


def test_far_images_are_hard_ones_too():
    a, e, m, h = (torch.from_numpy(RNG.normal(0, 1, (5, 3))) for _ in range(4))
    images, allowed = torch.from_numpy(RNG.normal(0, 1, (7, 3))), torch.from_numpy(RNG.random((5, 7)) < 0.5)
    allowed[2] = False
    distances, exist = nearest_of(a, images, allowed)
    for i in range(5):
        near = [math.dist(a[i], images[j]) for j in range(7) if allowed[i, j]]
        assert bool(exist[i]) == bool(near) and (not near or float(distances[i]) == pytest.approx(min(near)))
    valid = torch.ones(5, 3, dtype=torch.bool)
    valid[:, 2] = torch.tensor([True, False, True, False, True])
    easy, moderate, hard = ([math.dist(x, y) for x, y in zip(a, other, strict=True)] for other in (e, m, h))
    hardest = [
        min([hard[i]] * bool(valid[i, 2]) + [float(distances[i])] * bool(exist[i]), default=math.inf) for i in range(5)
    ]
    expected = max(max(easy) - min(moderate) + 0.1, 0.0) + max(max(moderate) - min(hardest) + 0.1, 0.0)
    found = hard_triplet_loss(a, e, m, h, valid, 0.1, (distances, exist))
    assert float(found) == pytest.approx(expected, rel=1e-12)
    both = [i for i in range(5) if math.isfinite(hardest[i])]
    expected = sum(max(easy[i] - moderate[i] + 0.1, 0.0) for i in range(5)) / 5
    expected += sum(max(moderate[i] - hardest[i] + 0.1, 0.0) for i in both) / len(both)
    found = hard_triplet_loss(a, e, m, h, valid, 0.1, (distances, exist), "anchor")
    assert float(found) == pytest.approx(expected, rel=1e-12)
    a.requires_grad_()

    def loss(x: torch.Tensor, scope: str) -> torch.Tensor:
        return hard_triplet_loss(x, e, m, h, valid, 9.0, nearest_of(x, images, allowed), scope)

    assert torch.autograd.gradcheck(lambda x: loss(x, "batch"), (a,))
    assert torch.autograd.gradcheck(lambda x: loss(x, "anchor"), (a,))


@pytest.mark.parametrize("weight", [1.0, 20.0])
def test_relative_pose_loss_is_eqs_8_and_9(weight):
    predicted, target = tensor(7, 7), torch.cat((tensor(7, 3), unit(7)), dim=1)
    expected = 0.0
    for p, t in zip(predicted.tolist(), target.tolist(), strict=True):
        length = math.sqrt(sum(v * v for v in p[3:]))
        expected += sum(abs(x - y) for x, y in zip(p[:3], t[:3], strict=True))
        expected += weight * sum(abs(x / length - y) for x, y in zip(p[3:], t[3:], strict=True))
    assert float(relative_pose_loss(predicted, target, weight)) == pytest.approx(expected / 7, rel=1e-12)
    assert torch.autograd.gradcheck(lambda p: relative_pose_loss(p, target, weight), (tensor(7, 7, grad=True),))
    torch.testing.assert_close(
        relative_pose_loss(target * torch.tensor([1.0] * 3 + [3.0] * 4, dtype=torch.float64), target),
        torch.zeros((), dtype=torch.float64),
    )
