from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import MapTensorError
from vloc_ros.localizers.retrieval import index as module
from vloc_ros.localizers.retrieval.index import TorchIndex

CPU = torch.device("cpu")


def reference(queries, rows, metric, k):
    """Float64 search by definition: L2 distance, or one minus the cosine."""
    q, x = (a.double().numpy() for a in (queries, rows))
    if metric == "cosine":
        q, x = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in (q, x))
        distances = 1.0 - q @ x.T
    else:
        distances = np.linalg.norm(q[:, None] - x[None], axis=2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def some(count, dimension=16, seed=0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, dimension, generator=generator) + offset).half()


@given(st.integers(1, 60), st.integers(1, 80), st.sampled_from(["l2", "cosine"]), st.integers(0, 5))
def test_exact_search_agrees_with_the_definition(count, k, metric, seed):
    rows, queries = some(count, seed=seed), some(3, seed=seed + 100).float()
    distances, found = TorchIndex(rows, metric, CPU).search(queries, k)
    wanted, order = reference(queries, rows, metric, min(k, count))
    assert found.shape == (3, min(k, count))
    np.testing.assert_allclose(distances, wanted, atol=2e-5)
    assert (found.numpy() == order).mean() > 0.99


def test_long_descriptors_close_together_keep_their_order():
    # Norms of some hundred, distances of about one: products alone would lose them.
    rows, queries = some(500, 64, offset=60.0), some(20, 64, seed=1, offset=60.0).float()
    _, found = TorchIndex(rows, "l2", CPU).search(queries, 1)
    np.testing.assert_array_equal(found[:, 0], reference(queries, rows, "l2", 1)[1][:, 0])


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_chunks_change_nothing(metric, monkeypatch):
    rows, queries = some(97), some(4, seed=9).float()
    whole = TorchIndex(rows, metric, CPU).search(queries, 7)
    monkeypatch.setattr(module, "_VALUES", 10 * rows.shape[1])
    monkeypatch.setattr(module, "_DISTANCES", 4 * 33)  # 33 rows against four queries
    parts = TorchIndex(rows, metric, CPU).search(queries, 7)
    torch.testing.assert_close(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_rows_added_later_are_found():
    rows = some(50)
    index = TorchIndex(rows[:30], "l2", CPU)
    index.add(rows[30:])
    assert len(index) == 50
    torch.testing.assert_close(index.search(rows[30:33].float(), 1)[1][:, 0], torch.tensor([30, 31, 32]))


def test_a_search_among_some_rows():
    rows = some(40)
    distances, found = TorchIndex(rows, "l2", CPU).search_among(rows[3:4].float(), 2, torch.tensor([7, 9, 30]))
    assert set(found[0].tolist()) <= {7, 9, 30} and distances.shape == (1, 2)


def test_other_dimensions_are_refused():
    index = TorchIndex(some(5), "l2", CPU)
    with pytest.raises(MapTensorError, match="extractor"):
        index.search(torch.zeros(1, 8), 1)
    with pytest.raises(MapTensorError, match="further"):
        index.add(torch.zeros(2, 8))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_faiss_finds_what_it_promises(kind, metric):
    pytest.importorskip("faiss", reason="needs the extra [retrieval]")
    from vloc_ros.localizers.retrieval.index import FaissIndex

    rows = some(3000, 16)
    index = FaissIndex(rows, metric, CPU, kind, recall=0.95)
    # Queries as they are: near something that the map has seen.
    queries = rows[:200].float() + 0.2 * some(200, 16, seed=4).float()
    distances, found = index.search(queries, 5)
    wanted, order = reference(queries, rows, metric, 5)
    assert (found[:, 0].numpy() == order[:, 0]).mean() >= (0.999 if kind == "flat" else 0.85)
    hit = found.numpy() == order
    np.testing.assert_allclose(distances.numpy()[hit], wanted[hit], atol=2e-5)  # exact, whatever proposed them
    index.add(rows[:3] + 9)
    assert len(index) == 3003 and index.memory_bytes > 3003 * 32
    assert index.search((rows[:3] + 9).float(), 1)[1][:, 0].tolist() == [3000, 3001, 3002]


def test_faiss_that_is_not_installed_says_so(monkeypatch):
    import sys

    from vloc_ros.errors import ConfigError
    from vloc_ros.localizers.retrieval.index import FaissIndex

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="retrieval"):
        FaissIndex(some(10), "l2", CPU, "flat", 0.9)


def small_database(count, dimension=16):
    from bench.retrieval_inputs import made_up

    return made_up(count, dimension, 1).database


def test_auto_leaves_exact_search_where_it_was_measured_to(monkeypatch, caplog):
    import sys

    assert module.chosen_kind(100_000, 256, CPU) == "torch"
    assert module.chosen_kind(131_072, 256, CPU) == "faiss_ivf"
    assert module.chosen_kind(8192, 4096, CPU) == "torch"  # long, but few
    assert module.chosen_kind(10_000_000, 256, torch.device("cuda")) == "torch"
    monkeypatch.setattr(module, "AUTO_ROWS", 1000)
    monkeypatch.setattr(module, "AUTO_VALUES", 16_000)
    assert isinstance(module.build_index(small_database(999), CPU), TorchIndex)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with caplog.at_level("WARNING"):
        assert isinstance(module.build_index(small_database(1000), CPU), TorchIndex)
    assert "vloc_ros[retrieval]" in caplog.text


def test_auto_takes_faiss_where_it_is_installed(monkeypatch):
    pytest.importorskip("faiss", reason="needs the extra [retrieval]")
    from vloc_ros.localizers.retrieval.index import FaissIndex

    monkeypatch.setattr(module, "AUTO_ROWS", 1000)
    monkeypatch.setattr(module, "AUTO_VALUES", 16_000)
    assert isinstance(module.build_index(small_database(1000), CPU), FaissIndex)


def test_lists_are_searched_far_enough_for_images_of_another_day():
    # Rows lie much nearer to each other than to any query: what neighbouring rows suggest would be one list.
    pytest.importorskip("faiss", reason="needs the extra [retrieval]")
    from bench.retrieval_inputs import made_up
    from vloc_ros.localizers.retrieval.index import FaissIndex

    inputs = made_up(20_000, 32, 200)
    index = FaissIndex(inputs.database.descriptors, "l2", CPU, "ivf", 0.98)
    assert index.nprobe >= index.lists / 16 > 1
    _, found = index.search(inputs.queries, 1)
    _, wanted = TorchIndex(inputs.database.descriptors, "l2", CPU).search(inputs.queries, 1)
    assert (found == wanted).float().mean() >= 0.95
