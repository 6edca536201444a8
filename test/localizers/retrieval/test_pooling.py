from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.localizers.retrieval.pooling import AveragePooling, GeneralisedMean


def features(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01


def gem(x: torch.Tensor, p: float) -> torch.Tensor:
    """Eq. 3, place by place."""
    out = torch.zeros(x.shape[:2], dtype=torch.float64)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            values = [float(v) ** p for v in x[b, c].flatten()]
            out[b, c] = (sum(values) / len(values)) ** (1 / p)
    return out


@given(seed=st.integers(0, 10_000), p=st.floats(0.5, 12.0))
def test_generalised_mean_is_the_equation(seed, p):
    x = features(seed, 2, 3, 2, 4)
    torch.testing.assert_close(GeneralisedMean(p).double()(x), gem(x, float(torch.tensor(p))), rtol=1e-9, atol=0)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 100.0))
def test_generalised_mean_scales_with_its_input(seed, scale):
    x, pool = features(seed, 1, 4, 3, 3), GeneralisedMean(3.0)
    torch.testing.assert_close(pool(x * scale), pool(x) * scale)


@given(seed=st.integers(0, 10_000))
def test_between_average_and_maximum_and_order_of_places_does_not_matter(seed):
    x, pool = features(seed, 2, 3, 3, 5), GeneralisedMean(4.0)
    found = pool(x)
    assert (found >= AveragePooling()(x) - 1e-9).all() and (found <= x.amax(dim=(-2, -1)) + 1e-9).all()
    order = torch.randperm(15, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(pool(x.flatten(2)[:, :, order].reshape(x.shape)), found)


def test_power_one_is_the_average_and_a_large_power_the_maximum():
    x = features(0, 2, 3, 4, 4)
    torch.testing.assert_close(GeneralisedMean(1.0)(x), AveragePooling()(x))
    large = GeneralisedMean(100.0)(100 * x.float())
    assert torch.isfinite(large).all()
    assert ((100 * x.amax(dim=(-2, -1)) - large).abs() < 4).all()


def test_gradients_of_features_and_power():
    x = features(1, 2, 2, 2, 3).requires_grad_()
    pool = GeneralisedMean(2.5).double()

    def f(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(pool, {"power": p}, (x,))

    assert torch.autograd.gradcheck(f, (x, pool.power))


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_features_that_are_not_positive_count_as_the_floor(value):
    found = GeneralisedMean(3.0)(torch.full((1, 2, 3, 3), value))
    torch.testing.assert_close(found, torch.full((1, 2), 1e-6))
