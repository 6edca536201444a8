"""Eq. 7."""

from __future__ import annotations

import pytest
import torch

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.pixloc.damping import LearnedDamping, constant_damping


def test_equation_7():
    damping = LearnedDamping(levels=2, log10_range=(-6.0, 5.0))
    torch.testing.assert_close(damping(), torch.full((2, 6), 10.0**-0.5))
    with torch.no_grad():
        damping.theta[0, 1], damping.theta[1, 5] = 50.0, -50.0
    factors = damping().detach()
    assert float(factors[0, 1]) == pytest.approx(1e5, rel=1e-4)
    assert float(factors[1, 5]) == pytest.approx(1e-6, rel=1e-4)
    damping().log().sum().backward()
    assert bool(damping.theta.grad[0, :1].abs() > 0)


def test_constant_and_refusals():
    assert constant_damping(3, 0.1).shape == (3, 6)
    with pytest.raises(ConfigError, match="at least 0"):
        constant_damping(3, -1.0)
    with pytest.raises(ConfigError, match="increasing"):
        LearnedDamping(log10_range=(1.0, 1.0))
