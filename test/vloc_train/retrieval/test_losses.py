"""Each loss against a float64 transcription of its equation, its gradient against differences, and its shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vloc_ros.geometry.vectors import to_vectors
from vloc_train.retrieval import losses

seeds = st.integers(0, 2**31)


def case(seed: int, images: int = 6, dimension: int = 5):
    """Descriptors (B, D), pose vectors (B, 7) and matrices (B, 4, 4), float64."""
    rng = np.random.default_rng(seed)
    T = np.tile(np.eye(4), (images, 1, 1))
    T[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.8, (images, 3))).as_matrix()
    T[:, :3, 3] = rng.normal(0, 8, (images, 3))
    poses = np.concatenate([T[:, :3, 3], Rotation.from_matrix(T[:, :3, :3]).as_quat()], axis=1)
    return rng.normal(0, 2, (images, dimension)), poses, T


def torches(*arrays):
    return [torch.from_numpy(np.asarray(a)) for a in arrays]


TRIPLETS = np.array([[0, 1, 2], [3, 4, 5], [1, 0, 5], [2, 3, 0]])
PAIRS = np.array([[0, 1], [2, 5], [4, 3], [1, 5]])


def triplet_reference(f, triplets, margin):
    total = []
    for q, p, n in triplets:
        fq, fp, fn = (f[i] / math.sqrt(sum(v * v for v in f[i])) for i in (q, p, n))
        total.append(max(math.dist(fq, fp) - math.dist(fq, fn) + margin, 0.0))
    return total


@given(seeds, st.floats(0.0, 1.0))
def test_triplet_is_equation_5(seed, margin):
    f, _, _ = case(seed)
    wanted = triplet_reference(f, TRIPLETS, margin)
    found = losses.triplet_loss(*torches(f, TRIPLETS), margin)
    assert found.dtype == torch.float64 and found.shape == ()
    assert float(found) == pytest.approx(np.mean(wanted), abs=1e-12)
    active = [v for v in wanted if v > 0]
    found = losses.triplet_loss(*torches(f, TRIPLETS), margin, active_only=True)
    assert float(found) == pytest.approx(np.mean(active) if active else 0.0, abs=1e-12)


@given(seeds)
def test_triplet_does_not_see_the_length_of_descriptors(seed):
    f, _, _ = case(seed)
    lengths = np.random.default_rng(seed).uniform(0.1, 10, (len(f), 1))
    a, b = (float(losses.triplet_loss(*torches(x, TRIPLETS))) for x in (f, f * lengths))
    assert a == pytest.approx(b, abs=1e-12)


@given(seeds)
def test_the_relative_pose_is_that_of_the_matrices(seed):
    _, poses, T = case(seed)
    found = losses.relative_pose(*torches(poses[:-1], poses[1:])).numpy()
    relative = np.linalg.inv(T[:-1]) @ T[1:]
    np.testing.assert_allclose(found[:, :3], relative[:, :3, 3], atol=1e-10)
    assert (found[:, 6] >= 0).all()
    np.testing.assert_allclose(Rotation.from_quat(found[:, 3:]).as_matrix(), relative[:, :3, :3], atol=1e-10)
    np.testing.assert_allclose(found, to_vectors(relative), rtol=1e-5, atol=1e-5)


def relative_reference(f, T, pairs, layers):
    w1, b1, w2, b2 = (p.detach().numpy() for p in layers.parameters())
    total = []
    for a, b in pairs:
        hidden = np.maximum(w1 @ np.concatenate([f[a], f[b]]) + b1, 0.0)
        estimate = w2 @ hidden + b2
        D = np.linalg.inv(T[a]) @ T[b]
        q = Rotation.from_matrix(D[:3, :3]).as_quat()
        truth = np.concatenate([D[:3, 3], q if q[3] >= 0 else -q])
        total.append(math.sqrt(sum((estimate - truth) ** 2)))
    return np.mean(total)


@given(seeds)
def test_relative_pose_is_equation_6(seed):
    f, poses, T = case(seed)
    torch.manual_seed(seed % 1000)
    regressor = losses.RelativePoseRegressor(5, hidden=7).double()
    found = losses.relative_pose_loss(*torches(f, poses, PAIRS), regressor)
    assert found.shape == ()
    assert found.item() == pytest.approx(relative_reference(f, T, PAIRS, regressor), rel=1e-9)


def test_the_regressor_takes_pairs_and_gives_poses():
    regressor = losses.RelativePoseRegressor(5)
    assert regressor(torch.zeros(3, 5), torch.zeros(3, 5)).shape == (3, 7)


def distance_reference(f, T, pairs, cap=None, weight=0.0, near=None, elsewhere=None, balanced=False):
    total, weights, far = [], [], []
    for k, (a, b) in enumerate(pairs):
        found = math.dist(f[a], f[b])
        angle = math.degrees(Rotation.from_matrix(T[a, :3, :3].T @ T[b, :3, :3]).magnitude())
        wanted = math.sqrt(math.dist(T[a, :3, 3], T[b, :3, 3]) ** 2 + (weight * angle) ** 2)
        if elsewhere is not None and elsewhere[k]:
            wanted = math.inf
        if cap is not None and wanted > cap:
            total.append(max(cap - found, 0.0))
            wanted = cap
        else:
            total.append(abs(found - wanted))
        far.append(cap is not None and wanted == cap)
        weights.append(1.0 if near is None else near / (near + wanted))
    if balanced:
        total, weights, far = (np.array(v) for v in (total, weights, far))
        return float(sum(np.average(total[m], weights=weights[m]) for m in (far, ~far) if m.any()))
    return float(np.average(total, weights=weights))


@given(seeds, st.none() | st.floats(1.0, 30.0), st.floats(0.0, 0.3), st.none() | st.floats(1.0, 20.0), st.booleans())
def test_distance_is_equation_7_with_its_options(seed, cap, weight, near, balanced):
    f, poses, T = case(seed)
    found = losses.distance_loss(*torches(f, poses, PAIRS), cap, weight, near, balanced=balanced)
    assert found.shape == ()
    wanted = distance_reference(f, T, PAIRS, cap, weight, near, balanced=balanced)
    assert float(found) == pytest.approx(wanted, rel=1e-7, abs=1e-9)


def test_distance_as_the_paper_has_it():
    f, poses, T = case(3)
    plain = [abs(math.dist(f[a], f[b]) - math.dist(T[a, :3, 3], T[b, :3, 3])) for a, b in PAIRS]
    assert float(losses.distance_loss(*torches(f, poses, PAIRS))) == pytest.approx(np.mean(plain), abs=1e-12)
    # Positions as descriptors are perfect, in metres and not up to scale.
    assert float(losses.distance_loss(*torches(poses[:, :3], poses, PAIRS))) == pytest.approx(0.0, abs=1e-12)
    assert float(losses.distance_loss(*torches(2 * poses[:, :3], poses, PAIRS))) > 1.0


@given(seeds)
def test_pairs_of_different_places_need_only_be_far_apart(seed):
    f, poses, T = case(seed)
    elsewhere = np.array([True, False, False, True])
    found = losses.distance_loss(*torches(f, poses, PAIRS), 5.0, elsewhere=torch.from_numpy(elsewhere))
    wanted = distance_reference(f, T, PAIRS, 5.0, elsewhere=elsewhere)
    assert float(found) == pytest.approx(wanted, rel=1e-7, abs=1e-9)
    with pytest.raises(ValueError, match="max_distance_m"):
        losses.distance_loss(*torches(f, poses, PAIRS), elsewhere=torch.from_numpy(elsewhere))


OPTIONS = [
    {},
    {"max_distance_m": 6.0},
    {"rotation_m_per_deg": 0.1},
    {"max_distance_m": 6.0, "near_m": 3.0},
    {"max_distance_m": 6.0, "balanced": True},
]


@pytest.mark.parametrize("seed", range(3))
def test_gradients(seed):
    f, poses, _ = case(seed)
    descriptors = torch.from_numpy(f).requires_grad_()
    p, triplets, pairs = torches(poses, TRIPLETS, PAIRS)
    assert torch.autograd.gradcheck(lambda x: losses.triplet_loss(x, triplets, 0.3), (descriptors,))
    assert torch.autograd.gradcheck(lambda x: losses.triplet_loss(x, triplets, 0.3, True), (descriptors,))
    torch.manual_seed(seed)
    regressor = losses.RelativePoseRegressor(5, hidden=7).double()
    assert torch.autograd.gradcheck(lambda x: losses.relative_pose_loss(x, p, pairs, regressor), (descriptors,))
    weights = [w.detach().clone().requires_grad_() for w in regressor.parameters()]
    names = [name for name, _ in regressor.named_parameters()]

    def by_weights(*values):
        state = dict(zip(names, values, strict=True))
        call = lambda a, b: torch.func.functional_call(regressor, state, (a, b))  # noqa: E731
        return losses.relative_pose_loss(descriptors.detach(), p, pairs, call)

    assert torch.autograd.gradcheck(by_weights, weights)
    for options in OPTIONS:
        assert torch.autograd.gradcheck(
            lambda x, options=options: losses.distance_loss(x, p, pairs, **options), (descriptors,)
        )


def test_equal_descriptors_and_no_pairs_have_finite_gradients():
    _, poses, _ = case(0)
    p, triplets, pairs = torches(poses, TRIPLETS, PAIRS)
    regressor = losses.RelativePoseRegressor(4, hidden=3).double()
    for empty in (False, True):
        f = torch.ones(6, 4, dtype=torch.float64, requires_grad=True)
        n = 0 if empty else 4
        total = (
            losses.triplet_loss(f, triplets[:n])
            + losses.triplet_loss(f, triplets[:n], active_only=True)
            + losses.distance_loss(f, p, pairs[:n], 5.0, 0.1, 2.0)
            + losses.relative_pose_loss(f, p, pairs[:n], regressor)
        )
        total.backward()
        assert torch.isfinite(f.grad).all() and torch.isfinite(total)
        assert not empty or (float(total.detach()) == 0.0 and not f.grad.any())
