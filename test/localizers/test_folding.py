from __future__ import annotations

import pytest
import torch
from torch import nn

from vloc_ros.localizers.backbones import import_timm
from vloc_ros.localizers.folding import without_batch_norms


def norms(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def learned(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0.0, 0.2, generator=generator)
            m.running_var.uniform_(0.5, 2.0, generator=generator)
            m.weight.data.uniform_(0.5, 1.5, generator=generator)
            m.bias.data.normal_(0.0, 0.2, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_networks_of_timm_say_the_same_without_batch_normalisation(name):
    torch.manual_seed(0)
    network = learned(import_timm().create_model(name, num_classes=0, global_pool=""))
    folded, images = without_batch_norms(network), torch.randn(2, 3, 48, 80)
    assert norms(folded) == 0 < norms(network), "and the network given stays as it is"
    expected, found = network.double()(images.double()), folded(images)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


class Branching(nn.Module):
    """One convolution that is read by two, and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.twice, self.other = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.last, self.end = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        x = x + self.norm(x)
        x = self.other(self.twice(self.twice(x)))
        return self.end(self.last(x))


def test_what_would_change_the_answer_is_left_alone():
    torch.manual_seed(1)
    network = learned(Branching())
    assert without_batch_norms(network) is network, "a convolution with another reader cannot be changed"


def test_what_looks_at_the_image_stays():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 2, 1),
                            nn.BatchNorm2d(2)).eval()  # fmt: skip
    folded, images = without_batch_norms(network), torch.randn(1, 3, 9, 9)
    assert norms(folded) == 1
    torch.testing.assert_close(folded(images), network(images), rtol=0, atol=1e-5)


def test_networks_of_another_size_of_image_stay_as_they_are():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 14 * 14, 3)).eval()
    assert without_batch_norms(network) is network
    assert norms(without_batch_norms(network, torch.zeros(1, 3, 16, 16) + 0.3)) == 0
    assert without_batch_norms(empty := nn.Conv2d(3, 1, 1)) is empty
