"""From a sparse model and the features it was made of to what a map holds: points in order, and their descriptors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vloc_ros.features.base import decode_descriptors, encode_descriptors
from vloc_ros.localizers.features.bundle import PointModel, TileContent
from vloc_train.mapping.keypoints import FeatureStore
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.uncertainty import point_roots

__all__ = ["DescribedModel", "described_model"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DescribedModel:
    """Points in the order in which frames first saw them, so that a tile is a stretch of the drive."""

    sparse: SparseModel
    store_frame: Ints
    store: FeatureStore
    signed: bool
    scaled: bool
    prototypes: int
    cosine: float

    @property
    def depth_m(self) -> float:
        """Median depth of all observations."""
        return float(np.median(self.sparse.points_cam()[:, 2]))

    def points(self, sigma_px: float) -> PointModel:
        """What the map holds of them but for the descriptors."""
        m = self.sparse
        return PointModel(
            m.points, point_roots(m, sigma_px), m.track_length, m.offsets, m.point_ids, m.T_map_cam, m.stamps_ns,
            self.depth_m,
        )  # fmt: skip

    def content(self, begin: int, end: int) -> TileContent:
        """Descriptors of points ``begin`` to ``end``: the mean of what their frames saw, and where some frames saw
        something else (a cosine below ``cosine``), further means of those."""
        m = self.sparse
        assert m.features is not None
        rows = np.flatnonzero((m.point_ids >= begin) & (m.point_ids < end))
        frames = m.frame_of[rows]
        unit, sizes = self._seen(rows, frames)
        owner = torch.from_numpy(m.point_ids[rows] - begin)
        depth = m.points_cam()[rows, 2]
        focal = np.array([0.5 * (c.fx + c.fy) for c in m.cameras])[m.camera_index[frames]]
        count = end - begin
        extents = np.zeros(count)
        if self.scaled:
            log = np.log(np.maximum(sizes * depth / focal, 1e-6))
            seen = np.bincount(owner.numpy(), minlength=count)
            extents = np.exp(np.bincount(owner.numpy(), log, minlength=count) / np.maximum(seen, 1))
        means, owners, ends = [], [], []
        left = torch.ones(len(owner), dtype=torch.bool)
        total = 0
        for level in range(self.prototypes):
            who = torch.unique(owner[left]) if level else torch.arange(count)
            if not len(who):
                break
            place = torch.full((count,), -1, dtype=torch.int64)
            place[who] = torch.arange(len(who))
            sums = torch.zeros(len(who), unit.shape[1]).index_add_(0, place[owner[left]], unit[left])
            mean = torch.nn.functional.normalize(sums, dim=1)
            means.append(mean)
            owners.append(who)
            total += len(who)
            ends.append(total)
            alike = (unit * mean[place[owner].clamp_min(0)]).sum(dim=1) >= self.cosine
            # A lone odd view is noise: only what two frames or more saw becomes a further descriptor.
            left = left & ~alike
            several = torch.bincount(owner[left], minlength=count) >= 2
            left = left & several[owner]
        stored = encode_descriptors(torch.cat(means).numpy(), self.signed)
        return TileContent(stored, torch.cat(owners).numpy(), tuple(ends), extents)

    def _seen(self, rows: Ints, frames: Ints) -> tuple[torch.Tensor, npt.NDArray[Any]]:
        """Unit descriptors and sizes (px) of some observations."""
        assert self.sparse.features is not None
        dimension = self.store.read(int(self.store_frame[0])).descriptors.shape[1]
        unit, sizes = torch.zeros(len(rows), dimension), np.zeros(len(rows))
        # Observations lie frame by frame.
        for frame in np.unique(frames):
            mine = np.flatnonzero(frames == frame)
            found = self.store.read(int(self.store_frame[frame]))
            feature = self.sparse.features[rows[mine]]
            unit[torch.from_numpy(mine)] = decode_descriptors(found.descriptors[feature])
            sizes[mine] = found.sizes[feature]
        return unit, sizes

    def descriptors(self, frame: int) -> npt.NDArray[Any]:
        """All that were found in a frame, those without a point included."""
        return self.store.read(int(self.store_frame[frame])).descriptors


def described_model(
    sparse: SparseModel,
    store_frame: Ints,
    store: FeatureStore,
    *,
    signed: bool,
    scaled: bool,
    prototypes: int = 3,
    cosine: float = 0.8,
) -> DescribedModel:
    """Points that no frame saw any more are dropped, the others put in order.

    :param store_frame: (R,) which frame of the store each of the model's frames is.
    """
    sparse = sparse.keep(np.ones(len(sparse.point_ids), dtype=bool))
    first = np.full(len(sparse.points), len(sparse.point_ids))
    np.minimum.at(first, sparse.point_ids, np.arange(len(sparse.point_ids)))
    return DescribedModel(_ordered(sparse, np.argsort(first)), store_frame, store, signed, scaled, prototypes, cosine)


def _ordered(sparse: SparseModel, order: Ints) -> SparseModel:
    from dataclasses import replace

    row = np.empty(len(order), dtype=np.int64)
    row[order] = np.arange(len(order))
    return replace(
        sparse,
        points=sparse.points[order],
        track_length=sparse.track_length[order],
        error=sparse.error[order],
        point_ids=row[sparse.point_ids],
    )


Progress = Callable[[str, int, int], None]
