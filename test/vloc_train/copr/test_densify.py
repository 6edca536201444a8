"""vloc map densify: files, provenance, calibration, refusals, and a map that is there or not but never half."""

from __future__ import annotations

import errno
import os

import pytest
import tiny_copr
import tiny_drive
import torch
from typer.testing import CliRunner

from vloc_ros.cli.main import app
from vloc_ros.errors import ConfigError, InterpolationError, MapBackendError, MapError, WriteError
from vloc_ros.localizers.copr.densify import densify
from vloc_ros.localizers.copr.network import StoredRegressor
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, EXTRAPOLATED, INTERPOLATED, Database, read_databases
from vloc_ros.maps import read_map, verify_map, write_map
from vloc_train.copr import densify as densify_module
from vloc_train.copr.densify import densify_map, densify_settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("densify")


@pytest.fixture(scope="module")
def sparse(folder):
    return tiny_copr.retrieval_map(folder, 20)


@pytest.fixture(scope="module")
def trained(folder, sparse):
    return tiny_copr.regressor_map(folder, sparse.path)


def interpolate(**targets):
    return densify_settings({"targets": {"scheme": "interpolate", "step_m": 0.5, **targets}})


def test_the_papers_best_method_is_taken_where_none_is_named():
    assert interpolate().method == "plane"
    assert densify_settings({"targets": {"scheme": "extrapolate"}}).method == "nonlinear"
    assert densify_settings().targets.step_m == 0.05
    with pytest.raises(ConfigError, match="unknown field 'sped'"):
        densify_settings({"sped": 1})


def test_the_streamed_map_is_the_database_in_memory_and_says_how_it_was_made(sparse, tmp_path):
    settings = interpolate()
    made = densify_map(sparse.path, tmp_path / "dense", settings, device="cpu")
    assert all(check.passed for check in verify_map(made.path))
    found, expected = Database.read(made, "map"), densify(Database.read(sparse, "map"), settings)
    for name in ("descriptors", "poses", "origin", "anchor", "stamps"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    note = made.manifest.provenance["densified"][-1]
    assert (note["scheme"], note["method"], note["step_m"], note["every"]) == ("interpolate", "plane", 0.5, 1)
    assert note["scenes"]["map"]["regressed_share"] == pytest.approx(found.regressed_share, abs=1e-6)
    assert note["settings"] == settings.to_mapping()
    assert made.manifest.backend == "copr"
    assert made.manifest.provenance["data"] == sparse.manifest.provenance["data"]
    scene = made.manifest.scene()
    assert all(low <= value for low, value in zip(scene.area_min, found.poses[:, :3].amin(dim=0) + 1e-5, strict=True))
    unchanged = {e.name: e.sha256 for e in sparse.manifest.files if e.name != DATABASE_FILE}
    assert {e.name: e.sha256 for e in made.manifest.files if e.name != DATABASE_FILE} == unchanged


def test_h_of_another_map_of_the_same_extractor(sparse, trained, tmp_path, caplog):
    settings = densify_settings({"targets": {"step_m": 1.0, "span_m": 2.0}})
    made = densify_map(sparse.path, tmp_path / "dense", settings, trained.path, device="cpu")
    H = StoredRegressor.from_bundle(trained, torch.device("cpu"))
    expected = densify(Database.read(sparse, "map"), settings, H.network)
    assert torch.equal(Database.read(made, "map").descriptors, expected.descriptors)
    assert made.manifest.provenance["densified"][-1]["regressor"] == H.identity
    assert made.manifest.provenance["densified"][-1]["scenes"]["map"]["span_m"] == 2.0
    assert not caplog.records
    far = densify_settings({"targets": {"step_m": 3.0, "span_m": 9.0}})
    densify_map(trained.path, tmp_path / "own", far, device="cpu")  # a map with H densifies itself
    assert f"farther from their reference than the {H.radius_m:.1f} m" in caplog.text


def test_h_of_other_descriptors_and_no_h_are_refused(sparse, trained, tmp_path):
    other = tiny_copr.retrieval_map(tmp_path, 12).path
    settings = densify_settings({"targets": {"step_m": 1.0, "span_m": 2.0}})
    with pytest.raises(ConfigError, match="vloc train copr"):
        densify_map(other, tmp_path / "dense", settings, device="cpu")
    with pytest.raises(MapError, match="expected a map with a descriptor regressor"):
        densify_map(other, tmp_path / "dense", settings, sparse.path, device="cpu")
    bundle = read_map(other)
    databases = read_databases(bundle)
    foreign = databases["map"].tensors("map")
    manifest = bundle.manifest
    manifest.settings["database"]["extractor_id"] = "f" * 64
    files = {e.name: bundle.read(e.name) for e in manifest.files if e.name != DATABASE_FILE}
    write_map(other, manifest, {DATABASE_FILE: foreign}, extra_files=files, overwrite=True)
    with pytest.raises(MapError, match="found ffff"):
        densify_map(other, tmp_path / "dense", settings, trained.path, device="cpu")
    assert not (tmp_path / "dense").exists()


def test_a_lone_anchor_a_map_without_database_and_too_many_targets(sparse, tmp_path):
    database = Database.read(sparse, "map").select([3])
    files = {e.name: sparse.read(e.name) for e in sparse.manifest.files if e.name != DATABASE_FILE}
    lone = write_map(
        tmp_path / "lone", sparse.manifest, {DATABASE_FILE: database.tensors("map")}, extra_files=files
    ).path
    with pytest.raises(InterpolationError, match=r"scene 'map': interpolate: .*lone reference"):
        densify_map(lone, tmp_path / "dense", interpolate(), device="cpu")
    around = densify_settings({"method": "plane", "targets": {"step_m": 1.0, "span_m": 1.0}})
    assert len(Database.read(densify_map(lone, tmp_path / "around", around, device="cpu"), "map")) == 5
    with pytest.raises(ConfigError, match="--span"):
        densify_map(lone, tmp_path / "dense", densify_settings({"method": "plane"}), device="cpu")
    with pytest.raises(ConfigError, match="max_targets"):
        densify_map(sparse.path, tmp_path / "dense", interpolate(step_m=0.001, max_targets=100), device="cpu")
    bare = write_map(tmp_path / "bare", sparse.manifest, {}, extra_files=files).path
    with pytest.raises(MapBackendError, match="descriptor database"):
        densify_map(bare, tmp_path / "dense", interpolate(), device="cpu")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["around", "bare", "lone"]


def test_a_failure_while_writing_leaves_the_old_map(sparse, tmp_path, monkeypatch):
    first = densify_map(sparse.path, tmp_path / "dense", interpolate(), device="cpu")
    monkeypatch.setattr("vloc_train.copr.densify.regressed", lambda *_: iter([torch.zeros(1, 32).half()]))
    with pytest.raises(ValueError, match="rows"):
        densify_map(sparse.path, tmp_path / "dense", interpolate(step_m=0.2), device="cpu")
    assert read_map(tmp_path / "dense").id == first.id
    assert os.listdir(tmp_path) == ["dense"]


def test_other_backends_keep_their_name_and_what_stands_beside_images_is_thinned_out(sparse, tmp_path):
    """A CamNet map: features of the rows with an image lie in a file of their own."""
    from dataclasses import replace

    features = {"map.pfr": torch.arange(40.0).reshape(20, 2).half(), "map.prp": torch.zeros(20, 2).half()}
    files = {e.name: sparse.read(e.name) for e in sparse.manifest.files}
    manifest = replace(sparse.manifest, backend="camnet")
    camnet = write_map(tmp_path / "camnet", manifest, {"features.safetensors": features}, extra_files=files).path
    settings = densify_settings({"targets": {"scheme": "interpolate", "step_m": 1.0}, "every": 4})
    made = densify_map(camnet, tmp_path / "dense", settings, device="cpu")
    assert made.manifest.backend == "camnet"
    assert torch.equal(made.tensors("features.safetensors")["map.pfr"], features["map.pfr"][::4])
    assert int((Database.read(made, "map").origin == 0).sum()) == 5


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_interpolates_then_extrapolates_in_place(sparse, trained, tmp_path):
    dense = tmp_path / "dense"
    out = run("map", "densify", sparse.path, "--scheme", "interpolate", "--step", 1.0, "--every", 2, "--out", dense)
    assert "map: 10 images, 63 regressed (86.3 %)" in out and "not calibrated" in out
    assert read_map(dense).manifest.provenance["densified"][0]["method"] == "plane"
    before = Database.read(read_map(dense), "map")
    assert int((before.origin == INTERPOLATED).sum()) == 63
    run(
        "map", "densify", dense, "--scheme", "extrapolate", "--method", "nonlinear", "--step", 1.0, "--span", 2.0,
        "--regressor", trained.path, "--set", "blend=2", "--set", "targets.follow_trajectory=true",
    )  # fmt: skip
    after = Database.read(read_map(dense), "map")
    assert len(after) == len(before) + 10 * 12 and int((after.origin == EXTRAPOLATED).sum()) == 120
    notes = read_map(dense).manifest.provenance["densified"]
    assert [n["scheme"] for n in notes] == ["interpolate", "extrapolate"] and notes[1]["settings"]["blend"] == 2


def test_the_command_places_lanes_beside_the_camera(sparse, tmp_path):
    run(
        "map", "densify", sparse.path, "--method", "plane", "--lateral", 1.0, "--lateral", -1.0, "--out", tmp_path / "d"
    )
    found = Database.read(read_map(tmp_path / "d"), "map")
    radius = torch.linalg.vector_norm(found.poses[20:, :2], dim=1)
    torch.testing.assert_close(radius, torch.tensor([13.0, 11.0]).repeat(20), atol=1e-3, rtol=0)


def test_the_command_calibrates_and_an_error_in_calibration_writes_nothing(sparse, tmp_path, monkeypatch):
    drives = {"lap": tiny_drive.drive(30, "other", phase=0.07), "short": tiny_drive.drive(3, "short", phase=0.07)}
    monkeypatch.setattr("vloc_train.cli.by_scene", lambda sources, _: {"map": [drives[sources[0]]]})
    base = ("map", "densify", sparse.path, "--scheme", "interpolate", "--step", 1.0, "--out", tmp_path / "d")
    result = CliRunner().invoke(app, [str(a) for a in (*base, "--calibration-data", "short")])
    assert result.exit_code != 0
    assert not (tmp_path / "d").exists()
    assert "not calibrated" not in run(*base, "--calibration-data", "lap")
    assert read_map(tmp_path / "d").manifest.calibration["map"]["covariance"]


def test_a_full_disk_is_told_with_the_maps_name(sparse, tmp_path, monkeypatch):
    """The system names no file when a write or its end fails."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(densify_module, "write_tensor_file", full)
    with pytest.raises(WriteError, match=r"dense: cannot be written: No space left on device \(.* make room"):
        densify_map(sparse.path, tmp_path / "dense", interpolate(step_m=0.5), device="cpu")
    assert not list(tmp_path.iterdir())
