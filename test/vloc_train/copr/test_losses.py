from __future__ import annotations

import pytest
import torch

from vloc_train.copr.losses import descriptor_loss


def transcription(found, truth, kind):
    """Equation 4 literally, in float64, one pair at a time."""
    total = 0.0
    for a, b in zip(found, truth, strict=True):
        square = sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))
        total += square / len(a) if kind == "mse" else square**0.5
    return total / len(found)


@pytest.mark.parametrize("kind", ["mse", "norm"])
def test_equation_4(kind):
    generator = torch.Generator().manual_seed(3)
    found, truth = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    loss = descriptor_loss(found, truth, kind)
    assert loss.shape == () and float(loss) == pytest.approx(transcription(found, truth, kind), rel=1e-12)
    assert float(descriptor_loss(truth, truth, kind)) == 0.0
    scaled = descriptor_loss(found, truth, kind, 2.0)
    assert float(scaled) == pytest.approx(float(loss) / (4.0 if kind == "mse" else 2.0))


@pytest.mark.parametrize("kind", ["mse", "norm"])
def test_its_gradient(kind):
    generator = torch.Generator().manual_seed(4)
    found, truth = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: descriptor_loss(x, truth, kind), found.requires_grad_())
