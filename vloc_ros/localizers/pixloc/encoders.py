"""Encoders of PixLoc's U-Net: an image to feature maps whose strides double from one to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.pixloc.settings import NetworkSettings
from vloc_ros.localizers.retrieval.weight_files import read_weight_file

__all__ = ["Encoder", "make_encoder"]

#: Options of ``timm.create_model`` that read files or addresses, and those that are ours to set.
_RESERVED = {
    "cache_dir", "checkpoint_path", "features_only", "global_pool", "num_classes", "out_indices", "pretrained",
    "pretrained_cfg", "pretrained_cfg_overlay",
}  # fmt: skip
_PLAIN_OPTIONS = {"channels", "convolutions", "first_stride"}

Pretrained = bool | str | Path


class Encoder(nn.Module, ABC):
    """Feature maps of an image, fine to coarse.

    :ivar strides: of the maps; each twice the one before.
    :ivar channels: of the maps.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images ``(B, 3, H, W)`` to maps ``(B, C, h, w)``."""


class BlockEncoder(Encoder):
    """Blocks one after the other, each at its own stride."""

    def __init__(self, blocks: list[nn.Sequential], strides: tuple[int, ...], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.strides, self.channels = strides, channels

    def forward(self, images: Tensor) -> list[Tensor]:
        out, x = [], images
        for block in self.blocks:
            x = block(x)
            out.append(x)
        return out


class TimmEncoder(Encoder):
    """A timm network's feature maps; the image itself stands for stride 1 where the network has no such map."""

    def __init__(self, network: nn.Module, finest: int, coarsest: int, name: str) -> None:
        super().__init__()
        self.network = network
        info: Any = cast(Any, network).feature_info
        strides, channels = [int(s) for s in info.reduction()], [int(c) for c in info.channels()]
        self._with_image = finest == 1 and strides[0] == 2
        if self._with_image:
            strides, channels = [1, *strides], [3, *channels]
        expected = [strides[0] * 2**i for i in range(len(strides))]
        if strides != expected or finest < strides[0] or coarsest > strides[-1]:
            raise ConfigError(
                f"pixloc.encoder: expected a network with maps at strides {finest} to {coarsest}, each twice the one "
                f"before; {name!r} has {strides}"
            )
        self.strides, self.channels = tuple(strides), tuple(channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [m if m.shape[1] == c else m.permute(0, 3, 1, 2) for m, c in self._maps(images)]
        return [images, *maps] if self._with_image else maps

    def _maps(self, images: Tensor) -> list[tuple[Tensor, int]]:
        channels = self.channels[1:] if self._with_image else self.channels
        return list(zip(self.network(images), channels, strict=True))


def make_encoder(settings: NetworkSettings, pretrained: Pretrained = False) -> Encoder:
    """The encoder that settings name, no coarser than its coarsest level needs.

    :param pretrained: a local weight file of this encoder, ``True`` for timm's hub, ``False`` for random weights.
    :raises ConfigError: timm has no such network, its strides do not fit, or the weights are another network's.
    """
    name, options = settings.encoder, dict(settings.encoder_options)
    finest, coarsest = settings.strides[0], settings.strides[-1]
    # A map is untrusted input: it names a network that timm defines, never a file or an address to load from.
    reserved = sorted(set(options) & _RESERVED)
    if reserved or not name.replace(".", "").replace("_", "").isalnum():
        found = f"option {reserved[0]!r}" if reserved else repr(name)
        raise ConfigError(f"pixloc.encoder: expected the name and shape of a timm network, found {found}")
    made: Encoder
    try:
        if name == "plain":
            made = _plain(finest, coarsest, options)
        elif name.startswith("vgg"):
            made = _vgg(name, options, coarsest, pretrained is True)
        else:
            more: dict[str, Any] = {"out_indices": tuple(range(max(1, (coarsest // 2).bit_length()))), **options}
            network = timm.create_model(name, pretrained=pretrained is True, features_only=True, **more)
            made = TimmEncoder(network, finest, coarsest, name)
    except ConfigError:
        raise
    except Exception as problem:  # options of a map can be anything, and every network fails in its own way
        first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ConfigError(f"pixloc.encoder: cannot make {name!r} with options {options}: {first}") from problem
    if finest not in made.strides or coarsest not in made.strides:
        raise ConfigError(
            f"pixloc.encoder: expected maps at strides {finest} to {coarsest}, {name!r} has {list(made.strides)}"
        )
    if not isinstance(pretrained, bool):
        _load(made, name, pretrained)
    return made


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # An even kernel at stride two: the centres of its pixels lie between those of the finer ones, as pooling has it.
    size = 3 if stride == 1 else 4
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _plain(finest: int, coarsest: int, options: dict[str, Any]) -> BlockEncoder:
    unknown = sorted(set(options) - _PLAIN_OPTIONS)
    channels = options.get("channels")
    if unknown or not isinstance(channels, (list, tuple)) or not all(isinstance(c, int) and c > 0 for c in channels):
        raise ConfigError(
            "pixloc.encoder_options: expected channels (a list of widths), convolutions and first_stride for the plain "
            f"encoder, found {options}"
        )
    first, depth = int(options.get("first_stride", 1)), int(options.get("convolutions", 1))
    if first not in (1, 2) or not 1 <= depth <= 8:
        raise ConfigError(
            f"pixloc.encoder_options: expected first_stride 1 or 2 and 1 to 8 convolutions, found {first} and {depth}"
        )
    strides = tuple(first * 2**i for i in range(len(channels)))
    blocks, previous = [], 3
    for index, width in enumerate(channels):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if index else []
        for number in range(depth if index else 1):
            stride = first if index == 0 else 1
            layers.append(_convolution(previous if number == 0 else width, width, stride))
        blocks.append(nn.Sequential(*layers))
        previous = width
    if not strides or strides[-1] < coarsest or strides[0] > finest:
        raise ConfigError(
            f"pixloc.encoder_options: expected channels for strides {finest} to {coarsest}, found {list(channels)}, "
            f"which end at stride {strides[-1] if strides else 'none'}"
        )
    kept = strides.index(coarsest) + 1
    return BlockEncoder(blocks[:kept], strides[:kept], tuple(channels[:kept]))


def _vgg(name: str, options: dict[str, Any], coarsest: int, from_hub: bool) -> BlockEncoder:
    """The convolutions of a VGG in blocks that begin with its poolings (Section 5: VGG19).

    Its classifier, nine tenths of a VGG, never takes memory unless timm's hub brings it.
    """
    device = torch.empty(0).device
    with torch.device(device if from_hub else "meta"):
        whole: Any = timm.create_model(name, pretrained=from_hub, num_classes=0, **options)
    blocks: list[list[nn.Module]] = [[]]
    channels: list[int] = []
    for layer in whole.features:
        if isinstance(layer, nn.MaxPool2d):
            if 2 ** (len(blocks) - 1) == coarsest:
                break
            blocks.append([])
        if isinstance(layer, nn.Conv2d):
            channels[len(blocks) - 1 :] = [layer.out_channels]
        blocks[-1].append(layer)
    made = [nn.Sequential(*block) for block in blocks if any(isinstance(x, nn.Conv2d) for x in block)]
    if not from_hub:
        for block in made:
            block.to_empty(device=device)
            for layer in block:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                    nn.init.zeros_(cast(Tensor, layer.bias))
                elif hasattr(layer, "reset_parameters"):
                    cast(Any, layer).reset_parameters()
    return BlockEncoder(made, tuple(2**i for i in range(len(made))), tuple(channels[: len(made)]))


def _load(encoder: Encoder, name: str, path: str | Path) -> None:
    """Every weight of an encoder from a file of the whole network; what the file has beyond that is left."""
    stored = read_weight_file(path)
    wanted = encoder.state_dict()
    source = _names_in_file(encoder, name)
    for key, value in wanted.items():
        found = stored.get(source(key))
        if found is None and key.endswith("num_batches_tracked"):
            stored[source(key)] = value
        elif found is None or found.shape != value.shape:
            some = ", ".join(f"{k} {tuple(v.shape)}" for k, v in sorted(stored.items())[:6])
            raise ConfigError(
                f"{path}: expected tensor {source(key)!r} of shape {tuple(value.shape)} for encoder {name!r}, found "
                + (f"shape {tuple(found.shape)}" if found is not None else f"only {some}, ... ({len(stored)} tensors)")
            )
    encoder.load_state_dict({key: stored[source(key)] for key in wanted})


def _names_in_file(encoder: Encoder, name: str) -> Any:
    """The names that torchvision and timm give to an encoder's weights, from ours."""
    if isinstance(encoder, TimmEncoder):
        return lambda key: key.removeprefix("network.")
    if name == "plain":
        return lambda key: key
    assert isinstance(encoder, BlockEncoder)
    starts, count = [], 0
    for block in encoder.blocks:
        starts.append(count)
        count += len(cast(nn.Sequential, block))

    def of_vgg(key: str) -> str:
        _, block, layer, rest = key.split(".", 3)
        return f"features.{starts[int(block)] + int(layer)}.{rest}"

    return of_vgg
