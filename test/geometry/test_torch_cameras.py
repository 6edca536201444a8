"""The torch cameras against the numpy ones, against finite differences, scaled and batched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import CameraError
from vloc_ros.geometry import cameras
from vloc_ros.geometry.torch_cameras import TorchCamera
from vloc_ros.types import CameraModel

PINHOLE = CameraModel(640, 480, 517.3, 516.5, 318.6, 255.3)


def lens(model: str, *coefficients: float) -> CameraModel:
    return replace(PINHOLE, distortion_model=model, distortion=coefficients)


ALL = {
    "pinhole": PINHOLE,
    "zero": lens("plumb_bob", 0.0, 0.0, 0.0, 0.0),
    "four": lens("plumb_bob", -0.28, 0.07, 1e-3, -2e-4),
    "tum": lens("plumb_bob", 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    "rational": lens("rational_polynomial", 0.55, 0.06, 1e-4, -3e-5, 0.002, 0.9, 0.18, 0.012),
    "prism": lens("rational_polynomial", 0.5, 0.05, 1e-4, 1e-4, 0.0, 0.85, 0.15, 0.0, 1e-3, -2e-4, 5e-4, 1e-4),
    "tilted": lens(
        "rational_polynomial", 0.5, 0.05, 1e-4, 1e-4, 0.0, 0.85, 0.15, 0.0, 1e-3, 0.0, 0.0, 1e-4, 0.03, -0.02
    ),
    "fisheye": CameraModel(640, 480, 280.0, 281.0, 322.0, 238.0, "equidistant", (-0.012, 0.004, -0.003, 4e-4)),
    "ideal": CameraModel(640, 480, 300.0, 300.0, 319.5, 239.5, "equidistant", (0.0, 0.0, 0.0, 0.0)),
}
every_camera = pytest.mark.parametrize("model", ALL.values(), ids=ALL.keys())


def points(count: int = 400) -> np.ndarray:
    """In view, at the edge of it, on the axis and behind."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(-1.5, 1.5, (count, 2)) * rng.uniform(0, 1, (count, 1))
    xy[:5] = [[0, 0], [1e-9, 0], [1e-5, -1e-5], [9e-4, 4e-4], [1.1e-3, 0]]
    p = np.concatenate([xy, np.ones((count, 1))], axis=1) * rng.uniform(0.5, 80.0, (count, 1))
    p[-20:, 2] *= -1
    return p


@every_camera
def test_agrees_with_numpy(model):
    p = points()
    camera = TorchCamera.from_model(model, dtype=torch.float64)
    uv, J, valid = camera.project_with_jacobian(torch.tensor(p))
    expected, expected_valid = cameras.project(model, p)
    np.testing.assert_array_equal(valid, expected_valid)
    assert 100 < int(valid.sum()) <= 380
    np.testing.assert_allclose(uv[valid], expected[expected_valid], rtol=0, atol=1e-9)
    np.testing.assert_allclose(J[valid], cameras.projection_jacobian(model, p)[expected_valid], rtol=1e-9, atol=1e-9)
    assert bool(uv.isfinite().all() & J.isfinite().all())
    again, valid_again = camera.project(torch.tensor(p))
    assert torch.equal(again, uv) and torch.equal(valid_again, valid)


@every_camera
def test_jacobian_is_the_derivative(model, record_property):
    camera = TorchCamera.from_model(model, dtype=torch.float64)
    p = torch.tensor(points())
    _, J, valid = camera.project_with_jacobian(p)
    p, J = p[valid], J[valid]
    h = 1e-5
    numeric = torch.stack(
        [(camera.project(p + h * e)[0] - camera.project(p - h * e)[0]) / (2 * h) for e in torch.eye(3).double()], dim=-1
    )
    # Points half a metre away see h as a large angle: the error of the central difference is of order h^2.
    error = float((J - numeric).norm() / numeric.norm())
    record_property("relative_difference", error)
    assert error < 1e-6


@every_camera
def test_float32_is_accurate_to_its_resolution(model):
    p = points()
    valid = cameras.project(model, p)[1]
    uv, J, _ = TorchCamera.from_model(model).project_with_jacobian(torch.tensor(p, dtype=torch.float32))
    assert uv.dtype == torch.float32
    np.testing.assert_allclose(uv[valid], cameras.project(model, p)[0][valid], atol=5e-4)
    expected = cameras.projection_jacobian(model, p)[valid]
    assert np.abs(J.numpy()[valid] - expected).max() < 1e-5 * np.abs(expected).max()


@every_camera
def test_autograd_gives_the_same_derivative_and_is_finite_for_points_behind(model):
    camera = TorchCamera.from_model(model, dtype=torch.float64)
    p = torch.tensor(points(60)).requires_grad_()
    uv, J, valid = camera.project_with_jacobian(p)
    (grad,) = torch.autograd.grad((uv * torch.tensor([1.0, -2.0])).sum(), p, retain_graph=True)
    expected = J[..., 0, :] - 2.0 * J[..., 1, :]
    torch.testing.assert_close(grad[valid], expected[valid], rtol=1e-9, atol=1e-9)
    (second,) = torch.autograd.grad(J.sum(), p)
    assert bool(second.isfinite().all())


@every_camera
@pytest.mark.parametrize("stride", [1, 4, 16.0, (2.0, 3.0)])
def test_scaled_is_the_resized_camera(model, stride):
    sx, sy = stride if isinstance(stride, tuple) else (stride, stride)
    p = torch.tensor(points())
    camera = TorchCamera.from_model(model, dtype=torch.float64)
    uv, valid = camera.project(p)
    scaled, scaled_valid = camera.scaled(stride).project(p)
    expected = (uv + 0.5) / torch.tensor([sx, sy]) - 0.5
    torch.testing.assert_close(scaled, expected, rtol=1e-12, atol=1e-9)
    assert torch.equal(valid, scaled_valid)


def test_a_batch_is_its_elements():
    models = [ALL[name] for name in ("pinhole", "tum", "tilted", "prism")]
    single = [TorchCamera.from_model(model, dtype=torch.float64) for model in models]
    p = torch.tensor(points()).expand(4, -1, -1) * torch.tensor([1.0, 1.1, 0.9, 1.0])[:, None, None]
    uv, J, valid = TorchCamera.stack(single).scaled(4).project_with_jacobian(p)
    for i, camera in enumerate(single):
        expected_uv, expected_J, expected_valid = camera.scaled(4).project_with_jacobian(p[i])
        assert torch.equal(valid[i], expected_valid)
        torch.testing.assert_close(uv[i][valid[i]], expected_uv[valid[i]], rtol=0, atol=1e-11)
        torch.testing.assert_close(J[i][valid[i]], expected_J[valid[i]], rtol=0, atol=1e-9)


def test_fisheyes_batch_among_themselves_only():
    fisheyes = [TorchCamera.from_model(ALL[name]) for name in ("fisheye", "ideal")]
    p = torch.tensor(points(), dtype=torch.float32)
    uv, _ = TorchCamera.stack(fisheyes).project(p.expand(2, -1, -1))
    torch.testing.assert_close(uv[1], fisheyes[1].project(p)[0])
    with pytest.raises(CameraError, match="batch them apart"):
        TorchCamera.stack([*fisheyes, TorchCamera.from_model(PINHOLE)])
    with pytest.raises(CameraError, match="none at all"):
        TorchCamera.stack([])


def test_moves_between_precisions():
    camera = TorchCamera.from_model(ALL["tum"], dtype=torch.float64).to(dtype=torch.float32)
    assert camera.project(torch.ones(3))[0].dtype == torch.float32


@given(
    st.sampled_from(sorted(ALL)),
    st.lists(st.floats(-1e30, 1e30, allow_nan=False), min_size=3, max_size=3),
)
def test_what_it_calls_valid_is_finite(name, xyz):
    uv, J, valid = TorchCamera.from_model(ALL[name], dtype=torch.float64).project_with_jacobian(
        torch.tensor(xyz, dtype=torch.float64)
    )
    assert bool(torch.isfinite(uv).all() & torch.isfinite(J).all()) or not bool(valid)
