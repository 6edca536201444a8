from __future__ import annotations

import json

import pytest
import torch

from bench.irpnet import PoseNet, bench_irpnet
from vloc_ros.localizers.irpnet.settings import NetworkSettings


@pytest.fixture(scope="module")
def figures():
    tiny = NetworkSettings(shared=16, widths=(16, 12, 8))
    return bench_irpnet(torch.device("cpu"), 3, network=tiny, backbone="resnet10t", image_size=32)


def test_the_fields_of_every_benchmark(figures):
    names = "device backend rows speedup_vs_naive max_abs_difference floor_ms times_floor memory_bytes"
    assert set(names.split()) <= set(figures)
    assert figures["backend"] == "irpnet"
    for row in figures["rows"]:
        assert set(row) == {"name", "ms_p50", "ms_p95", "ms_max"}
        assert 0 < row["ms_p50"] <= row["ms_p95"] <= row["ms_max"]
    json.dumps(figures)


def test_ratios_belong_to_the_rows(figures):
    by_name = {row["name"]: row["ms_p50"] for row in figures["rows"]}
    ours = by_name["training batch of 8, both branches (1, 250)"]
    theirs = by_name["training batch of 8, pose regressor with resnet10t at 32x32"]
    assert figures["speedup_vs_naive"] == pytest.approx(theirs / ours, rel=0.01)
    assert figures["times_floor"] == pytest.approx(ours / figures["floor_ms"], rel=0.01)
    assert figures["max_abs_difference"] < 1e-4


def test_the_other_regressor():
    with torch.device("meta"):
        network = PoseNet()
        position, rotation = network(torch.empty(8, 3, 224, 224))
    assert position.shape == (8, 3) and rotation.shape == (8, 4)
    assert sum(p.numel() for p in network.encoder.parameters()) == 58_143_808  # ResNet-152 without its classifier
