"""The first candidates (Section 3.1, step 2): a sample of the training poses, or a grid over the mapped area."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.localizers.imposing.settings import SearchSettings

__all__ = ["grid_candidates", "initial_candidates"]


def initial_candidates(settings: SearchSettings, training: npt.NDArray[np.float32], seed: int) -> Tensor:
    """N first candidates ``(N, 7)``.

    :param training: ``(M, 7)`` training poses. With M >= N they are thinned evenly along the drives; with M < N
        all are taken and the rest are further copies, moved by uniform noise of half the proposals' width so that
        no two are alike.
    """
    if settings.initial == "grid":
        return torch.from_numpy(grid_candidates(settings.candidates, training))
    n, m = settings.candidates, len(training)
    if m >= n:
        return torch.from_numpy(training[np.linspace(0, m - 1, n).round().astype(np.int64)])
    rng = np.random.default_rng(seed)
    copies = training[np.resize(np.arange(m), n - m)].copy()
    spread = 0.5 * np.asarray(settings.noise_translation_m, dtype=np.float32)
    copies[:, :3] += (rng.uniform(-1.0, 1.0, (n - m, 3)) * spread).astype(np.float32)
    return torch.from_numpy(np.concatenate((training, copies)))


def grid_candidates(count: int, training: npt.NDArray[np.float32], headings: int = 8) -> npt.NDArray[np.float32]:
    """A regular grid over the area of the training positions, each cell with several headings: ``(count, 7)``.

    Height, and roll and pitch, are those of the nearest training pose; headings divide the circle.
    """
    positions = training[:, :3]
    low, high = positions[:, :2].min(axis=0) - 4.0, positions[:, :2].max(axis=0) + 4.0
    size = np.maximum(high - low, 1.0)
    cells = max(1, count // headings)
    step = float(np.sqrt(size[0] * size[1] / cells))
    xs = np.arange(low[0] + step / 2, high[0] + step / 2, step)
    ys = np.arange(low[1] + step / 2, high[1] + step / 2, step)
    centres = np.stack(np.meshgrid(xs, ys, indexing="ij"), axis=-1).reshape(-1, 2)
    nearest = np.array([np.argmin(((positions[:, :2] - c) ** 2).sum(axis=1)) for c in centres])
    rows = []
    for turn in 2 * np.pi * np.arange(headings) / headings:
        poses = training[nearest].copy()
        poses[:, :2] = centres
        s, c = np.sin(turn / 2), np.cos(turn / 2)
        x, y, z, w = poses[:, 3:].T.copy()
        # A turn about the vertical, applied from the left.
        poses[:, 3:] = np.stack((c * x - s * y, c * y + s * x, c * z + s * w, c * w - s * z), axis=1)
        rows.append(poses)
    grid = np.stack(rows, axis=1).reshape(-1, 7)
    return grid[np.linspace(0, len(grid) - 1, count).round().astype(np.int64)].astype(np.float32)
