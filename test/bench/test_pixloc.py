from __future__ import annotations

import json

import pytest
import tiny_pixloc
import torch

from bench.pixloc import bench_pixloc, town_scene
from vloc_ros.errors import MapBackendError


@pytest.fixture(scope="module")
def figures():
    scene = town_scene(128, 72, points=200, references=3)
    return bench_pixloc(None, torch.device("cpu"), 2, scene=scene, network=tiny_pixloc.NETWORK, points=200)


def test_the_fields_of_every_benchmark(figures):
    names = "device backend rows speedup_vs_naive max_abs_difference floor_ms times_floor memory_bytes"
    assert set(names.split()) <= set(figures)
    assert figures["backend"] == "pixloc" and figures["settings"]["references"] == 3
    for row in figures["rows"]:
        assert 0 < row["ms_p50"] <= row["ms_p95"] <= row["ms_max"]
    json.dumps(figures)


def test_both_paths_find_the_same_pose(figures):
    assert figures["max_abs_difference"] < 1e-4
    assert 0 <= figures["precision_m"]["float16 features"] < figures["precision_m"]["int8 features"] < 0.1
    assert figures["settings"]["iterations"] > 6, "nothing was aligned"


def test_ratios_belong_to_the_rows(figures):
    by_name = {row["name"]: row["ms_p50"] for row in figures["rows"]}
    ours = by_name["query, default path"]
    assert figures["speedup_vs_naive"] == pytest.approx(by_name["query, transcription in float32"] / ours, rel=0.01)
    assert figures["times_floor"] == pytest.approx(ours / figures["floor_ms"], rel=0.01)


def test_a_map_of_another_backend(tmp_path):
    import tiny_drive

    from vloc_ros.maps import MapManifest, Scene, write_map

    scene = Scene("map", "map", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    write_map(tmp_path / "other", MapManifest("retrieval", (scene,), tiny_drive.CAMERA), {})
    with pytest.raises(MapBackendError, match="pixloc"):
        bench_pixloc(tmp_path / "other", torch.device("cpu"), 1)
