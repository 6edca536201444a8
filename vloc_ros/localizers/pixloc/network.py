"""The network of PixLoc (Section 3.1): a U-Net with features and a confidence map on each of a few levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vloc_ros.localizers.backbones import Pretrained
from vloc_ros.localizers.folding import without_batch_norms
from vloc_ros.localizers.pixloc.encoders import make_encoder
from vloc_ros.localizers.pixloc.settings import NetworkSettings

__all__ = ["FeatureLevel", "FeatureNet", "without_normalisation"]


@dataclass(frozen=True)
class FeatureLevel:
    """One level: ``features`` (B, C, h, w) and ``confidence`` (B, 1, h, w), 1 / (1 + U) of eq. 6, at a stride.

    Pixel u of the image lies at (u + 0.5) / stride - 0.5 of the map.
    """

    features: Tensor
    confidence: Tensor
    stride: int


class DecoderBlock(nn.Module):
    """Upsample by two, concatenate with the encoder's map of that stride, convolve."""

    def __init__(self, previous: int, skip: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(previous + skip, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, previous: Tensor, skip: Tensor) -> Tensor:
        upsampled = functional.interpolate(previous, scale_factor=2, mode="bilinear", align_corners=False)
        # Where the image is no multiple of the stride, one of them is a row or column larger; both begin at the same
        # corner, so that cutting the other end keeps every pixel in its place.
        height, width = (min(a, b) for a, b in zip(upsampled.shape[-2:], skip.shape[-2:], strict=True))
        parts = [upsampled[..., :height, :width], skip[..., :height, :width]]
        out: Tensor = self.layers(torch.cat(parts, dim=1))
        return out


class FeatureNet(nn.Module):
    """Images to feature levels, coarse to fine.

    :param pretrained: weights of the encoder: a local file, ``True`` for timm's hub, ``False`` for random ones.
    :raises ConfigError: no such encoder, or weights of another.
    """

    def __init__(self, settings: NetworkSettings, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = make_encoder(settings, pretrained)
        encoder_channels = dict(zip(self.encoder.strides, self.encoder.channels, strict=True))
        coarsest = settings.strides[-1]
        channels = {coarsest: encoder_channels[coarsest]}
        blocks, stride = [], coarsest
        for width in settings.decoder:
            blocks.append(DecoderBlock(channels[stride], encoder_channels[stride // 2], width))
            stride //= 2
            channels[stride] = width
        self.decoder = nn.ModuleList(blocks)
        # Fine to coarse, as the settings have them (and as public checkpoints number them).
        levels = list(zip(settings.strides, settings.dimensions, strict=True))
        self.adaptation = nn.ModuleList([nn.Conv2d(channels[s], dimension, 1) for s, dimension in levels])
        self.uncertainty = nn.ModuleList([nn.Conv2d(channels[s], 1, 1) for s, _ in levels])

    def forward(self, images: Tensor) -> list[FeatureLevel]:
        """Levels of normalised images ``(B, 3, H, W)``, coarse to fine, in float32 whatever the convolutions use.

        Channels lie last in memory where those of the images do: then a pixel's features are neighbours.
        """
        maps = dict(zip(self.encoder.strides, self.encoder(images), strict=True))
        stride = self.settings.strides[-1]
        x = maps[stride]
        decoded = {stride: x}
        for block in self.decoder:
            stride //= 2
            x = block(x, maps[stride])
            decoded[stride] = x
        out = []
        for stride, adapt, doubt in zip(self.settings.strides, self.adaptation, self.uncertainty, strict=True):
            features = adapt(decoded[stride]).float()
            if self.settings.normalise:
                features = functional.normalize(features, dim=1)
            # U = exp(output) is positive, and 1 / (1 + U) a sigmoid.
            out.append(FeatureLevel(features, torch.sigmoid(-doubt(decoded[stride]).float()), stride))
        return out[::-1]


def without_normalisation(network: FeatureNet) -> FeatureNet:
    """The same function without batch normalisations (:func:`~vloc_ros.localizers.folding.without_batch_norms`), for
    what learns no more.

    :param network: in evaluation mode, float32, on the CPU; it stays as it is.
    """

    def features(levels: list[FeatureLevel]) -> Tensor:
        return torch.cat([level.features.flatten() for level in levels])

    return cast(FeatureNet, without_batch_norms(network, answer=features))
