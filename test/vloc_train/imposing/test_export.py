from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_drive
import tiny_job
import torch

from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers import load_localizer
from vloc_ros.localizers.imposing.localizer import CANDIDATES_FILE, REFERENCES_FILE, WEIGHTS_FILE
from vloc_ros.localizers.imposing.search import similarity
from vloc_ros.maps import read_map, verify_map
from vloc_ros.types import CameraModel, Query
from vloc_train.imposing.export import map_contents
from vloc_train.imposing.settings import TrainSettings


def small(path, weights="float16", **changes):
    made = tiny_drive.settings(weights=weights, **changes)
    frames = [tiny_drive.frames(40)]
    network = tiny_drive.network(made, frames)
    return network, exported(network, frames, made, tiny_drive.preprocess(), path)


def exported(network, frames, made, preprocess, path):
    contents = map_contents(network, frames, made, preprocess)
    return tiny_job.written(contents, "imposing", frames, preprocess, path)


def bytes_of(path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_a_map_and_its_manifest(tmp_path):
    _, bundle = small(tmp_path / "map", reference_vectors=True)
    assert all(check.passed for check in verify_map(tmp_path / "map"))
    manifest = read_map(tmp_path / "map").manifest
    assert manifest.backend == "imposing" and [s.name for s in manifest.scenes] == ["map"]
    np.testing.assert_allclose(manifest.scenes[0].area_min, [-12, -12, 1.5], atol=1e-5)
    np.testing.assert_allclose(manifest.scenes[0].area_max, [12, 12, 1.5], atol=1e-5)
    assert manifest.camera == tiny_drive.CAMERA and manifest.preprocessing["width"] == 64
    assert bundle.tensors(REFERENCES_FILE)["map.vectors"].shape == (40, 32)


def test_a_file_map(tmp_path):
    _, bundle = small(tmp_path / "tiny.vmap")
    assert (tmp_path / "tiny.vmap").is_file()
    assert load_localizer(tmp_path / "tiny.vmap", "cpu").map_id == bundle.id


@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_signatures_are_those_of_the_stored_weights(tmp_path, weights):
    _, bundle = small(tmp_path / "map", weights)
    localizer = load_localizer(tmp_path / "map", "cpu")
    tensors = bundle.tensors(CANDIDATES_FILE)
    encoder = localizer._encoders[0]
    again = torch.nn.functional.normalize(encoder.columns(tensors["map.poses"].T).T.float(), dim=-1)
    torch.testing.assert_close(again, tensors["map.signatures"].float(), rtol=0, atol=1e-3)


def test_int8_weights_arrive_dequantised_within_half_a_step(tmp_path):
    network, _ = small(tmp_path / "plain")
    state = {k: v.clone() for k, v in network.state_dict().items()}
    made = tiny_drive.settings(weights="int8")
    frames = [tiny_drive.frames(40)]
    bundle = exported(network, frames, made, tiny_drive.preprocess(), tmp_path / "map")
    stored = bundle.stored_tensors(WEIGHTS_FILE)
    loaded = bundle.tensors(WEIGHTS_FILE)  # what a localizer loads
    name = "linears.1.weight"
    assert stored[f"pose_encoders.0.{name}::int8"].dtype == torch.int8
    used = loaded[f"pose_encoders.0.{name}"]
    original = state[f"pose_encoders.0.{name}"]
    step = original.abs().amax(dim=1, keepdim=True) / 127
    assert ((used - original).abs() <= 0.51 * step).all() and not torch.equal(used, original)
    bias = "pose_encoders.0.linears.1.bias"
    assert torch.equal(loaded[bias], state[bias])


def test_int8_scores_are_close_to_fp16_scores(tmp_path):
    frames = tiny_drive.frames(12, phase=0.2)
    found = {}
    for weights in ("float16", "int8"):
        small(tmp_path / weights, weights)
        localizer = load_localizer(tmp_path / weights, "cpu")
        scene = localizer._scenes[0]
        units = [torch.nn.functional.normalize(localizer.image_vector(i), dim=-1) for i in frames.images]
        found[weights] = torch.stack([similarity(u, scene.signatures) for u in units])
    assert float((found["float16"] - found["int8"]).abs().max()) < 0.03


@pytest.mark.parametrize(("weights", "limit"), [("float16", 46e6), ("int8", 25e6)])
def test_the_papers_map_is_small(tmp_path, weights, limit):
    made = TrainSettings.preset("paper", {"weights": weights, "pretrained": False})
    f = 120 / math.tan(math.radians(37.5))
    camera = CameraModel(240, 135, f, f, 119.5, 67.0)
    frames = tiny_drive.frames(3)
    images = np.random.default_rng(0).integers(0, 255, (3, 135, 240, 3), dtype=np.uint8)
    frames = type(frames)(images, frames.T_map_cam, frames.stamps_ns, camera)
    network = tiny_drive.network(made, [frames])
    bundle = exported(network, [frames], made, Preprocess(240, 135), tmp_path / "map")
    assert bytes_of(tmp_path / "map") <= limit
    assert bundle.size_bytes <= bytes_of(tmp_path / "map")
    assert bundle.tensors(CANDIDATES_FILE)["map.poses"].shape == (4096, 7)
    localizer = load_localizer(tmp_path / "map", "cpu")
    estimate = localizer.localize(Query(images[0], camera, 1))
    assert np.isfinite(estimate.T_map_cam).all() and np.isfinite(estimate.covariance).all()


def test_an_existing_map_is_replaced_and_the_same_weights_make_the_same_map(tmp_path):
    _, first = small(tmp_path / "map")
    _, again = small(tmp_path / "map")
    assert first.id == again.id
    _, other = small(tmp_path / "map", search={"candidates": 40})
    assert other.id != first.id


def test_maps_do_not_grow_with_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr("vloc_train.imposing.export.MAX_REFERENCES", 10)
    _, bundle = small(tmp_path / "map", reference_vectors=True)
    assert bundle.tensors(REFERENCES_FILE)["map.poses"].shape == (10, 7)
