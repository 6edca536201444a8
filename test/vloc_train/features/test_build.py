"""Maps of the backend: what they hold, that they resume, how large they are, and that frames left out are out."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_features
import tiny_street
import torch

from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.features import make_extractor
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse, pose_error, transform_points
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.features.store import tile_name
from vloc_ros.types import LocalizationState, Query
from vloc_train.build_map import make_map
from vloc_train.features import build
from vloc_train.features.build import BUILDER, frame_spacing
from vloc_train.features.model import described_model
from vloc_train.frame_choice.settings import HoldOutSettings, OwnDriveSettings
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.sfm import reconstruct_features
from vloc_train.mapping.uncertainty import adjusted, point_roots
from vloc_train.training.registry import BUILDERS, find

pytest.importorskip("pycolmap", reason="needs the extra [maps]")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    return folder, tiny_features.built(folder, calibration_frames=20, tile_points=150)


def test_folds_are_for_builders_that_can_and_none_calibrates_nothing():
    drives = {"map": [tiny_features.lap()]}
    pixloc = find(BUILDERS, "pixloc", "map build")
    with pytest.raises(ConfigError, match="map build pixloc makes one map"):
        pixloc.splits(drives, None, HoldOutSettings(kind="folds"))
    assert BUILDER.splits(drives, None, HoldOutSettings())["map"].kind == "folds"
    assert BUILDER.splits(drives, {"map": [tiny_features.unseen()]}, HoldOutSettings())["map"].kind == "other drives"
    job = SimpleNamespace(
        settings=tiny_features.settings(),
        splits=BUILDER.splits(drives, None, HoldOutSettings(kind="none")),
        workers=None,
    )
    contents = SimpleNamespace(more=SimpleNamespace(places={"map": None}))
    assert BUILDER.without_held_out(job, contents) == ({}, {})


def test_a_map_holds_points_descriptors_and_where_they_come_from(made):
    _, bundle = made
    manifest = bundle.manifest
    told = manifest.provenance
    assert manifest.backend == "features" and told["frames"]["map"] == 14 and told["points"]["map"] > 250
    assert 3.5 < told["length_m"]["map"] < 4.5
    assert manifest.settings["local_features"]["id"] == "rootsift-128"
    # Every frame is in the map, and still it is calibrated: on maps that lack some of them.
    assert told["hold_out"] == {"map": "folds"} and "held_out_frames" not in told
    assert manifest.calibration["map"]["covariance"]["frames"] >= 20
    with load_localizer(bundle.path, "cpu") as localizer:
        store = localizer.store()
        assert np.median(tiny_street.on_surface(store.points)) < 0.03
        ids = np.arange(len(store.points))
        points = store.load(ids)
        np.testing.assert_array_equal(points.ids, ids)
        lengths = torch.linalg.vector_norm(points.prototypes, dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
        # Tiles in any combination give the same points.
        some = ids[::7]
        part, whole = store.load(some), points.select(some)
        np.testing.assert_array_equal(part.points, whole.points)
        torch.testing.assert_close(part.prototypes, whole.prototypes)
        np.testing.assert_array_equal(part.owner, whole.owner)
        assert part.rounds == whole.rounds
    assert manifest.file(tile_name("map", 1)) is not None
    assert bundle.size_bytes / told["points"]["map"] < 1000  # with all that a small map has besides


def test_a_finished_stage_is_not_done_again_and_gives_the_same_map(made, monkeypatch):
    folder, bundle = made
    monkeypatch.setattr("vloc_ros.features.sift.SiftExtractor._extract", lambda *_: pytest.fail("were there already"))
    again = tiny_features.built(folder, calibration_frames=0, tile_points=150)
    assert {f.name: f.sha256 for f in again.manifest.files} == {f.name: f.sha256 for f in bundle.manifest.files}


def test_the_command_line_finds_it_and_settings_are_checked():
    assert find(BUILDERS, "features", "map build") is BUILDER
    assert BUILDER.settings("default", {"features": {"limit": 500}}, "test").features.limit == 500
    with pytest.raises(ConfigError, match="unknown field 'detector'"):
        BUILDER.settings("default", {"features": {"detector": "sift"}}, "test")


def test_large_images_are_reduced_for_the_map_too(tmp_path):
    """Features, points and their errors are of images of the size that queries are reduced to."""
    features = replace(tiny_features.settings().features, maximum_side=160)
    settings = tiny_features.settings(features=features)
    work, lap = tmp_path / "work", tiny_features.lap()
    model, store = reconstruct_features([lap], build._spaced([lap], settings), work, extractor=make_extractor(features))
    assert [camera.size for camera in model.cameras] == [(160, 100)]
    assert store.read(0).pixels.max() < 160 and np.ptp(model.pixels[:, 0]) > 120
    bundle = tiny_features.built(tmp_path, features=features)
    assert bundle.manifest.camera == lap.camera, "the lens is said as the drive has it"
    drive = tiny_features.unseen(4)
    with load_localizer(bundle.path, "cpu") as localizer:
        for number, truth in enumerate(drive.T_map_cam):
            found = localizer.localize(Query(drive.image(number), drive.camera, int(drive.stamps_ns[number])))
            assert found.state is not LocalizationState.LOST
            assert np.linalg.norm(pose_error(found.T_map_cam, truth)[:3]) < 0.15


def test_drives_without_texture_say_so(tmp_path):
    with pytest.raises(DatasetError, match="expected matches"):
        tiny_features.built(tmp_path, {"map": [tiny_features.lap(6, blank=True)]})


def test_a_calibration_drive_is_localized_in_the_whole_map(tmp_path):
    other = tiny_features.unseen(24)
    drives = {"map": [tiny_features.lap()]}
    settings = tiny_features.settings(calibration_frames=0)
    bundle = BUILDER.run(drives, tmp_path / "map", settings, tiny_features.OPTIONS, {"map": [other]})
    assert bundle.manifest.validation["map"]["frames"] == 24
    assert bundle.manifest.validation["map"]["median_translation_m"] < 0.05
    assert bundle.manifest.provenance["calibration_data"] == {"map": ["unseen"]}


def test_spacing_follows_the_size_of_the_scene():
    drive = tiny_features.lap(30)  # 0.3 m apart
    assert frame_spacing([drive], 0.5, 5) == 0.5
    assert frame_spacing([drive], 0.5, 29) < 0.3


def test_points_of_fewer_frames_forget_the_others_and_know_less(made):
    folder, _ = made
    settings = build._spaced([tiny_features.lap()], tiny_features.settings())
    model, store = reconstruct_features([tiny_features.lap()], settings, folder / "model")
    part = model.select(np.arange(0, 14, 2), 2)
    moved = adjusted(part, 3.0)
    assert len(moved.points) > 0.8 * len(part.points)
    away = tiny_street.on_surface(moved.points)
    assert np.median(away) < 0.05
    # Where they are is where their own observations have them: a fit from elsewhere ends at the same place.
    shifted = replace(part, points=part.points + np.random.default_rng(0).normal(0, 0.02, part.points.shape))
    again = adjusted(shifted, 3.0)
    both = min(len(again.points), len(moved.points))
    assert abs(len(again.points) - len(moved.points)) < 0.02 * both
    if len(again.points) == len(moved.points):
        assert np.median(np.linalg.norm(again.points - moved.points, axis=1)) < 1e-3
    whole = np.linalg.norm(point_roots(model), axis=(1, 2))
    assert 0.001 < np.median(whole) < 0.5
    described = described_model(model, np.arange(14), store, signed=False, scaled=True)
    content = described.content(0, len(described.sparse.points))
    assert content.rounds[0] == len(described.sparse.points) and (content.extents > 0).all()


def test_roots_are_the_covariances_of_triangulated_points():
    """Against many noisy triangulations of one point that three frames see."""
    T = tiny_street.path(3, step_m=1.0)
    rng = np.random.default_rng(1)
    point, count = np.array([8.0, -1.0, 2.0]), 400
    seen = np.stack([project(tiny_street.CAMERA, transform_points(inverse(t), point[None]))[0][0] for t in T])
    pixels = seen[:, None] + rng.normal(0, 0.7, (3, count, 2))
    model = SparseModel(
        np.tile(point, (count, 1)), np.full(count, 3, np.int32), np.zeros(count, np.float32),
        np.arange(4) * count, np.tile(np.arange(count), 3), pixels.reshape(-1, 2), T, np.arange(3), np.zeros(3, int),
        (tiny_street.CAMERA,), np.zeros(3, int), np.arange(3),
    )  # fmt: skip
    found = adjusted(model, 50.0)
    measured = np.cov(found.points.T)
    root = point_roots(model, 0.7)[0]
    np.testing.assert_allclose(np.sqrt(np.diag(root @ root.T)), np.sqrt(np.diag(measured)), rtol=0.2)


def test_the_report_of_a_map_that_holds_nothing_out_tells_what_its_folds_found(tmp_path):
    bundle = make_map(
        BUILDER, {"map": [tiny_features.lap()]}, tmp_path / "map", tiny_features.settings(calibration_frames=20),
        tiny_features.OPTIONS, OwnDriveSettings(), select=False, report=tmp_path / "report",
    )  # fmt: skip
    told = json.loads((tmp_path / "report" / "report.json").read_text())["scenes"]["map"]
    assert told["hold_out"]["kind"] == "folds" and told["accuracy"] == {"frames": 0}
    assert told["validation"] == bundle.manifest.validation["map"] and told["validation"]["frames"] >= 20
    page = (tmp_path / "report" / "report.md").read_text()
    assert "frames asked of maps without them" in page and "No frame was held out" not in page
