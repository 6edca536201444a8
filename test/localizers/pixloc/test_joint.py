"""The pose of a rig: normal equations of all cameras against numerical derivatives, batches, kinds, and one camera."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from feature_fields import CAMERA, DISTORTED, WaveField, pose, random_points

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.geometry.torch_ops import se3_exp
from vloc_ros.localizers.pixloc.field import GridField
from vloc_ros.localizers.pixloc.joint import CentredPoints, JointProblem
from vloc_ros.localizers.pixloc.levels import Level, OptimizerSettings, Sight
from vloc_ros.localizers.pixloc.optimizer import refine, refine_rig
from vloc_ros.localizers.pixloc.residuals import evaluate
from vloc_ros.localizers.pixloc.robust import Robust

T_RIG_MAP = pose(2.0, -3.0, 1.0, 0.3, -0.4, 0.2)
T_CAM_RIG = torch.cat([torch.eye(4, dtype=torch.float64)[None], pose(0.4, -0.1, 0.3, 0.1, 1.4, -0.2)])
OFFSET = pose(0.05, -0.03, 0.04, 0.01, -0.008, 0.006)
EXACT = OptimizerSettings(iterations=40, stop_m=1e-9, stop_deg=1e-8, robust="squared")
DAMPING = torch.full((6,), 1e-6, dtype=torch.float64)


def camera_sight(number: int, count: int, lens=CAMERA, noise: float = 0.0, seed: int = 0) -> Sight:
    """What camera ``number`` of the rig sees at ``T_RIG_MAP``, by itself: its points, and exact or noisy features."""
    p = random_points(count, seed + number)
    T_map_cam = torch.linalg.inv(T_CAM_RIG[number] @ T_RIG_MAP[0])
    field, camera = WaveField(seed=seed + number), TorchCamera.from_model(lens, dtype=torch.float64)
    reference = field.sample(camera.project(p[None])[0], gradients=False).values
    generator = torch.Generator().manual_seed(seed + number)
    reference = reference + noise * torch.randn(reference.shape, generator=generator, dtype=torch.float64)
    confidence = torch.rand(1, count, generator=generator, dtype=torch.float64)
    level = Level(field, camera, reference, confidence, DAMPING)
    return Sight((p @ T_map_cam[:3, :3].T + T_map_cam[:3, 3])[None], (level,), None, T_CAM_RIG[number : number + 1])


def grids(sights) -> list[Sight]:
    """The same with features in cells."""
    out = []
    v, u = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    for sight in sights:
        level = sight.levels[0]
        values = level.field.sample(torch.stack([u, v], -1).view(1, -1, 2).double(), gradients=False).values
        field = GridField(values[0].T.reshape(1, -1, 48, 64))
        out.append(replace(sight, levels=(replace(level, field=field),)))
    return out


def together(sights) -> Sight:
    """Cameras of one kind as one sight; those with fewer points are filled up."""
    most = max(s.points_map.shape[1] for s in sights)

    def filled(x):
        return torch.nn.functional.pad(x, (*[0, 0] * (x.ndim - 2), 0, most - x.shape[1]))

    levels = [s.levels[0] for s in sights]
    cells = [x.field.rows.view(1, 50, 66, -1)[:, 1:-1, 1:-1].permute(0, 3, 1, 2) for x in levels]
    joint = Level(
        GridField(torch.cat(cells)),
        TorchCamera.stack([x.camera for x in levels]),
        torch.cat([filled(x.reference) for x in levels]),
        torch.cat([filled(x.confidence) for x in levels]),
        DAMPING,
    )
    mask = torch.cat([filled(torch.ones(s.points_map.shape[:2], dtype=torch.bool)) for s in sights])
    rig = torch.cat([s.T_cam_rig for s in sights])
    return Sight(torch.cat([filled(s.points_map) for s in sights]), (joint,), mask, rig)


@pytest.mark.parametrize("lens", [CAMERA, DISTORTED])
def test_normal_equations_are_those_of_all_residuals_by_the_pose_of_the_rig(lens):
    sights = [camera_sight(0, 40, noise=0.05), camera_sight(1, 25, lens, noise=0.05)]
    T = OFFSET @ T_RIG_MAP
    robust = Robust("cauchy", 0.2)
    points = CentredPoints(sights, torch.float64)
    centred = T.clone()
    centred[:, :3, 3:] += T[:, :3, :3] @ points.centre.mT
    found = JointProblem(sights, points, 0, 1, robust).evaluate(centred, scatter=True)

    def residuals(delta):
        out = []
        for sight in sights:
            level = sight.levels[0]
            cam = sight.T_cam_rig[0] @ se3_exp(delta) @ T[0]
            uv, _ = level.camera.project((sight.points_map[0] @ cam[:3, :3].T + cam[:3, 3])[None])
            out.append((level.field.sample(uv).values - level.reference)[0])
        return torch.cat(out)

    step, zero = 1e-6, torch.zeros(6, dtype=torch.float64)
    r = residuals(zero)
    columns = [residuals(zero + d) - residuals(zero - d) for d in step * torch.eye(6).double()]
    J = torch.stack(columns, -1) / (2 * step)
    confidence = torch.cat([s.levels[0].confidence[0] for s in sights])
    w = confidence * robust.weight((r * r).sum(-1))
    shares = torch.einsum("n,nci,nc->ni", w, J, r)
    assert bool(found.valid.all()) and found.valid.shape == (1, 65)
    torch.testing.assert_close(found.hessian[0], torch.einsum("n,nci,ncj->ij", w, J, J), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.gradient[0], shares.sum(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.scatter[0], shares.T @ shares, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.cost[0], (confidence * robust.cost((r * r).sum(-1))).sum())


def test_cameras_that_leave_a_direction_open_fix_it_together():
    sights = [camera_sight(number, 2, seed=3) for number in (0, 1)]
    settings = replace(EXACT, minimum_points=3)
    found = refine_rig(OFFSET @ T_RIG_MAP, sights, settings=settings)
    assert bool(found.success.all()) and bool(found.well_posed.all()) and int(found.valid) == 4
    torch.testing.assert_close(found.T_cam_map, T_RIG_MAP, rtol=0, atol=1e-7)
    alone = refine_rig(OFFSET @ T_RIG_MAP, sights[1:], settings=settings)
    assert not bool(alone.success.any()), "two points fix no pose"


@pytest.mark.parametrize("number", [0, 1])
def test_a_rig_of_one_is_the_camera_by_itself(number):
    sight = camera_sight(number, 50, noise=0.02)
    rig = refine_rig(OFFSET @ T_RIG_MAP, [sight], settings=EXACT)
    alone = refine(sight.T_cam_rig @ OFFSET @ T_RIG_MAP, sight.points_map, sight.levels, settings=EXACT)
    torch.testing.assert_close(sight.T_cam_rig @ rig.T_cam_map, alone.T_cam_map, rtol=0, atol=1e-8)
    assert float(rig.cost) == pytest.approx(float(alone.cost), rel=1e-9) and int(rig.valid) == int(alone.valid)
    # Both covariances speak of errors at the camera's place.
    if number == 0:
        torch.testing.assert_close(rig.covariance, alone.covariance, rtol=1e-6, atol=1e-12)


def test_more_cameras_are_surer_of_the_pose_and_nearer_to_it():
    errors = {"first": [], "both": []}
    for seed in range(8):
        sights = [camera_sight(number, 50, noise=0.1, seed=10 * seed) for number in (0, 1)]
        alone, both = (refine_rig(T_RIG_MAP, part, settings=EXACT) for part in (sights[:1], sights))
        for name, found in (("first", alone), ("both", both)):
            errors[name].append(float((found.T_cam_map - T_RIG_MAP)[0, :3, 3].norm()))
        sigma = [float(found.covariance[0, :3, :3].trace()) for found in (alone, both)]
        assert sigma[1] < sigma[0]
    assert sum(errors["both"]) < 0.8 * sum(errors["first"])


def test_cameras_of_one_kind_at_once_are_those_one_after_the_other():
    sights = grids([camera_sight(0, 40, noise=0.02), camera_sight(1, 25, noise=0.02)])
    starts = torch.cat([OFFSET @ T_RIG_MAP, torch.linalg.inv(OFFSET) @ T_RIG_MAP, T_RIG_MAP])
    settings = replace(EXACT, covariance="sandwich")
    at_once = refine_rig(starts, [together(sights)], settings=settings)
    for number in range(3):
        apart = refine_rig(starts[number : number + 1], sights, settings=settings)
        torch.testing.assert_close(at_once.T_cam_map[number], apart.T_cam_map[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(at_once.covariance[number], apart.covariance[0], rtol=1e-5, atol=1e-12)
        assert int(at_once.valid[number]) == int(apart.valid[0]) and float(at_once.cost[number]) == pytest.approx(
            float(apart.cost[0])
        )


def test_a_camera_whose_points_are_not_seen_changes_nothing():
    sights = [camera_sight(0, 40, noise=0.02), camera_sight(1, 40)]
    behind = replace(sights[1], points_map=sights[1].points_map + 1e4)
    both, first = (refine_rig(OFFSET @ T_RIG_MAP, part, settings=EXACT) for part in ([sights[0], behind], sights[:1]))
    torch.testing.assert_close(both.T_cam_map, first.T_cam_map, rtol=0, atol=1e-7)
    assert int(both.valid) == int(first.valid)


def test_what_does_not_belong_together_is_refused():
    first, second = (camera_sight(number, 10) for number in (0, 1))
    with pytest.raises(ConfigError, match="the same in every sight"):
        refine_rig(T_RIG_MAP, [first, replace(second, levels=second.levels * 2)])
    with pytest.raises(ConfigError, match="2 cameras"):
        refine_rig(T_RIG_MAP, [replace(first, T_cam_rig=T_CAM_RIG)])
    with pytest.raises(ConfigError, match="grid of features"):
        joint = replace(
            first, T_cam_rig=T_CAM_RIG, points_map=first.points_map.expand(2, -1, -1),
            levels=(replace(first.levels[0], reference=first.levels[0].reference.expand(2, -1, -1), confidence=None),),
        )  # fmt: skip
        refine_rig(T_RIG_MAP.expand(2, 4, 4), [joint])


def test_evaluation_of_one_camera_is_the_plain_one():
    sight = replace(camera_sight(0, 30, noise=0.05), T_cam_rig=None)
    level, points = sight.levels[0], CentredPoints([sight], torch.float64)
    T = OFFSET @ T_RIG_MAP
    centred = T.clone()
    centred[:, :3, 3:] += T[:, :3, :3] @ points.centre.mT
    found = JointProblem([sight], points, 0, 1, Robust()).evaluate(centred)
    plain = evaluate(T, sight.points_map, level.reference, level.confidence, None, level.field, level.camera, Robust())
    torch.testing.assert_close(found.normal, plain.normal, rtol=1e-9, atol=1e-9)
