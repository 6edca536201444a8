"""The feature map's lookup against a transcription of bilinear interpolation and central differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.pixloc.field import GridField


def maps(B: int = 1, C: int = 5, h: int = 7, w: int = 9, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(B, C, h, w, generator=generator, dtype=torch.float64).to(dtype)
    return features, torch.rand(B, 1, h, w, generator=generator, dtype=torch.float64).to(dtype)


def bilinear(image: np.ndarray, u: float, v: float) -> np.ndarray:
    """Of (..., h, w)."""
    x, y = min(int(u), image.shape[-1] - 2), min(int(v), image.shape[-2] - 2)
    a, b = u - x, v - y
    top = (1 - a) * image[..., y, x] + a * image[..., y, x + 1]
    bottom = (1 - a) * image[..., y + 1, x] + a * image[..., y + 1, x + 1]
    return (1 - b) * top + b * bottom


positions = st.tuples(
    st.one_of(st.sampled_from([0.0, 1.0, 7.5, 8.0]), st.floats(0, 8)),
    st.one_of(st.sampled_from([0.0, 0.5, 5.0, 6.0]), st.floats(0, 6)),
)


@given(positions)
def test_values_gradients_and_confidence(position):
    features, confidence = maps()
    found = GridField(features, confidence).sample(torch.tensor([[position]], dtype=torch.float64))
    image = features[0].numpy()
    dy, dx = np.gradient(image, axis=(1, 2))  # central, one-sided at the border
    assert bool(found.inside)
    np.testing.assert_allclose(found.values[0, 0], bilinear(image, *position), atol=1e-12)
    np.testing.assert_allclose(found.gradients[0, 0, :, 0], bilinear(dx, *position), atol=1e-12)
    np.testing.assert_allclose(found.gradients[0, 0, :, 1], bilinear(dy, *position), atol=1e-12)
    np.testing.assert_allclose(found.confidence[0, 0], bilinear(confidence[0, 0].numpy(), *position), atol=1e-12)


def test_on_a_plane_the_gradients_are_its_slopes_up_to_the_border():
    v, u = torch.meshgrid(torch.arange(6.0), torch.arange(4.0), indexing="ij")
    uv = torch.tensor([[[0.0, 0.0], [3.0, 5.0], [0.2, 4.9], [1.5, 2.5]]])
    found = GridField((2 * u - 3 * v)[None, None]).sample(uv)
    torch.testing.assert_close(found.gradients[0, :, 0], torch.tensor([2.0, -3.0]).expand(4, 2))


def test_values_alone_are_the_same():
    field = GridField(*maps())
    uv = torch.rand(1, 50, 2, dtype=torch.float64) * 6
    full, short = field.sample(uv), field.sample(uv, gradients=False)
    torch.testing.assert_close(short.values, full.values)
    torch.testing.assert_close(short.confidence, full.confidence)
    assert short.gradients is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, -1e-6, 8.001])
def test_outside_is_said_and_finite(value):
    field = GridField(*maps())
    uv = torch.tensor([[[value, 1.0], [2.0, 3.0], [2.0, value]]], dtype=torch.float64)
    found = field.sample(uv)
    assert found.inside.tolist() == [[False, True, False]]
    for tensor in (found.values, found.gradients, found.confidence):
        assert bool(tensor.isfinite().all())


def test_each_image_of_a_batch_has_its_own_map_and_one_map_serves_all():
    features, confidence = maps(B=3)
    uv = torch.rand(3, 20, 2, dtype=torch.float64) * 5
    found = GridField(features, confidence).sample(uv)
    shared = GridField(features[:1], confidence[:1]).sample(uv)
    picked = GridField(features, confidence).of(torch.tensor([2, 0, 2])).sample(uv)
    for i, source in enumerate((2, 0, 2)):
        one = GridField(features[i : i + 1], confidence[i : i + 1]).sample(uv[i : i + 1])
        torch.testing.assert_close(found.values[i], one.values[0])
        torch.testing.assert_close(found.gradients[i], one.gradients[0])
        torch.testing.assert_close(found.confidence[i], one.confidence[0])
        first = GridField(features[:1], confidence[:1]).sample(uv[i : i + 1])
        torch.testing.assert_close(shared.gradients[i], first.gradients[0])
        chosen = GridField(features[source : source + 1]).sample(uv[i : i + 1])
        torch.testing.assert_close(picked.values[i], chosen.values[0])
    with pytest.raises(ConfigError, match="one image or 2"):
        GridField(features).sample(uv[:2])


def test_half_becomes_single():
    features = maps(dtype=torch.float32)[0]
    half = GridField(features.half(), torch.rand(1, 1, 7, 9).half())
    assert half.sample(torch.ones(1, 2, 2)).values.dtype == torch.float32


def test_derivatives_by_positions_features_and_confidence():
    features, confidence = maps(C=2, h=4, w=5)
    uv = torch.tensor([[[0.3, 0.2], [2.6, 1.7], [3.9, 2.9]]], dtype=torch.float64)

    def sampled(features, confidence, uv):
        found = GridField(features, confidence).sample(uv)
        return found.values, found.gradients, found.confidence

    tensors = [t.requires_grad_() for t in (features, confidence, uv)]
    assert torch.autograd.gradcheck(sampled, tensors)


def test_refuses_maps_that_do_not_belong_together():
    features, confidence = maps()
    with pytest.raises(ConfigError, match="confidence map of shape"):
        GridField(features, confidence[..., :-1])
    with pytest.raises(ConfigError, match="2 x 2"):
        GridField(features[..., :1])
