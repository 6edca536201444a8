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
from vloc_ros.localizers.folding import without_batch_norms

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
    :raises ConfigError: timm has no such backbone, or it is neither a ResNet nor an EfficientNet.
    """

    def __init__(self, settings: NetworkSettings, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.settings = settings
        backbone = make_backbone(settings.backbone, settings.backbone_options, pretrained, "camnet.backbone")
        trunk, last = _parted(backbone, settings.backbone)
        self.trunk = nn.Sequential(*trunk)
        channels = int(backbone.num_features)
        self.icr, self.pfr, self.prp = (Branch(copy.deepcopy(last), channels, settings) for _ in range(3))
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

    def fold(self) -> None:
        """Make batch normalisations part of the convolutions, for good: in evaluation mode the same, and faster."""
        self.trunk = cast(nn.Sequential, without_batch_norms(self.trunk))
        with torch.no_grad():
            maps = self.trunk(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        for branch in (self.icr, self.pfr, self.prp):
            branch.stage = without_batch_norms(branch.stage, maps)

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


def _parted(backbone: Any, name: str) -> tuple[list[nn.Module], nn.Module]:
    """What a backbone's first three stages are made of, and the last one (stride 32), of which each branch has its own.

    :raises ConfigError: neither a ResNet nor an EfficientNet of timm.
    """
    stem = ("conv1", "bn1", "act1", "maxpool")
    if all(hasattr(backbone, part) for part in (*stem, "layer1", "layer2", "layer3", "layer4")):
        return [getattr(backbone, part) for part in (*stem, "layer1", "layer2", "layer3")], backbone.layer4
    if all(hasattr(backbone, part) for part in ("conv_stem", "bn1", "blocks", "conv_head", "bn2")):
        blocks = list(backbone.blocks)
        if len(blocks) == 7:  # the sixth goes from stride 16 to 32
            last = nn.Sequential(*blocks[5:], backbone.conv_head, backbone.bn2)
            return [backbone.conv_stem, backbone.bn1, *blocks[:5]], last
    raise ConfigError(
        f"camnet.backbone: expected a ResNet (stages layer1 to layer4) or an EfficientNet (blocks) of timm, found "
        f"{name!r}"
    )
