"""Feature fields: values, spatial gradients and confidence of the query's features at sub-pixel positions (eq. 1)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
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
    :param stacked: (B, N, 3, C) values and both gradients in one tensor, where the field has them so.
    """

    values: Tensor
    gradients: Tensor | None
    confidence: Tensor | None
    inside: Tensor
    stacked: Tensor | None = None


class FeatureField(Protocol):
    """Anything that can be sampled at pixels of its level."""

    def sample(self, uv: Tensor, gradients: bool = True) -> FieldSample:
        """:param uv: (B, N, 2) pixels of the level, centres at integers; any value, also NaN."""
        ...


@lru_cache(maxsize=16)
def _stencil(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(4, 24): the weights of 24 cells by 1, a_y, a_x, a_x a_y, where a is how far into its cell a position lies.

    Eight cells for the value, for the slope along x (two rows of four), and for that along y (four rows of two).
    """
    value, slope = torch.zeros(2, 4), torch.zeros(2, 4)
    value[0, 1], value[1, 1], value[1, 2] = 1.0, -1.0, 1.0
    slope[0, 0], slope[0, 2] = -0.5, 0.5
    slope[1, 0], slope[1, 1], slope[1, 2], slope[1, 3] = 0.5, -0.5, -0.5, 0.5

    def cells(x: Tensor, y: Tensor) -> Tensor:
        return torch.einsum("ic,jr->ijrc", x, y).reshape(4, -1)

    rows = [cells(value, value[:, 1:3]), cells(slope, value[:, 1:3]), cells(value[:, 1:3], slope)]
    with torch.inference_mode(False):
        return torch.cat(rows, dim=1).to(device, dtype)


@lru_cache(maxsize=64)
def _offsets(device: torch.device, width: int) -> Tensor:
    """(24,) where those cells lie from the first of the four around a position, in rows of ``width`` cells.

    The ring around the map moves every cell by one.
    """
    x, y = torch.arange(4), torch.arange(4) * width
    across, down = (y[1:3, None] + x).flatten(), (y[:, None] + x[1:3]).flatten()
    with torch.inference_mode(False):
        return torch.cat([across, across, down]).to(device)


@lru_cache(maxsize=64)
def _bounds(device: torch.device, dtype: torch.dtype, height: int, width: int) -> Tensor:
    """(3, 2): the last pixel (x, y), the last cell that has a next one, and the first."""
    with torch.inference_mode(False):
        return torch.tensor([[width - 1.0, height - 1.0], [width - 2.0, height - 2.0], [0.0, 0.0]], dtype=dtype).to(
            device
        )


@lru_cache(maxsize=64)
def _starts(device: torch.device, count: int, length: int) -> Tensor:
    """(count,) where each of ``count`` bags of ``length`` begins."""
    with torch.inference_mode(False):
        return torch.arange(0, count * length, length, device=device)


@lru_cache(maxsize=16)
def _one(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.ones((), device=device, dtype=dtype)


class GridField:
    """The feature map of an image: bilinear values, and bilinearly interpolated central differences as gradients.

    Central differences look at the features within two pixels, as the published implementation does; they are a
    better guide than the slope inside one cell. At the border they are one-sided.

    :param features: (B, C, h, w), or (1, C, h, w) for a batch that shares the image. Kept as rows of one cell each in
        at least float32, the confidence behind the features, with a ring of cells around each map that continues it
        straight: so a central difference there is the one-sided one, and no position is a special case.
    :param confidence: (B, 1, h, w) or (1, 1, h, w) in [0, 1], or None.
    :raises ConfigError: maps that do not belong together, or smaller than 2 x 2.
    """

    def __init__(self, features: Tensor, confidence: Tensor | None = None) -> None:
        B, C, h, w = features.shape
        if confidence is not None and confidence.shape != (B, 1, h, w):
            raise ConfigError(
                f"feature field: expected a confidence map of shape {(B, 1, h, w)} beside maps of {(B, C, h, w)}, "
                f"found {tuple(confidence.shape)}"
            )
        if min(h, w) < 2:
            raise ConfigError(f"feature field: expected at least 2 x 2 cells, found {h} x {w}; use a larger image")
        dtype = torch.promote_types(features.dtype, torch.float32)
        cells = features.new_empty(B, h + 2, w + 2, C + (confidence is not None), dtype=dtype)
        inner = cells[:, 1:-1, 1:-1]
        inner[..., :C] = features.permute(0, 2, 3, 1)
        if confidence is not None:
            inner[..., C] = confidence[:, 0]
        for edge, near, next_ in ((0, 1, 2), (-1, -2, -3)):
            cells[:, edge] = 2.0 * cells[:, near] - cells[:, next_]
        for edge, near, next_ in ((0, 1, 2), (-1, -2, -3)):
            cells[:, :, edge] = 2.0 * cells[:, :, near] - cells[:, :, next_]
        self._take(cells, confidence is not None)

    @classmethod
    def of_ringed(cls, ringed: Tensor, has_confidence: bool = True) -> GridField:
        """A field of what :attr:`ringed` is of another; nothing is copied."""
        field = cls.__new__(cls)
        field._take(ringed, has_confidence)
        return field

    def _take(self, ringed: Tensor, has_confidence: bool) -> None:
        B, rows, columns, width = ringed.shape
        self.shape = (B, width - has_confidence, rows - 2, columns - 2)
        self._has_confidence = has_confidence
        self.rows = ringed.view(B * rows * columns, width)
        self._image = self._first_cells() if B > 1 else None

    @property
    def ringed(self) -> Tensor:
        """(maps, h + 2, w + 2, C or C + 1): all cells, with the ring around each map."""
        h, w = self.shape[2:]
        return self.rows.view(-1, h + 2, w + 2, self.rows.shape[1])

    def _first_cells(self) -> Tensor:
        """(B,) the row with which each map begins; made on the device: a transfer would wait for it."""
        B, _, h, w = self.shape
        return torch.arange(B, device=self.rows.device) * ((h + 2) * (w + 2))

    def of(self, images: Tensor) -> GridField:
        """The same maps for a batch whose element e looks at map ``images[e]``; nothing is copied."""
        other = copy.copy(self)
        h, w = self.shape[2:]
        other.shape = (len(images), *self.shape[1:])
        other._image = images * ((h + 2) * (w + 2))
        return other

    def with_rows(self, rows: Tensor) -> GridField:
        """The same with other numbers, of as many maps."""
        other = copy.copy(self)
        other.rows = rows
        other._image = other._first_cells() if self.shape[0] > 1 else None
        return other

    def bounds(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The last pixel and the first (x, y) that have values."""
        last, _, first = _bounds(self.rows.device, dtype, *self.shape[2:]).unbind()
        return last, first

    def cells(self, at: Tensor) -> Tensor:
        """(B, ..., C) features of whole pixels (B, ..., 2) inside the maps."""
        index = (at[..., 1] + 1) * (self.shape[3] + 2) + at[..., 0] + 1
        if self._image is not None:
            index = index + self._image.view(-1, *[1] * (index.ndim - 1))
        return self.rows[:, : self.shape[1]].index_select(0, index.flatten()).view(*at.shape[:-1], -1)

    def sample(self, uv: Tensor, gradients: bool = True) -> FieldSample:
        """See :class:`FeatureField`."""
        maps, B = self.shape[0], len(uv)
        if maps not in (1, B):
            raise ConfigError(f"feature field: expected one image or {B}, found {maps}")
        last, first = self.bounds(uv.dtype)
        held = torch.fmin(torch.fmax(uv, first), last)  # these take the bound where the other is no number
        return self.sample_inside(held, (held == uv).all(-1), gradients)

    def sample_inside(self, uv: Tensor, inside: Tensor, gradients: bool) -> FieldSample:
        """The same at pixels that are held within :meth:`bounds`; ``inside`` (B, N) is passed on."""
        B, N = uv.shape[:2]
        _, C, h, w = self.shape
        cell = torch.minimum(uv.floor(), _bounds(uv.device, uv.dtype, h, w)[1])
        a = (uv - cell).to(self.rows.dtype)
        cell = cell.long()
        first = torch.add(cell[..., 0], cell[..., 1], alpha=w + 2)
        if self._image is not None:
            first = first + self._image[:, None]
        count = 24 if gradients else 8
        index = first[..., None] + _offsets(uv.device, w + 2)[:count]
        x, y = a.unbind(-1)
        products = torch.stack([_one(uv.device, self.rows.dtype).expand(B, N), y, x, x * y], dim=-1)
        weights = products @ _stencil(uv.device, self.rows.dtype)[:, :count]
        found = self._mix(index.view(-1, 8), weights.view(-1, 8)).view(B, N, count // 8, -1)
        values = found[:, :, 0, :C]
        confidence = found[:, :, 0, C] if self._has_confidence else None
        if not gradients:
            return FieldSample(values, None, confidence, inside)
        return FieldSample(values, found[:, :, 1:, :C].mT, confidence, inside, found[..., :C])

    def _mix(self, index: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of rows, without a copy of the rows: (M, cells) twice -> (M, C)."""
        starts = _starts(index.device, *index.shape)
        # The function of torch.nn.functional makes the starts again at every call.
        return torch.embedding_bag(self.rows, index.flatten(), starts, False, 0, False, weights.flatten())[0]
