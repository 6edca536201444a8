from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from vloc_ros.errors import VlocError
from vloc_ros.localizers.retrieval.whitening import VARIANCE_FLOOR, fit_whitening


def samples(count: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator)
    return torch.randn(count, size, generator=generator) @ mixing + 3.0


@given(seed=st.integers(0, 1000), kept=st.integers(1, 6))
@example(seed=148, kept=6)  # a direction of variance 4e-8, which the floor keeps from being blown up to one
def test_centres_decorrelates_and_scales(seed, kept):
    x = samples(200, 6, seed)
    weight, bias = fit_whitening(x, kept)
    y = (x @ weight.T + bias).double()
    assert weight.shape == (kept, 6) and bias.shape == (kept,)
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(kept, dtype=torch.float64), rtol=0, atol=1e-4)
    variances = torch.linalg.eigvalsh(x.double().T.cov()).flip(0)[:kept]
    expected = torch.diag(variances / (variances + VARIANCE_FLOOR))
    torch.testing.assert_close(y.T.cov().reshape(kept, kept), expected, rtol=0, atol=2e-3)


def test_keeps_the_directions_of_largest_variance():
    x = torch.diag(torch.tensor([1.0, 10.0, 0.1, 5.0]))
    x = torch.cat((x, -x))
    weight, _ = fit_whitening(x, 2)
    assert weight.abs().argmax(dim=1).tolist() == [1, 3]


def test_fewer_samples_than_dimensions(caplog):
    x = samples(7, 30)
    with caplog.at_level(logging.WARNING):
        weight, bias = fit_whitening(x, 20)
    assert weight.shape == (6, 30) and "6 of 20 dimensions" in caplog.text
    y = x @ weight.T + bias
    torch.testing.assert_close(y.T.cov(), torch.eye(6), rtol=0, atol=1e-3)


def test_both_ways_to_the_components_agree_up_to_sign():
    x = torch.nn.functional.pad(samples(20, 8), (0, 20))  # 8 directions in 28 dimensions
    few, _ = fit_whitening(x, 8)
    many, _ = fit_whitening(x[:, :8], 8)
    torch.testing.assert_close(few[:, :8].abs(), many.abs(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("x", [torch.ones(1, 4), torch.ones(5, 4), torch.ones(4)])
def test_descriptors_that_do_not_differ_are_refused(x):
    with pytest.raises(VlocError, match="whitening: expected"):
        fit_whitening(x, 2)
