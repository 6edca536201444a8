"""Encoders of PixLoc's U-Net: an image to feature maps whose strides double from one to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

from torch import Tensor, nn

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.backbones import Pretrained, create_network, fill_network, vgg_convolutions
from vloc_ros.localizers.pixloc.settings import NetworkSettings
from vloc_ros.localizers.weights import read_weight_file
from vloc_ros.settings import is_integer

__all__ = ["Encoder", "make_encoder"]

_WHERE = "pixloc.encoder"

_PLAIN_OPTIONS = {"channels", "convolutions", "first_stride"}
#: No layer has more channels.
_WIDEST = 65535


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

    :param pretrained: see :mod:`vloc_ros.localizers.backbones`; of the plain encoder a file alone.
    :raises ConfigError: timm has no such network, its strides do not fit, or the weights are another network's.
    """
    name, options = settings.encoder, dict(settings.encoder_options)
    finest, coarsest = settings.strides[0], settings.strides[-1]
    made: Encoder
    if name == "plain":
        made = _plain(finest, coarsest, options)
        if not isinstance(pretrained, bool):
            fill_network(made, read_weight_file(pretrained), f"{pretrained}", whole=False)
    elif name.startswith("vgg"):
        made = _vgg(vgg_convolutions(name, options, pretrained, _WHERE, lambda layers: _layers_to(layers, coarsest)))
    else:
        options.setdefault("out_indices", tuple(range(max(1, (coarsest // 2).bit_length()))))
        made = TimmEncoder(
            create_network(name, options, pretrained, _WHERE, features_only=True), finest, coarsest, name
        )
    if finest not in made.strides or coarsest not in made.strides:
        raise ConfigError(
            f"pixloc.encoder: expected maps at strides {finest} to {coarsest}, {name!r} has {list(made.strides)}"
        )
    return made


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    # An even kernel at stride two: the centres of its pixels lie between those of the finer ones, as pooling has it.
    size = 3 if stride == 1 else 4
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _is_count(value: Any) -> bool:
    return is_integer(value) and 0 < value <= _WIDEST


def _plain(finest: int, coarsest: int, options: dict[str, Any]) -> BlockEncoder:
    unknown = sorted(set(options) - _PLAIN_OPTIONS)
    channels = options.get("channels")
    if unknown or not isinstance(channels, (list, tuple)) or not all(_is_count(c) for c in channels):
        raise ConfigError(
            f"pixloc.encoder_options: expected channels (widths up to {_WIDEST}), convolutions and first_stride for "
            f"the plain encoder, found {options}"
        )
    first, depth = options.get("first_stride", 1), options.get("convolutions", 1)
    if not (_is_count(first) and first <= 2 and _is_count(depth) and depth <= 8):
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


def _layers_to(layers: nn.Sequential, coarsest: int) -> int:
    """How many layers of a VGG come before the pooling that leaves the coarsest stride."""
    poolings = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    return next((i for n, i in enumerate(poolings) if 2**n == coarsest), len(layers))


def _vgg(layers: nn.Sequential) -> BlockEncoder:
    """The convolutions of a VGG in blocks that begin with its poolings (Section 5: VGG19)."""
    blocks: list[list[nn.Module]] = [[]]
    channels: list[int] = []
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            blocks.append([])
        if isinstance(layer, nn.Conv2d):
            channels[len(blocks) - 1 :] = [layer.out_channels]
        blocks[-1].append(layer)
    made = [nn.Sequential(*block) for block in blocks if any(isinstance(x, nn.Conv2d) for x in block)]
    return BlockEncoder(made, tuple(2**i for i in range(len(made))), tuple(channels[: len(made)]))
