"""The two encoders of ImPosing (Section 3.1, steps 1, 3 and 4).

Poses travel as ``(N, 7)`` tensors ``(tx, ty, tz, qx, qy, qz, qw)`` of the camera in the map frame,
metres, metric; scaling and Fourier features happen inside :class:`PoseEncoder`.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vloc_ros.localizers.backbones import Pretrained, make_backbone
from vloc_ros.localizers.imposing.settings import NetworkSettings

__all__ = [
    "ImPosingNetwork",
    "ImageEncoder",
    "PoseEncoder",
    "canonical",
    "fourier_features",
    "rotation_entries",
    "scores",
]


def canonical(poses: Tensor) -> Tensor:
    """Flip quaternions to w >= 0 so that q and -q, the same rotation, encode alike. ``(..., 7)`` in and out."""
    return torch.cat((poses[..., :3], _upper(poses[..., 3:])), dim=-1)


def _upper(quaternions: Tensor) -> Tensor:
    return torch.where(quaternions[..., 3:] < 0, -quaternions, quaternions)


@lru_cache(maxsize=1)
def rotation_entries() -> tuple[Tensor, Tensor]:
    """(16, 9) and (9,): the entries of a rotation matrix, row by row, by products of the quaternion's components."""
    x, y, z, w = range(4)
    terms = (
        ((y, y, -2), (z, z, -2)), ((x, y, 2), (z, w, -2)), ((x, z, 2), (y, w, 2)),
        ((x, y, 2), (z, w, 2)), ((x, x, -2), (z, z, -2)), ((y, z, 2), (x, w, -2)),
        ((x, z, 2), (y, w, -2)), ((y, z, 2), (x, w, 2)), ((x, x, -2), (y, y, -2)),
    )  # fmt: skip
    products = torch.zeros(4, 4, 9)
    for column, parts in enumerate(terms):
        for row, other, value in parts:
            products[row, other, column] = value
    with torch.inference_mode(False):
        return products.view(16, 9), torch.eye(3).flatten()


@lru_cache(maxsize=16)
def _entries(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        products, constant = rotation_entries()
        return products.to(device, dtype), constant.to(device, dtype)


def _quaternion_entries(q: Tensor) -> Tensor:
    """The nine matrix entries of unit quaternions ``(..., 4)`` xyzw, row by row: ``(..., 9)``."""
    products, eye = _entries(q.device, q.dtype)
    return (q[..., :, None] * q[..., None, :]).flatten(-2) @ products + eye


def fourier_features(x: Tensor, terms: int, frequencies: str = "octaves") -> Tensor:
    """``(..., C)`` to ``(..., C * (1 + 2 * terms))``: x, then sines, then cosines (Section 3.1, step 3).

    ``octaves``: sin(2^k x), cos(2^k x); ``linear``: sin(2 k x), cos(2 k x); k = 0 .. terms - 1.
    """
    k = torch.arange(terms, device=x.device, dtype=x.dtype)
    rate = torch.pow(2.0, k) if frequencies == "octaves" else 2.0 * k
    angle = (x.unsqueeze(-1) * rate).flatten(-2)
    return torch.cat((x, angle.sin(), angle.cos()), dim=-1)


class PoseEncoder(nn.Module):
    """The implicit map: poses to signatures, one for each scene.

    ``centre`` and ``half_extent`` scale positions to [-pi, pi], so that octave k resolves 2 half_extent / 2^k metres.
    """

    centre: Tensor
    half_extent: Tensor

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("centre", torch.zeros(3))
        self.register_buffer("half_extent", torch.ones(()))
        widths = [settings.pose_input_dim] + [settings.hidden] * (settings.layers - 1) + [settings.embed_dim]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def set_area(self, area_min: Tensor, area_max: Tensor) -> None:
        """Fit the position scale to the box of mapped positions, metres in the map frame, ``(3,)`` each."""
        self.centre.copy_((area_min + area_max) / 2)
        self.half_extent.copy_(((area_max - area_min) / 2).max().clamp_min(1.0) * 1.1)

    def _components(self, poses: Tensor) -> tuple[Tensor, Tensor]:
        """What is Fourier-encoded: positions in units of the map, ``(N, 3)``, rotations, ``(N, 4)`` or ``(N, 9)``."""
        quaternion = self.settings.rotation_input == "quaternion"
        position = (poses[..., :3] - self.centre.to(poses)) * (math.pi / self.half_extent.to(poses))
        return position, _upper(poses[..., 3:]) if quaternion else _quaternion_entries(poses[..., 3:])

    def features(self, poses: Tensor) -> Tensor:
        """Fourier features of ``(N, 7)`` poses, in the precision of ``poses``."""
        s = self.settings
        position, rotation = self._components(poses)
        parts = (
            fourier_features(position, s.position_octaves, s.frequencies),
            fourier_features(rotation, s.rotation_octaves, s.frequencies),
        )
        return torch.cat(parts, dim=-1)

    def forward(self, poses: Tensor) -> Tensor:
        """Signatures ``(N, d)`` of ``(N, 7)`` poses, not normalised."""
        return self.decode(self.features(poses))

    def decode(self, x: Tensor) -> Tensor:
        """The MLP on encoded poses: ReLU between the layers, none after the last."""
        last = len(self.linears) - 1
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if i < last:
                x = functional.relu(x, inplace=not self.training)
        return x


class ImageEncoder(nn.Module):
    """CNN backbone, pooling and one linear head for each scene (Section 3.1, step 1; Section 4.2).

    :param pretrained: see :mod:`vloc_ros.localizers.backbones`.
    """

    def __init__(self, settings: NetworkSettings, scenes: int = 1, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.backbone = make_backbone(settings.backbone, settings.backbone_options, pretrained, "imposing.backbone")
        self.settings = settings
        cells = 1 if settings.pooling == "gap" else settings.pool_grid[0] * settings.pool_grid[1]
        width = int(cast(Any, self.backbone).num_features) * cells
        self.heads = nn.ModuleList(nn.Linear(width, settings.embed_dim) for _ in range(scenes))

    def pooled(self, images: Tensor) -> Tensor:
        """Backbone and pooling: ``(B, 3, H, W)`` normalised images to ``(B, C)``, shared by all scenes."""
        x = self.backbone(images)
        if self.settings.pooling == "gap":
            return cast(Tensor, x.mean(dim=(-2, -1)))
        return functional.adaptive_avg_pool2d(x, self.settings.pool_grid).flatten(1)

    def forward(self, images: Tensor, scene: int = 0) -> Tensor:
        """Image vectors ``(B, d)``, not normalised."""
        return cast(Tensor, self.heads[scene](self.pooled(images)))


class ImPosingNetwork(nn.Module):
    """Image encoder with one head, and one pose encoder, for each scene."""

    def __init__(self, settings: NetworkSettings, scenes: int = 1, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.settings = settings
        self.image_encoder = ImageEncoder(settings, scenes, pretrained)
        self.pose_encoders = nn.ModuleList(PoseEncoder(settings) for _ in range(scenes))

    def pose_encoder(self, scene: int = 0) -> PoseEncoder:
        """The implicit map of one scene."""
        return cast(PoseEncoder, self.pose_encoders[scene])


def scores(image_vectors: Tensor, signatures: Tensor, negative_slope: float = 0.0) -> Tensor:
    """Eq. 1: cosine similarity, then ReLU. ``(..., d)`` against ``(..., N, d)`` gives ``(..., N)``.

    A positive ``negative_slope`` keeps the gradient of unmatched pairs alive during training: with a plain
    ReLU all cosines can turn negative early, and the loss then rests at the mean of the target for ever.
    """
    image_unit = functional.normalize(image_vectors, dim=-1)
    signature_unit = functional.normalize(signatures, dim=-1)
    cosine = (signature_unit @ image_unit.unsqueeze(-1)).squeeze(-1)
    return functional.leaky_relu(cosine, negative_slope) if negative_slope else functional.relu(cosine)
