"""Normal equations against a plain transcription of eqs. 1-3, and the Jacobian against finite differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from feature_fields import CAMERA, WaveField, pose, random_points, scene

from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.geometry.torch_ops import se3_exp
from vloc_ros.localizers.pixloc import residuals
from vloc_ros.localizers.pixloc.residuals import evaluate, project_points
from vloc_ros.localizers.pixloc.robust import Robust

LENSES = {
    "none": (),
    "plumb_bob": (-0.28, 0.07, 1e-3, -2e-4, 0.01),
    "rational_polynomial": (0.5, 0.05, 1e-4, 1e-4, 0.0, 0.85, 0.15, 0.0, 1e-3, -2e-4, 5e-4, 1e-4, 0.03, -0.02),
    "equidistant": (-0.012, 0.004, -0.003, 4e-4),
}
every_lens = pytest.mark.parametrize("lens", LENSES)


def setting(lens: str, batch: int = 1):
    camera = TorchCamera.from_model(
        replace(CAMERA, distortion_model=lens, distortion=LENSES[lens]), dtype=torch.float64
    ).scaled(2)
    field = WaveField(wavelength=20.0)
    field.confidence = torch.linspace(0.2, 1.0, 40, dtype=torch.float64)
    T = torch.cat([pose(0.1 * i, -0.05, 0.2, 0.02, 0.03 - 0.01 * i, -0.04) for i in range(batch)])
    points = random_points(40)[None]
    reference = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return T, points, reference * 0.3, field, camera


def residual_vector(delta, T, points, reference, field, camera):
    """Every residual of every channel (N C), through the projection and the field, for the update delta (6,)."""
    p = points @ (se3_exp(delta) @ T)[:, :3, :3].transpose(-1, -2) + (se3_exp(delta) @ T)[:, None, :3, 3]
    uv, valid = camera.project(p)
    assert bool(valid.all())
    return (field.sample(uv).values - reference).flatten()


@every_lens
def test_the_full_residuals_jacobian_is_its_finite_difference(lens, record_property):
    T, points, reference, field, camera = setting(lens)
    uv, P, valid = project_points(T, points, camera)
    assert bool(valid.all())
    J = torch.einsum("bnci,ijbn->bncj", field.sample(uv).gradients, P).reshape(-1, 6)
    h = 1e-5
    numeric = torch.stack(
        [
            (
                residual_vector(h * e, T, points, reference, field, camera)
                - residual_vector(-h * e, T, points, reference, field, camera)
            )
            / (2 * h)
            for e in torch.eye(6, dtype=torch.float64)
        ],
        dim=-1,
    )
    error = float((J - numeric).norm() / numeric.norm())
    record_property("relative_difference", error)
    assert error < 1e-6, error


@every_lens
@pytest.mark.parametrize("kind", ["squared", "huber", "cauchy", "geman_mcclure", "barron"])
def test_normal_equations_are_eq_3(lens, kind):
    T, points, reference, field, camera = setting(lens, batch=2)
    robust = Robust(kind, 0.5)
    confidence = torch.rand(1, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mask = torch.arange(40)[None] % 7 != 0
    found = evaluate(T, points, reference, confidence, mask, field, camera, robust, scatter=True)
    for b in range(2):
        uv, P, _ = project_points(T[b : b + 1], points, camera)
        sample = field.sample(uv)
        H, g, S = torch.zeros(6, 6).double(), torch.zeros(6).double(), torch.zeros(6, 6).double()
        cost = 0.0
        for i in range(40):
            if not mask[0, i]:
                continue
            J = sample.gradients[0, i] @ P[:, :, 0, i]
            r = sample.values[0, i] - reference[0, i]
            w = float(confidence[0, i] * field.confidence[i])
            cost += w * float(robust.cost(r @ r))
            w *= float(robust.weight(r @ r))
            H, g = H + w * J.T @ J, g + w * J.T @ r
            S = S + torch.outer(w * J.T @ r, w * J.T @ r)
        torch.testing.assert_close(found.hessian[b], H)
        torch.testing.assert_close(found.gradient[b], g)
        torch.testing.assert_close(found.scatter[b], S)
        assert float(found.cost[b]) == pytest.approx(cost)
        assert torch.equal(found.valid[b], mask[0])


@every_lens
def test_the_gradient_is_half_that_of_the_cost(lens):
    T, points, reference, field, camera = setting(lens)
    field.confidence = None  # the confidence at the projection is taken as constant
    robust = Robust("cauchy", 0.5)
    delta = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    found = evaluate(se3_exp(delta) @ T, points, reference, None, None, field, camera, robust)
    (slope,) = torch.autograd.grad(found.cost.sum(), delta)
    torch.testing.assert_close(2.0 * found.gradient[0].detach(), slope)


def test_portions_give_the_same(monkeypatch):
    T, points, reference, field, camera = setting("plumb_bob", batch=2)
    field.confidence = None
    robust = Robust("huber", 0.5)
    arguments = (T, points, reference, torch.ones(1, 40).double(), None, field, camera, robust)
    with torch.no_grad():
        whole = evaluate(*arguments, scatter=True)
        monkeypatch.setattr(residuals, "_PORTION", 3 * 2 * 8 * 7)
        parts = evaluate(*arguments, scatter=True)
    for name in ("cost", "gradient", "hessian", "scatter", "squared", "weights"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    assert torch.equal(parts.valid, whole.valid)


def test_without_jacobian_the_cost_is_the_same():
    T, points, reference, field, camera = setting("equidistant")
    arguments = (T, points, reference, None, None, field, camera, Robust())
    short, full = evaluate(*arguments, jacobian=False), evaluate(*arguments)
    torch.testing.assert_close(short.cost, full.cost)
    assert short.hessian is None and short.gradient is None


def test_points_that_do_not_count_change_nothing():
    s = scene(count=30)
    robust = Robust()
    T = pose(0.1, 0, 0, 0, 0.02, 0) @ s.T_cam_map
    expected = evaluate(T, s.points, s.level.reference, None, None, s.level.field, s.level.camera, robust)
    T_map_cam = torch.linalg.inv(s.T_cam_map)[0]
    behind = T_map_cam[:3, :3] @ torch.tensor([0.1, 0.2, -5.0]).double() + T_map_cam[:3, 3]
    aside = T_map_cam[:3, :3] @ torch.tensor([90.0, 0.2, 5.0]).double() + T_map_cam[:3, 3]
    good = T_map_cam[:3, :3] @ torch.tensor([0.1, 0.2, 5.0]).double() + T_map_cam[:3, 3]
    points = torch.cat([s.points[0], torch.stack([behind, aside, good, good])])[None]
    reference = torch.cat([s.level.reference, torch.full((1, 4, 8), 0.2).double()], dim=1)
    reference[0, 32] = float("nan")
    mask = torch.ones(1, 34, dtype=torch.bool)
    mask[0, 33] = False
    found = evaluate(T, points, reference, None, mask, s.level.field, s.level.camera, robust)
    assert found.valid[0, 30:].tolist() == [False] * 4 and bool(found.valid[0, :30].all())
    torch.testing.assert_close(found.hessian, expected.hessian)
    torch.testing.assert_close(found.gradient, expected.gradient)
    torch.testing.assert_close(found.cost, expected.cost)
