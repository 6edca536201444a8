"""What comes back from the device that computes, so that the host waits for it as rarely as can be."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["read_back", "true_entries"]


def read_back(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors on the host, whatever their types and shapes, by one transfer for all of them."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return tensors
    host = torch.cat([tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in tensors]).cpu()
    parts = torch.split(host, [tensor.nbytes for tensor in tensors])
    # A copy begins where its type may.
    return tuple(part.clone().view(x.dtype).view(x.shape) for part, x in zip(parts, tensors, strict=True))


def true_entries(mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Where a mask is true, without waiting for how often: ``torch.nonzero`` has to.

    :param mask: of any shape, bool. :param most: places for results.
    :returns: flat positions (most,) int64, ascending, of which the first ``count`` count, and ``count`` () int64, which
        is larger than ``most`` where places did not suffice.
    """
    flat = mask.reshape(-1)
    rank = flat.to(torch.int64).cumsum(0)
    # What is false, or has no place, is written into one place more, which is cut off.
    place = torch.where(flat & (rank <= most), rank - 1, most)
    found = torch.zeros(most + 1, dtype=torch.int64, device=mask.device)
    found.scatter_(0, place, torch.arange(len(flat), device=mask.device))
    return found[:most], rank[-1] if len(flat) else rank.sum()
