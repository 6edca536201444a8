"""IRPNet's regressors: the layers of Figure 2 and Table I, dropout, scales, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.irpnet.network import Regressor, rotation_quaternion
from vloc_ros.localizers.irpnet.settings import NetworkSettings
from vloc_ros.settings import settings_from_mapping, settings_to_mapping

TINY = {"shared": 12, "widths": (16, 10, 6)}


def linears(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def test_the_paper_s_layers():
    with torch.device("meta"):
        network = Regressor(4096, NetworkSettings())
        mlp = Regressor(4096, NetworkSettings(architecture="mlp"))
    assert linears(network.shared) == [(4096, 4096)]
    branch = [(4096, 4096), (4096, 2048), (2048, 1024)]
    assert linears(network.branches["position"]) == [*branch, (1024, 3)]
    assert linears(network.branches["orientation"]) == [*branch, (1024, 4)]
    assert network.branches["position"].dropout.p == 0.2 and network.branches["position"].dropped == 2048
    assert linears(mlp) == [*branch, (1024, 7)]


@pytest.mark.parametrize("architecture", ["branching", "mlp"])
@pytest.mark.parametrize(("rotation", "size"), [("quaternion", 4), ("matrix", 6)])
def test_shapes(architecture, rotation, size):
    torch.manual_seed(0)
    network = Regressor(5, NetworkSettings(architecture, rotation=rotation, **TINY)).eval()
    found = network(torch.randn(7, 5))
    assert found.position.shape == (7, 3) and found.rotation.shape == (7, size)
    q = rotation_quaternion(found.rotation)
    assert q.shape == (7, 4) and torch.allclose(q.norm(dim=-1), torch.ones(7)) and (q[:, 3] >= 0).all()
    keep = network.keep_masks(9, torch.Generator().manual_seed(0))
    sampled = network(torch.randn(2, 5), keep)
    assert sampled.position.shape == (10, 2, 3) and sampled.rotation.shape == (10, 2, size)


@pytest.mark.parametrize(
    "nothing", [[0.0] * 4, [0.0] * 6, [1.0, 2.0, 3.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 2.0, 4.0, 6.0]]
)
def test_no_direction_is_the_identity_and_its_gradient_is_finite(nothing):
    rotation = torch.tensor([nothing, [0.3, -0.2, 0.5, 0.9, 0.1, 0.4][: len(nothing)]], requires_grad=True)
    q = rotation_quaternion(rotation)
    norms = q.detach().norm(dim=-1), q.detach()[:, :3].norm(dim=-1)
    torch.testing.assert_close(q.detach()[0], torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert abs(float(norms[0][1]) - 1.0) < 1e-6 and float(norms[1][1]) > 0.1
    q.sum().backward()
    assert rotation.grad.isfinite().all()


def test_a_branch_that_is_not_asked_for_is_not_there():
    network = Regressor(5, NetworkSettings(**TINY), ("orientation",))
    found = network(torch.randn(2, 5))
    assert found.position is None and found.rotation.shape == (2, 4)
    assert list(network.branches) == ["orientation"]
    with pytest.raises(ConfigError, match="position, orientation"):
        Regressor(5, NetworkSettings(**TINY), ())


def test_leaving_out_a_branch_without_loss_changes_no_gradient():
    torch.manual_seed(0)
    both = Regressor(5, NetworkSettings(**TINY)).eval()
    one = Regressor(5, NetworkSettings(**TINY), ("position",)).eval()
    one.load_state_dict({k: v for k, v in both.state_dict().items() if "orientation" not in k})
    x = torch.randn(4, 5)
    for network in (both, one):
        network(x).position.square().sum().backward()
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter.grad, dict(both.named_parameters())[name].grad)


def test_he_initialisation():
    torch.manual_seed(0)
    network = Regressor(256, NetworkSettings(shared=512, widths=(512, 256, 128)))
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.out_features > 100:
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / module.in_features), rel=0.05)
        if isinstance(module, nn.Linear):
            assert not module.bias.any()


def test_masks_are_dropout():
    network = Regressor(5, NetworkSettings(dropout=0.5, **TINY)).eval()
    x = torch.randn(1, 5)
    keep = network.keep_masks(2000, torch.Generator().manual_seed(1))
    assert set(keep["position"][1:].unique().tolist()) == {0.0, 2.0}
    assert float(keep["position"][1:].mean()) == pytest.approx(1.0, abs=0.04)
    found = network(x, {k: v[:2] for k, v in keep.items()})
    assert torch.allclose(found.position[0], network(x).position, atol=1e-6)
    # The same units left out by hand.
    branch = network.branches["position"]
    hidden = network.shared(x)
    for layer in branch.early:
        hidden = torch.relu(layer(hidden))
    wanted = branch.head(torch.relu(branch.late[0](hidden * keep["position"][1])))
    assert torch.allclose(found.position[1], wanted, atol=1e-6)


@pytest.mark.parametrize("positions", ["metres", "centred", "scaled"])
def test_statistics_of_training_data(positions):
    network = Regressor(4, NetworkSettings(inputs="standardised", positions=positions, **TINY))
    x = 3.0 + torch.randn(500, 4) * torch.tensor([1.0, 2.0, 4.0, 0.0])
    places = torch.tensor([100.0, -50.0, 2.0]) + torch.randn(500, 3) * torch.tensor([20.0, 10.0, 0.1])
    network.set_statistics(x, places)
    assert torch.allclose(network.mean, x.mean(dim=0), atol=1e-4)
    assert torch.allclose(network.deviation[:3], x.std(dim=0, correction=0)[:3], rtol=1e-4)
    assert float(network.deviation[3]) > 0.1
    assert torch.allclose(network.centre, places.mean(dim=0) if positions != "metres" else torch.zeros(3), atol=1e-3)
    expected = math.sqrt(float(places.var(dim=0, correction=0).sum())) if positions == "scaled" else 1.0
    assert float(network.scale) == pytest.approx(expected, rel=1e-4)


def test_plain_inputs_stay_as_they_are():
    network = Regressor(4, NetworkSettings(**TINY))
    network.set_statistics(torch.randn(20, 4) + 5, torch.randn(20, 3) + 9)
    assert not network.mean.any() and (network.deviation == 1).all() and not network.centre.any()


def test_gradients():
    torch.manual_seed(0)
    network = Regressor(4, NetworkSettings(**TINY)).double().eval()
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(network(x)), (x,))


def test_settings():
    made = NetworkSettings(architecture="mlp", widths=(8, 4))
    assert settings_from_mapping(NetworkSettings, settings_to_mapping(made), "test") == made
    with pytest.raises(ConfigError, match="hidden layers"):
        NetworkSettings(widths=())
    with pytest.raises(ConfigError, match="dropout"):
        settings_from_mapping(NetworkSettings, {"dropout": 1.0}, "test")
