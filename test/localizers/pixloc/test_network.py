"""Shapes, strides and weights of the U-Net, and that settings which cannot be are refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.pixloc.network import FeatureNet
from vloc_ros.localizers.pixloc.settings import NetworkSettings

PLAIN = NetworkSettings(
    encoder="plain", encoder_options={"channels": [4, 6, 8], "convolutions": 2}, strides=(1, 4), dimensions=(5, 7),
    decoder=(6, 5),
)  # fmt: skip


def network(**changes) -> FeatureNet:
    torch.manual_seed(0)
    base = {name: getattr(PLAIN, name) for name in ("encoder", "encoder_options", "strides", "dimensions", "decoder")}
    return FeatureNet(NetworkSettings(**{**base, **changes})).eval()


def test_levels_are_coarse_to_fine_and_of_unit_length():
    levels = network()(torch.randn(2, 3, 32, 48))
    assert [level.stride for level in levels] == [4, 1]
    assert [tuple(level.features.shape) for level in levels] == [(2, 7, 8, 12), (2, 5, 32, 48)]
    for level in levels:
        assert level.confidence.shape == (2, 1, *level.features.shape[-2:])
        assert bool(((level.confidence > 0) & (level.confidence < 1)).all())
        torch.testing.assert_close(level.features.norm(dim=1), torch.ones_like(level.features[:, 0]))
    plain = network(normalise=False)(torch.randn(1, 3, 16, 16))
    assert not torch.allclose(plain[0].features.norm(dim=1), torch.ones(1, 4, 4), atol=1e-2)


def test_sizes_that_no_stride_divides_keep_every_cell_in_its_place():
    """What does not divide is cut off at the far end: the near part of a map is that of the smaller image."""
    net, image = network(), torch.randn(1, 3, 35, 46)
    cut, whole = net(image), net(image[..., :32, :44])
    assert [tuple(level.features.shape[-2:]) for level in cut] == [(8, 11), (32, 44)]
    near = (..., slice(0, 16), slice(0, 24))  # beyond, the border is within sight
    torch.testing.assert_close(cut[1].features[near], whole[1].features[near], atol=1e-4, rtol=1e-3)


def test_features_move_with_the_image():
    """Cell u lies around pixel (u + 0.5) s - 0.5: a shift by the coarsest stride is a shift by whole cells."""
    net, image = network(), torch.randn(1, 3, 64, 64)
    for level, shifted in zip(net(image), net(image.roll(4, -1)), strict=True):
        cells, inner = 4 // level.stride, slice(24 // level.stride, 40 // level.stride)
        expected = level.features.roll(cells, -1)[..., inner, inner]
        torch.testing.assert_close(shifted.features[..., inner, inner], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": [True, 6, 8]},
        {"channels": [4, 6, 8], "convolutions": True},
        {"channels": [4, 0]},
        {"channels": [4, 2**64]},
    ],
)
def test_widths_and_counts_of_the_plain_encoder_are_positive_integers(options):
    with pytest.raises(ConfigError, match=r"pixloc\.encoder_options: expected"):
        network(encoder_options=options)


def test_channels_stay_last_in_memory():
    image = torch.randn(1, 3, 16, 32).to(memory_format=torch.channels_last)
    for level in network().to(memory_format=torch.channels_last)(image):
        assert level.features.is_contiguous(memory_format=torch.channels_last)


def test_a_first_stride_of_two_and_any_network_of_timm():
    options = {"channels": [4, 6, 8, 10], "first_stride": 2}
    found = network(encoder_options=options, strides=(2, 4, 16), dimensions=(3, 4, 5), decoder=(6, 5, 4))
    assert [tuple(level.features.shape) for level in found(torch.randn(1, 3, 32, 64))] == [
        (1, 5, 2, 4), (1, 4, 8, 16), (1, 3, 16, 32),
    ]  # fmt: skip
    resnet = {"encoder": "resnet10t", "encoder_options": {"channels": [8, 16, 24, 32], "stem_width": 8}}
    from_image = network(**resnet, strides=(1, 8), dimensions=(3, 4), decoder=(6, 5, 4))
    assert from_image.encoder.strides == (1, 2, 4, 8) and from_image.encoder.channels[0] == 3
    assert [tuple(level.features.shape) for level in from_image(torch.randn(1, 3, 32, 64))] == [
        (1, 4, 4, 8), (1, 3, 32, 64),
    ]  # fmt: skip


def test_a_vgg_is_cut_at_its_poolings_and_takes_its_public_weights(tmp_path):
    import timm

    torch.manual_seed(0)
    settings = NetworkSettings(encoder="vgg11", strides=(1, 4), dimensions=(3, 4), decoder=(6, 5))
    net = FeatureNet(settings)
    assert net.encoder.strides == (1, 2, 4) and net.encoder.channels == (64, 128, 256)
    assert [tuple(level.features.shape) for level in net(torch.randn(1, 3, 16, 24))] == [(1, 4, 4, 6), (1, 3, 16, 24)]
    with torch.device("meta"):
        names = [
            name for name in timm.create_model("vgg11", num_classes=0).state_dict() if name.startswith("features.")
        ]
    shapes = [value.shape for value in net.encoder.state_dict().values()]
    stored = {name: torch.randn(shape) for name, shape in zip(names[: len(shapes)], shapes, strict=True)}
    save_file({**stored, "classifier.fc.weight": torch.zeros(2, 2)}, tmp_path / "vgg.safetensors")
    loaded = FeatureNet(settings, tmp_path / "vgg.safetensors").encoder.state_dict()
    for found, expected in zip(loaded.values(), stored.values(), strict=True):
        assert torch.equal(found, expected)
    stored[names[0]] = torch.zeros(64, 3, 5, 5)
    save_file(stored, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"features\.0\.weight"):
        FeatureNet(settings, tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (1, 3)}, "powers of two"),
        ({"strides": (4, 1)}, "increase"),
        ({"dimensions": (5,)}, "expected 2 numbers"),
        ({"decoder": (5,)}, "expected 2 blocks"),
        ({"encoder_options": {"channels": [4, 6]}}, "strides 1 to 4"),
        ({"encoder_options": {"widths": [4]}}, "channels"),
        ({"encoder": "no_such_network"}, "no_such_network"),
        ({"encoder": "../weights"}, "name and shape"),
        ({"encoder": "resnet10t", "encoder_options": {"checkpoint_path": "x"}}, "checkpoint_path"),
    ],
)
def test_what_no_network_can_be_made_of(changes, message):
    with pytest.raises(ConfigError, match=message):
        network(**changes)
