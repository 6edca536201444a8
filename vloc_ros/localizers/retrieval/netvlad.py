"""NetVLAD (Arandjelovic et al., CVPR 2016, Section 3.1) and its clusters from data."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vloc_ros.errors import VlocError

__all__ = ["NetVLAD", "k_means"]

#: How many times more the nearest cluster weighs than the second nearest, on average, when training begins.
NEAREST_RATIO = 100.0


class NetVLAD(nn.Module):
    """Residuals of local features to K centres, summed with soft weights (eq. 4), intra-normalised, then unit length.

    Local features are L2-normalised first. The soft assignment is a 1x1 convolution without bias, as in the public
    models: with centres of unit length on the assignment side the paper's biases -alpha |c_k|^2 are all equal and
    cancel in the softmax. Assignment and centres are learned separately (the paper's decoupling).

    :param channels: C, of the local features.
    :param clusters: K.
    :ivar initialised: whether centres and assignment come from data or from a file; random ones describe nothing.
    """

    def __init__(self, channels: int, clusters: int = 64) -> None:
        super().__init__()
        self.initialised = False
        self.assignment = nn.Conv2d(channels, clusters, kernel_size=1, bias=False)
        self.centres = nn.Parameter(torch.empty(clusters, channels))
        nn.init.uniform_(self.centres)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, K * C)`` of unit length, the centres one after the other."""
        unit = functional.normalize(features, dim=1)
        weights = self.assignment(unit).flatten(2).softmax(dim=1)
        # sum_i a_k(x_i) (x_i - c_k), without a tensor of B x K x C x places.
        sums = weights @ unit.flatten(2).transpose(1, 2)
        residuals = sums - weights.sum(dim=-1, keepdim=True) * self.centres
        return functional.normalize(functional.normalize(residuals, dim=-1).flatten(1), dim=-1)

    @torch.no_grad()
    def initialise(self, features: Tensor, centres: Tensor) -> float:
        """Begin at clusters of the data (its appendix A): assign so that on average the nearest centre's soft weight
        is 100 times the second nearest's.

        :param features: local features ``(N, C)`` of training images, of any length.
        :param centres: ``(K, C)``, for example of :func:`k_means` on unit features.
        :returns: alpha, the scale of the assignment.
        :raises VlocError: of other sizes than this layer, or not a single feature.
        """
        clusters, channels = self.centres.shape
        if tuple(centres.shape) != (clusters, channels) or features.ndim != 2 or features.shape[1:] != (channels,):
            raise VlocError(
                f"NetVLAD: expected features (N, {channels}) and centres ({clusters}, {channels}), "
                f"found {tuple(features.shape)} and {tuple(centres.shape)}"
            )
        if not len(features):
            raise VlocError("NetVLAD: expected local features to begin from, found none; give it training images")
        directions = functional.normalize(centres.to(self.centres), dim=-1)
        alpha = 1.0
        if clusters > 1:
            cosines = functional.normalize(features.to(self.centres), dim=-1) @ directions.T
            nearest = cosines.topk(2, dim=-1).values
            gap = float((nearest[:, 0] - nearest[:, 1]).mean())
            alpha = math.log(NEAREST_RATIO) / max(gap, 1e-4)  # equal centres leave no gap to scale
        self.centres.copy_(centres)
        self.assignment.weight.copy_((alpha * directions)[:, :, None, None])
        self.initialised = True
        return alpha


def k_means(points: Tensor, clusters: int, *, seed: int = 0, iterations: int = 50) -> Tensor:
    """Centres ``(K, C)`` float32 of points ``(N, C)``: k-means++ (Arthur and Vassilvitskii, 2007), then Lloyd.

    An emptied cluster is given the point that is farthest from its centre. The same seed gives the same centres.

    :raises VlocError: fewer points than clusters.
    """
    if points.ndim != 2 or len(points) < clusters:
        raise VlocError(f"k-means: expected at least {clusters} points (N, C), found {tuple(points.shape)}")
    x = points.detach().to(torch.float32)
    rng = torch.Generator().manual_seed(seed)
    norms = (x * x).sum(dim=1)

    def squared_distances(centres: Tensor) -> Tensor:
        return (norms[:, None] - 2 * (x @ centres.T) + (centres * centres).sum(dim=1)).clamp_min(0)

    chosen = [int(torch.randint(len(x), (1,), generator=rng))]
    nearest = squared_distances(x[chosen]).squeeze(1)
    while len(chosen) < clusters:
        weights = nearest.double().cpu()
        if float(weights.sum()) <= 0:  # all that is left are duplicates
            weights = torch.ones_like(weights)
        threshold = float(torch.rand((), generator=rng, dtype=torch.float64)) * float(weights.sum())
        chosen.append(min(int(torch.searchsorted(weights.cumsum(0), threshold, right=True)), len(x) - 1))
        nearest = torch.minimum(nearest, squared_distances(x[chosen[-1:]]).squeeze(1))
    centres = x[chosen].clone()
    owners = torch.full((len(x),), -1, device=x.device)
    for _ in range(iterations):
        distances, found = squared_distances(centres).min(dim=1)
        if bool((found == owners).all()):
            break
        owners = found
        counts = torch.bincount(owners, minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, owners, x)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
        empty = (counts == 0).nonzero().flatten()
        if len(empty):
            centres[empty] = x[distances.topk(len(empty)).indices]
    return centres
