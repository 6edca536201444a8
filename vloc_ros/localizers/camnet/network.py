"""The network of CamNet (Section 4.2): one trunk, three branches, and a regressor of image pairs for each."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.backbones import Pretrained, make_backbone
from vloc_ros.localizers.camnet.settings import NetworkSettings

__all__ = ["Branch", "CamNetNetwork", "Features", "PairRegressor"]


class Features(NamedTuple):
    """Features ``(B, F)`` of the three branches: image retrieval, coarse pose, precise pose."""

    icr: Tensor
    pfr: Tensor
    prp: Tensor


class Branch(nn.Module):
    """The last stage of the backbone and its pooling: feature maps ``(B, C, h, w)`` to features ``(B, F)``."""

    def __init__(self, stage: nn.Module, channels: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.stage = stage
        self.settings = settings
        cells = 1 if settings.pooling == "gap" else settings.pool_grid[0] * settings.pool_grid[1]
        self.dimension = settings.feature_dim or channels
        # Average pooling of as many channels as features is the paper's; anything else needs a projection.
        plain = settings.pooling == "gap" and self.dimension == channels
        self.project: nn.Module = nn.Identity() if plain else nn.Linear(channels * cells, self.dimension)

    def forward(self, maps: Tensor) -> Tensor:
        x = self.stage(maps)
        if self.settings.pooling == "gap":
            x = x.mean(dim=(-2, -1))
        else:
            x = functional.adaptive_avg_pool2d(x, self.settings.pool_grid).flatten(1)
        return cast(Tensor, self.project(x))


class PairRegressor(nn.Module):
    """Two fully connected layers on the concatenated features of two images: ``(P, F)`` twice to ``(P, outputs)``."""

    def __init__(self, dimension: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2 * dimension, hidden), nn.Linear(hidden, outputs)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        return cast(Tensor, self.last(functional.relu(self.first(torch.cat((one, two), dim=-1)))))


class CamNetNetwork(nn.Module):
    """Trunk, branches and regressors.

    Image 1 of a pair is the query (the anchor), image 2 the reference. A relative pose is what
    :mod:`vloc_ros.localizers.camnet.relative` turns into the query's pose.

    :param pretrained: see :mod:`vloc_ros.localizers.backbones`.
    :raises ConfigError: timm has no such backbone, or it is no ResNet.
    """

    def __init__(self, settings: NetworkSettings, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.settings = settings
        backbone = _backbone(settings, pretrained)
        self.trunk = nn.Sequential(
            backbone.conv1, backbone.bn1, backbone.act1, backbone.maxpool,
            backbone.layer1, backbone.layer2, backbone.layer3,
        )  # fmt: skip
        channels = int(backbone.num_features)
        self.icr, self.pfr, self.prp = (
            Branch(copy.deepcopy(backbone.layer4), channels, settings) for _ in range(3)
        )  # fmt: skip
        dimension = self.icr.dimension
        # Two frustum distances and one angle; a translation and a quaternion.
        self.icr_pair = PairRegressor(dimension, settings.hidden, 3)
        self.pfr_pair = PairRegressor(dimension, settings.hidden, 7)
        self.prp_pair = PairRegressor(dimension, settings.hidden, 7)
        with torch.no_grad():
            for regressor in (self.pfr_pair, self.prp_pair):
                regressor.last.weight.mul_(0.1)
                regressor.last.bias.copy_(
                    torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
                )  # begins at "the same pose"

    @property
    def dimension(self) -> int:
        """F, the length of a feature."""
        return self.icr.dimension

    def encode(self, images: Tensor) -> Features:
        """Features of normalised images ``(B, 3, h, w)``; the trunk runs once."""
        maps = self.trunk(images)
        return Features(self.icr(maps), self.pfr(maps), self.prp(maps))

    def encode_precise(self, images: Tensor) -> Tensor:
        """Only the PRP features ``(B, F)``."""
        return cast(Tensor, self.prp(self.trunk(images)))

    def retrieval_vectors(self, icr: Tensor) -> Tensor:
        """What images are compared by: ICR features, of unit length if the settings say so."""
        return functional.normalize(icr, dim=-1) if self.settings.normalise else icr

    def overlap(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        """Frustum distances ``(P, 2)``, 1 to 2 and 2 to 1, and angles ``(P,)`` in half turns, by ICR features."""
        out = self.icr_pair(one, two)
        return out[..., :2], out[..., 2]

    def coarse(self, one: Tensor, two: Tensor) -> Tensor:
        """Relative poses ``(P, 7)`` of pairs of PFR features; the quaternion xyzw is not normalised."""
        return cast(Tensor, self.pfr_pair(one, two))

    def precise(self, one: Tensor, two: Tensor) -> Tensor:
        """Relative poses ``(P, 7)`` of pairs of PRP features."""
        return cast(Tensor, self.prp_pair(one, two))


def _backbone(settings: NetworkSettings, pretrained: Pretrained) -> Any:
    made = make_backbone(settings.backbone, settings.backbone_options, pretrained, "camnet.backbone")
    parts = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    missing = [part for part in parts if not hasattr(made, part)]
    if missing:
        raise ConfigError(
            f"camnet.backbone: expected a ResNet of timm (stages layer1 to layer4), found {settings.backbone!r} "
            f"without {missing[0]}"
        )
    return made
