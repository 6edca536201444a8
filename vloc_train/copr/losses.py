"""The loss of H (CoPR, equation 4)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["descriptor_loss"]


def descriptor_loss(found: Tensor, truth: Tensor, kind: str = "mse", scale: Tensor | float = 1.0) -> Tensor:
    """How far regressed descriptors ``(B, N)`` are from those of images ``(B, N)``.

    The text calls it a mean squared error, equation 4 prints the norm ``||H(f_a, dp) - f_gt||_2``.

    :param kind: ``mse`` (mean over components and pairs) or ``norm`` (mean over pairs).
    :param scale: descriptors are compared in units of this; it changes the loss's size and nothing else for Adam.
    """
    difference = (found - truth) / scale
    if kind == "mse":
        return difference.square().mean()
    norms: Tensor = torch.linalg.vector_norm(difference, dim=-1)
    return norms.mean()
