"""``vloc map build pixloc``: from a drive and a network to a map that localizes, resumable; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny_extractor
import tiny_job
import tiny_pixloc
import tiny_street
from typer.testing import CliRunner

from vloc_ros import load_localizer
from vloc_ros.errors import CameraMismatchError, ConfigError, DatasetError, MapBackendError
from vloc_ros.geometry.se3 import se3_exp
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.pixloc.bundle import write_pixloc_map
from vloc_ros.maps import read_map
from vloc_ros.maps.describe import verify_map
from vloc_ros.resources import share_path
from vloc_ros.settings import settings_to_mapping
from vloc_ros.types import CameraModel, LocalizationState, PosePrior, Query
from vloc_train.pixloc import build as build_module
from vloc_train.pixloc.build import BUILDER
from vloc_train.training.registry import BUILDERS, find
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A map that holds a network alone."""
    path = tmp_path_factory.mktemp("network") / "net"
    made = tiny_pixloc.model()
    write_pixloc_map(
        path, made, made.dimensions, {}, lambda *_: [], tiny_street.CAMERA, Preprocess(160, 100),
        sections={
            "network": settings_to_mapping(tiny_pixloc.NETWORK),
            "optimizer": {"damping": "constant", "damping_constant": 1e-2},
        },
    )  # fmt: skip
    return path


def settings(**changes):
    base = {
        "source": "depth", "subsample": {"per_frame": 200}, "map": {"pyramid": [0.5, 1.0], "tile_mb": 0.05},
        "pixloc": {"precision": "float32"}, "report": False,
    }  # fmt: skip
    return BUILDER.settings("default", {**base, **changes}, "test")


def build(drives, out: Path, settings, extractor=None, calibration=None, hold_out: str = "none"):
    return BUILDER.run({"map": drives}, out, settings, OPTIONS, calibration, extractor=extractor, hold_out=hold_out)


def prior(T: np.ndarray, metres: float = 0.08) -> PosePrior:
    off = se3_exp([metres, -0.5 * metres, 0.5 * metres, 0.004, -0.004, 0.004])
    return PosePrior(off @ T, np.diag([0.04] * 3 + [1e-4] * 3))


def test_a_built_map_refines_a_prior(network, tmp_path):
    drive = tiny_street.drive(8)
    bundle = BUILDER.run({"yard": [drive]}, tmp_path / "map", settings(), OPTIONS, extractor=network, hold_out="none")
    assert all(check.passed for check in verify_map(bundle.path))
    assert bundle.manifest.provenance["points"]["yard"] > 100
    assert bundle.manifest.provenance["extractor"]["id"] == read_map(network).id
    between = tiny_street.drive(T=tiny_street.path(3, start_m=1.0, seed=4))
    with load_localizer(bundle.path, device="cpu") as localizer:
        before, after = [], []
        for i, T in enumerate(between.T_map_cam):
            guess = prior(T)
            estimate = localizer.localize(Query(between.image(i), between.camera, 5_000_000_000 + i, guess))
            assert estimate.state is not LocalizationState.LOST, estimate.diagnostics
            before.append(np.linalg.norm(guess.T_map_cam[:3, 3] - T[:3, 3]))
            after.append(np.linalg.norm(estimate.T_map_cam[:3, 3] - T[:3, 3]))
    assert np.median(after) < 0.25 * np.median(before)


def test_reference_features_are_those_of_the_pixels_whatever_the_fit_and_the_lens(tmp_path):
    drive = tiny_street.drive(6, tiny_street.LENS)
    made = tiny_pixloc.model()
    shifted = tmp_path / "net"
    write_pixloc_map(
        shifted, made, made.dimensions, {}, lambda *_: [], tiny_street.LENS, Preprocess(150, 100, fit="crop"),
        sections={
            "network": settings_to_mapping(tiny_pixloc.NETWORK),
            "optimizer": {"damping": "constant", "damping_constant": 1e-2},
        },
    )  # fmt: skip
    for rectified in (False, True):
        misplaced = _error_at_a_reference(drive, shifted, tmp_path / f"map{rectified}", not rectified)
        assert misplaced < 2e-3, rectified


def _error_at_a_reference(drive, network: Path, out: Path, distorted: bool) -> float:
    """What is left of a prior's error for the very image of the one reference that is used: nothing."""
    chosen = settings(depth={"spacing_m": 0.0}, pixloc={"references": 1, "distorted_images": distorted})
    bundle = build([drive], out, chosen, network)
    T = drive.T_map_cam[3]
    image, camera = drive.image(3), drive.camera
    if not distorted:
        image, camera = Rectifier(camera).rectify(image)
    with load_localizer(bundle.path, device="cpu") as localizer:
        estimate = localizer.localize(Query(image, camera, 1, prior(T, 0.03)))
    return float(np.linalg.norm(estimate.T_map_cam[:3, 3] - T[:3, 3]))


def test_structure_from_motion_makes_a_map_and_a_report(network, tmp_path):
    pytest.importorskip("pycolmap")
    pytest.importorskip("matplotlib")
    drive = tiny_street.drive(6)
    chosen = settings(source="sfm", sfm={"detector": "opencv", "features": 600}, report=True)
    bundle = build([drive], tmp_path / "m", chosen, network)
    assert bundle.manifest.provenance["settings"]["source"] == "sfm"
    assert "Quality" in (tmp_path / "m.report" / "report.md").read_text()


def test_an_interrupted_build_keeps_its_tiles(network, tmp_path, monkeypatch):
    drive = tiny_street.drive(6)
    asked = []
    real = build_module._References.__call__

    def interrupted(self, scene, reference):
        asked.append(reference)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return real(self, scene, reference)

    monkeypatch.setattr(build_module._References, "__call__", interrupted)
    arguments = ([drive], tmp_path / "m", settings(), network)
    with pytest.raises(KeyboardInterrupt):
        build(*arguments)
    assert not (tmp_path / "m").exists()
    bundle = build(*arguments)
    assert len(asked) < 5 + 6  # the first tiles were not made again
    monkeypatch.undo()
    whole = build([drive], tmp_path / "n", settings(), network)
    assert [f.sha256 for f in bundle.manifest.files] == [f.sha256 for f in whole.manifest.files]


def test_held_out_frames_are_not_in_the_map_and_are_measured(network, tmp_path):
    drive = tiny_street.drive(12)
    bundle = build([drive], tmp_path / "m", settings(), network, hold_out="every:4")
    with load_localizer(bundle.path, device="cpu") as localizer:
        kept = localizer.reference_poses()
    assert len(kept) == 9
    assert np.linalg.norm(kept[:, :3, 3] - drive.T_map_cam[2, :3, 3], axis=1).min() > 0.3
    assert bundle.manifest.validation["map"]["frames"] == 3
    other = tiny_street.drive(T=tiny_street.path(4, start_m=0.5, seed=2))
    apart = build([drive], tmp_path / "n", settings(), network, {"map": [other]})
    assert apart.manifest.validation["map"]["frames"] == 4
    assert apart.manifest.provenance["frames"]["map"] == 12


def test_a_colmap_model_is_a_source(network, tmp_path):
    from vloc_ros.geometry.cameras import project
    from vloc_ros.geometry.se3 import inverse, transform_points
    from vloc_train.mapping.colmap import write_text_model

    drive = tiny_street.drive(5)
    names = [f"{i}.png" for i in range(5)]
    folder = write_text_model(tmp_path / "c" / "sparse", [drive.camera], [0] * 5, drive.T_map_cam, names)
    (tmp_path / "c" / "images").mkdir()
    rng = np.random.default_rng(0)
    points = np.stack([np.full(120, 9.0), rng.uniform(-4, 3, 120), rng.uniform(0.2, 3.5, 120)], 1)
    lines, tracks = (folder / "images.txt").read_text().split("\n"), [""] * 120
    for i, T in enumerate(drive.T_map_cam):
        cv2.imwrite(str(tmp_path / "c" / "images" / names[i]), drive.image(i))
        pixels, valid = project(drive.camera, transform_points(inverse(T), points))
        rows = np.flatnonzero(valid)
        lines[2 * i + 1] = " ".join(f"{pixels[r, 0] + 0.5} {pixels[r, 1] + 0.5} {r + 1}" for r in rows)
        for k, r in enumerate(rows):
            tracks[r] += f" {i + 1} {k}"
    (folder / "images.txt").write_text("\n".join(lines))
    seen = [r for r in range(120) if tracks[r]]
    (folder / "points3D.txt").write_text(
        "".join(f"{r + 1} {points[r, 0]} {points[r, 1]} {points[r, 2]} 0 0 0 0{tracks[r]}\n" for r in seen)
    )
    from vloc_ros.cli.main import app

    run = CliRunner().invoke(
        app,
        [
            "map", "build", "pixloc", "--data", f"yard=colmap:{tmp_path / 'c'}", "--extractor", str(network),
            "--out", str(tmp_path / "m"), "--set", "source=colmap", "--hold-out", "none", "--set", "report=false",
            "--device", "cpu", "--no-progress",
        ],
    )  # fmt: skip
    assert run.exit_code == 0, run.output + str(run.exception)
    bundle = read_map(tmp_path / "m")
    assert [s.name for s in bundle.manifest.scenes] == ["yard"] and bundle.manifest.provenance["frames"]["yard"] == 5


def test_a_retrieval_map_gives_the_first_pose(network, tmp_path):
    drive = tiny_street.drive(6)
    tiny_job.descriptor_map(tmp_path / "r", tiny_extractor.descriptor())
    chosen = settings(retrieval=str(tmp_path / "r"), depth={"spacing_m": 0.0})
    bundle = build([drive], tmp_path / "m", chosen, network)
    with load_localizer(bundle.path, device="cpu") as localizer:
        assert not localizer.needs_prior
        estimate = localizer.localize(Query(drive.image(2), drive.camera, 7))
        assert estimate.diagnostics["prior_source"] == 1.0
        assert np.linalg.norm(estimate.T_map_cam[:3, 3] - drive.T_map_cam[2, :3, 3]) < 0.05


def test_without_a_network_the_shipped_one_makes_the_features(tmp_path):
    bundle = build([tiny_street.drive(4)], tmp_path / "m", settings())
    shipped = read_map(share_path("models", "pixloc_features"))
    assert bundle.manifest.provenance["extractor"]["id"] == shipped.id


def test_refusals(network, tmp_path):
    drive = tiny_street.drive(4)
    out = tmp_path / "m"
    other = tmp_path / "other"
    tiny_map = read_map(network)
    import shutil

    shutil.copytree(tiny_map.path, other)
    text = (other / "map.yaml").read_text().replace("backend: pixloc", "backend: camnet")
    (other / "map.yaml").write_text(text)
    with pytest.raises(MapBackendError, match="of backend 'pixloc'"):
        build([drive], out, settings(), other)
    wide = CameraModel(240, 150, 90.0, 90.0, 119.5, 74.5)
    with pytest.raises(CameraMismatchError, match=r"wide .*beside street.*make a map of each"):
        build([drive, tiny_street.drive(4, wide, "wide")], out, settings(), network)
    with pytest.raises(ConfigError, match=r"colmap\.models\.map"):
        build([drive], out, settings(source="colmap"), network)
    with pytest.raises(ConfigError, match="found 'yard'"):
        build([drive], out, settings(depth={"folders": {"yard": "x"}}), network)
    with pytest.raises(DatasetError, match="relax subsample"):
        chosen = settings(subsample={"minimum_track": 5})
        build([drive], out, chosen, network)
    with pytest.raises(ConfigError, match="belongs to the trained network"):
        chosen = settings(optimizer={"damping_log10": [-3.0, 3.0]})
        build([drive], out, chosen, network)
    with pytest.raises(ConfigError, match="max_pointz"):
        build([drive], out, settings(pixloc={"max_pointz": 3}), network)
    assert not out.exists()


def test_another_resolution_of_the_same_lens_is_the_same_view(network, tmp_path):
    small = CameraModel(120, 75, 95.0, 95.0, 59.5, 37.0)
    drives = [tiny_street.drive(4), tiny_street.drive(T=tiny_street.path(4, start_m=0.2), camera=small, name="small")]
    bundle = build(drives, tmp_path / "m", settings(), network)
    assert bundle.manifest.provenance["frames"]["map"] == 8


def test_the_builder_is_registered():
    assert find(BUILDERS, "pixloc", "map build") is BUILDER
    assert replace(BUILDER.settings("default", None, ""), seed=3).seed == 3


def test_the_shipped_network_is_the_default():
    """A newcomer names none, and nothing is looked for in a network."""
    found = BUILDER._extractor(None)
    assert found is not None and found.path == share_path("models", "pixloc_features")
    assert found.manifest.backend == "pixloc"
