from __future__ import annotations

import json

import pytest
import tiny_drive
import torch

from bench.imposing import bench_imposing
from bench.timing import measure, peak_memory_bytes
from vloc_ros.localizers.device import device_name


@pytest.fixture(scope="module")
def figures():
    return bench_imposing(tiny_drive.trained_map(), torch.device("cpu"), repeats=3)


def test_the_fields_of_every_benchmark(figures):
    names = "device backend rows speedup_vs_naive max_abs_difference floor_ms times_floor memory_bytes"
    assert set(names.split()) <= set(figures)
    assert figures["backend"] == "imposing"
    for row in figures["rows"]:
        assert set(row) == {"name", "ms_p50", "ms_p95", "ms_max"}
        assert 0 < row["ms_p50"] <= row["ms_p95"] <= row["ms_max"]
    json.dumps(figures)


def test_the_search_agrees_with_the_transcription(figures):
    assert figures["pose_difference_float64"] < 1e-8
    assert figures["max_abs_difference"] < 1e-4


def test_ratios_belong_to_the_rows(figures):
    by_name = {row["name"]: row["ms_p50"] for row in figures["rows"]}
    ratio = by_name["frame, transcription in float32"] / by_name["frame, default path"]
    assert figures["speedup_vs_naive"] == pytest.approx(ratio, rel=0.01)
    assert figures["times_floor"] == pytest.approx(by_name["frame, default path"] / figures["floor_ms"], rel=0.01)


def test_measure_times_every_call_after_the_warm_ones():
    calls = []
    row = measure("something", lambda: calls.append(1), torch.device("cpu"), repeats=5, warm=2)
    assert len(calls) == 7 and row.name == "something" and row.ms_p50 <= row.ms_max


def test_the_device_says_its_name_and_memory():
    assert "thread" in device_name(torch.device("cpu"))
    assert peak_memory_bytes(torch.device("cpu")) > 10_000_000
