from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tiny_drive
import tiny_maps
import torch
from typer.testing import CliRunner

from bench.retrieval import bench_retrieval, definition, sample
from bench.retrieval_inputs import made_up, of_map
from bench.timing import MemoryGrowth, threads_of
from vloc_ros.cli.main import app
from vloc_ros.errors import ConfigError, MapError
from vloc_ros.localizers.retrieval.index import TorchIndex
from vloc_train.copr.densify import densify_map, densify_settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    settings = densify_settings({"targets": {"scheme": "interpolate", "step_m": 0.2}})
    return densify_map(tiny_maps.tiny_map("retrieval"), tmp_path_factory.mktemp("bench") / "dense", settings).path


@pytest.fixture(scope="module")
def figures(dense):
    return bench_retrieval(dense, tiny_maps.tiny_map("retrieval"), CPU, [60, 100], repeats=3, computed=1000)


def test_the_fields_of_every_benchmark(figures):
    names = "device backend rows speedup_vs_naive max_abs_difference floor_ms times_floor memory_bytes"
    assert set(names.split()) <= set(figures)
    assert figures["backend"] == "retrieval" and figures["auto"] == "torch"
    for row in figures["rows"]:
        assert 0 < row["ms_p50"] <= row["ms_p95"] <= row["ms_max"]
        assert str(row["descriptors"]) in row["name"]
    json.dumps(figures)


def test_what_exact_search_finds(figures):
    exact = [row for row in figures["rows"] if row["index"] == "torch" and not row.get("computed")]
    assert [row["descriptors"] for row in exact] == [60, 100]
    for row in exact:
        assert row["recall_at_1"] == 1.0
        assert 0 < row["regressed_share"] < 1
        assert row["index_bytes"] >= row["descriptors"] * figures["dimension"] * 2
    assert figures["max_abs_difference"] < 1e-4


def test_computed_rows_follow_from_the_largest(figures):
    rows = {(row["index"], row["descriptors"]): row for row in figures["rows"]}
    for (index, size), row in rows.items():
        if row.get("computed"):
            assert size == 1000 and "recall_at_1" not in row and "computed" in row["name"]
            assert row["ms_p50"] == pytest.approx(10 * rows[index, 100]["ms_p50"], abs=1e-3)
    assert sum(bool(row.get("computed")) for row in rows.values()) == len({index for index, _ in rows})


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_definition_agrees_with_float64(metric, monkeypatch):
    monkeypatch.setattr("bench.retrieval._ROWS", 17)
    generator = torch.Generator().manual_seed(0)
    rows, queries = (torch.randn(n, 12, generator=generator) for n in (80, 6))
    rows = rows.half()
    distances, found = definition(queries, rows, metric)
    q, x = queries.double(), rows.double()
    if metric == "cosine":
        expected = 1 - torch.nn.functional.normalize(q) @ torch.nn.functional.normalize(x).T
    else:
        expected = torch.cdist(q, x)
    torch.testing.assert_close(distances.double(), expected.min(dim=1).values, atol=1e-5, rtol=1e-5)
    assert torch.equal(found, expected.argmin(dim=1))


def test_samples_are_drawn_without_bias():
    database = made_up(400, 8, 2).database
    drawn = np.zeros(400)
    for seed in range(200):
        part = sample(database, 100, seed)
        assert len(part) == 100
        drawn += torch.isin(database.poses[:, 0], part.poses[:, 0]).numpy()
    # Each row in a quarter of the samples: 50 of 200, six standard deviations either way.
    assert drawn.min() > 50 - 37 and drawn.max() < 50 + 37
    assert sample(database, 400, 0) is database


def test_faiss_recall_is_counted_against_exact_search():
    pytest.importorskip("faiss", reason="needs the extra [retrieval]")
    rows = bench_retrieval(None, None, CPU, [5000], repeats=2, computed=0)["rows"]
    found = {row["index"]: row for row in rows}
    assert set(found) == {"definition", "torch", "faiss_flat", "faiss_ivf"}
    assert found["torch"]["recall_at_1"] == found["faiss_flat"]["recall_at_1"] == 1.0
    assert found["faiss_ivf"]["recall_at_1"] >= 0.9
    assert 1 <= found["faiss_ivf"]["nprobe"] <= found["faiss_ivf"]["lists"]


def test_without_faiss_torch_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    rows = bench_retrieval(None, None, CPU, [300], repeats=2, computed=0)["rows"]
    assert [row["index"] for row in rows] == ["definition", "torch"]


def test_made_up_queries_are_farther_than_neighbours_and_find_their_place():
    inputs = made_up(40_000, 64, 50)
    distances, rows = TorchIndex(inputs.database.descriptors, "l2", CPU).search(inputs.queries, 1)
    own, _ = TorchIndex(inputs.database.descriptors, "l2", CPU).search(inputs.database.descriptors[:50].float(), 2)
    assert distances.median() > 2 * own[:, 1].median()
    apart = torch.linalg.vector_norm(inputs.database.poses[rows[:, 0], :2] - inputs.positions[:, :2], dim=1)
    assert apart.median() < 20.0  # of 2 km


def test_a_drive_as_queries(dense, monkeypatch):
    drive = tiny_drive.drive(9, "other", phase=0.07)
    monkeypatch.setattr("bench.retrieval_inputs.open_sequence", lambda path: drive)
    inputs = of_map(dense, dense.parent / "drive", CPU, most=5)
    assert inputs.queries.shape == (5, inputs.database.dimension) and inputs.positions.shape == (5, 3)
    np.testing.assert_allclose(inputs.positions[0], drive.T_map_cam[0, :3, 3], atol=1e-4)


def test_what_is_refused(dense):
    with pytest.raises(ConfigError, match="densify"):
        bench_retrieval(dense, tiny_maps.tiny_map("retrieval"), CPU, [10_000_000])
    with pytest.raises(ConfigError, match="--queries"):
        bench_retrieval(dense, None, CPU)
    with pytest.raises(ConfigError, match="at least 1"):
        bench_retrieval(None, None, CPU, [0])
    with pytest.raises(ConfigError, match="scene"):
        of_map(dense, dense, CPU, scene="elsewhere")
    with pytest.raises(MapError, match="extractor"):
        of_map(dense, tiny_maps.tiny_map("camnet"), CPU)


def test_the_command(dense, tmp_path):
    out = tmp_path / "figures.json"
    arguments = ["--queries", str(tiny_maps.tiny_map("retrieval")), "--rows", "50", "--repeats", "2", "--out", str(out)]
    result = CliRunner().invoke(app, ["bench", "retrieval", "--map", str(dense), "--device", "cpu", *arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["queries"]["count"] > 0
    assert "10000000*" in result.output and "torch" in result.output


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with threads_of(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_growth_of_memory():
    with MemoryGrowth(CPU) as growth:
        held = np.ones(8_000_000)
    if growth.bytes is None:
        pytest.skip("the peak of a process can be reset on Linux only")
    assert growth.bytes > 0.9 * held.nbytes
