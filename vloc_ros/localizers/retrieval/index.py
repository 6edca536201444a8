"""Nearest neighbours among the descriptors of a database.

Every index returns exact float32 distances of the rows it found: what finds candidates may be coarse, what ranks them
is not. Distances: ``l2`` is ||q - x||; ``cosine`` is 1 - cos(q, x) = ||q^ - x^||^2 / 2.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vloc_ros.errors import ConfigError, MapTensorError
from vloc_ros.localizers.retrieval.database import Database, Metric

__all__ = ["FaissIndex", "Index", "IndexKind", "TorchIndex", "build_index", "chosen_kind", "exact_distances", "rank"]

_log = logging.getLogger(__name__)

IndexKind = Literal["auto", "torch", "faiss_flat", "faiss_ivf"]

#: Descriptor components that are widened to float32 and multiplied at a time: on a CPU they stay near its caches (fewer
#: would be as fast on an idle CPU, but threads that wait for each other suffer from whatever else runs), ...
_VALUES = 1 << 21
#: ... and on a GPU few large products are fast.
_VALUES_GPU = 1 << 26
#: Distances (rows times queries) that are held at a time before the nearest are picked among them.
_DISTANCES = 1 << 24
#: ``auto`` leaves exact search for faiss on a CPU from so many components (rows times dimension) on: 131,072
#: descriptors of 256, where comparing with every row takes 10 ms of a core, as long as a small extractor takes for the
#: image (``vloc bench retrieval``). Lists take a twentieth of that at this size, but 15 us a row to build whenever the
#: map is loaded, the time that some 200 queries save. On a GPU every row is compared: faiss is used on CPUs only.
AUTO_VALUES = 1 << 25
#: Long descriptors reach that with few rows, too few for lists in which what is near in so many dimensions is together.
AUTO_ROWS = 1 << 16
#: Candidates beyond k that are ranked anew from exact distances.
_SPARE = 28


def exact_distances(queries: Tensor, neighbours: Tensor, metric: Metric) -> Tensor:
    """``(Q, D)`` against ``(Q, K, D)``: ``(Q, K)`` float32, from differences, so that small ones keep their digits."""
    q, x = queries.float(), neighbours.float()
    if metric == "cosine":
        q, x = (torch.nn.functional.normalize(v, dim=-1) for v in (q, x))
    squares = (x - q.unsqueeze(-2)).square().sum(dim=-1)
    return 0.5 * squares if metric == "cosine" else squares.sqrt()


def rank(distances: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each query, ``(Q, C)`` to ``(Q, k)`` each, sorted; of equal ones the lower row comes first."""
    by_row = rows.argsort(dim=1)
    distances, rows = distances.gather(1, by_row), rows.gather(1, by_row)
    order = distances.argsort(dim=1, stable=True)[:, :k]
    return distances.gather(1, order), rows.gather(1, order)


class Index(ABC):
    """Finds the nearest rows of a database. Rows are numbered as in it.

    :param descriptors: ``(M, D)`` float16; kept, not copied, where it lies on ``device`` already.
    """

    #: Whether a search is work of the device alone, which may be recorded (:mod:`vloc_ros.localizers.recorder`).
    recordable: ClassVar[bool] = False

    def __init__(self, descriptors: Tensor, metric: Metric, device: torch.device) -> None:
        if descriptors.ndim != 2:
            raise MapTensorError(f"index: expected descriptors (M, D), found shape {tuple(descriptors.shape)}")
        self._descriptors = descriptors.to(device, torch.float16)
        self._metric, self._device = metric, device

    def __len__(self) -> int:
        return len(self._descriptors)

    @property
    def metric(self) -> Metric:
        """How descriptors are compared."""
        return self._metric

    @property
    def dimension(self) -> int:
        """D, the length of a descriptor."""
        return int(self._descriptors.shape[1])

    @property
    def device(self) -> torch.device:
        """Where queries are expected and results lie."""
        return self._device

    @property
    def memory_bytes(self) -> int:
        """The descriptors, and what the index holds beside them."""
        return self._descriptors.numel() * 2 + self._extra_bytes

    @property
    @abstractmethod
    def _extra_bytes(self) -> int: ...

    @abstractmethod
    def _candidates(self, queries: Tensor, count: int) -> Tensor:
        """``(Q, C)`` int64 rows, the wanted ones among them; -1 stands for none."""

    @abstractmethod
    def _added(self, start: int) -> None:
        """Rows from ``start`` on are new."""

    @torch.inference_mode()
    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest rows of each query, nearest first; all of them where the database has fewer.

        :param queries: ``(Q, D)`` float32.
        :returns: distances ``(Q, k)`` float32 and rows ``(Q, k)`` int64.
        :raises MapTensorError: queries of another length: descriptors of another extractor.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise MapTensorError(
                f"index: expected queries (Q, {self.dimension}) as in the database, found {tuple(queries.shape)}; "
                "describe them with the extractor of the database"
            )
        queries, k = queries.to(self._device, torch.float32), min(k, len(self))
        if k < 1 or not len(queries):
            return queries.new_empty(len(queries), max(k, 0)), torch.empty(
                len(queries), max(k, 0), dtype=torch.int64, device=self._device
            )
        rows = self._candidates(queries, min(k + _SPARE, len(self)))
        distances = exact_distances(queries, self._descriptors[rows.clamp_min(0)], self._metric)
        return rank(distances.masked_fill(rows < 0, torch.inf), rows, k)

    def search_among(self, queries: Tensor, k: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The same among some rows ``(S,)`` int64 only, every one of them compared."""
        rows = rows.to(self._device)
        distances, found = TorchIndex(self._descriptors[rows], self._metric, self._device).search(queries, k)
        return distances, rows[found]

    def add(self, descriptors: Tensor) -> None:
        """Further rows ``(A, D)``, numbered after those that are there. Nothing is built again.

        :raises MapTensorError: of another length.
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != self.dimension:
            raise MapTensorError(
                f"index: expected further descriptors (A, {self.dimension}), found {tuple(descriptors.shape)}"
            )
        start = len(self)
        self._descriptors = torch.cat((self._descriptors, descriptors.to(self._device, torch.float16)))
        self._added(start)


class TorchIndex(Index):
    """Compares a query with every row: matrix product and top k, in chunks, so that memory stays flat.

    Distances are taken from a centre: they do not change, but the parts of ||x - c||^2 - 2 x.(q - c) become as small as
    the distances themselves, so that rounding does not swallow them (raw descriptors can be much longer than they are
    apart). Only queries and norms are centred; rows are multiplied as they are stored, widened to float32.
    """

    recordable: ClassVar[bool] = True

    def __init__(self, descriptors: Tensor, metric: Metric, device: torch.device) -> None:
        super().__init__(descriptors, metric, device)
        values = _VALUES if device.type == "cpu" else _VALUES_GPU
        self._chunk = max(1, values // max(1, self.dimension))
        self._centre = torch.zeros(self.dimension, device=device)
        if len(self):
            step = max(1, len(self) // 100_000)
            self._centre = self._unit(self._descriptors[::step].float()).mean(dim=0)
        self._norms = torch.empty(0, device=device)
        #: What makes rows of unit length, where angles are compared.
        self._scale = torch.empty(0, device=device) if metric == "cosine" else None
        self._added(0)

    @property
    def _extra_bytes(self) -> int:
        scale = 0 if self._scale is None else self._scale.numel()
        return (self._norms.numel() + self._centre.numel() + scale) * 4

    def _unit(self, vectors: Tensor) -> Tensor:
        return torch.nn.functional.normalize(vectors, dim=-1) if self._metric == "cosine" else vectors

    def _added(self, start: int) -> None:
        # Into memory that is there already: small results between large temporaries would leave gaps that stay taken.
        norms = self._norms.new_empty(len(self) - start)
        scale = torch.empty_like(norms)
        for first in range(start, len(self), self._chunk):
            part = self._descriptors[first : first + self._chunk].float()
            chunk = slice(first - start, first - start + len(part))
            if self._scale is not None:
                scale[chunk] = torch.linalg.vector_norm(part, dim=1).clamp_min_(1e-12).reciprocal_()
                part *= scale[chunk, None]
            norms[chunk] = part.sub_(self._centre).square_().sum(dim=1)
        self._norms = torch.cat((self._norms, norms))
        if self._scale is not None:
            self._scale = torch.cat((self._scale, scale))

    def _candidates(self, queries: Tensor, count: int) -> Tensor:
        q = (self._unit(queries) - self._centre).T.contiguous()
        block = max(1, _DISTANCES // len(queries))
        best: Tensor | None = None
        rows: Tensor | None = None
        for start in range(0, len(self), block):
            squares = self._squares(q, start, min(start + block, len(self))).T
            values, found = squares.topk(min(count, squares.shape[1]), dim=1, largest=False)
            found = found + start
            if best is not None and rows is not None:
                values, found = torch.cat((best, values), dim=1), torch.cat((rows, found), dim=1)
                values, kept = values.topk(min(count, values.shape[1]), dim=1, largest=False)
                found = found.gather(1, kept)
            best, rows = values, found
        assert rows is not None
        return rows

    def _squares(self, q: Tensor, start: int, end: int) -> Tensor:
        """Squared distances ``(end - start, Q)`` less what is the same for all rows; ``q`` ``(D, Q)`` is centred."""
        products = q.new_empty(end - start, q.shape[1])
        wide = q.new_empty(min(self._chunk, end - start), self.dimension)  # one for all: memory that is in the cache
        for first in range(start, end, self._chunk):
            last = min(first + self._chunk, end)
            part = wide[: last - first]
            part.copy_(self._descriptors[first:last])
            torch.mm(part, q, out=products[first - start : last - start])
        if self._scale is not None:
            products *= self._scale[start:end, None]
        return torch.sub(self._norms[start:end, None], products, alpha=2.0, out=products)


# Nearest neighbours by faiss, for databases that are too large to compare a query with every row.


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


def chosen_kind(rows: int, dimension: int, device: torch.device) -> IndexKind:
    """What ``auto`` takes for a database of so many rows; whether faiss is installed is not asked."""
    if device.type == "cpu" and rows >= AUTO_ROWS and rows * dimension >= AUTO_VALUES:
        return "faiss_ivf"
    return "torch"


def build_index(database: Database, device: torch.device, kind: IndexKind = "auto", recall: float = 0.98) -> Index:
    """An index over a database.

    :param kind: see :class:`~vloc_ros.localizers.retrieval.localizer.RetrievalSettings`.
    :param recall: the same.
    :raises ConfigError: faiss was asked for by name and is not installed.
    """
    asked = chosen_kind(len(database), database.dimension, device) if kind == "auto" else kind
    if asked in ("faiss_flat", "faiss_ivf"):
        inner: Literal["flat", "ivf"] = "flat" if asked == "faiss_flat" else "ivf"
        try:
            return FaissIndex(database.descriptors, database.metric, device, inner, recall)
        except ConfigError:
            if kind != "auto":
                raise
            _log.warning(
                "index auto: every image is compared with all of %d descriptors, because faiss, which finds the "
                "nearest sooner, is not installed: pip install 'vloc_ros[retrieval]'",
                len(database),
            )
    return TorchIndex(database.descriptors, database.metric, device)
