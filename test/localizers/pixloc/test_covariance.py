"""The covariance against Monte Carlo, and where the geometry does not determine the pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from feature_fields import DISTORTED, pose, scene

from vloc_ros.geometry import se3
from vloc_ros.localizers.pixloc.covariance import pose_covariance, residual_variance, well_posed
from vloc_ros.localizers.pixloc.optimizer import OptimizerSettings, refine
from vloc_ros.types import check_covariance

RUNS = 300
SETTINGS = OptimizerSettings(iterations=6, robust="squared", stop_m=1e-9, stop_deg=1e-9)


def monte_carlo(noise: torch.Tensor, confidence: torch.Tensor | None = None, **settings) -> tuple[np.ndarray, ...]:
    """Errors and predicted covariances of poses refined on references with noise (RUNS, N, C)."""
    s = scene(count=noise.shape[1], camera=DISTORTED)
    level = replace(s.level, reference=s.level.reference + noise, confidence=confidence)
    with torch.no_grad():
        found = refine(s.T_cam_map.expand(RUNS, 4, 4), s.points, [level], settings=replace(SETTINGS, **settings))
    assert bool(found.success.all())
    T_map_cam = torch.linalg.inv(found.T_cam_map).numpy()
    return se3.pose_error(T_map_cam, torch.linalg.inv(s.T_cam_map).numpy()), found.covariance.numpy()


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["hessian", "sandwich"])
@pytest.mark.parametrize("weighted", [False, True], ids=["uniform", "weighted"])
def test_monte_carlo_of_independent_noise(kind, weighted):
    confidence = torch.linspace(0.1, 1.0, 80, dtype=torch.float64)[None] if weighted else None
    noise = 0.02 * normal(0, RUNS, 80, 8)
    if confidence is not None:
        noise = noise / confidence.sqrt()[..., None]
    error, covariance = monte_carlo(noise, confidence, covariance=kind)
    mean = covariance.mean(0)
    whitened = np.linalg.solve(np.linalg.cholesky(mean), error.T)
    # 300 samples: standard errors 0.06 off the diagonal and 0.08 on it; the sandwich is known to be a little small.
    np.testing.assert_allclose(np.cov(whitened), np.eye(6), atol=0.35)
    assert 5.3 < se3.nees(error, covariance).mean() < (6.7 if kind == "hessian" else 8.0)


def test_noise_that_the_channels_share_needs_the_sandwich():
    """Noise that looks like a shift of the point moves the pose more than its size says."""
    s = scene(count=80, camera=DISTORTED)
    p = s.points @ s.T_cam_map[:, :3, :3].transpose(-1, -2) + s.T_cam_map[:, None, :3, 3]
    gradients = s.level.field.sample(s.level.camera.project(p)[0]).gradients
    noise = torch.einsum("bncd,rnd->rnc", gradients, 0.3 * normal(1, RUNS, 80, 2))
    mean_nees = {}
    for kind in ("hessian", "sandwich"):
        error, covariance = monte_carlo(noise, covariance=kind)
        mean_nees[kind] = se3.nees(error, covariance).mean()
    assert 5.0 < mean_nees["sandwich"] < 8.0 and mean_nees["hessian"] > 12


def test_residual_variance_recovers_the_noise():
    weights = torch.rand(1, 400, dtype=torch.float64) + 0.1
    residuals = 0.3 * normal(3, 1, 400, 16) / weights.sqrt()[..., None]
    squared = (residuals**2).sum(-1)
    valid = torch.arange(400)[None] < 300
    found = residual_variance(
        torch.where(valid, squared, torch.zeros(())), torch.where(valid, weights, torch.zeros(())), valid, 16
    )
    assert float(found) == pytest.approx(0.09, rel=0.06)


def test_more_noise_and_fewer_points_mean_larger_covariance():
    def sigma(noise: float, count: int) -> float:
        return float(np.sqrt(np.trace(monte_carlo(noise * normal(0, RUNS, count, 8))[1].mean(0)[:3, :3])))

    assert sigma(0.04, 60) == pytest.approx(2 * sigma(0.02, 60), rel=0.05)
    assert sigma(0.02, 30) > 1.2 * sigma(0.02, 60)


def test_directions_without_curvature_stay_unknown():
    H = torch.diag(torch.tensor([1e4, 1e4, 0.0, 1e4, 1e4, 1e4], dtype=torch.float64))[None]
    T = pose(3.0, -2.0, 1.0, 0.5, -0.4, 1.2)
    cov = pose_covariance(T, H, torch.tensor([1e-4]))[0]
    check_covariance(cov.numpy())
    R = T[0, :3, :3].T
    axis = R @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert float((axis @ cov[:3, :3] @ axis).sqrt()) == pytest.approx(1000.0, rel=1e-3)
    other = R @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert float((other @ cov[:3, :3] @ other).sqrt()) == pytest.approx(1e-4, rel=0.01)
    assert not bool(well_posed(H)) and bool(well_posed(H + torch.eye(6)))


@pytest.mark.parametrize(
    "H",
    [
        torch.zeros(6, 6),
        torch.full((6, 6), float("nan")),
        torch.full((6, 6), 1e300, dtype=torch.float64),
        -torch.eye(6),
    ],
)
@pytest.mark.parametrize("variance", [0.0, 1.0, float("nan"), float("inf"), 1e300])
def test_whatever_comes_in_a_covariance_comes_out(H, variance):
    cov = pose_covariance(
        pose(0, 0, 0, 0, 0, 0),
        H.double()[None],
        torch.tensor([variance], dtype=torch.float64),
        scatter=torch.eye(6)[None],
    )
    check_covariance(cov[0].numpy())
    assert not bool(well_posed(H.double()[None]))


def test_unknown_poses_get_the_widest():
    cov = pose_covariance(
        pose(0, 0, 0, 0, 0, 0), torch.eye(6)[None].double() * 1e6, torch.ones(1), known=torch.zeros(1, dtype=torch.bool)
    )
    np.testing.assert_allclose(np.sqrt(np.diag(cov[0]))[:3], 1000.0)
