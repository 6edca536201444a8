"""Nearest neighbours by faiss, for databases that are too large to compare a query with every row."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.errors import ConfigError
from vloc_ros.localizers.retrieval.database import Metric
from vloc_ros.localizers.retrieval.index import Index, TorchIndex

__all__ = ["FaissIndex"]

#: Rows for each list that the coarse quantiser is trained on: more changes little and costs much.
_TRAINING = 64
#: Queries that the recall is measured with.
_SAMPLE = 200


class FaissIndex(Index):
    """``flat``: every row in float32. ``ivf``: rows in lists about k-means centres, stored in 8 bits a component; a
    query looks into the nearest lists only, as many as it takes to find the wanted share of nearest rows.

    Candidates of either are ranked again by their exact distances (:class:`Index`). Built when the map is loaded: a map
    is untrusted input, and faiss reads its own files without checking them. CPU only.

    :param recall: share of sample queries whose nearest row must be among the candidates. The samples are database rows
        moved in a random direction, as far as their nearest neighbour is away.
    :raises ConfigError: faiss is not installed.
    """

    def __init__(
        self, descriptors: Tensor, metric: Metric, device: torch.device, kind: Literal["flat", "ivf"], recall: float
    ) -> None:
        super().__init__(descriptors, metric, device)
        faiss = _faiss()
        rows, dimension = self._prepared(0), self.dimension
        lists = int(np.clip(4.0 * np.sqrt(len(rows)), 1, max(1, len(rows) // 39)))
        self._kind = kind
        self.nprobe = lists
        if kind == "flat":
            self._faiss: Any = faiss.IndexFlatL2(dimension)
        else:
            quantiser = faiss.IndexFlatL2(dimension)
            self._faiss = faiss.IndexIVFScalarQuantizer(
                quantiser, dimension, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
            )
            chosen = np.random.default_rng(0).permutation(len(rows))[: _TRAINING * lists]
            self._faiss.train(rows[np.sort(chosen)])
        self._faiss.add(rows)
        if kind == "ivf":
            self._tune(rows, recall)

    @property
    def _extra_bytes(self) -> int:
        return len(self) * self.dimension * (4 if self._kind == "flat" else 1) + 8 * len(self)

    def _prepared(self, start: int) -> npt.NDArray[np.float32]:
        part = self._descriptors[start:].float()
        if self._metric == "cosine":  # of unit vectors the nearest by L2 are the nearest by angle
            part = torch.nn.functional.normalize(part, dim=-1)
        return np.ascontiguousarray(part.cpu().numpy())

    def _added(self, start: int) -> None:
        self._faiss.add(self._prepared(start))

    def _candidates(self, queries: Tensor, count: int) -> Tensor:
        if self._metric == "cosine":
            queries = torch.nn.functional.normalize(queries, dim=-1)
        _, rows = self._faiss.search(np.ascontiguousarray(queries.cpu().numpy()), count)
        return torch.from_numpy(rows).to(self._device)

    def _tune(self, rows: npt.NDArray[np.float32], recall: float) -> None:
        """As few probed lists as reach the recall on sample queries."""
        rng = np.random.default_rng(1)
        chosen = rng.integers(0, len(rows), _SAMPLE)
        exact = TorchIndex(self._descriptors, self._metric, self._device)
        own = torch.from_numpy(rows[chosen])
        _, near = exact.search(own, 2)
        apart = np.linalg.norm(rows[near[:, -1].cpu().numpy()] - rows[chosen], axis=1, keepdims=True)
        direction = rng.standard_normal(own.shape)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        samples = own + torch.from_numpy((apart * direction).astype(np.float32))
        wanted, _ = exact.search(samples, 1)
        lists, probes = self.nprobe, 1
        while True:
            self._faiss.nprobe = self.nprobe = min(probes, lists)
            found, _ = self.search(samples, 1)
            # Rows as near as the nearest count: equal descriptors stand more than once.
            share = float((found[:, 0] <= wanted[:, 0] * (1 + 1e-5) + 1e-6).float().mean())
            if share >= recall or self.nprobe >= lists:
                return
            probes *= 2


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as problem:
        raise ConfigError(
            "index faiss_*: expected the package faiss, found none; "
            "pip install 'vloc_ros[retrieval]', or take index torch"
        ) from problem
    return faiss
