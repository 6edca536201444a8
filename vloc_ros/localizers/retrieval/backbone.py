"""timm networks as sources of local features."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from vloc_ros.localizers.backbones import Pretrained, make_backbone, vgg_convolutions

__all__ = ["LocalFeatures"]

_WHERE = "extractor.backbone"


class LocalFeatures(nn.Module):
    """Any timm encoder without its pooling and classifier: ``(B, 3, H, W)`` to ``(B, channels, h, w)``.

    VGG ends after its last convolution, before the ReLU (NetVLAD, Section 3: "cropped at the last convolutional layer,
    before ReLU"). Tokens of a transformer come as one row of places; tokens that stand for no place are left out.

    :param pretrained: see :mod:`vloc_ros.localizers.backbones`.
    :raises ConfigError: timm has no such network, or cannot load the weights.
    """

    def __init__(self, name: str, options: dict[str, Any], pretrained: Pretrained = False) -> None:
        super().__init__()
        self.network: nn.Module
        if name.startswith("vgg"):
            self.network, self.channels = _vgg(name, options, pretrained)
        else:
            self.network = make_backbone(name, options, pretrained, _WHERE)
            self.channels = int(cast(Any, self.network).num_features)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        if isinstance(self.network, nn.Sequential):
            return cast(Tensor, self.network(images))
        x = cast(Tensor, cast(Any, self.network).forward_features(images))
        if x.ndim == 3:  # tokens (B, N, C)
            x = x[:, int(getattr(self.network, "num_prefix_tokens", 0)) :]
            return x.transpose(1, 2).unsqueeze(2)
        if getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            return x.permute(0, 3, 1, 2)
        return x


def _vgg(name: str, options: dict[str, Any], pretrained: Pretrained) -> tuple[nn.Sequential, int]:
    """The convolutions up to the last, before its ReLU."""
    layers = vgg_convolutions(name, options, pretrained, _WHERE, _to_last_convolution)
    return layers, int(cast(nn.Conv2d, layers[-1]).out_channels)


def _to_last_convolution(layers: nn.Sequential) -> int:
    return 1 + max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
