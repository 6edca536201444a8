from __future__ import annotations

import copy

import pytest
import timm
import torch

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.camnet.network import CamNetNetwork
from vloc_ros.localizers.camnet.settings import InferenceSettings, NetworkSettings

TINY = {"backbone": "resnet10t", "backbone_options": {"channels": [8, 16, 24, 32]}, "hidden": 16}


def make(**changes) -> CamNetNetwork:
    torch.manual_seed(0)
    return CamNetNetwork(NetworkSettings(**{**TINY, **changes})).eval()


def test_the_papers_network_has_512_features_a_branch():
    with torch.device("meta"):
        network = CamNetNetwork(NetworkSettings())
    assert network.dimension == 512
    assert network.icr_pair.first.weight.shape == (512, 1024) and network.icr_pair.last.out_features == 3
    assert network.pfr_pair.last.out_features == network.prp_pair.last.out_features == 7
    trunk = sum(p.numel() for p in network.trunk.parameters())
    branch = sum(p.numel() for p in network.pfr.parameters())
    # Of ResNet34's 21.28 M parameters without its classifier, layer 4 has 13.11 M; two more copies of it.
    assert trunk + branch == 21_284_672 and branch == 13_114_368


@pytest.mark.parametrize(
    ("changes", "dimension"),
    [({}, 32), ({"feature_dim": 20}, 20), ({"pooling": "grid", "feature_dim": 24}, 24), ({"pooling": "grid"}, 32)],
)
def test_shapes(changes, dimension):
    network = make(**changes)
    features = network.encode(torch.randn(5, 3, 36, 64))
    assert [tuple(f.shape) for f in features] == [(5, dimension)] * 3 and network.dimension == dimension
    distances, angles = network.overlap(features.icr[:3], features.icr[2:])
    assert distances.shape == (3, 2) and angles.shape == (3,)
    assert network.coarse(features.pfr[None], features.pfr[None]).shape == (1, 5, 7)
    assert network.precise(features.prp, features.prp).shape == (5, 7)
    torch.testing.assert_close(
        network.encode_precise(torch.ones(1, 3, 36, 64)), network.encode(torch.ones(1, 3, 36, 64)).prp
    )


def test_an_efficientnet_parts_before_its_last_stride():
    network = make(backbone="tf_efficientnet_lite0", backbone_options={})
    assert network.trunk(torch.randn(1, 3, 64, 96)).shape[-2:] == (4, 6), "stride 16"
    whole = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="")
    count = sum(p.numel() for part in (network.trunk, network.pfr) for p in part.parameters())
    assert count == sum(p.numel() for p in whole.parameters())


def test_the_branches_begin_alike_and_are_their_own():
    network = make()
    images = torch.randn(2, 3, 36, 64)
    features = network.encode(images)
    torch.testing.assert_close(features.icr, features.pfr)
    with torch.no_grad():
        for parameter in network.pfr.parameters():
            parameter.add_(0.1)
    changed = network.encode(images)
    torch.testing.assert_close(changed.icr, features.icr)
    assert not torch.allclose(changed.pfr, features.pfr)


def test_regressors_begin_at_the_reference():
    network = make()
    f = network.encode(torch.randn(2, 3, 36, 64))
    out = network.coarse(f.pfr[:1], f.pfr[1:])[0]
    assert out[:3].abs().max() < 0.5 and (torch.nn.functional.normalize(out[3:], dim=0)[3] > 0.8)


def test_retrieval_vectors_have_unit_length_unless_told_otherwise():
    icr = torch.randn(4, 32) * 3
    torch.testing.assert_close(make().retrieval_vectors(icr).norm(dim=1), torch.ones(4))
    torch.testing.assert_close(make(normalise=False).retrieval_vectors(icr), icr)


def test_pretrained_weights_from_a_local_file_reach_all_branches(tmp_path):
    source = make()
    import timm
    from safetensors.torch import save_file

    backbone = timm.create_model("resnet10t", num_classes=0, global_pool="", channels=[8, 16, 24, 32])
    state = {k: v + 0.5 if v.is_floating_point() else v for k, v in backbone.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")
    loaded = CamNetNetwork(copy.deepcopy(source.settings), str(tmp_path / "w.safetensors"))
    for branch in (loaded.icr, loaded.pfr, loaded.prp):
        for name, value in branch.stage.state_dict().items():
            torch.testing.assert_close(value, state[f"layer4.{name}"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "no_such_network", "backbone_options": {}}, "no_such_network"),
        ({"backbone": "hf-hub:somebody/something", "backbone_options": {}}, "name and shape"),
        ({"backbone_options": {"checkpoint_path": "weights.pth"}}, "checkpoint_path"),
        ({"backbone": "vit_tiny_patch16_224", "backbone_options": {}}, "ResNet"),
    ],
)
def test_what_is_no_resnet_of_timm_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match="lost_sigma_m"):
        InferenceSettings(localized_sigma_m=5.0, lost_sigma_m=1.0)
