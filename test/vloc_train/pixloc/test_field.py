"""The field that sums its gradient up once against the plain one."""

from __future__ import annotations

import torch

from vloc_ros.localizers.pixloc.field import GridField
from vloc_train.pixloc.field import TrainingField


def run(kind, lookups: int, gradients: bool = True) -> list[torch.Tensor]:
    """Gradients by features, confidence and positions of a loop whose positions follow what it has seen."""
    torch.manual_seed(0)
    features = torch.randn(3, 5, 9, 11, dtype=torch.float64, requires_grad=True)
    confidence = torch.rand(3, 1, 9, 11, dtype=torch.float64, requires_grad=True)
    start = (torch.rand(4, 20, 2, dtype=torch.float64) * torch.tensor([12.0, 10.0]) - 1).requires_grad_()
    field = kind(features, confidence)
    out = field.of(torch.tensor([1, 1, 0, 2])).sample(start, gradients=False).values.sin().sum()
    looked, uv = field.of(torch.tensor([2, 0, 1, 2])), start
    for _ in range(lookups):
        found = looked.sample(uv, gradients)
        inside = found.inside[..., None]
        out = out + (found.values.square() * found.confidence[..., None] * inside).sum()
        uv = uv + 0.01 * (found.gradients[..., 0, :] * inside)
    return list(torch.autograd.grad(out, [features, confidence, start], allow_unused=True))


def test_the_gradients_are_those_of_the_plain_field():
    for found, expected in zip(run(TrainingField, 3), run(GridField, 3), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_values_are_the_same_and_maps_without_gradient_need_no_token():
    features, confidence = torch.randn(2, 3, 5, 6), torch.rand(2, 1, 5, 6)
    uv = torch.rand(2, 7, 2) * 4
    found, expected = (kind(features, confidence).sample(uv) for kind in (TrainingField, GridField))
    torch.testing.assert_close(found.values, expected.values)
    torch.testing.assert_close(found.gradients, expected.gradients)


def test_an_element_looks_at_the_map_that_it_names():
    features = torch.randn(3, 4, 5, 6)
    uv = torch.rand(1, 9, 2) * 4
    chosen = GridField(features).of(torch.tensor([2])).sample(uv)
    alone = GridField(features[2:]).sample(uv)
    torch.testing.assert_close(chosen.values, alone.values)
    torch.testing.assert_close(chosen.gradients, alone.gradients)
