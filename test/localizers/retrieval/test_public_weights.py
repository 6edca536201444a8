from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vloc_ros.errors import ConfigError
from vloc_ros.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from vloc_ros.localizers.retrieval.backbone import LocalFeatures
from vloc_ros.localizers.retrieval.descriptor import build_extractor
from vloc_ros.localizers.retrieval.extractors import PooledExtractor
from vloc_ros.localizers.retrieval.public_weights import apply_public_weights, weights_form
from vloc_ros.localizers.retrieval.settings import ExtractorSettings
from vloc_ros.localizers.weights import read_weight_file

C, K, D = 6, 3, 5
AVERAGE = np.array([123.0, 117.0, 104.0])


class TinyVgg(LocalFeatures):
    """The layout of VGG: two stages, three convolutions, the last one without ReLU."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2),
            nn.Conv2d(5, C, 3, padding=1),
        )  # fmt: skip
        self.channels = C


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch):
    def make(whiten: int | None = D, clusters: int = K) -> PooledExtractor:
        settings = ExtractorSettings(kind="netvlad", backbone="vgg16", whiten=whiten, clusters=clusters)
        return PooledExtractor(settings)

    monkeypatch.setattr(
        "vloc_ros.localizers.retrieval.extractors.LocalFeatures", lambda name, options, pretrained: TinyVgg()
    )
    return make


def matlab(seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays as the published file has them after ``squeeze_me``."""
    rng = np.random.default_rng(seed)
    out = {"averageImage": np.broadcast_to(AVERAGE, (7, 7, 3)).copy()}
    for name, a, b in [("conv1_1", 3, 4), ("conv1_2", 4, 5), ("conv2_1", 5, C)]:
        out[f"{name}.0"], out[f"{name}.1"] = rng.normal(0, 0.1, (3, 3, a, b)), rng.normal(0, 1, b)
    out["vlad:core.0"], out["vlad:core.1"] = rng.normal(0, 9, (C, K)), rng.normal(0, 1, (C, K))
    out["WPCA.0"], out["WPCA.1"] = rng.normal(0, 1, (1, 1, C * K, D)), rng.normal(0, 1, D)
    return out


def conv(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(H, W, a) with a kernel (3, 3, a, b), padded by zeros."""
    h, w, _ = image.shape
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((h, w, kernel.shape[3]))
    for y in range(3):
        for x in range(3):
            out += padded[y : y + h, x : x + w] @ kernel[y, x]
    return out + bias


def published(arrays: dict[str, np.ndarray], grey: np.ndarray, whiten: bool) -> np.ndarray:
    """The published network in float64 on grey levels (H, W, 3): what our extractor must give."""
    x = np.maximum(conv(grey - AVERAGE, arrays["conv1_1.0"], arrays["conv1_1.1"]), 0)
    x = np.maximum(conv(x, arrays["conv1_2.0"], arrays["conv1_2.1"]), 0)
    h, w, c = x.shape
    x = x.reshape(h // 2, 2, w // 2, 2, c).max(axis=(1, 3))
    x = conv(x, arrays["conv2_1.0"], arrays["conv2_1.1"]).reshape(-1, C)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    scores = np.exp(x @ arrays["vlad:core.0"])
    scores /= scores.sum(axis=1, keepdims=True)
    vlad = np.zeros((C, K))
    for k in range(K):
        vlad[:, k] = (scores[:, k, None] * (x + arrays["vlad:core.1"][:, k])).sum(axis=0)  # centres are negated
    vlad /= np.linalg.norm(vlad, axis=0)
    y = vlad.flatten()  # place c * K + k
    y /= np.linalg.norm(y)
    if whiten:
        y = y @ arrays["WPCA.0"][0, 0] + arrays["WPCA.1"]
        y /= np.linalg.norm(y)
    return y


def normalised(grey: np.ndarray) -> torch.Tensor:
    x = (grey / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    return torch.from_numpy(x).permute(2, 0, 1)[None].float()


def border_free(grey: np.ndarray) -> np.ndarray:
    """A frame of the average image, where both kinds of padding are nearly the same."""
    out = grey.copy()
    out[0], out[-1], out[:, 0], out[:, -1] = AVERAGE, AVERAGE, AVERAGE, AVERAGE
    return out


@pytest.mark.parametrize("whiten", [D, None])
@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_matlab_arrays_give_the_published_network(tmp_path: Path, tiny, whiten, form):
    arrays, path = matlab(), tmp_path / f"netvlad.{form}"
    if form == "npz":
        np.savez(path, **arrays)
    else:
        save_file({k: torch.from_numpy(v) for k, v in arrays.items()}, str(path))
    extractor = tiny(whiten)
    apply_public_weights(extractor, read_weight_file(path), path)
    assert not extractor.needs_clusters and not extractor.needs_whitening
    grey = border_free(np.random.default_rng(1).uniform(0, 255, (8, 10, 3)))
    with torch.no_grad():
        found = extractor.eval()(normalised(grey))[0].double()
    expected = torch.from_numpy(published(arrays, grey, whiten is not None))
    if whiten is None:  # ours has the clusters one after the other
        expected = expected.reshape(C, K).T.flatten()
    # The published padding is the average grey, ours the mean of the normalisation: a grey level apart at the border.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    assert float(found @ expected) > 0.9998


def test_folding_is_exact_away_from_the_border(tiny):
    arrays, extractor = matlab(), tiny(None)
    apply_public_weights(extractor, {k: torch.from_numpy(v) for k, v in arrays.items()}, "x")
    grey = np.random.default_rng(1).uniform(0, 255, (6, 6, 3))
    first = extractor.get_submodule("backbone.network.0")
    with torch.no_grad():
        found = first(normalised(grey))[0].permute(1, 2, 0).double().numpy()
    expected = conv(grey - AVERAGE, arrays["conv1_1.0"], arrays["conv1_1.1"])
    np.testing.assert_allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1], rtol=0, atol=1e-3)


def test_a_shorter_whitening_is_the_first_components(tiny):
    tensors = {k: torch.from_numpy(v) for k, v in matlab().items()}
    short, full = tiny(2), tiny(D)
    for extractor in (short, full):
        apply_public_weights(extractor, tensors, "x")
    torch.testing.assert_close(short.whitening.weight, full.whitening.weight[:2])
    with pytest.raises(ConfigError, match=f"{D + 1} or more, found one to {D}"):
        apply_public_weights(tiny(D + 1), tensors, "x")


def checkpoint(source: PooledExtractor) -> dict[str, torch.Tensor]:
    state = {f"encoder.module.{k}": v for k, v in source.get_submodule("backbone.network").state_dict().items()}
    state["pool.module.conv.weight"] = source.pooling.assignment.weight
    state["pool.module.centroids"] = source.pooling.centres
    state["WPCA.0.weight"] = source.whitening.weight[:, :, None, None]
    state["WPCA.0.bias"] = source.whitening.bias
    return {k: v.detach().clone() for k, v in state.items()}


def test_a_pytorch_checkpoint_gives_its_network(tmp_path: Path, tiny):
    source, path = tiny(), tmp_path / "checkpoint.pth.tar"
    source.set_whitening(torch.randn(D, C * K), torch.randn(D))
    torch.save({"epoch": 7, "state_dict": checkpoint(source)}, path)
    found = build_extractor(source.settings, path)
    assert found.settings == source.settings and not found.needs_clusters and not found.needs_whitening
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(found(x), source(x))


def test_a_checkpoint_without_whitening_leaves_it_to_be_fitted(tiny):
    extractor = tiny()
    state = {k: v for k, v in checkpoint(extractor).items() if not k.startswith("WPCA")}
    apply_public_weights(extractor, state, "x")
    assert extractor.needs_whitening and not extractor.needs_clusters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1_2.0": None}, r"x: expected tensor 'conv1_2\.0' of shape \(3, 3, 4, 5\), found only WPCA"),
        ({"conv1_2.0": (3, 3, 4, 9)}, r"'conv1_2\.0': expected shape \(3, 3, 4, 5\), found \(3, 3, 4, 9\)"),
        ({"vlad:core.0": (C, K + 1)}, rf"'vlad:core\.0': expected shape \({C}, {K}\), found \({C}, {K + 1}\)"),
        ({"averageImage": None}, "expected tensor 'averageImage'"),
        ({"averageImage": (3, 4)}, "'averageImage': expected shape"),
        ({"WPCA.1": (D + 1,)}, rf"'WPCA\.1': expected shape \({D},\)"),
        ({"conv2_2.0": (3, 3, C, C)}, r"found others, too: conv2_2\.0 \(3, 3, 6, 6\)"),
    ],
)
def test_a_mismatch_names_what_was_expected_and_found(tiny, change, message):
    tensors = {k: torch.from_numpy(v) for k, v in matlab().items()}
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = torch.zeros(shape)
    with pytest.raises(ConfigError, match=message):
        apply_public_weights(tiny(), tensors, "x")


def test_what_is_refused(tiny):
    tensors = checkpoint(tiny())
    with pytest.raises(ConfigError, match="vladv2"):
        apply_public_weights(tiny(), {**tensors, "pool.conv.bias": torch.zeros(K)}, "x")
    with pytest.raises(ConfigError, match="finite"):
        apply_public_weights(tiny(), {**tensors, "WPCA.0.bias": torch.full((D,), float("nan"))}, "x")
    with pytest.raises(ConfigError, match="expected NetVLAD weights"):
        apply_public_weights(tiny(), {"features.0.weight": torch.zeros(1)}, "x")
    assert weights_form({"features.0.weight": torch.zeros(1)}) is None
    gap = PooledExtractor(ExtractorSettings(kind="gap", backbone="vgg16"))
    with pytest.raises(ConfigError, match="kind netvlad"):
        apply_public_weights(gap, tensors, "x")
