"""PCA whitening as a linear layer fitted from data (Jegou and Chum, ECCV 2012; NetVLAD, Section 5.1)."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from vloc_ros.errors import VlocError

__all__ = ["fit_whitening"]

_log = logging.getLogger(__name__)

#: Added to variances before their root, so that directions of little variance are not blown up.
VARIANCE_FLOOR = 1e-9


def fit_whitening(samples: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """The layer ``y = weight @ x + bias`` that centres, decorrelates and scales to unit variance.

    N samples span at most N - 1 directions: where ``dimension`` is more than the samples have, the layer has only as
    many rows as they have, and a warning says so.

    :param samples: descriptors ``(N, D)``.
    :param dimension: rows to keep, of largest variance.
    :returns: weight (at most ``dimension``, D) and bias, float32 on the device of the samples.
    :raises VlocError: fewer than two samples, or all the same.
    """
    if samples.ndim != 2 or len(samples) < 2:
        raise VlocError(f"whitening: expected two or more descriptors (N, D), found {tuple(samples.shape)}")
    x = samples.detach().to(torch.float64)
    mean = x.mean(dim=0)
    x = x - mean
    n, size = x.shape
    # The smaller of the two matrices has the same eigenvalues: D x D, or the Gram matrix N x N.
    small = x @ x.T if n < size else x.T @ x
    values, vectors = torch.linalg.eigh(small / (n - 1))
    values, vectors = values.flip(0), vectors.flip(1)
    rank = min(int((values > values[0].clamp_min(0) * max(n, size) * torch.finfo(torch.float64).eps).sum()), n - 1)
    kept = min(dimension, rank)
    if kept < 1 or float(values[0]) <= 0:
        raise VlocError(f"whitening: expected descriptors that differ, found {n} alike")
    if kept < dimension:
        _log.warning("whitening: %d of %d dimensions: %d descriptors span no more", kept, dimension, n)
    values, vectors = values[:kept], vectors[:, :kept]
    if n < size:
        vectors = (x.T @ vectors) / ((n - 1) * values).sqrt()
    weight = vectors.T / (values + VARIANCE_FLOOR).sqrt()[:, None]
    return weight.float(), -(weight @ mean).float()
