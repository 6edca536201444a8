"""What goes wrong on the way to a map and its report: nothing is lost, nothing is half written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny_drive
import tiny_pixloc

from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import ImageError, TrainingError
from vloc_ros.maps import read_map
from vloc_train.build_map import make_map, undamaged
from vloc_train.frame_choice.settings import HoldOutSettings, OwnDriveSettings, SelectionSettings
from vloc_train.map_report import report, scene
from vloc_train.training.recipe import Trainer
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)
OWN = OwnDriveSettings(SelectionSettings(spacing_m=0.3), HoldOutSettings(near_m=1.0))


class Damaged(tiny_drive.Pictures):
    """The third image breaks off."""

    def image(self, index):
        if np.allclose(self.poses[index], tiny_drive.drive(24).T_map_cam[2]):
            raise ImageError("image breaks off")
        return super().image(index)

    def select(self, indices):
        return Damaged(self.poses[indices])


def damaged():
    drive = tiny_drive.drive(24)
    return replace(drive, source=Damaged(drive.T_map_cam))


class Maker(Trainer):
    """Writes a map that is there already and remembers what it was given."""

    backend = "pixloc"
    prepare = make = None

    def __init__(self, source):
        self.source, self.given = source, {}

    def run(self, scenes, out, settings, options, **more):
        self.given = {"scenes": scenes, **more}
        shutil.copytree(self.source, out, dirs_exist_ok=True)
        return read_map(out)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_pixloc.lap_map(tmp_path_factory.mktemp("pixloc") / "source", 16).path


def test_points_of_pixloc_are_linked_and_only_its_own(source, tmp_path):
    made = Maker(source)
    points = tmp_path / "map.report"
    points.mkdir()
    (points / "report.md").write_text("# points\n")
    import cv2

    cv2.imwrite(str(points / "map_map.png"), np.zeros((4, 4, 3), np.uint8))
    drives = {"map": [tiny_drive.drive(16)]}
    others = {"map": [tiny_drive.drive(4)]}  # of the same name as the drive of the map
    target = tmp_path / "deep" / "report"
    target.mkdir(parents=True)
    (target / "mine.txt").write_text("stays")
    make_map(made, drives, tmp_path / "map", None, OPTIONS, OWN, report=target, calibration=others)
    assert [d.name for d in made.given["calibration"]["map"]] == ["lap 2"]
    text = (target / "report.md").read_text()
    assert "[Quality of the sparse model](../../map.report/report.md)" in text
    assert "![map map](../../map.report/map_map.png)" in text and (target / "mine.txt").read_text() == "stays"
    assert 'href="../../map.report/report.md"' in (target / "report.html").read_text()
    figures = json.loads((target / "report.json").read_text())["scenes"]["map"]
    assert figures["hold_out"]["kind"] == "other drives" and figures["accuracy"]["frames"] == 4
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["report"]
    without = type("Settings", (), {"report": False})()  # and what lies there is of an earlier map
    make_map(made, drives, tmp_path / "map", without, OPTIONS, OWN, report=target, calibration=others)
    assert "sparse model" not in (target / "report.md").read_text()


@pytest.mark.parametrize("where", ["report", "held out"])
def test_a_report_that_fails_does_not_take_the_map_along(source, tmp_path, monkeypatch, where):
    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(*((report, "draw_along") if where == "report" else (scene, "localize_held_out")), fail)
    target = tmp_path / "report"
    target.mkdir()
    (target / "report.md").write_text("of the last map")
    drives = {"map": [tiny_drive.drive(16)]}
    with pytest.raises(TrainingError, match=r"map is whole and can be used.*report.*: no space left on device"):
        make_map(Maker(source), drives, tmp_path / "map", None, OPTIONS, OWN, report=target)
    assert read_map(tmp_path / "map").manifest.backend == "pixloc"
    assert [p.name for p in target.iterdir()] == ["report.md"] and not list(tmp_path.glob(".report*"))
    assert (target / "report.md").read_text() == "of the last map"


@pytest.mark.parametrize("select", [True, False])
def test_damaged_images_of_every_drive_are_left_out_and_counted(source, tmp_path, select):
    made, problems = Maker(source), Problems(keep_going=True)
    make_map(
        made, {"map": [damaged()]}, tmp_path / "map", None, OPTIONS, OWN, select=select, problems=problems,
        calibration={"map": [damaged()]},
    )  # fmt: skip
    used, others = made.given["scenes"]["map"][0], made.given["calibration"]["map"][0]
    assert (len(used), len(others)) == (23, 23)
    assert used.dropped["damaged"] == others.dropped["damaged"] == 1
    assert problems.counts["image damaged, or of another size"] == 2
    with pytest.raises(ImageError, match="breaks off"):
        undamaged(damaged(), Problems())
