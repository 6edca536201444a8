from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_copr
import tiny_drive
import torch

from vloc_ros.errors import ConfigError, InterpolationError, MapBackendError, MapError, VlocError
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.copr.network import StoredRegressor
from vloc_ros.localizers.retrieval.database import EXTRAPOLATED, IMAGE, INTERPOLATED, Database
from vloc_ros.maps import read_map, verify_map
from vloc_ros.types import LocalizationState, Query
from vloc_train.copr.densify import densify_map, densify_settings
from vloc_train.copr.settings import TrainSettings
from vloc_train.copr.train import TRAINER


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copr")
    plain = tiny_copr.retrieval_map(folder)
    return plain, tiny_copr.regressor_map(folder, plain.path)


def test_the_papers_settings_are_the_defaults():
    paper = TrainSettings.preset("paper")
    assert paper.learning_rate == 5e-4 and paper.regressor.layers == 7 and paper.regressor.width is None
    assert paper.schedule == "constant" and not paper.regressor.residual and not paper.regressor.standardise


def test_h_learns_something_and_the_map_localizes(maps):
    plain, trained = maps
    assert all(check.passed for check in verify_map(trained.path))
    assert trained.manifest.backend == "copr"
    assert trained.manifest.provenance["unexplained_variance"] < 0.7  # 1 knows nothing
    stored = StoredRegressor.from_bundle(trained, torch.device("cpu"))
    stored.check(Database.read(plain, "map").extractor_id, 32, "here")
    with pytest.raises(MapError, match="expected descriptors of extractor"):
        stored.check("0" * 64, 32, "here")
    drive = tiny_drive.drive(40)
    with load_localizer(trained.path, device="cpu") as localizer:
        estimate = localizer.localize(Query(drive.image(5), drive.camera, 7))
    assert np.linalg.norm(estimate.T_map_cam[:3, 3] - drive.T_map_cam[5, :3, 3]) < 1e-3
    assert estimate.diagnostics["regressed"] == 0.0


def test_the_same_seed_makes_the_same_regressor(maps, tmp_path):
    plain, trained = maps
    again = tiny_copr.regressor_map(tmp_path, plain.path)
    a, b = (m.tensors("regressor.safetensors") for m in (trained, again))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_extrapolation_brings_regressed_references(maps, tmp_path):
    plain, trained = maps
    settings = densify_settings(
        {"method": "nonlinear", "every": 4, "targets": {"scheme": "extrapolate", "step_m": 1.0, "span_m": 3.0}}
    )
    dense = densify_map(plain.path, tmp_path / "dense", settings, regressor=trained.path)
    database = Database.read(dense, "map")
    assert dense.manifest.backend == "copr" and not dense.manifest.calibration
    assert int((database.origin == IMAGE).sum()) == 10 and bool((database.origin[10:] == EXTRAPOLATED).all())
    apart = np.linalg.norm((database.poses[10:] - database.poses[database.anchor[10:].long()])[:, :3].numpy(), axis=1)
    assert apart.max() <= 3.0 + 1e-4 and len(database) > 100
    note = dense.manifest.provenance["densified"][-1]
    assert note["method"] == "nonlinear" and note["scenes"]["map"]["images"] == 10
    drive = tiny_drive.drive(40)
    with load_localizer(dense.path, device="cpu") as localizer:
        estimate = localizer.localize(Query(drive.image(6), drive.camera, 7))
    assert estimate.state is LocalizationState.DEGRADED  # no calibration yet


def test_interpolation_halves_the_error_between_sparse_references(maps, tmp_path):
    plain, _ = maps
    settings = densify_settings({"method": "linear", "every": 4, "targets": {"scheme": "interpolate", "step_m": 0.5}})
    dense = densify_map(plain.path, tmp_path / "dense", settings)
    database = Database.read(dense, "map")
    assert bool((database.origin == INTERPOLATED).any())
    truth = tiny_drive.drive(40).T_map_cam[2, :3, 3]
    sparse = np.linalg.norm(database.poses[:10, :3].numpy() - truth, axis=1).min()
    assert np.linalg.norm(database.poses[:, :3].numpy() - truth, axis=1).min() < 0.5 * sparse


def test_calibration_drives_make_a_dense_map_confident(maps, tmp_path):
    plain, _ = maps
    settings = densify_settings({"method": "linear", "targets": {"scheme": "interpolate", "step_m": 1.0}})
    drives = {"map": [tiny_drive.drive(30, "other", phase=0.07)]}
    dense = densify_map(plain.path, tmp_path / "dense", settings, calibration=drives)
    assert "covariance" in dense.manifest.calibration["map"] and dense.manifest.validation["map"]["frames"] == 30


def test_what_cannot_be_densified(maps, tmp_path):
    plain, _ = maps
    out = tmp_path / "dense"
    with pytest.raises(ConfigError, match="vloc train copr"):
        densify_map(plain.path, out, densify_settings({"targets": {"step_m": 1.0}}))
    alone = densify_settings({"method": "linear", "every": 1000, "targets": {"scheme": "interpolate", "step_m": 0.5}})
    with pytest.raises(InterpolationError, match="extrapolate"):  # a lone anchor
        densify_map(plain.path, out, alone)
    huge = densify_settings({"method": "plane", "targets": {"step_m": 0.001, "span_m": 50.0}})
    with pytest.raises(ConfigError, match="max_targets"):
        densify_map(plain.path, out, huge)
    from vloc_ros.maps import MapManifest, Scene, write_map

    scene = Scene("map", "map", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    other = write_map(tmp_path / "plain", MapManifest("imposing", (scene,), tiny_drive.CAMERA), {})
    with pytest.raises(MapBackendError, match="database"):
        densify_map(other.path, out, alone)
    assert not out.exists()


def test_a_lone_anchor_can_be_extrapolated_from(maps, tmp_path):
    plain, trained = maps
    settings = densify_settings({"every": 1000, "targets": {"step_m": 1.0, "span_m": 2.0}})
    dense = densify_map(plain.path, tmp_path / "dense", settings, regressor=trained.path)
    assert read_map(dense.path).manifest.provenance["densified"][-1]["scenes"]["map"]["images"] == 1


def test_h_needs_an_extractor_and_one_device(tmp_path):
    scenes = {"map": [tiny_drive.drive(6)]}
    with pytest.raises(ConfigError, match="--extractor"):
        TRAINER.run(scenes, tmp_path / "map", tiny_copr.settings(), tiny_copr.OPTIONS)
    two = dataclasses.replace(tiny_copr.OPTIONS, devices=2)
    with pytest.raises(VlocError, match="one device"):
        TRAINER.run(
            scenes, tmp_path / "map", tiny_copr.settings(), two, extractor=tiny_copr.retrieval_map(tmp_path).path
        )
