"""Levenberg-Marquardt on exact synthetic features: convergence, batches, gradients, and what stops it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from feature_fields import CAMERA, DISTORTED, WaveField, pose, scene
from torch.utils._python_dispatch import TorchDispatchMode

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.geometry.torch_ops import se3_exp, se3_log
from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.loop import exponential
from vloc_ros.localizers.pixloc.optimizer import Level, OptimizerSettings, Stop, refine, refine_level
from vloc_ros.localizers.pixloc.robust import Robust
from vloc_ros.types import CameraModel

PRECISE = OptimizerSettings(iterations=40, stop_m=1e-14, stop_deg=1e-14)
OFFSET = (0.15, -0.1, 0.2, 0.02, -0.03, 0.02)
FISHEYE = CameraModel(64, 48, 50.0, 52.0, 31.0, 24.5, "equidistant", (-0.012, 0.004, -0.003, 4e-4))


def error(T: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(B,) norm of the twist between two poses."""
    return se3_log(T @ torch.linalg.inv(truth)).norm(dim=-1)


@pytest.mark.parametrize("camera", [CAMERA, DISTORTED, FISHEYE], ids=["pinhole", "distorted", "fisheye"])
@pytest.mark.parametrize("steps", ["all", "decreasing"])
@pytest.mark.parametrize("kind", ["squared", "huber", "cauchy", "geman_mcclure", "barron"])
def test_converges_to_machine_precision(camera, steps, kind, record_property):
    s = scene(camera=camera)
    settings = replace(PRECISE, steps=steps, robust=kind, robust_scale=1.0)
    with torch.no_grad():
        found = refine(pose(*OFFSET) @ s.T_cam_map, s.points, [s.level], settings=settings)
    record_property("pose_error", float(error(found.T_cam_map, s.T_cam_map)))
    assert float(error(found.T_cam_map, s.T_cam_map)) < 1e-12
    assert float(found.levels[0].cost) < 1e-24 < float(found.levels[0].cost_initial)
    assert bool(found.success) and bool(found.well_posed)


def test_single_precision_features_lose_nothing_far_from_the_origin():
    s = scene()
    far = pose(40_000.0, -25_000.0, 900.0, 0.0, 0.0, 0.0)
    T_true = s.T_cam_map @ torch.linalg.inv(far)
    points = s.points + far[:, None, :3, 3]
    level = replace(s.level, reference=s.level.reference.float())
    with torch.no_grad():
        found = refine(pose(*OFFSET) @ T_true, points, [level], settings=replace(PRECISE, stop_m=1e-6, stop_deg=1e-5))
    assert float((found.T_cam_map - T_true)[:, :3, :3].abs().max()) < 2e-6
    centre = torch.linalg.inv(found.T_cam_map)[:, :3, 3] - torch.linalg.inv(T_true)[:, :3, 3]
    assert float(centre.abs().max()) < 1e-5
    assert found.T_cam_map.dtype == torch.float64


def test_quadratic_convergence_without_damping():
    s = scene(damping=0.0)
    errors = []
    for n in (1, 2, 3, 4):
        settings = OptimizerSettings(iterations=n, stop_m=0.0, stop_deg=0.0, robust="squared")
        found = refine_level(pose(*OFFSET) @ s.T_cam_map, s.points, s.level, settings=settings, report=False)
        errors.append(float(error(found.T_cam_map, s.T_cam_map)))
    assert errors[1] < 10 * errors[0] ** 2 and errors[2] < 10 * errors[1] ** 2 and errors[3] < 1e-13


def test_damping_acts_a_parameter():
    """Infinite damping of a parameter holds it: a drone that cannot roll."""
    s = scene()
    damping = torch.full((6,), 1e-6, dtype=torch.float64)
    damping[5] = 1e12
    start = pose(0.1, 0.05, -0.1, 0.01, 0.02, 0.0) @ s.T_cam_map
    with torch.no_grad():
        settings = OptimizerSettings(iterations=1)
        moved = refine_level(start, s.points, replace(s.level, damping=damping), settings=settings).T_cam_map
    step = se3_log(moved @ torch.linalg.inv(start))[0]
    assert abs(float(step[5])) < 1e-9 and float(step[:5].abs().min()) > 1e-4


def test_a_batch_is_its_elements_one_by_one():
    s = scene(batch=4, count=40)
    start = se3_exp(torch.tensor([OFFSET], dtype=torch.float64) * torch.tensor([[0.1], [0.5], [1.0], [-1.0]]))
    start = start @ s.T_cam_map
    mask = torch.rand(4, 40, generator=torch.Generator().manual_seed(0)) > 0.2
    settings = OptimizerSettings(iterations=12)
    with torch.no_grad():
        together = refine(start, s.points, [s.level, s.level], mask=mask, settings=settings)
    iterations = set()
    for i in range(4):
        part = slice(i, i + 1)
        level = replace(s.level, field=s.level.field.select(i), reference=s.level.reference[part])
        with torch.no_grad():
            alone = refine(start[part], s.points[part], [level, level], mask=mask[part], settings=settings)
        torch.testing.assert_close(together.T_cam_map[part], alone.T_cam_map, rtol=0, atol=1e-13)
        torch.testing.assert_close(together.covariance[part], alone.covariance, rtol=1e-6, atol=1e-20)
        for a, b in zip(together.levels, alone.levels, strict=True):
            assert torch.equal(a.iterations[part], b.iterations) and torch.equal(a.stopped[part], b.stopped)
            torch.testing.assert_close(a.hessian[part], b.hessian, rtol=1e-9, atol=1e-9)
            assert torch.equal(a.valid[part], b.valid)
        iterations.add(int(alone.levels[0].iterations))
    assert len(iterations) > 1, "the elements should converge at different times"


def test_looking_seldom_at_convergence_changes_nothing():
    s = scene(batch=3)
    start = pose(*OFFSET) @ s.T_cam_map
    with torch.no_grad():
        often = refine_level(start, s.points, s.level, settings=OptimizerSettings(iterations=25))
    unrolled = refine_level(start, s.points, s.level, settings=OptimizerSettings(iterations=25))
    assert bool((often.stopped == Stop.CONVERGED).all()) and int(often.iterations.max()) < 20
    # Training does not stop early: there the poses go on, and cannot get worse.
    assert bool((unrolled.iterations == 25).all())
    assert bool((error(unrolled.T_cam_map, s.T_cam_map) <= error(often.T_cam_map, s.T_cam_map) + 1e-12).all())


def test_gradients_through_the_unrolled_loop():
    """By finite differences: start, damping, reference features, confidence, and the map of features."""
    s = scene(count=12, camera=DISTORTED)
    generator = torch.Generator().manual_seed(3)
    features = torch.nn.functional.interpolate(
        torch.randn(1, 3, 3, 4, generator=generator, dtype=torch.float64), size=(6, 8), mode="bicubic"
    )
    confidence_map = torch.rand(1, 1, 6, 8, generator=generator, dtype=torch.float64)
    camera = s.level.camera.scaled(8)
    reference = torch.randn(1, 12, 3, generator=generator, dtype=torch.float64) * 0.3
    confidence = torch.rand(1, 12, generator=generator, dtype=torch.float64) + 0.2
    damping = torch.rand(6, generator=generator, dtype=torch.float64) + 0.5
    settings = OptimizerSettings(iterations=3, minimum_points=4, robust_scale=0.5)

    def pose_after(delta, damping, reference, confidence, features, confidence_map):
        level = Level(GridField(features, confidence_map), camera, reference, confidence, damping)
        T = se3_exp(delta) @ s.T_cam_map
        found = refine(T, s.points, [level, level], settings=settings, detach=False, report=False)
        assert not bool(found.levels[1].failed)
        return se3_log(found.T_cam_map @ torch.linalg.inv(s.T_cam_map))

    delta = torch.tensor([[0.02, -0.01, 0.03, 0.004, -0.005, 0.002]], dtype=torch.float64)
    inputs = [t.clone().requires_grad_() for t in (delta, damping, reference, confidence, features, confidence_map)]
    assert torch.autograd.gradcheck(pose_after, inputs, eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_levels_start_without_the_gradient_of_the_one_before():
    s = scene()
    damping = torch.full((6,), 0.1, dtype=torch.float64, requires_grad=True)
    first, second = replace(s.level, damping=damping), s.level
    settings = OptimizerSettings(iterations=2)
    start = pose(*OFFSET) @ s.T_cam_map
    found = refine(start, s.points, [first, second], settings=settings, report=False)
    assert found.levels[0].T_cam_map.requires_grad and not found.levels[1].T_cam_map.requires_grad
    kept = refine(start, s.points, [first, second], settings=settings, report=False, detach=False)
    assert kept.T_cam_map.requires_grad


def test_one_failure_of_a_batch_leaves_the_gradients_of_the_others():
    s = scene(batch=2)
    start = pose(*OFFSET) @ s.T_cam_map
    start[1, 2, 3] = -500.0  # behind everything
    damping = torch.full((6,), 0.1, dtype=torch.float64, requires_grad=True)
    level = replace(s.level, damping=damping)
    found = refine(start, s.points, [level], settings=OptimizerSettings(iterations=3), report=False)
    assert found.levels[0].stopped.tolist() == [Stop.ITERATIONS, Stop.FEW_POINTS]
    found.T_cam_map[0, :3, 3].sum().backward()
    assert bool(damping.grad.isfinite().all()) and float(damping.grad.abs().sum()) > 0
    torch.testing.assert_close(found.T_cam_map[1].detach(), start[1], rtol=1e-12, atol=1e-9)


class Overshooting(WaveField):
    """Slopes a third of what they are: full steps go three times too far."""

    def sample(self, uv, gradients=True):
        found = super().sample(uv, gradients)
        return replace(found, gradients=found.gradients / 3.0) if gradients else found


def test_steps_that_raise_the_cost_are_undone():
    s = scene(damping=0.02, field=Overshooting())
    start = se3_exp(0.3 * torch.tensor([OFFSET], dtype=torch.float64)) @ s.T_cam_map
    settings = OptimizerSettings(iterations=1, robust="squared")
    with torch.no_grad():
        taken = refine_level(start, s.points, s.level, settings=settings)
        kept = refine_level(start, s.points, s.level, settings=replace(settings, steps="decreasing"))
        more = refine_level(start, s.points, s.level, settings=replace(PRECISE, steps="decreasing"))
    assert float(taken.cost) > 2.0 * float(taken.cost_initial)
    torch.testing.assert_close(kept.T_cam_map, start)
    assert float(kept.cost) == float(kept.cost_initial) == float(taken.cost_initial)
    assert float(more.cost) < 1e-6 * float(more.cost_initial), "more damping makes the steps short enough"


def test_success_requires_that_the_cost_did_not_grow():
    s = scene(damping=0.02, field=Overshooting())
    start = se3_exp(0.3 * torch.tensor([OFFSET], dtype=torch.float64)) @ s.T_cam_map
    settings = OptimizerSettings(iterations=1, robust="squared")
    with torch.no_grad():
        found = refine(start, s.points, [s.level], settings=settings)
        damped = replace(s.level, damping=torch.full((6,), 5.0))
        slower = refine(start, s.points, [damped], settings=settings)
    assert not bool(found.success) and not bool(found.levels[0].failed) and bool(found.well_posed)
    assert bool(slower.success)


def test_image_pyramid_then_full_scale_on_grid_features():
    """Coarse to fine on maps, as a localizer calls it; float32."""
    generator = torch.Generator().manual_seed(0)
    model = CameraModel(96, 64, 80.0, 80.0, 47.5, 31.5)
    s = scene(count=80, camera=model)
    lens = TorchCamera.from_model(model)
    image = torch.nn.functional.interpolate(torch.randn(1, 16, 6, 8, generator=generator), (64, 96), mode="bicubic")
    image = torch.nn.functional.normalize(image, dim=1)
    levels = []
    for stride in (8, 4, 1):
        field = GridField(torch.nn.functional.avg_pool2d(image, stride), torch.ones(1, 1, 64 // stride, 96 // stride))
        camera = lens.scaled(stride)
        p = (s.points @ s.T_cam_map[:, :3, :3].mT + s.T_cam_map[:, None, :3, 3]).float()
        reference = field.sample(camera.project(p)[0], gradients=False).values
        levels.append(Level(field, camera, reference, torch.ones(1, 80), torch.full((6,), 1e-3)))
    start = pose(0.3, -0.2, 0.3, 0.03, -0.04, 0.03) @ s.T_cam_map
    with torch.inference_mode():
        found = refine(start, s.points, levels, settings=OptimizerSettings(iterations=30, stop_m=1e-6, stop_deg=1e-4))
    assert bool(found.success)
    errors = [float(error(level.T_cam_map, s.T_cam_map)) for level in found.levels]
    assert errors[-1] < 1e-4 < float(error(start, s.T_cam_map))


def test_robust_cost_of_the_level_overrides_the_settings():
    s = scene(count=40)
    s.level.reference[0, :12] += 0.7  # a third of the points are wrong
    start = pose(*OFFSET) @ s.T_cam_map
    with torch.no_grad():
        plain = refine(start, s.points, [s.level], settings=replace(PRECISE, robust="squared"))
        level = replace(s.level, robust=Robust("geman_mcclure", 0.05))
        robust = refine(start, s.points, [level], settings=replace(PRECISE, robust="squared"))
    # Outliers weigh (1 + x)^-2 with x = 0.7^2 8 / 0.05^2, a millionth.
    assert float(error(robust.T_cam_map, s.T_cam_map)) < 1e-3 < 0.1 * float(error(plain.T_cam_map, s.T_cam_map))


@pytest.mark.parametrize("size", [0.0, 1e-14, 1e-9, 1e-6, 1e-3, 0.3, 2.0, 3.1])
def test_the_loops_exponential_is_the_packages(size):
    axis = torch.tensor([[0.6, -0.48, 0.64]], dtype=torch.float64) * size
    xi = torch.cat([torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), axis], dim=1).requires_grad_()
    found = exponential(xi)
    torch.testing.assert_close(found, se3_exp(xi), rtol=0, atol=1e-12)
    weights = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (slope,) = torch.autograd.grad((found * weights).sum(), xi)
    (expected,) = torch.autograd.grad((se3_exp(xi) * weights).sum(), xi)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-7)


def test_refuses_what_does_not_belong_together():
    s = scene(batch=2)
    with pytest.raises(ConfigError, match="at least one level"):
        refine(s.T_cam_map, s.points, [])
    with pytest.raises(ConfigError, match="reference of 2"):
        refine(s.T_cam_map, s.points[:, :-1], [s.level])
    with pytest.raises(ConfigError, match="mask of 2"):
        refine(s.T_cam_map, s.points, [s.level], mask=torch.ones(3, 60, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"damping \(6,\)"):
        refine(s.T_cam_map, s.points, [replace(s.level, damping=torch.ones(3, 6))])


class Questions(TorchDispatchMode):
    """Counts operations after which the host has to wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique")
        self.asked += any(name in str(func) for name in waits)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("steps", ["all", "decreasing"])
def test_the_loop_never_waits_for_the_device(steps):
    model = replace(FISHEYE, distortion_model="plumb_bob")
    s = scene(count=20, camera=model)
    level = replace(s.level, field=GridField(torch.randn(1, 8, 48, 64, dtype=torch.float64), torch.rand(1, 1, 48, 64)))
    start = pose(*OFFSET) @ s.T_cam_map
    settings = OptimizerSettings(iterations=4, stop_m=0.0, stop_deg=0.0, steps=steps)
    with Questions() as unrolled:
        refine_level(start, s.points, level, settings=settings)
    with torch.no_grad(), Questions() as stopping:
        refine_level(start, s.points, level, settings=settings)
    assert unrolled.asked == 0
    assert stopping.asked == 0
