"""Eq. 8 against a transcription in float64, and which levels count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import se3_exp
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.types import CameraModel
from vloc_train.pixloc.losses import gated_loss, huber, reprojection_errors

CAMERA = CameraModel(640, 384, 417.0, 400.0, 320.0, 190.0)
LENS = CameraModel(640, 384, 417.0, 400.0, 320.0, 190.0, "plumb_bob", (-0.1, 0.02, 1e-3, -5e-4))


def scene(seed: int, examples: int = 3, points: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True poses, points of which most are in view, and a mask."""
    rng = np.random.default_rng(seed)
    T = np.stack([se3_exp(rng.normal(0, 0.1, 6)) for _ in range(examples)])
    p = rng.uniform((-4, -2, 4), (4, 2, 20), (examples, points, 3))
    return T, p, rng.random((examples, points)) < 0.8


def moved(T: np.ndarray, seed: int, metres: float, radians: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([se3_exp(rng.normal(0, [metres] * 3 + [radians] * 3)) @ t for t in T])


def transcription(levels, strides, T_true, points, mask, camera, gamma, success_px, clamp) -> float:
    """Eq. 8 example by example, level by level, point by point."""
    total, used = 0.0, 0
    for b in range(len(points)):
        at_truth, seen = project(camera, points[b] @ T_true[b, :3, :3].T + T_true[b, :3, 3])
        counts = mask[b] & seen
        if counts.sum() < 10:
            continue
        used += 1
        for T, stride in zip(levels, strides, strict=True):
            at, _ = project(camera, points[b] @ T[b, :3, :3].T + T[b, :3, 3])
            cost = 0.0
            for i in np.flatnonzero(counts):
                e = np.linalg.norm(at[i] - at_truth[i])
                cost += e * e / (2 * gamma) if e <= gamma else e - gamma / 2
            cost /= counts.sum()
            total += min(cost, clamp) / len(levels)
            if cost >= success_px * stride:
                break
    return total / max(used, 1)


def tensors(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]


@pytest.mark.parametrize("camera", [CAMERA, LENS])
@given(seed=st.integers(0, 10_000), metres=st.sampled_from([0.0, 0.01, 0.1, 0.5]), clamp=st.sampled_from([8.0, 50.0]))
def test_against_the_transcription(camera, seed, metres, clamp):
    T_true, points, mask = scene(seed)
    levels = [moved(T_true, seed + i, metres * f, 0.03 * metres * f) for i, f in enumerate((1.0, 0.5, 0.1))]
    strides = (16, 4, 1)
    found = gated_loss(
        tensors(*levels), strides, *tensors(T_true, points, mask), TorchCamera.from_model(camera, dtype=torch.float64),
        width=2.0, success_px=1.0, clamp_px=clamp,
    )  # fmt: skip
    expected = transcription(levels, strides, T_true, points, mask, camera, 2.0, 1.0, clamp)
    assert float(found.total) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_huber_is_smooth_at_its_width_and_grows_by_one_a_pixel():
    e = torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=torch.float64, requires_grad=True)
    huber(e, 2.0).sum().backward()
    torch.testing.assert_close(e.grad, torch.tensor([0.0, 0.5, 1.0, 1.0], dtype=torch.float64))


def test_a_level_counts_only_behind_one_that_succeeded():
    T_true, points, mask = scene(1)
    mask[:] = True
    camera = TorchCamera.from_model(CAMERA, dtype=torch.float64)
    near, far = moved(T_true, 1, 0.001, 0.0001), moved(T_true, 2, 0.3, 0.02)

    def run(*levels):
        leaves = [torch.from_numpy(T).requires_grad_() for T in levels]
        loss = gated_loss(
            leaves, (4, 2, 1), *tensors(T_true, points, mask), camera, width=2.0, success_px=1.0, clamp_px=50.0
        )
        return loss, torch.autograd.grad(loss.total, leaves, allow_unused=True)

    loss, gradients = run(far, near, near)
    assert loss.success.tolist() == [[False] * 3] * 3  # once lost, never again
    assert float(gradients[0].abs().max()) > 0 and all(float(g.abs().max()) == 0 for g in gradients[1:])
    loss, gradients = run(near, far, near)
    assert loss.success.tolist() == [[True] * 3, [False] * 3, [False] * 3]
    assert float(gradients[1].abs().max()) > 0 and float(gradients[2].abs().max()) == 0
    loss, gradients = run(near, near, near)
    assert bool(loss.success.all()) and all(float(g.abs().max()) > 0 for g in gradients)


def test_examples_of_few_points_or_broken_poses_do_not_touch_the_others():
    T_true, points, mask = scene(3)
    mask[:] = True
    mask[0, 5:] = False
    level = moved(T_true, 3, 0.02, 0.001)
    level[1] = np.nan
    leaf = torch.from_numpy(level).requires_grad_()
    camera = TorchCamera.from_model(CAMERA, dtype=torch.float64)
    loss = gated_loss([leaf], (1,), *tensors(T_true, points, mask), camera, width=2.0, success_px=5.0, clamp_px=50.0)
    assert loss.usable.tolist() == [False, True, True] and bool(loss.total.isfinite())
    loss.total.backward()
    assert float(leaf.grad[0].abs().max()) == 0 and float(leaf.grad[2].abs().max()) > 0


def test_a_pose_that_went_past_the_points_has_a_way_back():
    T_true, points, mask = scene(4)
    past = T_true.copy()
    past[:, 2, 3] -= 30.0  # all points behind the camera
    leaf = torch.from_numpy(past).requires_grad_()
    camera = TorchCamera.from_model(CAMERA, dtype=torch.float64)
    errors, valid = reprojection_errors(leaf, *tensors(T_true, points, mask), camera)
    assert bool(errors.isfinite().all()) and float(errors[valid].detach().mean()) > 100
    errors.sum().backward()
    assert bool(leaf.grad.isfinite().all()) and float(leaf.grad.abs().max()) > 0
