"""From drives to maps: training, resuming, starting from other weights, building a database of another drive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_camnet
import tiny_drive
import torch

from vloc_ros.errors import CameraMismatchError, ConfigError, DatasetError, MapBackendError, TrainingError
from vloc_ros.localizers import load_localizer
from vloc_ros.localizers.camnet.localizer import WEIGHTS_FILE
from vloc_ros.localizers.camnet.references import DATABASE_FILE, FEATURES_FILE
from vloc_ros.maps import read_map
from vloc_ros.types import CameraModel, LocalizationState, Query
from vloc_train.camnet.build import BUILDER
from vloc_train.camnet.train import TRAINER
from vloc_train.training.registry import BUILDERS, TRAINERS, find
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)


@pytest.fixture(scope="module")
def drives():
    return {"map": [tiny_drive.drive(16), tiny_drive.drive(16, name="second", phase=0.1)]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, drives):
    out = tmp_path_factory.mktemp("camnet") / "map"
    settings = tiny_camnet.train_settings(keyframe_every=2)
    calibration = {"map": [tiny_drive.drive(24, name="calibration", phase=0.05)]}
    TRAINER.run(drives, out, settings, OPTIONS, calibration, about={"note": "tiny"})
    return out


def test_a_run_gives_a_calibrated_map(trained):
    bundle = read_map(trained)
    manifest = bundle.manifest
    assert manifest.backend == "camnet" and manifest.provenance["note"] == "tiny"
    assert manifest.provenance["data"] == {"map": ["lap", "second"]} and manifest.provenance["frames"] == {"map": 32}
    assert manifest.validation["map"]["frames"] == 24 and manifest.calibration["map"]["covariance"]["frames"] == 24
    assert (
        manifest.settings["database"]["metric"] == "cosine" and len(manifest.settings["database"]["extractor_id"]) == 64
    )
    database, features = bundle.tensors(DATABASE_FILE), bundle.tensors(FEATURES_FILE)
    assert database["map.descriptors"].shape == (16, 24) and database["map.descriptors"].dtype == torch.float16
    assert features["map.pfr"].shape == features["map.prp"].shape == (16, 24)
    assert features["map.pfr"].dtype == torch.float16
    expected = tiny_drive.drive(16).T_map_cam[::2, :3, 3]
    np.testing.assert_allclose(database["map.poses"][:8, :3], expected, atol=1e-5)
    localizer = load_localizer(trained, "cpu")
    estimate = localizer.localize(Query(tiny_drive.drive(16).image(0), tiny_drive.CAMERA, 1))
    assert estimate.diagnostics["nearest_reference"] == 0 and estimate.diagnostics["position_sigma_m"] > 0


def test_the_database_agrees_with_what_the_localizer_computes(trained):
    localizer = load_localizer(trained, "cpu")
    features = localizer.features(tiny_drive.drive(16).image(4))
    stored = read_map(trained).tensors(FEATURES_FILE)
    torch.testing.assert_close(features.pfr[0], stored["map.pfr"][2].float(), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(features.prp[0], stored["map.prp"][2].float(), atol=2e-3, rtol=2e-3)


def test_a_run_of_other_settings_is_not_continued(trained, drives):
    with pytest.raises(TrainingError, match="no-resume"):
        TRAINER.run(drives, trained, tiny_camnet.train_settings(seed=9), OPTIONS)


def test_held_out_frames_are_in_neither_training_nor_database_and_weights_start_from_a_map(tmp_path, trained, drives):
    settings = tiny_camnet.train_settings(epochs=1, learning_rate=0.0, losses=("pfr",), weight_average=0.0)
    bundle = TRAINER.run(drives, tmp_path / "m", settings, OPTIONS, extractor=trained, hold_out="every:4")
    poses = bundle.tensors(DATABASE_FILE)["map.poses"]
    assert len(poses) == 24 and bundle.manifest.validation["map"]["frames"] == 8
    held = np.concatenate([d.T_map_cam for d in drives["map"]])[2::4, :3, 3]
    assert np.linalg.norm(poses[:, None, :3].numpy() - held[None], axis=-1).min() > 0.1
    assert bundle.manifest.provenance["extractor"] == {"map": "map", "id": read_map(trained).id}
    before, after = read_map(trained).tensors(WEIGHTS_FILE), bundle.tensors(WEIGHTS_FILE)
    torch.testing.assert_close(after["pfr_pair.first.weight"], before["pfr_pair.first.weight"])


def test_weights_of_another_shape_cannot_be_a_start(tmp_path, trained, drives):
    other = tiny_camnet.train_settings(network=replace(tiny_camnet.train_settings().network, hidden=8))
    with pytest.raises(TrainingError, match="network settings"):
        TRAINER.run(drives, tmp_path / "m", other, OPTIONS, extractor=trained)


def test_too_few_frames(tmp_path):
    with pytest.raises(DatasetError, match="at least 2 frames"):
        TRAINER.run(
            {"map": [tiny_drive.drive(2)]}, tmp_path / "m", tiny_camnet.train_settings(), OPTIONS, hold_out="every"
        )


# -- databases of other drives ------------------------------------------------------------------------


def build(out, extractor, drives=None, calibration=None, hold_out="none", **settings):
    made = BUILDER.settings("default", settings, "test")
    drives = drives or {"map": [tiny_drive.drive(40, phase=0.2)]}
    return BUILDER.run(drives, out, made, OPTIONS, calibration=calibration, extractor=extractor, hold_out=hold_out)


def test_a_database_of_another_drive(tmp_path, trained):
    bundle = build(tmp_path / "b", trained, calibration={"map": [tiny_drive.drive(24, phase=0.3)]})
    assert len(bundle.tensors(DATABASE_FILE)["map.poses"]) == 40
    assert bundle.manifest.validation["map"]["frames"] == 24
    assert bundle.manifest.provenance["extractor"]["id"] == read_map(trained).id
    for name, value in read_map(trained).tensors(WEIGHTS_FILE).items():
        assert torch.equal(bundle.tensors(WEIGHTS_FILE)[name], value)
    same = "database", "extractor_id"
    assert bundle.manifest.settings[same[0]][same[1]] == read_map(trained).manifest.settings[same[0]][same[1]]


def test_a_database_without_frames_held_out_keeps_the_calibration(tmp_path, trained):
    bundle = build(tmp_path / "b", trained, keyframe_every=4, inference={"top": 1})
    assert len(bundle.tensors(DATABASE_FILE)["map.poses"]) == 10 and bundle.manifest.validation == {}
    assert bundle.manifest.calibration["map"] == read_map(trained).manifest.calibration["map"]
    assert load_localizer(tmp_path / "b", "cpu").settings.top == 1
    other = build(tmp_path / "c", trained, {"elsewhere": [tiny_drive.drive(10)]})
    assert other.manifest.calibration == {}
    estimate = load_localizer(tmp_path / "c", "cpu").localize(
        Query(tiny_drive.drive(10).image(0), tiny_drive.CAMERA, 1)
    )
    assert estimate.state is LocalizationState.DEGRADED


def test_what_a_database_cannot_be_built_from(tmp_path, trained):
    with pytest.raises(ConfigError, match="--extractor"):
        build(tmp_path / "b", None)
    bent = CameraModel(64, 36, 70.0, 70.0, 31.5, 17.5)
    with pytest.raises(CameraMismatchError):
        build(tmp_path / "b", trained, {"map": [replace(tiny_drive.drive(5), camera=bent)]})
    with pytest.raises(DatasetError, match="frame"):
        build(tmp_path / "b", trained, {"map": [tiny_drive.drive(1).select(np.zeros(0, np.int64))]})
    from vloc_ros.maps import write_map

    foreign = read_map(trained)
    write_map(tmp_path / "foreign", replace(foreign.manifest, backend="retrieval"), {})
    with pytest.raises(MapBackendError, match="camnet"):
        build(tmp_path / "b", tmp_path / "foreign")


def test_the_tables_find_trainer_and_builder():
    assert find(TRAINERS, "camnet", "train") is TRAINER and find(BUILDERS, "camnet", "map build") is BUILDER
