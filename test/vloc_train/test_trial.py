"""``vloc try`` on drives of the town: what is asked is not in the map, and the page and figures say what happened."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_drive
import tiny_route

from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.evaluation.metrics import FrameRecord
from vloc_ros.features.base import FeatureSettings
from vloc_ros.types import Estimate, LocalizationState
from vloc_train.features.settings import BuildSettings
from vloc_train.frame_choice.settings import HoldOutSettings, OwnDriveSettings
from vloc_train.training.registry import BUILDERS, find
from vloc_train.training.town import TownDrive, town_drive
from vloc_train.trial import _advice, _parts, _quick, print_trial, try_drives

pytest.importorskip("pycolmap", reason="points need the extra [maps]")
pytest.importorskip("matplotlib", reason="pictures need the extra [replay]")

QUICK = BuildSettings(features=FeatureSettings(limit=500), words=16, image_dimension=64, calibration_frames=30)


def street(folder, index: int, frames: int = 70):
    """A short stretch of street."""
    shape = TownDrive(seed=2, index=index, loop_m=120.0, width=160, height=96, spacing_m=0.4, lane_offset_m=0.0)
    made, _ = town_drive(shape, folder, lambda _: None)
    return made.select(np.arange(frames))


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    return street(tmp_path_factory.mktemp("town"), 0)


@pytest.fixture
def builder():
    return find(BUILDERS, "features", "map build")


def test_one_drive_is_parted_reported_and_shown(drive, builder, tmp_path, capsys):
    out = tmp_path / "out"
    trial = try_drives(builder, [drive], out, settings=QUICK, queries=12, progress=False)
    asked = {int(s) for d in trial.split.held_out for s in d.stamps_ns}
    known = {int(s) for d in trial.split.training for s in d.stamps_ns}
    assert asked and not asked & known and trial.split.kind == "gaps"
    # All other frames are in the map: its covariance is made of maps without some of them.
    assert trial.bundle.manifest.provenance["hold_out"] == {"map": "folds"} and trial.bundle.manifest.calibration
    report = json.loads((out / "report.json").read_text())
    assert report["frames"] == min(12, len(asked)) and report["backend"] == "features"
    assert report["advice"] == list(trial.advice) and any("driven once" in text for text in trial.advice)
    few = any(f"only {report['frames']} were asked: too few" in text for text in trial.advice)
    assert few and not any("good enough" in text for text in trial.advice)
    # A map without points is sure of none of its frames alone: that is no reason to train longer.
    record = FrameRecord(1, LocalizationState.DEGRADED, np.eye(4), np.eye(6), np.eye(4))
    waiting = Estimate(1, np.eye(4), np.eye(6), 0.9, LocalizationState.DEGRADED, "retrieval", "", awaits_track=True)
    said = _advice(trial.split, [record] * 40, [waiting] * 40, np.eye(4)[None], trial.bundle)
    assert any("100 % of the frames that were asked are sure" in text for text in said)
    assert not any("not enough" in text for text in said)
    assert report["max_translation_localized_m"] is None or report["max_translation_localized_m"] < 0.5
    page = trial.page.read_text()
    assert "What was seen again" in page and "From above" in page and "<p>trajectory</p>" not in page
    assert (out / "plots" / "seen_0.jpg").is_file() and (out / "map" / "map.yaml").is_file()
    print_trial(trial, ["town.mcap"], "features")
    said = capsys.readouterr().out
    assert "in gaps of the only passage" in said and str(trial.page) in said
    assert ("vloc map build features --data town.mcap" in said) == trial.enough


def test_of_two_drives_the_second_is_asked(drive, builder, tmp_path):
    trial = try_drives(
        builder, [drive, street(tmp_path, 1, 30)], tmp_path / "out", settings=QUICK, queries=6, progress=False
    )
    assert trial.split.kind == "drive" and trial.report["frames"] == 6
    assert not any("driven once" in text for text in trial.advice)
    worst = trial.report["max_translation_localized_m"]  # in another light: silence is allowed, a wrong pose is not
    assert worst is None or np.isnan(worst) or worst < 0.5


def test_what_is_asked(drive):
    with pytest.raises(DatasetError, match="leave --hold-out away"):
        _parts([drive], OwnDriveSettings(hold_out=HoldOutSettings(kind="none")))
    # A camera that only turns drives no metre: every fifth frame is asked, unless something else was asked for.
    still = np.tile(tiny_drive.circle(1), (40, 1, 1))
    parts = _parts([tiny_route.drive(still)], OwnDriveSettings())
    assert parts.kind == "every" and sum(map(len, parts.held_out)) == 8
    with pytest.raises(ConfigError, match="hold-out gaps"):
        _parts([tiny_route.drive(still)], OwnDriveSettings(hold_out=HoldOutSettings(kind="gaps")))
    two = _parts(
        [tiny_route.drive(tiny_route.line(20)), tiny_route.drive(tiny_route.line(20, offset=(0.0, 2.0)))],
        OwnDriveSettings(),
    )
    assert two.kind == "drive" and two.nearest_m == pytest.approx(2.0)


def test_a_calibration_of_minutes():
    from vloc_train.auto import AutoSettings

    assert _quick(BuildSettings()).calibration_frames == 100
    assert _quick(QUICK) == QUICK
    whole = AutoSettings()
    assert _quick(whole) == replace(whole, features=replace(whole.features, calibration_frames=100))
