from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import VlocError
from vloc_ros.localizers.retrieval.netvlad import NetVLAD, k_means


def layer_and_features(seed: int, channels: int = 5, clusters: int = 3) -> tuple[NetVLAD, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    layer = NetVLAD(channels, clusters).double().requires_grad_(False)
    layer.assignment.weight.copy_(10 * torch.randn(clusters, channels, 1, 1, generator=generator, dtype=torch.float64))
    layer.centres.copy_(torch.randn(clusters, channels, generator=generator, dtype=torch.float64))
    return layer, torch.randn(2, channels, 3, 4, generator=generator, dtype=torch.float64)


def netvlad(layer: NetVLAD, features: torch.Tensor) -> torch.Tensor:
    """Eq. 4 place by place, then intra-normalisation, then unit length."""
    w, c = layer.assignment.weight[:, :, 0, 0], layer.centres
    rows = []
    for image in features:
        V = torch.zeros(len(c), image.shape[0], dtype=torch.float64)
        for x in image.flatten(1).T:
            x = x / x.norm()
            weight = [math.exp(float(w[k] @ x)) for k in range(len(c))]
            for k in range(len(c)):
                V[k] += weight[k] / sum(weight) * (x - c[k])
        V = torch.stack([row / row.norm() for row in V])
        rows.append(V.flatten() / V.norm())
    return torch.stack(rows)


@given(st.integers(0, 10_000))
def test_is_the_equation(seed):
    layer, x = layer_and_features(seed)
    torch.testing.assert_close(layer(x), netvlad(layer, x), rtol=1e-9, atol=1e-12)


@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_unit_length_and_neither_scale_nor_order_of_places_matters(seed, scale):
    layer, x = layer_and_features(seed)
    found = layer(x)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, dtype=torch.float64))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(layer(scale * x.flatten(2)[:, :, order].reshape(x.shape)), found)


def test_gradients():
    layer, x = layer_and_features(3)
    layer.requires_grad_()
    weights = {k: v.detach().clone().requires_grad_() for k, v in layer.named_parameters()}

    def f(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(weights, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(f, (x.requires_grad_(), *weights.values()))


def blobs(count: int = 60, spread: float = 0.02) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    centres = torch.eye(4)[:3]
    points = centres.repeat_interleave(count, dim=0) + spread * torch.randn(3 * count, 4, generator=generator)
    return torch.nn.functional.normalize(points, dim=-1), centres


def test_k_means_finds_the_blobs_and_repeats_itself():
    points, centres = blobs()
    found = k_means(points, 3, seed=1)
    assert (torch.cdist(centres, found).min(dim=1).values < 0.02).all()
    assert torch.equal(found, k_means(points, 3, seed=1))


def test_k_means_ends_where_every_centre_is_the_mean_of_its_points():
    points, _ = blobs(spread=0.5)
    found = k_means(points, 7, seed=2, iterations=500)
    owners = torch.cdist(points, found).argmin(dim=1)
    means = torch.stack([points[owners == k].mean(dim=0) for k in range(7)])
    torch.testing.assert_close(found, means, rtol=0, atol=1e-5)


def test_k_means_of_duplicates_and_of_too_few():
    found = k_means(torch.ones(5, 2), 3)
    assert torch.equal(found, torch.ones(3, 2))
    with pytest.raises(VlocError, match="at least 4 points"):
        k_means(torch.ones(3, 2), 4)


def test_initial_weight_of_the_nearest_is_a_hundred_times_the_second():
    points, _ = blobs(spread=0.3)
    layer = NetVLAD(4, 3)
    assert not layer.initialised
    layer.initialise(7.0 * points, k_means(points, 3))  # of any length: features are normalised
    assert layer.initialised
    weights = layer.assignment(points[:, :, None, None]).detach().flatten(1).softmax(dim=1)
    top = weights.log().topk(2, dim=1).values
    assert float((top[:, 0] - top[:, 1]).mean()) == pytest.approx(math.log(100), rel=1e-3)


@pytest.mark.parametrize(
    ("features", "centres", "message"),
    [
        (torch.ones(4, 3), torch.ones(3, 4), "expected features"),
        (torch.ones(4, 4), torch.ones(2, 4), "expected features"),
        (torch.ones(0, 4), torch.ones(3, 4), "found none"),
    ],
)
def test_initialise_refuses_what_does_not_fit(features, centres, message):
    with pytest.raises(VlocError, match=message):
        NetVLAD(4, 3).initialise(features, centres)


def test_one_cluster_and_equal_centres_stay_finite():
    for clusters in (1, 3):
        layer = NetVLAD(4, clusters)
        layer.initialise(torch.rand(20, 4), torch.ones(clusters, 4))
        assert torch.isfinite(layer(torch.rand(1, 4, 2, 2))).all()
