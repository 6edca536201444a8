"""Whole queries of any map, the run on a GPU tried without one, and what is projected from counts."""

from __future__ import annotations

import json

import pytest
import torch

from bench import gpu
from bench.projection import DEVICES, projected_ms
from bench.queries import bench_queries
from vloc_ros.errors import ConfigError

FIELDS = {
    "device", "backend", "map", "rows", "speedup_vs_naive", "speedup_like_for_like", "max_abs_difference", "floor_ms",
    "times_floor", "memory_bytes", "launches", "recorded", "host_waits", "uploads", "uploaded_bytes", "moved_bytes",
}  # fmt: skip


@pytest.mark.parametrize("backend", ["features", "copr"])
def test_a_query_is_timed_by_stages_and_counted(backend):
    told = bench_queries(backend, None, None, torch.device("cpu"), 2)
    assert set(told) >= FIELDS and told["backend"] == backend
    json.dumps(told)
    stages = {row["name"]: row["ms_p50"] for row in told["rows"]}
    assert stages["query"] > 0.5 * sum(ms for name, ms in stages.items() if name != "query") > 0
    assert 0 < told["launches"] < 300 and 1 <= told["host_waits"] <= 3 and told["floor_ms"] > 0
    with pytest.raises(ConfigError, match="--queries"):
        bench_queries(backend, gpu.default_map(backend), None, torch.device("cpu"), 2)


def test_everything_for_a_gpu_runs_in_one_call_and_leaves_out_what_is_late(monkeypatch):
    figures = {"rows": [{"name": "frame, default path", "index": "torch", "ms_p50": 2.0}], "launches": 3}
    made = {"imposing": lambda: dict(figures), "retrieval": lambda: dict(figures), "irpnet": lambda: dict(figures)}
    monkeypatch.setattr(gpu, "benches", lambda *_: made)
    told = gpu.run(torch.device("cpu"), 1)
    assert [f["name"] for f in told["figures"]] == ["imposing", "retrieval"] and not told["left_out"]
    assert told["figures"][0] == {"name": "imposing", "ms": 2.0, "target_ms": 1.0}
    assert gpu.run(torch.device("cpu"), 1, minutes=0.0)["left_out"] == ["imposing", "retrieval", "irpnet"]
    json.dumps(told)


def test_a_projection_adds_launches_waits_and_the_longer_of_bytes_and_operations():
    counts = {"launches": 100, "recorded": 1000, "host_waits": 2, "moved_bytes": 3e9, "operations": 1e9}
    assert projected_ms(counts, DEVICES["large GPU"]) == pytest.approx(0.7 + 1.5 + 0.03 + 2.0)
    assert projected_ms(counts, DEVICES["embedded GPU"]) > projected_ms(counts, DEVICES["large GPU"])
