"""Which features are the same: by descriptor alone, or near where geometry says they must be. On torch, any device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from vloc_ros.types import Array

__all__ = ["match_descriptors", "match_near", "mutual"]

Ints = npt.NDArray[np.int64]


def match_descriptors(
    first: Tensor, second: Tensor, ratio: float = 0.9, least_cosine: float = -1.0
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Mutual nearest neighbours whose distance is below ``ratio`` times that of the second nearest (Lowe 2004).

    :param first: (N, D) unit vectors. :param second: (M, D), on the same device.
    :param least_cosine: pairs less alike than this are none.
    :returns: pairs (K, 2), the clearest first, and their ratios (K,).
    """
    if not len(first) or not len(second):
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32)
    similarity = first @ second.T
    values, columns = similarity.topk(min(2, len(second)), dim=1)
    back = similarity.argmax(dim=0)
    rows = torch.arange(len(first), device=first.device)
    good = (back[columns[:, 0]] == rows) & (values[:, 0] >= least_cosine)
    distance = (2.0 - 2.0 * values).clamp_min(0.0).sqrt()
    if len(second) > 1:
        quotient = distance[:, 0] / distance[:, 1].clamp_min(1e-6)
    else:
        quotient = torch.zeros_like(distance[:, 0])
    good &= quotient < ratio
    order = torch.argsort(quotient[good], stable=True)
    pairs = torch.stack([rows[good], columns[good, 0]], dim=1)[order]
    return pairs.cpu().numpy().astype(np.int64), quotient[good][order].cpu().numpy()


def match_near(
    projected: Array,
    points: Tensor,
    pixels: Array,
    features: Tensor,
    radius_px: float | Array,
    least_cosine: float,
    ratio: float = 1.0,
    log_sizes: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]] | None = None,
    octaves: float = 1.0,
    candidates: int = 12,
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Projected points and the features near them that look like them; each at most once.

    :param projected: (N, 2) where the points should be. :param points: (N, D) their descriptors, unit vectors.
    :param pixels: (M, 2) where features are. :param features: (M, D), on the same device.
    :param radius_px: how far off a feature may be, for all points or each (N,).
    :param least_cosine: how like it must be. :param ratio: of the distances to the best and the second best *near*
        feature; 1 asks nothing.
    :param log_sizes: binary logarithms of the sizes that points should have (N,) and features have (M,); NaN: unknown.
    :param octaves: how far the two may be apart.
    :param candidates: features near a point that are looked at, the nearest first.
    :returns: pairs (K, 2) of a point and a feature, and their cosines (K,).
    """
    nothing = np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32)
    if not len(projected) or not len(pixels):
        return nothing
    reach = np.broadcast_to(np.asarray(radius_px, dtype=np.float64), (len(projected),))
    near, column = cKDTree(pixels).query(projected, k=min(candidates, len(pixels)), distance_upper_bound=reach.max())
    near, column = near.reshape(len(projected), -1), column.reshape(len(projected), -1)
    allowed = near <= reach[:, None]
    column = np.where(allowed, column, 0)
    if log_sizes is not None:
        apart = np.abs(log_sizes[0][:, None] - log_sizes[1][column])
        allowed &= ~(apart > octaves)  # what is not known is allowed
    some = np.flatnonzero(allowed.any(axis=1))
    if not len(some):
        return nothing
    device = points.device
    chosen = torch.from_numpy(column[some]).to(device)
    mask = torch.from_numpy(allowed[some]).to(device)
    rows = torch.from_numpy(some).to(device)
    cosine = torch.bmm(features[chosen], points[rows].unsqueeze(2)).squeeze(2)
    cosine = torch.where(mask, cosine, torch.full_like(cosine, -2.0))
    best, at = cosine.max(dim=1)
    good = best >= least_cosine
    if ratio < 1.0 and cosine.shape[1] > 1:
        second = cosine.topk(2, dim=1).values[:, 1]
        good &= (2.0 - 2.0 * best).clamp_min(0.0).sqrt() < ratio * (2.0 - 2.0 * second).clamp_min(0.0).sqrt()
    feature = chosen.gather(1, at[:, None])[:, 0]
    point_row, feature_row, value = (x[good].cpu().numpy() for x in (rows, feature, best))
    return mutual(point_row, feature_row, value)


def mutual(
    first: Ints, second: Ints, value: npt.NDArray[np.float32]
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Pairs (K, 2) in which every row of ``second`` keeps the best of the rows of ``first`` that chose it."""
    order = np.lexsort((first, -value, second))
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = second[order][1:] != second[order][:-1]
    kept = np.sort(order[keep])
    return np.stack([first[kept], second[kept]], axis=1).astype(np.int64), value[kept]
