"""A feature field for the unrolled optimiser: the gradient of its maps is summed up once, not once an iteration.

A lookup touches some thousand pixels, but its gradient, as autograd writes it, is a map of the size of the image:
fifteen iterations and a level of full resolution move gigabytes of zeros. Here every lookup of a field notes what it
has to add, and one pass adds it all when the last of them is done.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vloc_ros.localizers.pixloc.field import GridField

__all__ = ["TrainingField"]

#: Cells (K, n), their weights (K, n), and the gradient of their weighted sums (K, C).
_Notes = list[tuple[Tensor, Tensor, Tensor]]


class _Source(torch.autograd.Function):
    """Rows to a token that every lookup takes part in; backward turns the lookups' notes into a gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, notes: _Notes) -> Tensor:
        ctx.notes, ctx.rows = notes, rows.detach()
        return rows.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        notes, rows = list(ctx.notes), ctx.rows
        ctx.notes.clear()
        if not notes:
            return torch.zeros_like(rows), None
        width = max(index.shape[1] for index, _, _ in notes)
        index = torch.cat([_widened(index, width) for index, _, _ in notes])
        weights = torch.cat([_widened(weights, width) for _, weights, _ in notes])
        grad = torch.cat([grad for _, _, grad in notes])
        with torch.enable_grad():
            leaf = rows.requires_grad_()
            sums = functional.embedding_bag(index, leaf, per_sample_weights=weights, mode="sum")
            (found,) = torch.autograd.grad(sums, leaf, grad)
        return found, None


def _widened(values: Tensor, width: int) -> Tensor:
    """With zeros (cell 0 at weight 0) behind, so that lookups of fewer cells fit beside those of more."""
    return functional.pad(values, (0, width - values.shape[1]))


class _Lookup(torch.autograd.Function):
    """Weighted sums of rows. The token only orders the backward pass: the source waits for every lookup."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, weights: Tensor, rows: Tensor, index: Tensor, notes: _Notes) -> Tensor:
        ctx.save_for_backward(weights, rows, index)
        ctx.notes = notes
        return functional.embedding_bag(index, rows, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weights, rows, index = ctx.saved_tensors
        grad = grads[0].contiguous()
        ctx.notes.append((index, weights, grad))
        by_weights = None
        if ctx.needs_input_grad[1]:
            seen = rows.index_select(0, index.flatten()).unflatten(0, index.shape)
            by_weights = (seen @ grad[..., None])[..., 0]
        return grad.new_zeros(()), by_weights, None, None, None


class TrainingField(GridField):
    """:class:`GridField` with the same values and gradients, for loops that are differentiated once."""

    def __init__(self, features: Tensor, confidence: Tensor | None = None) -> None:
        super().__init__(features, confidence)
        self._notes: _Notes = []
        self._token = _Source.apply(self.rows, self._notes) if self.rows.requires_grad else None

    def _mix(self, index: Tensor, weights: Tensor) -> Tensor:
        """See the base class."""
        if self._token is None:
            return super()._mix(index, weights)
        found: Tensor = _Lookup.apply(self._token, weights, self.rows.detach(), index, self._notes)
        return found
