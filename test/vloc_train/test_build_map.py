"""One command: a bag in, a calibrated map and a report out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_drive
import tiny_extractor
import tiny_route
from typer.testing import CliRunner

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.maps import read_map
from vloc_train import cli
from vloc_train.build_map import make_map
from vloc_train.cli_options import DriveOptions, MakeOptions
from vloc_train.frame_choice.route import extent
from vloc_train.frame_choice.settings import HoldOutSettings, OwnDriveSettings, SelectionSettings, scale_of
from vloc_train.frame_choice.split import split
from vloc_train.imposing.train import TRAINER
from vloc_train.training.registry import BUILDERS, TRAINERS, find, maker_for
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)
OWN = OwnDriveSettings(SelectionSettings(spacing_m=0.3), HoldOutSettings(near_m=1.0))


def two_laps(count=60):
    """Two laps in one drive, the second 30 s later."""
    first = tiny_drive.drive(count)
    T = np.concatenate([first.T_map_cam, tiny_drive.circle(count, phase=0.03)])
    stamps = np.concatenate([first.stamps_ns, first.stamps_ns + 30 * 10**9])
    return replace(first, T_map_cam=T, stamps_ns=stamps, source=tiny_drive.Pictures(T))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A map with its report, of a drive whose origin on the Earth is known."""
    folder = tmp_path_factory.mktemp("made")
    drive = replace(two_laps(), datum=Datum(48.0, 11.0, 500.0))
    bundle = make_map(
        TRAINER, {"map": [drive]}, folder / "map", tiny_drive.settings(epochs=2), OPTIONS, OWN, report=folder / "report"
    )  # fmt: skip
    return bundle, folder


def test_the_map_is_calibrated_on_the_second_lap(made):
    manifest = made[0].manifest
    assert manifest.provenance["hold_out"] == {"map": "pass"}
    assert manifest.validation["map"]["frames"] >= 30
    assert manifest.provenance["calibration_data"] == {"map": ["lap (held out)"]}
    assert manifest.scene().datum == Datum(48.0, 11.0, 500.0)


def test_the_report_is_whole(made):
    folder = made[1] / "report"
    figures = json.loads((folder / "report.json").read_text())["scenes"]["map"]
    assert figures["hold_out"]["kind"] == "pass" and figures["accuracy"]["frames"] >= 30
    assert figures["drives"][0]["posed"] == 120 and figures["advice"]
    markdown = (folder / "report.md").read_text()
    for name in re.findall(r"\]\((.*?)\)", markdown):
        assert (folder / name).is_file(), name
    for heading in ("What to do", "Expected accuracy", "Coverage", "Weak places", "Ambiguous places"):
        assert f"## {heading}" in markdown
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3 and "data:image/jpeg;base64," in page and 'src="' in page
    assert not re.search(r'src="(?!data:)', page)  # one file, nothing beside it
    assert (made[1] / "map.work").is_dir() and not list((made[1]).glob("map.work/*partial*"))


def test_all_frames_and_every_fourth_held_out(tmp_path):
    own = replace(OWN, hold_out=HoldOutSettings(kind="every", every=4))
    bundle = make_map(
        TRAINER, {"map": [two_laps(20)]}, tmp_path / "map", tiny_drive.settings(epochs=1), OPTIONS, own, select=False
    )
    assert bundle.manifest.provenance["frames"] == {"map": 30}
    assert "left_out" not in bundle.manifest.provenance


def test_other_drives_for_calibration_are_shown(tmp_path):
    other = {"map": [tiny_drive.drive(24, name="other", phase=0.1)]}
    make_map(
        TRAINER, {"map": [tiny_drive.drive(30)]}, tmp_path / "map", tiny_drive.settings(epochs=1), OPTIONS, OWN,
        report=tmp_path / "report", calibration=other,
    )  # fmt: skip
    figures = json.loads((tmp_path / "report" / "report.json").read_text())["scenes"]["map"]
    assert figures["hold_out"]["kind"] == "other drives" and figures["accuracy"]["frames"] == 24


def test_a_map_that_is_built(tmp_path):
    """Retrieval: no training, ambiguity by the map's own descriptors, and the origin in the rewritten bundle."""
    from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, SECTION
    from vloc_ros.maps import MapManifest, Scene, write_map

    descriptor = tiny_extractor.descriptor()
    scene = Scene("map", "map", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    manifest = MapManifest(
        "retrieval", (scene,), tiny_drive.CAMERA, descriptor.preprocess.settings(),
        {SECTION: descriptor.settings_mapping()},
    )  # fmt: skip
    source = write_map(tmp_path / "source", manifest, {EXTRACTOR_FILE: descriptor.tensors()})
    builder = maker_for("retrieval", None, True)
    drives = {"map": [replace(two_laps(), datum=Datum(48.0, 11.0, 500.0))]}
    bundle = make_map(
        builder, drives, tmp_path / "map", builder.settings("default", None, "test"), OPTIONS, OWN,
        report=tmp_path / "report", extractor=source.path,
    )  # fmt: skip
    assert bundle.manifest.scene().datum == Datum(48.0, 11.0, 500.0)
    figures = json.loads((tmp_path / "report" / "report.json").read_text())["scenes"]["map"]
    assert figures["ambiguous"]["source"] == "the map's image descriptors"
    assert figures["accuracy"]["median_translation_m"] < 2.0


def test_drives_of_different_origins_are_refused(tmp_path):
    drives = [replace(tiny_drive.drive(20, name=n), datum=Datum(a, 11.0, 0.0)) for n, a in (("a", 48.0), ("b", 49.0))]
    with pytest.raises(DatasetError, match=r"one map origin, found a: 48.0,11.0,0.0; b: 49.0.*--datum"):
        make_map(TRAINER, {"map": drives}, tmp_path / "map", tiny_drive.settings(), OPTIONS, OWN)
    assert not (tmp_path / "map").exists()


def test_a_drive_in_the_dark_is_refused_with_its_reasons(tmp_path):
    class Dark(tiny_drive.Pictures):
        def image(self, index):
            return super().image(index) // 20

    drive = tiny_drive.drive(20)
    drive = replace(drive, source=Dark(drive.T_map_cam))
    with pytest.raises(DatasetError, match=r"expected frames that can be used, found none: lap: 0 of 20.*20 dark"):
        make_map(TRAINER, {"map": [drive]}, tmp_path / "map", tiny_drive.settings(), OPTIONS, OWN, problems=Problems())


def test_drives_of_one_name_are_told_apart(tmp_path, caplog):
    caplog.set_level("INFO")
    with pytest.raises(ConfigError, match="do not allow"):  # before anything is trained
        make_map(
            TRAINER, {"map": [tiny_drive.drive(20), tiny_drive.drive(20, phase=0.1)]}, tmp_path / "map",
            tiny_drive.settings(), OPTIONS, replace(OWN, hold_out=HoldOutSettings(kind="pass", near_m=0.01)),
        )  # fmt: skip
    assert "lap 2: " in caplog.text


def test_every_backend_has_a_maker():
    for backend in TRAINERS:
        assert maker_for(backend) is not None
    assert maker_for("imposing") is find(TRAINERS, "imposing", "")
    assert maker_for("retrieval") is find(BUILDERS, "retrieval", "")
    assert maker_for("retrieval", "small") is find(TRAINERS, "retrieval", "")
    assert maker_for("camnet") is find(TRAINERS, "camnet", "")
    assert maker_for("pixloc") is find(BUILDERS, "pixloc", "")  # with the network that is shipped
    assert maker_for("pixloc", "paper") is find(TRAINERS, "pixloc", "")
    assert maker_for("camnet", None, True) is find(BUILDERS, "camnet", "")
    with pytest.raises(ConfigError, match="found 'copr', which has no map build"):
        find(BUILDERS, "copr", "map build")
    with pytest.raises(ConfigError, match="expected a known backend of map build"):
        maker_for("nothing")


def test_one_command(tmp_path, monkeypatch):
    """``vloc map build imposing`` on a bag, as the documentation has it."""
    import typer

    bag = write_sequence(two_laps(), tmp_path / "drive", image_format="png")
    config = tmp_path / "tiny.yaml"
    import yaml

    config.write_text(yaml.safe_dump(tiny_drive.settings(epochs=1).to_mapping()))
    app = typer.Typer()
    app.command()(cli.build)
    out = tmp_path / "map"
    arguments = [
        "imposing", "--data", str(bag), "--pose-topic", "/reference/pose", "--out", str(out), "--config", str(config),
        "--device", "cpu", "--no-progress", "--spacing-m", "0.3", "--drive-set", "hold_out.near_m=1.0",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert read_map(out).manifest.provenance["hold_out"] == {"map": "pass"}
    assert (tmp_path / "map-report" / "report.html").is_file()


def test_options_of_bags():
    made = DriveOptions(truth="/t", extrinsics="1,0,1.5,0,0,0", datum="48.1, 11.5, 500", time_offset=0.0)
    assert made.bag_options() == {
        "time_offset_s": 0.0, "extrinsics": [1, 0, 1.5, 0, 0, 0], "datum": [48.1, 11.5, 500.0]
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--extrinsics: expected 6 or 12 or 16 numbers between commas, found 2"):
        DriveOptions(extrinsics="1,2").bag_options()
    with pytest.raises(ConfigError, match="--datum: expected numbers"):
        DriveOptions(datum="a,b,c").bag_options()


def test_settings_of_drives():
    def drive_settings(**given):
        return MakeOptions(backend="imposing", data=["x"], out=Path("y"), **given).drive_settings()

    own = drive_settings(drive_set=["selection.blur=0.2"], spacing_m=1.0, hold_out="gaps")
    assert (own.selection.blur, own.selection.spacing_m, own.hold_out.kind) == (0.2, 1.0, "gaps")
    with pytest.raises(ConfigError, match="kind: expected one of"):
        drive_settings(hold_out="sometimes")
    every = drive_settings(hold_out="every:7", drive_set=["hold_out.share=0.3"]).hold_out
    assert (every.kind, every.every, every.share) == ("every", 7, 0.3)
    for text in ("every:x", "gaps:3"):
        with pytest.raises(ConfigError, match=r"expected every:N"):
            drive_settings(hold_out=text)


def test_lengths_shrink_with_the_place_and_named_ones_do_not():
    room = [tiny_route.drive(tiny_drive.circle(60, radius=1.5))]
    options = MakeOptions(backend="imposing", data=["x"], out=Path("y"), drive_set=["hold_out.pass_m=2.0"])
    own = options.drive_settings(room)
    scale = scale_of(extent(room[0].T_map_cam[:, :3, 3]))
    assert scale == pytest.approx(3.0 * 2**0.5 / 50.0, rel=0.02)
    assert own.hold_out.near_m == pytest.approx(4.0 * scale) and own.hold_out.pass_m == 2.0
    assert own.selection.spacing_m == pytest.approx(0.5 * scale) and own.selection.spacing_deg == 5.0
    assert own.report.far_m == pytest.approx(20.0 * scale)
    street = [tiny_route.drive(tiny_route.line(200))]
    assert options.drive_settings(street) == options.drive_settings()


def test_a_hand_held_camera_that_comes_by_again_is_held_out_by_passes():
    """Three rounds of a radius of half a metre, in 30 seconds each."""
    rounds = np.concatenate([tiny_drive.circle(150, radius=0.5)] * 3)
    own = OwnDriveSettings().scaled(scale_of(extent(rounds[:, :3, 3])))
    made = split([tiny_route.drive(rounds)], own.hold_out)
    assert made.kind == "pass" and made.nearest_m < 0.1 and made.nearest_s > 5.0


def test_the_old_setting_of_the_hold_out_is_still_read(caplog):
    options = MakeOptions(backend="imposing", data=["x"], out=Path("y"))
    changes = {"hold_out": 10, "epochs": 3}
    cli._old_hold_out(options, changes)
    assert options.hold_out == "every:10" and changes == {"epochs": 3} and "--hold-out every:10" in caplog.text
