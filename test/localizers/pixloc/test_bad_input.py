"""What no pose can be refined from: a failure that is said, or a covariance that admits it; never NaN or endless."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from feature_fields import WaveField, pose, random_points, scene

from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.optimizer import OptimizerSettings, Refinement, Stop, refine
from vloc_ros.types import check_covariance, check_transform

SETTINGS = OptimizerSettings(iterations=12)
both_steps = pytest.mark.parametrize("steps", ["all", "decreasing"])
OFFSET = pose(0.1, -0.05, 0.1, 0.01, -0.02, 0.01)


def refined(s, start=None, points=None, level=None, mask=None, steps="all", **settings) -> Refinement:
    with torch.no_grad():
        found = refine(
            OFFSET @ s.T_cam_map if start is None else start,
            s.points if points is None else points,
            [level or s.level] * 2,
            mask=mask,
            settings=replace(SETTINGS, steps=steps, **settings),
        )
    for tensor in (found.T_cam_map, found.covariance):
        assert bool(tensor.isfinite().all())
    for level_result in found.levels:
        for name in ("cost", "cost_initial", "gradient", "hessian", "scatter", "squared", "residual_variance"):
            assert bool(getattr(level_result, name).isfinite().all()), name
    for b in range(len(found.covariance)):
        check_covariance(found.covariance[b].numpy())
    return found


def sigma_m(found: Refinement) -> float:
    return float(torch.linalg.eigvalsh(found.covariance[0, :3, :3])[-1].sqrt())


def assert_failed(found: Refinement, reason: Stop) -> None:
    assert [int(level.stopped) for level in found.levels] == [reason, Stop.NOT_FINITE]
    assert not bool(found.success)
    assert sigma_m(found) > 900


@both_steps
def test_fewer_points_than_ten(steps):
    s = scene(count=30)
    mask = torch.arange(30)[None] < 9
    assert_failed(refined(s, mask=mask, steps=steps), Stop.FEW_POINTS)
    assert bool(refined(s, mask=torch.arange(30)[None] < 10, steps=steps).success)
    nothing = refined(s, mask=torch.zeros(1, 30, dtype=torch.bool), steps=steps)
    torch.testing.assert_close(nothing.T_cam_map, OFFSET @ s.T_cam_map)


def test_no_points_at_all():
    s = scene(count=30)
    level = replace(s.level, reference=s.level.reference[:, :0])
    assert_failed(refined(s, points=s.points[:, :0], level=level), Stop.FEW_POINTS)


@both_steps
def test_all_points_behind_the_camera(steps):
    s = scene()
    start = pose(0, 0, 0, 0, torch.pi, 0) @ s.T_cam_map
    found = refined(s, start=start, steps=steps)
    assert_failed(found, Stop.FEW_POINTS)
    torch.testing.assert_close(found.T_cam_map, start)


@both_steps
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_start_that_is_not_finite(value, steps):
    s = scene()
    for row, column in ((0, 3), (1, 1)):
        start = s.T_cam_map.clone()
        start[0, row, column] = value
        found = refined(s, start=start, steps=steps)
        assert_failed(found, Stop.NOT_FINITE)
        check_transform(found.T_cam_map[0].numpy())


@pytest.mark.parametrize("size", [1e5, 1e20, 1e200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_huge_start(size, dtype):
    s = scene()
    level = replace(s.level, reference=s.level.reference.to(dtype))
    for direction in (1.0, -1.0):
        start = s.T_cam_map.clone()
        start[0, 0, 3] += direction * size
        assert_failed(refined(s, start=start, level=level), Stop.FEW_POINTS)


@both_steps
def test_one_bad_pose_of_a_batch_leaves_the_others_alone(steps):
    s = scene(batch=5)
    start = OFFSET @ s.T_cam_map
    expected = refined(s, start=start, steps=steps)
    start[1, 0, 0] = float("nan")
    start[2, :3, 3] = 1e30
    start[3, 2, 3] -= 100.0
    found = refined(s, start=start, steps=steps)
    for i in (0, 4):
        assert torch.equal(found.T_cam_map[i], expected.T_cam_map[i])
        assert torch.equal(found.covariance[i], expected.covariance[i])
    assert found.success.tolist() == [True, False, False, False, True]


@both_steps
def test_points_features_and_confidences_that_are_not_finite_are_left_out(steps):
    s = scene(count=40)
    points, reference = s.points.clone(), s.level.reference.clone()
    confidence = torch.ones(1, 40, dtype=torch.float64)
    points[0, 0], points[0, 1], reference[0, 2, 3], reference[0, 3] = float("nan"), 1e300, float("nan"), float("inf")
    confidence[0, 4] = float("nan")
    found = refined(s, points=points, level=replace(s.level, reference=reference, confidence=confidence), steps=steps)
    assert bool(found.success)
    assert found.levels[-1].valid[0, :5].tolist() == [False] * 5 and int(found.levels[-1].valid.sum()) == 35
    assert float((found.T_cam_map - s.T_cam_map).abs().max()) < 1e-3


@both_steps
def test_features_of_the_image_that_are_not_finite(steps):
    s = scene(count=40)
    level = replace(s.level, field=GridField(torch.full((1, 8, 48, 64), float("nan"), dtype=torch.float64)))
    assert_failed(refined(s, level=level, steps=steps), Stop.FEW_POINTS)


@both_steps
def test_an_image_without_texture_says_nothing(steps):
    s = scene(count=40)
    level = replace(s.level, field=GridField(torch.full((1, 8, 48, 64), 0.3, dtype=torch.float64)))
    found = refined(s, level=level, steps=steps)
    assert not bool(found.success) and not bool(found.well_posed)
    assert sigma_m(found) > 900
    torch.testing.assert_close(found.T_cam_map, OFFSET @ s.T_cam_map, rtol=0, atol=1e-9)


@both_steps
def test_points_on_a_line_leave_the_turn_about_it_unknown(steps):
    line = torch.tensor([-1.0, -0.6, 4.0]) + torch.linspace(0, 1, 40)[:, None] * torch.tensor([2.5, 1.5, 3.0])
    s = scene(points_cam=line.double())
    noise = 0.01 * torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = refined(s, level=replace(s.level, reference=s.level.reference + noise), steps=steps)
    assert not bool(found.success) and not bool(found.well_posed)
    assert sigma_m(found) > 1.0


@both_steps
@pytest.mark.parametrize("tilt", [0.0, 0.5])
def test_points_on_a_plane_are_enough(steps, tilt):
    p = random_points(60)
    p = p / p[:, 2:] * 6.0 / (1.0 + tilt * p[:, :1] / p[:, 2:])
    s = scene(points_cam=p)
    found = refined(s, steps=steps, stop_m=1e-9, stop_deg=1e-9, iterations=40)
    assert bool(found.success) and float((found.T_cam_map - s.T_cam_map).abs().max()) < 1e-6


def test_coincident_points_are_not_enough():
    s = scene(points_cam=torch.tensor([[0.1, 0.2, 5.0]], dtype=torch.float64).expand(30, 3))
    found = refined(s)
    assert not bool(found.success) and sigma_m(found) > 100


@both_steps
@pytest.mark.parametrize("seed", range(6))
def test_no_overlap_ends_and_is_finite(steps, seed):
    """Features that have nothing to do with the image, from a wild start."""
    s = scene(count=50, seed=seed, field=WaveField(wavelength=6.0, seed=seed))
    reference = torch.randn(1, 50, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    start = pose(2.0, -1.0, 1.0, 0.2, -0.3, 0.5) @ s.T_cam_map
    for damping in (0.0, 1e-6, 1.0, 1e5):
        level = replace(s.level, reference=reference, damping=torch.full((6,), damping, dtype=torch.float64))
        found = refined(s, start=start, level=level, steps=steps)
        rotation = found.T_cam_map[0, :3, :3]
        assert float((rotation @ rotation.T - torch.eye(3)).abs().max()) < 1e-9
        assert bool((found.levels[0].iterations <= SETTINGS.iterations).all())
