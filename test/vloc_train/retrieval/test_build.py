from __future__ import annotations

import dataclasses
import hashlib
import logging

import numpy as np
import pytest
import tiny_drive
import tiny_extractor
import tiny_job
import torch
import typer.testing
from safetensors.torch import save_file

from vloc_ros.errors import CameraMismatchError, ConfigError, DatasetError, MapBackendError, MapError
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.backbones import make_backbone
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, Database
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_ros.maps import MapManifest, Scene, read_map, write_map
from vloc_ros.types import CameraModel, Query
from vloc_train import cli
from vloc_train.retrieval.build import BUILDER
from vloc_train.retrieval.grow import add_images
from vloc_train.retrieval.settings import BuildSettings
from vloc_train.training.frames import DatabaseChoice, spaced
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)


def later(drive, seconds=1000):
    """The same drive at another time."""
    return dataclasses.replace(drive, stamps_ns=drive.stamps_ns + seconds * 1_000_000_000)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A map with an extractor, of another place."""
    folder = tmp_path_factory.mktemp("source")
    return tiny_job.descriptor_map(folder / "map", tiny_extractor.descriptor(), "elsewhere", paint=3)


def built(out, source, **more):
    scenes = more.pop("scenes", {"map": [tiny_drive.drive(24), later(tiny_drive.drive(20, phase=0.1))]})
    calibration = more.pop("calibration", {"map": [tiny_drive.drive(30, phase=0.05)]})
    settings, extractor = BuildSettings(**more), source.path if source else None
    return BUILDER.run(scenes, out, settings, OPTIONS, calibration, extractor=extractor, hold_out="every:4")


def another_backend(folder):
    """A map without an extractor."""
    scene = Scene("map", "map", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return write_map(folder / "plain", MapManifest("imposing", (scene,), tiny_drive.CAMERA), {})


def test_a_built_map_finds_its_own_images(tmp_path, source):
    bundle = built(tmp_path / "map", source)
    database = Database.read(bundle, "map")
    assert len(database) == 44 and database.extractor_id == source.manifest.settings["extractor"]["id"]
    drive = tiny_drive.drive(24)
    np.testing.assert_array_equal(np.asarray(database.poses[:24]), to_vectors(drive.T_map_cam))
    np.testing.assert_array_equal(np.asarray(database.stamps[:24]), drive.stamps_ns)
    assert not np.asarray(database.origin).any()
    np.testing.assert_array_equal(np.asarray(database.anchor), np.arange(44))
    assert bundle.manifest.backend == "retrieval" and bundle.manifest.calibration["map"]["covariance"]
    assert bundle.manifest.validation["map"]["frames"] == 30
    assert bundle.manifest.provenance["extractor"]["map"] == source.path.name
    with load_localizer(bundle.path, "cpu") as localizer:
        estimate = localizer.localize(Query(drive.image(7), drive.camera, 1))
    np.testing.assert_allclose(estimate.T_map_cam, drive.T_map_cam[7], atol=1e-5)
    assert not list(tmp_path.glob(".*"))  # nothing is left behind


def test_the_map_says_which_weights_it_began_with(tmp_path):
    extractor = tiny_extractor.settings().extractor
    file = tmp_path / "weights.safetensors"
    save_file(make_backbone(extractor.backbone, extractor.backbone_options).state_dict(), file)
    bundle = built(tmp_path / "map", None, extractor=extractor, pretrained=str(file))
    found = bundle.manifest.provenance["pretrained"]
    assert (found["network"], found["weights"]) == (extractor.backbone, "weights.safetensors")
    assert found["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    again = built(tmp_path / "other", bundle)  # a map with that extractor
    assert again.manifest.provenance["pretrained"] == found


def test_frames_are_held_out_where_no_other_drive_calibrates(tmp_path, source):
    bundle = built(tmp_path / "map", source, calibration=None)
    assert len(Database.read(bundle, "map")) == 18 + 15 and bundle.manifest.validation["map"]["frames"] == 6 + 5
    assert bundle.manifest.provenance["held_out_frames_used_for"] == ["covariance", "validation"]


def test_several_scenes(tmp_path, source):
    scenes = {"a": [tiny_drive.drive(12)], "b": [tiny_drive.drive(14, paint=1)]}
    bundle = built(tmp_path / "map", source, scenes=scenes, calibration={"a": [tiny_drive.drive(10, phase=0.1)]})
    assert [s.name for s in bundle.manifest.scenes] == ["a", "b"]
    assert len(Database.read(bundle, "a")) == 12 and len(Database.read(bundle, "b")) == 11


def test_spacing():
    T = tiny_drive.circle(40)  # 1.88 m and 9 degrees apart
    assert spaced(T, DatabaseChoice()).tolist() == list(range(40))
    assert spaced(T, DatabaseChoice(spacing_m=3.0)).tolist() == list(range(0, 40, 2))
    assert spaced(T, DatabaseChoice(spacing_m=100.0)).tolist() == [0]
    assert spaced(T, DatabaseChoice(spacing_m=100.0, spacing_deg=26.0)).tolist() == list(range(0, 40, 3))
    assert spaced(T[:0], DatabaseChoice(spacing_m=1.0)).tolist() == []


def test_a_build_without_an_extractor(tmp_path):
    with pytest.raises(ConfigError, match="--extractor MAP"):
        built(tmp_path / "map", None)
    weights = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    made = tiny_extractor.extractor(normalise=True)
    save_file({k: v.contiguous() for k, v in made.backbone.network.state_dict().items()}, weights)
    shape = dataclasses.replace(made.settings, kind="netvlad", clusters=4, whiten=5)
    bundle = built(tmp_path / "map", None, extractor=shape, pretrained=str(weights), fit_images=20)
    found = Descriptor.from_bundle(bundle, torch.device("cpu"))
    assert found.dimension == 5 and found.metric == "cosine"
    first = next(made.backbone.parameters())
    torch.testing.assert_close(next(found.extractor.backbone.parameters()), first, rtol=1e-3, atol=1e-3)


def test_nothing_to_build_of(tmp_path, source):
    with pytest.raises(DatasetError):
        built(tmp_path / "map", source, scenes={"map": [tiny_drive.drive(3).select(np.arange(0))]})
    with pytest.raises(MapError):
        BUILDER.run(
            {"map": [tiny_drive.drive(8)]}, tmp_path / "map", BuildSettings(), OPTIONS, extractor=tmp_path / "nothing"
        )
    with pytest.raises(MapError):
        built(tmp_path / "map", another_backend(tmp_path))
    assert not (tmp_path / "map").exists()


def test_images_are_added_without_making_anything_again(tmp_path, source):
    before = built(tmp_path / "map", source)
    old = Database.read(before, "map")
    bundle = add_images(tmp_path / "map", {"map": [later(tiny_drive.drive(10, "new", phase=0.4), 9000)]}, device="cpu")
    new = Database.read(bundle, "map")
    assert len(new) == 54
    torch.testing.assert_close(new.descriptors[:44], old.descriptors, rtol=0, atol=0)
    np.testing.assert_array_equal(np.asarray(new.anchor), np.arange(54))
    assert bundle.manifest.calibration == before.manifest.calibration
    assert bundle.manifest.validation == before.manifest.validation
    (note,) = bundle.manifest.provenance["added"]
    assert note["map"] == {"data": ["new"], "frames": 10}
    drive = tiny_drive.drive(10, phase=0.4)
    with load_localizer(bundle.path, "cpu") as localizer:
        estimate = localizer.localize(Query(drive.image(3), drive.camera, 1))
    np.testing.assert_allclose(estimate.T_map_cam, drive.T_map_cam[3], atol=1e-5)
    # Once more, to another map; the area grows.
    wide = tiny_drive.drive(6, "wide")
    wide.T_map_cam[:, 0, 3] += 15.0
    other = add_images(
        bundle.path, {"map": [later(wide, 20000)]}, tmp_path / "other", "cpu", DatabaseChoice(spacing_m=15.0)
    )
    assert len(Database.read(other, "map")) < 60 and len(Database.read(read_map(bundle.path), "map")) == 54
    assert other.manifest.scenes[0].area_max[0] > 25 and len(other.manifest.provenance["added"]) == 2


def test_frames_that_are_there_already_are_left_out_with_a_warning(tmp_path, source, caplog):
    built(tmp_path / "map", source)
    lap = tiny_drive.drive(24, "again")
    more = dataclasses.replace(lap, stamps_ns=lap.stamps_ns + np.where(np.arange(24) < 20, 0, 10**13))
    with caplog.at_level(logging.WARNING):
        bundle = add_images(tmp_path / "map", {"map": [more]}, device="cpu")
    assert "again: 20 of 24 frames are in the map already" in caplog.text
    assert len(Database.read(bundle, "map")) == 48
    with pytest.raises(DatasetError, match="does not hold"):
        add_images(tmp_path / "map", {"map": [more]}, device="cpu")
    assert len(Database.read(read_map(tmp_path / "map"), "map")) == 48


def test_what_cannot_be_added(tmp_path, source):
    built(tmp_path / "map", source)
    content = {f.name: f.read_bytes() for f in (tmp_path / "map").iterdir()}
    c = tiny_drive.CAMERA
    lens = CameraModel(c.width, c.height, 1.5 * c.fx, 1.5 * c.fy, c.cx, c.cy)
    with pytest.raises(CameraMismatchError):
        add_images(
            tmp_path / "map", {"map": [dataclasses.replace(later(tiny_drive.drive(5)), camera=lens)]}, device="cpu"
        )
    with pytest.raises(ConfigError, match="one of map, found 'harbour'"):
        add_images(tmp_path / "map", {"harbour": [later(tiny_drive.drive(5))]}, device="cpu")
    with pytest.raises(MapBackendError, match="'imposing'"):
        add_images(another_backend(tmp_path).path, {"map": [tiny_drive.drive(5)]}, tmp_path / "other", "cpu")
    assert {f.name: f.read_bytes() for f in (tmp_path / "map").iterdir()} == content
    assert DATABASE_FILE in content


def test_the_command_that_adds(tmp_path, source, monkeypatch):
    built(tmp_path / "map", source)
    drives = {"extra": later(tiny_drive.drive(9, "extra", phase=0.3), 5000)}
    monkeypatch.setattr(cli, "by_scene", lambda sources, truth: {"map": [drives[s] for s in sources]})
    app = typer.Typer()
    app.command()(cli.add)
    result = typer.testing.CliRunner().invoke(
        app, [str(tmp_path / "map"), "--data", "extra", "--device", "cpu"], catch_exceptions=False
    )
    assert result.exit_code == 0 and "map: 9 images added" in result.output
    assert len(Database.read(read_map(tmp_path / "map"), "map")) == 53
