from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from vloc_ros.errors import ConfigError, VlocError
from vloc_ros.localizers.retrieval.descriptor import build_extractor
from vloc_ros.localizers.retrieval.extractors import PooledExtractor, trainable
from vloc_ros.localizers.retrieval.hub import TRUST_VARIABLE
from vloc_ros.localizers.retrieval.netvlad import NetVLAD
from vloc_ros.localizers.retrieval.settings import ExtractorSettings
from vloc_ros.localizers.retrieval.whitening import fit_whitening
from vloc_ros.settings import settings_from_mapping, settings_to_mapping

TINY: dict[str, Any] = {"channels": [8, 16, 24, 32]}


def tiny(**changes: Any) -> ExtractorSettings:
    defaults: dict[str, Any] = {
        "backbone": "resnet10t", "backbone_options": TINY, "image_width": 64, "image_height": 36, "clusters": 4,
    }  # fmt: skip
    return ExtractorSettings(**{**defaults, **changes})


def images(count: int = 3, seed: int = 0, width: int = 64, height: int = 36) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_the_default_is_coprs_encoder():
    with torch.device("meta"):
        extractor = build_extractor(ExtractorSettings(normalise=False))
    assert extractor.dimension == 512 and extractor.metric == "l2"


def test_netvlad_of_the_paper_is_vgg16_before_the_last_relu():
    with torch.device("meta"):
        extractor = build_extractor(ExtractorSettings(kind="netvlad", backbone="vgg16", whiten=4096))
        features = extractor.local_features(torch.zeros(1, 3, 224, 224))
    assert features.shape == (1, 512, 14, 14) and extractor.dimension == 4096
    layers = list(extractor.get_submodule("backbone.network"))
    assert isinstance(layers[-1], nn.Conv2d) and sum(isinstance(m, nn.Conv2d) for m in layers) == 13


@pytest.mark.parametrize("kind", ["gap", "gem", "netvlad"])
@pytest.mark.parametrize("changes", [{}, {"dimension": 12}, {"whiten": 10}, {"dimension": 12, "whiten": 10}])
@pytest.mark.parametrize("normalise", [True, False])
def test_dimension_metric_and_length(kind, changes, normalise):
    extractor = build_extractor(tiny(kind=kind, normalise=normalise, **changes)).eval()
    with torch.no_grad():
        found = extractor(images())
    expected = changes.get("whiten", changes.get("dimension", 128 if kind == "netvlad" else 32))
    assert found.shape == (3, expected) and extractor.dimension == expected and found.dtype == torch.float32
    assert extractor.metric == ("cosine" if normalise else "l2")
    unit = torch.allclose(found.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert unit == (normalise or (kind == "netvlad" and not changes))  # NetVLAD itself ends in unit length


def test_pooling_of_half_precision_features_is_done_in_float32():
    extractor = build_extractor(tiny(kind="netvlad"))
    assert isinstance(extractor, PooledExtractor)
    features = torch.rand(2, 32, 3, 4).bfloat16()
    torch.testing.assert_close(extractor.pool(features), extractor.pooling(features.float()))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(extractor.pool(features), extractor.pooling(features.float()), rtol=0, atol=1e-2)
        assert extractor(images()).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "options"),
    [("test_vit", {"img_size": [36, 64], "patch_size": 4}), ("test_resnet", {}), ("test_efficientnet", {})],
)
def test_other_timm_networks(name, options):
    extractor = build_extractor(tiny(backbone=name, backbone_options=options)).eval()
    with torch.no_grad():
        features, found = extractor.local_features(images()), extractor(images())
    assert features.ndim == 4 and features.shape[1] == extractor.dimension == found.shape[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "no_such_network"},
        {"backbone": "hf-hub:somebody/model"},
        {"backbone": "local-dir:models"},
        {"backbone_options": {"checkpoint_path": "weights.pth"}},
        {"backbone_options": {"pretrained_cfg_overlay": {"file": "x"}}},
        {"backbone_options": {"no_such_option": 1}},
        {"backbone_options": {"channels": "wide"}},
    ],
)
def test_backbones_that_timm_does_not_define_are_refused(changes):
    with pytest.raises(ConfigError, match=r"extractor\.backbone"):
        build_extractor(tiny(**changes))


def test_settings_survive_a_manifest():
    settings = tiny(kind="gem", gem_power=4, whiten=7, hub_options={"a": [1, 2]})
    again = settings_from_mapping(ExtractorSettings, settings_to_mapping(settings), "x")
    assert again == settings


# -- weights from a file -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_backbone_weights_from_a_local_file(tmp_path: Path, suffix):
    network = timm.create_model("resnet10t", num_classes=5, **TINY)
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        save_file(state, str(path))
    extractor = build_extractor(tiny(), str(path))
    for name, value in extractor.get_submodule("backbone.network").state_dict().items():
        torch.testing.assert_close(value, state[name])


def test_vgg_weights_from_a_local_file(tmp_path: Path):
    extractor = build_extractor(ExtractorSettings(kind="netvlad", backbone="vgg11", clusters=2))
    state = {f"features.{k}": v + 1 for k, v in extractor.get_submodule("backbone.network").state_dict().items()}
    save_file({**state, "classifier.0.weight": torch.zeros(2, 2)}, str(tmp_path / "vgg.safetensors"))
    again = build_extractor(extractor.settings, tmp_path / "vgg.safetensors")
    for name, value in again.get_submodule("backbone.network").state_dict().items():
        torch.testing.assert_close(value, state[f"features.{name}"])
    del state["features.0.bias"]
    save_file(state, str(tmp_path / "vgg.safetensors"))
    with pytest.raises(ConfigError, match=r"features\.0\.bias.* shape \(64,\).*, found only"):
        build_extractor(extractor.settings, tmp_path / "vgg.safetensors")


def test_weight_files_that_are_none(tmp_path: Path):
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"not a checkpoint")
    listing = tmp_path / "list.pth"
    torch.save([torch.zeros(2)], listing)
    unsafe = tmp_path / "unsafe.pth"
    torch.save({"weights": Path("x")}, unsafe)  # an object: reading it would run code
    for path, message in [(bad, "tensors alone"), (listing, "named tensors"), (unsafe, "tensors alone")]:
        with pytest.raises(ConfigError, match=message):
            build_extractor(tiny(), path)
    with pytest.raises(ConfigError, match="found none"):
        build_extractor(tiny(), tmp_path / "absent.pth")


def test_weights_of_another_network_are_refused(tmp_path: Path):
    path = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(3, 3)}, str(path))
    with pytest.raises(ConfigError, match=r"with tensor 'conv1\.0\.weight' of shape .* found only conv1\.weight"):
        build_extractor(tiny(), path)
    state = timm.create_model("resnet10t", num_classes=5, **TINY).state_dict()
    save_file({**state, "layer5.0.weight": torch.zeros(3)}, str(path))
    with pytest.raises(ConfigError, match=r"found 'layer5\.0\.weight', too"):
        build_extractor(tiny(), path)


# -- whitening -----------------------------------------------------------------------------------


def test_a_fitted_whitening_decorrelates_descriptors_and_fixes_the_dimension():
    extractor = build_extractor(tiny(kind="netvlad", whiten=10, normalise=False)).eval()
    assert extractor.needs_whitening and extractor.needs_clusters
    with torch.no_grad():
        before = torch.cat([extractor.before_whitening(images(8, seed)) for seed in range(8)])
        extractor.set_whitening(*fit_whitening(before, 6))
        after = torch.cat([extractor(images(8, seed)) for seed in range(8)])
    assert not extractor.needs_whitening and extractor.dimension == extractor.settings.whiten == 6
    torch.testing.assert_close(after.T.cov(), torch.eye(6), rtol=0, atol=1e-2)
    assert not any(p.requires_grad for p in extractor.whitening.parameters())
    assert len(trainable(extractor)) == len(list(extractor.parameters())) - 2
    pooling = extractor.get_submodule("pooling")
    assert isinstance(pooling, NetVLAD)
    pooling.initialise(torch.rand(9, 32), torch.rand(4, 32))
    assert not extractor.needs_clusters and not copy.deepcopy(extractor).needs_clusters


def test_a_whitening_of_another_extractor_is_refused():
    extractor = build_extractor(tiny())
    with pytest.raises(VlocError, match=r"expected a weight \(any, 32\)"):
        extractor.set_whitening(torch.zeros(4, 31), torch.zeros(4))


# -- torch.hub -----------------------------------------------------------------------------------

HUBCONF = """
import torch

class Model(torch.nn.Module):
    def __init__(self, dimension):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, dimension, 3)
    def forward(self, x):
        return self.conv(x).mean(dim=(-2, -1))

def place_model(dimension=6):
    return Model(dimension)

def detector():
    return torch.nn.Conv2d(3, 4, 3)

def number():
    return 5

def offline():
    import urllib.error
    raise urllib.error.URLError("no network")
"""


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "places"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    return folder


def hub_settings(folder: Path, model: str = "place_model", **changes: Any) -> ExtractorSettings:
    return tiny(kind="hub", hub_repo=str(folder), hub_source="local", hub_model=model, **changes)


def test_a_hub_model_is_an_extractor(hub: Path):
    extractor = build_extractor(hub_settings(hub, hub_options={"dimension": 9}), trust_hub=True)
    found = extractor(images())
    assert found.shape == (3, 9) and extractor.dimension == 9 and extractor.metric == "cosine"
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    with pytest.raises(ConfigError, match="no local features"):
        extractor.local_features(images())


def test_code_of_a_repository_runs_only_where_it_is_trusted(hub: Path, monkeypatch):
    (hub / "hubconf.py").write_text("raise SystemError('it ran')")
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=TRUST_VARIABLE):
        build_extractor(hub_settings(hub))
    (hub / "hubconf.py").write_text(HUBCONF)
    monkeypatch.setenv(TRUST_VARIABLE, f"somebody/else, {hub}")
    assert build_extractor(hub_settings(hub)).dimension == 6


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("offline", "hub_source to local"),
        ("absent", "cannot be loaded"),
        ("detector", "one vector an image"),
        ("number", "torch module"),
    ],
)
def test_hub_models_that_cannot_be_used(hub: Path, model, message):
    with pytest.raises(ConfigError, match=message):
        build_extractor(hub_settings(hub, model), trust_hub=True)


def test_hub_without_repository_and_with_a_weight_file(hub: Path):
    with pytest.raises(ConfigError, match="hub_repo and hub_model"):
        ExtractorSettings(kind="hub")
    with pytest.raises(ConfigError, match="its own weights"):
        build_extractor(hub_settings(hub), "weights.pth")
    with pytest.raises(ConfigError, match="folder with hubconf"):
        build_extractor(hub_settings(hub / "nowhere"), trust_hub=True)
