"""Robust costs against transcriptions of their definitions in float64, and what all of them must be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.pixloc.robust import LearnedBarron, Robust


def transcribed(kind: str, s: float, scale: float, alpha: float) -> float:
    """The definitions with the residual's norm r and Barron's eq. 1, each scaled to start as r^2."""
    r = math.sqrt(s)
    if kind == "squared":
        return r * r
    if kind == "huber":
        return r * r if r <= scale else 2 * scale * r - scale**2
    if kind == "cauchy":
        return scale**2 * math.log(1 + (r / scale) ** 2)
    if kind == "geman_mcclure":
        return r * r / (1 + (r / scale) ** 2)
    z = (r / scale) ** 2
    if alpha == 2:
        return scale**2 * z
    if alpha == 0:
        return 2 * scale**2 * math.log(z / 2 + 1)
    b = abs(alpha - 2)
    return 2 * scale**2 * b / alpha * ((z / b + 1) ** (alpha / 2) - 1)


COSTS = st.builds(
    Robust,
    st.sampled_from(["squared", "huber", "cauchy", "geman_mcclure", "barron"]),
    st.floats(0.01, 10.0),
    st.one_of(st.sampled_from([0.0, 1.0, 2.0, -2.0, -10.0]), st.floats(-5.0, 1.99).filter(lambda a: abs(a) > 1e-3)),
)
SQUARES = st.one_of(st.just(0.0), st.floats(1e-12, 1e4))


@given(COSTS, SQUARES)
def test_costs_are_their_definitions(robust, s):
    found = float(robust.cost(torch.tensor(s, dtype=torch.float64)))
    assert found == pytest.approx(transcribed(robust.kind, s, robust.scale, robust.alpha), rel=1e-6, abs=1e-12)


@given(COSTS, SQUARES)
def test_the_weight_is_the_derivative(robust, s):
    x = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(robust.cost(x), x)
    assert float(robust.weight(x.detach())) == pytest.approx(float(slope), rel=1e-5, abs=1e-12)


@given(COSTS, st.lists(SQUARES, min_size=2, max_size=10))
def test_costs_grow_and_weights_fall(robust, values):
    s = torch.tensor(sorted(values), dtype=torch.float64)
    cost, weight = robust.cost(s), robust.weight(s)
    assert bool((cost.diff() >= -1e-12).all()) and bool((cost <= s * (1 + 1e-9)).all()) and bool((cost >= 0).all())
    assert bool((weight.diff() <= 1e-12).all()) and bool(((weight >= 0) & (weight <= 1 + 1e-12)).all())


@given(COSTS)
def test_near_zero_all_are_the_square(robust):
    s = torch.tensor(1e-9 * robust.scale**2, dtype=torch.float64)
    assert float(robust.cost(s) / s) == pytest.approx(1.0, rel=1e-6)
    assert float(robust.weight(torch.zeros(1))) == pytest.approx(1.0)


@given(SQUARES, st.floats(0.1, 2.0))
def test_the_family_holds_its_members(s, scale):
    x = torch.tensor(s, dtype=torch.float64)
    cauchy = Robust("cauchy", math.sqrt(2) * scale)
    mcclure = Robust("geman_mcclure", 2 * scale)
    for alpha, other in ((0.0, cauchy), (1e-7, cauchy), (-2.0, mcclure), (2.0, Robust("squared"))):
        member = Robust("barron", scale, alpha)
        torch.testing.assert_close(member.cost(x), other.cost(x), rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(member.weight(x), other.weight(x), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("alpha", [1.9999, 1.0, 1e-9, 0.0, -1e-6, -2.0])
def test_the_shape_can_be_learned(alpha):
    s = torch.tensor([0.0, 1e-6, 0.01, 1.0, 4.0], dtype=torch.float64)

    def cost(a):
        return Robust("barron", 0.1, a).cost(s)

    a = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cost, a, eps=1e-7, atol=1e-5)
    assert torch.autograd.gradcheck(lambda a: Robust("barron", 0.1, a).weight(s), a, eps=1e-7, atol=1e-5)


def test_learned_shape_starts_where_it_is_told_and_gets_a_gradient():
    learned = LearnedBarron(scale=0.1, start=0.5)
    robust = learned()
    s = torch.tensor([0.5, 2.0])
    torch.testing.assert_close(robust.cost(s), Robust("barron", 0.1, 0.5).cost(s))
    robust.cost(s).sum().backward()
    assert float(learned.theta.grad) > 0  # a larger alpha counts outliers more
    with pytest.raises(ConfigError, match="first alpha"):
        LearnedBarron(start=2.0)


def test_float32_stays_accurate():
    s = torch.logspace(-8, 2, 50)
    for kind in ("squared", "huber", "cauchy", "geman_mcclure", "barron"):
        for alpha in (-2.0, 0.0, 1.0, 1.9999):
            robust = Robust(kind, 0.1, alpha)
            torch.testing.assert_close(robust.cost(s), robust.cost(s.double()).float(), rtol=2e-3, atol=0)
            torch.testing.assert_close(robust.weight(s), robust.weight(s.double()).float(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("l1",), "expected one of"), (("huber", 0.0), "positive scale"), (("barron", 1.0, 2.5), "at most 2")],
)
def test_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Robust(*arguments)
