"""``vloc try`` on drives of the town: what is asked is not in the map, and the page and figures say what happened."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vloc_ros.errors import DatasetError
from vloc_train.frame_choice.settings import HoldOutSettings, OwnDriveSettings
from vloc_train.training.registry import BUILDERS, find
from vloc_train.training.town import TownDrive, town_drive
from vloc_train.trial import try_drives

pytest.importorskip("pycolmap", reason="points need the extra [maps]")
pytest.importorskip("matplotlib", reason="pictures need the extra [replay]")


def _street(folder, index: int):
    """A short stretch of street in 90 frames."""
    shape = TownDrive(seed=2, index=index, loop_m=120.0, width=160, height=96, spacing_m=0.4, lane_offset_m=0.0)
    made, _ = town_drive(shape, folder, lambda _: None)
    return made.select(np.arange(90))


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    return _street(tmp_path_factory.mktemp("town"), 0)


@pytest.fixture
def builder():
    return find(BUILDERS, "features", "map build")


def test_one_drive_is_parted_and_reported(drive, builder, tmp_path):
    trial = try_drives(builder, [drive], tmp_path / "out", queries=12, progress=False)
    asked = {int(s) for d in trial.split.held_out for s in d.stamps_ns}
    known = {int(s) for d in trial.split.training for s in d.stamps_ns}
    assert asked and not asked & known and trial.split.kind == "gaps"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["frames"] == min(12, len(asked)) and report["backend"] == "features"
    assert report["advice"] == list(trial.advice) and any("driven once" in text for text in trial.advice)
    assert trial.page.is_file() and (tmp_path / "out" / "map" / "map.yaml").is_file()
    assert report["max_translation_localized_m"] is None or report["max_translation_localized_m"] < 0.5


def test_of_two_drives_the_second_is_asked(drive, builder, tmp_path):
    trial = try_drives(builder, [drive, _street(tmp_path, 1)], tmp_path / "out", queries=6, progress=False)
    assert trial.split.kind == "drive" and trial.report["frames"] == 6
    assert not any("driven once" in text for text in trial.advice)
    worst = trial.report["max_translation_localized_m"]  # in another light: silence is allowed, a wrong pose is not
    assert worst is None or np.isnan(worst) or worst < 0.5


def test_a_drive_of_which_nothing_is_held_out(drive, builder, tmp_path):
    own = OwnDriveSettings(hold_out=HoldOutSettings(kind="none"))
    with pytest.raises(DatasetError, match="give two: vloc try"):
        try_drives(builder, [drive], tmp_path / "out", own=own, progress=False)
