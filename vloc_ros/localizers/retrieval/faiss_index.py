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
_TRAINING = 40
#: Queries that the recall is measured with.
_SAMPLE = 200
#: A query looks into at least one list in so many. What the database holds cannot show how far real queries will be
#: from it: rows regressed centimetres apart are much nearer to each other than to an image of another day. One list in
#: sixteen held the nearest row of 99 % of images of another drive, at 10,000, 100,000 and 1,000,000 rows
#: (``vloc bench retrieval``); looking further is what the sample queries below decide.
_PROBE_ONE_IN = 16
#: Rows that are widened to float32 at a time.
_BLOCK = 1 << 16


class FaissIndex(Index):
    """``flat``: every row in float32. ``ivf``: rows in lists about k-means centres, stored in 8 bits a component; a
    query looks into the nearest lists only, as many as it takes to find the wanted share of nearest rows.

    Candidates of either are ranked again by their exact distances (:class:`Index`). Built when the map is loaded: a map
    is untrusted input, and faiss reads its own files without checking them. CPU only.

    :param recall: share of sample queries whose nearest row must be among the candidates. The samples are database rows
        moved twice as far as they are from the centre of their list, half along a difference of two rows and half
        anywhere, so that most leave their list.
    :raises ConfigError: faiss is not installed.
    """

    def __init__(
        self, descriptors: Tensor, metric: Metric, device: torch.device, kind: Literal["flat", "ivf"], recall: float
    ) -> None:
        super().__init__(descriptors, metric, device)
        faiss = _faiss()
        count, dimension = len(self), self.dimension
        self._kind = kind
        self.lists = int(np.clip(np.sqrt(count), 1, max(1, count // 39))) if kind == "ivf" else 1
        self.nprobe = self.lists
        quantiser = faiss.IndexFlatL2(dimension)
        if kind == "flat":
            self._faiss: Any = quantiser
        else:
            self._faiss = faiss.IndexIVFScalarQuantizer(
                quantiser, dimension, self.lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
            )
            chosen = np.random.default_rng(0).permutation(count)[: _TRAINING * self.lists]
            self._faiss.train(self._prepared(np.sort(chosen)))
        self._added(0)
        if kind == "ivf":
            self._tune(quantiser, recall)

    @property
    def _extra_bytes(self) -> int:
        if self._kind == "flat":
            return len(self) * self.dimension * 4
        return len(self) * (self.dimension + 8) + self.lists * self.dimension * 4

    def _prepared(self, rows: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        part = self._descriptors[rows].float()
        if self._metric == "cosine":  # of unit vectors the nearest by L2 are the nearest by angle
            part = torch.nn.functional.normalize(part, dim=-1)
        return np.ascontiguousarray(part.cpu().numpy())

    def _added(self, start: int) -> None:
        for first in range(start, len(self), _BLOCK):
            self._faiss.add(self._prepared(slice(first, first + _BLOCK)))

    def _candidates(self, queries: Tensor, count: int) -> Tensor:
        if self._metric == "cosine":
            queries = torch.nn.functional.normalize(queries, dim=-1)
        _, rows = self._faiss.search(np.ascontiguousarray(queries.cpu().numpy()), count)
        return torch.from_numpy(rows).to(self._device)

    def _tune(self, quantiser: Any, recall: float) -> None:
        """As few probed lists as reach the recall on sample queries, and :data:`_PROBE_ONE_IN`."""
        rng = np.random.default_rng(1)
        own, one, other = (self._prepared(rng.integers(0, len(self), _SAMPLE)) for _ in range(3))
        squares, _ = quantiser.search(own, 1)  # to the centre of the own list
        direction = _unit(_unit(rng.standard_normal(own.shape)) + _unit(one - other))
        samples = torch.from_numpy((own + 2.0 * np.sqrt(squares) * direction).astype(np.float32)).to(self._device)
        wanted, _ = TorchIndex(self._descriptors, self._metric, self._device).search(samples, 1)
        probes = -(-self.lists // _PROBE_ONE_IN)
        while True:
            self._faiss.nprobe = self.nprobe = min(probes, self.lists)
            found, _ = self.search(samples, 1)
            # Rows as near as the nearest count: equal descriptors stand more than once.
            share = float((found[:, 0] <= wanted[:, 0] * (1 + 1e-5) + 1e-6).float().mean())
            if share >= recall or self.nprobe >= self.lists:
                return
            probes *= 2


def _unit(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as problem:
        raise ConfigError(
            "index faiss_*: expected the package faiss, found none; "
            "pip install 'vloc_ros[retrieval]', or take index torch"
        ) from problem
    return faiss
