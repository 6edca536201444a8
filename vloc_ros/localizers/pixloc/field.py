"""Feature fields: values, spatial gradients and confidence of the query's features at sub-pixel positions (eq. 1)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vloc_ros.errors import ConfigError

__all__ = ["FeatureField", "FieldSample", "GridField"]


@dataclass(frozen=True)
class FieldSample:
    """What a field holds at B x N positions.

    :param values: (B, N, C) features.
    :param gradients: (B, N, C, 2) derivatives along x and y, a pixel of the level; None where not asked for.
    :param confidence: (B, N) in [0, 1], or None: 1 everywhere.
    :param inside: (B, N) whether the field is defined there. Elsewhere the other tensors are finite and mean nothing.
    """

    values: Tensor
    gradients: Tensor | None
    confidence: Tensor | None
    inside: Tensor


class FeatureField(Protocol):
    """Anything that can be sampled at pixels of its level."""

    def sample(self, uv: Tensor, gradients: bool = True) -> FieldSample:
        """:param uv: (B, N, 2) pixels of the level, centres at integers; any value, also NaN."""
        ...


class GridField:
    """The feature map of an image: bilinear values, and bilinearly interpolated central differences as gradients.

    Central differences look at the features within two pixels, as the published implementation does; they are a
    better guide than the slope inside one cell. At the border they are one-sided.

    :param features: (B, C, h, w), or (1, C, h, w) for a batch that shares the image. Kept as (B h w, C) rows in at
        least float32; no copy if the network worked in ``torch.channels_last``.
    :param confidence: (B, 1, h, w) or (1, 1, h, w) in [0, 1], or None.
    :raises ConfigError: maps that do not belong together, or smaller than 2 x 2.
    """

    def __init__(self, features: Tensor, confidence: Tensor | None = None) -> None:
        B, C, h, w = features.shape
        if confidence is not None and confidence.shape != (B, 1, h, w):
            raise ConfigError(
                f"feature field: expected a confidence map of shape {(B, 1, h, w)} beside features of shape "
                f"{tuple(features.shape)}, found {tuple(confidence.shape)}"
            )
        if min(h, w) < 2:
            raise ConfigError(f"feature field: expected at least 2 x 2 cells, found {h} x {w}; use a larger image")
        dtype = torch.promote_types(features.dtype, torch.float32)
        self.shape = (B, C, h, w)
        self.rows = features.permute(0, 2, 3, 1).reshape(B * h * w, C).to(dtype)
        self.confidence = None if confidence is None else confidence.reshape(B * h * w).to(dtype)
        self._offset = B > 1
        # Made on the device: a transfer would wait for it.
        axis = torch.arange(2, device=features.device)[:, None]
        self._last = (w - 1) + axis * (h - w)
        self._steps = torch.arange(-1, 3, device=features.device)[:, None, None]
        self._image = torch.arange(B, device=features.device) * (h * w)

    def of(self, images: Tensor) -> GridField:
        """The same maps for a batch whose element e looks at map ``images[e]``; nothing is copied."""
        other = copy.copy(self)
        h, w = self.shape[2:]
        other.shape = (len(images), *self.shape[1:])
        other._image = images * (h * w)
        other._offset = len(self.rows) > h * w  # also where one element looks at one of several maps
        return other

    def sample(self, uv: Tensor, gradients: bool = True) -> FieldSample:
        """See :class:`FeatureField`."""
        B, N = uv.shape[:2]
        maps, C, _, w = self.shape
        if maps not in (1, B):
            raise ConfigError(f"feature field: expected one image or {B}, found {maps}")
        # From here on points are the last axis, which is what makes small element-wise work fast.
        uv = uv.movedim(-1, 0).reshape(2, B * N)
        inside = ((uv >= 0) & (uv <= self._last)).all(0)
        uv = torch.where(inside, uv, torch.zeros_like(uv)).to(self.rows.dtype)
        base = torch.minimum(uv.floor().long(), self._last - 1)
        a = uv - base
        # Four cells along each axis: one before, the two around, one after, held at the border.
        cells = torch.minimum((base + self._steps).clamp(min=0), self._last)
        x, y = cells[:, 0], cells[:, 1] * w
        if self._offset:
            y = y + self._image.repeat_interleave(N)
        near = torch.stack([1.0 - a, a])  # (2 cells, 2 axes, points)
        wx, wy = near[:, 0], near[:, 1]
        inner = y[1:3, None] + x[1:3]
        inner_weights = wy[:, None] * wx
        confidence = None
        if self.confidence is not None:
            read = self.confidence.index_select(0, inner.flatten()).view_as(inner_weights)
            confidence = (read * inner_weights).sum((0, 1)).view(B, N)
        if not gradients:
            values = self._mix(inner.flatten(0, 1)[None], inner_weights.flatten(0, 1)[None])
            return FieldSample(values.view(B, N, C), None, confidence, inside.view(B, N))
        # d/dx at cell j is (f[j + 1] - f[j - 1]) over the distance of the two.
        slope = near / (cells[2:] - cells[:2])
        slope = torch.cat([-slope, slope])
        zero = torch.zeros_like(a[:1])
        along_x = torch.stack([torch.cat([zero, wx, zero]), slope[:, 0]])
        across = (y[1:3, None] + x).flatten(0, 1)  # two rows of four cells
        down = (y[:, None] + x[1:3]).flatten(0, 1)  # four rows of two cells
        weights = torch.cat(
            [(wy[:, None] * along_x[:, None]).flatten(1, 2), (slope[:, 1, None] * wx).flatten(0, 1)[None]]
        )
        sampled = self._mix(torch.stack([across, across, down]), weights).view(3, B, N, C)
        return FieldSample(sampled[0], sampled[1:].movedim(0, -1), confidence, inside.view(B, N))

    def _mix(self, cells: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of rows, without a copy of the rows: (K, cells, points) twice -> (K points, C)."""
        count = cells.shape[1]
        index = cells.transpose(1, 2).reshape(-1, count)
        return F.embedding_bag(
            index, self.rows, per_sample_weights=weights.transpose(1, 2).reshape(-1, count), mode="sum"
        )
