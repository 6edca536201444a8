"""The names of public checkpoints against ours, on a file that the test writes."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.pixloc.network import FeatureNet
from vloc_ros.localizers.pixloc.public_weights import is_public, load_public_weights
from vloc_ros.localizers.pixloc.settings import NetworkSettings

SETTINGS = NetworkSettings(
    encoder="plain", encoder_options={"channels": [4, 6, 8]}, strides=(1, 2, 4), dimensions=(5, 6, 7), decoder=(6, 5)
)


def made(seed: int) -> FeatureNet:
    torch.manual_seed(seed)
    return FeatureNet(SETTINGS)


def public_names(net: FeatureNet) -> dict[str, torch.Tensor]:
    """A state dict under the names of the published software."""
    out = {}
    for name, value in net.state_dict().items():
        name = re.sub(r"^encoder\.blocks\.", "extractor.encoder.", name)
        name = re.sub(r"^(decoder\..*)$", r"extractor.\1", name)
        name = re.sub(r"^(adaptation|uncertainty)\.(\d+)\.", r"extractor.\1.\2.0.", name)
        out[name] = value.clone()
    assert "extractor.uncertainty.2.0.bias" in out and "extractor.decoder.1.layers.0.weight" in out
    return out


def test_every_tensor_finds_its_place_and_the_damping_is_turned_round(tmp_path):
    source, target = made(0), made(1)
    tensors = public_names(source)
    for scale in range(3):  # theirs count from the finest
        tensors[f"optimizer.{scale}.dampingnet.const"] = torch.full((6,), float(scale))
    save_file(tensors, tmp_path / "public.safetensors")
    found = load_public_weights(tmp_path / "public.safetensors", target)
    assert is_public(tensors) and found.damping is not None
    torch.testing.assert_close(found.damping[:, 0], torch.tensor([2.0, 1.0, 0.0]))
    target.load_state_dict(found.network)
    image = torch.randn(1, 3, 16, 16)
    for mine, theirs in zip(target.eval()(image), source.eval()(image), strict=True):
        torch.testing.assert_close(mine.features, theirs.features)
        torch.testing.assert_close(mine.confidence, theirs.confidence)


def test_a_torch_checkpoint_with_one_damping_and_without_counters(tmp_path):
    tensors = {k: v for k, v in public_names(made(0)).items() if not k.endswith("num_batches_tracked")}
    tensors["optimizer.dampingnet.const"] = torch.arange(6.0)
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "public.tar")
    found = load_public_weights(tmp_path / "public.tar", made(1))
    assert found.damping is not None and found.damping.shape == (3, 6)
    torch.testing.assert_close(found.damping[2], torch.arange(6.0))
    made(1).load_state_dict(found.network)


def test_names_of_the_default_network():
    """VGG19 at strides 1, 4, 16: sixteen convolutions in five blocks, four decoder blocks, three levels."""
    with torch.device("meta"):
        names = set(FeatureNet(NetworkSettings()).state_dict())
    blocks = {int(n.split(".")[2]) for n in names if n.startswith("encoder.blocks.")}
    assert blocks == set(range(5)) and "encoder.blocks.0.0.weight" in names and "encoder.blocks.4.7.weight" in names
    assert sum(n.startswith("encoder") and n.endswith(".weight") for n in names) == 16
    assert {"decoder.3.layers.1.running_var", "adaptation.2.bias", "uncertainty.0.weight"} <= names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("extractor.adaptation.0.0.weight"), r"adaptation\.0\.weight"),
        (lambda t: t.update({"extractor.adaptation.0.0.weight": torch.zeros(9, 5, 1, 1)}), "default network settings"),
        (lambda t: t.update({"extractor.adaptation.0.0.bias": torch.full((5,), torch.nan)}), "finite"),
        (lambda t: t.update({"head.weight": torch.zeros(1)}), "head.weight"),
        (lambda t: t.update({"extractor.decoder.7.layers.0.weight": torch.zeros(1)}), "decoder.7"),
        (lambda t: t.update({"optimizer.0.dampingnet.const": torch.zeros(6)}), "damping of 3 levels"),
        (lambda t: t.clear() or t.update({"fc.weight": torch.zeros(1)}), "converted PixLoc checkpoint"),
    ],
)
def test_other_weights_are_refused(tmp_path, change, message):
    tensors = public_names(made(0))
    change(tensors)
    save_file(tensors, tmp_path / "public.safetensors")
    with pytest.raises(ConfigError, match=message):
        load_public_weights(tmp_path / "public.safetensors", made(1))
