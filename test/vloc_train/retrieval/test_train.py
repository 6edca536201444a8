from __future__ import annotations

import dataclasses

import pytest
import tiny_drive
import tiny_extractor
import torch

from vloc_ros.errors import CameraMismatchError, ConfigError, DatasetError, TrainingError
from vloc_ros.localizers.retrieval.database import Database
from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, Descriptor
from vloc_ros.types import CameraModel
from vloc_train.retrieval.train import TRAINER
from vloc_train.training.registry import BUILDERS, TRAINERS, find
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)


def drives():
    second = tiny_drive.drive(20, "second", phase=0.1)
    return {"map": [tiny_drive.drive(24), dataclasses.replace(second, stamps_ns=second.stamps_ns + 10**13)]}


def test_from_drives_to_a_map_that_localizes(tmp_path):
    settings = tiny_extractor.settings("distance", epochs=30)
    calibration = {"map": [tiny_drive.drive(30, "third", phase=0.05)]}
    bundle = TRAINER.run(drives(), tmp_path / "map", settings, OPTIONS, calibration, about={"town": 1})
    assert len(Database.read(bundle, "map")) == 44
    found = bundle.manifest.validation["map"]
    assert found["frames"] == 30 and found["median_translation_m"] < 3.0
    assert bundle.manifest.provenance["town"] == 1 and bundle.manifest.provenance["training_minutes"] >= 0
    assert bundle.manifest.provenance["data"] == {"map": ["lap", "second"]}
    assert bundle.manifest.settings["extractor"]["normalise"] is False
    # And on from it, with another loss: the network is the map's, not the settings'.
    more = tiny_extractor.settings(
        "triplet", epochs=1, learning_rate=0.0, weight_average=0.0, extractor={"dimension": 4}
    )
    other = TRAINER.run(drives(), tmp_path / "other", more, OPTIONS, calibration, extractor=bundle.path)
    a, b = (Descriptor.from_bundle(m, torch.device("cpu")) for m in (bundle, other))
    assert b.metric == "cosine" and b.dimension == a.dimension == 32
    assert other.manifest.provenance["started_from"] == {"map": "map", "extractor": a.identity}
    stored, again = (m.tensors(EXTRACTOR_FILE) for m in (bundle, other))
    for name in [n for n in stored if "running_" not in n and "num_batches" not in n]:
        torch.testing.assert_close(stored[name], again[name], rtol=0, atol=0, msg=name)


def test_frames_are_held_out_where_no_other_drive_calibrates(tmp_path):
    bundle = TRAINER.run(drives(), tmp_path / "map", tiny_extractor.settings(epochs=1), OPTIONS, hold_out="every:4")
    assert len(Database.read(bundle, "map")) == 18 + 15 and bundle.manifest.validation["map"]["frames"] == 11


def test_a_working_directory_of_another_run_is_refused(tmp_path):
    work = tmp_path / "work"
    TRAINER.run(drives(), tmp_path / "map", tiny_extractor.settings(epochs=1), OPTIONS, work_dir=work)
    with pytest.raises(TrainingError, match="another"):
        TRAINER.run(drives(), tmp_path / "map", tiny_extractor.settings(epochs=2), OPTIONS, work_dir=work)


def test_what_cannot_be_trained_on(tmp_path):
    with pytest.raises(DatasetError, match="several places"):
        TRAINER.run(
            drives(), tmp_path / "map", tiny_extractor.settings("triplet", sampling={"negative_m": None}), OPTIONS
        )
    with pytest.raises(ConfigError, match="route is too short"):
        TRAINER.run({"map": [tiny_drive.drive(1)]}, tmp_path / "one", tiny_extractor.settings(), OPTIONS)
    c = tiny_drive.CAMERA
    lens = CameraModel(c.width, c.height, 1.5 * c.fx, 1.5 * c.fy, c.cx, c.cy)
    mixed = {**drives(), "b": [dataclasses.replace(tiny_drive.drive(8), camera=lens)]}
    with pytest.raises(CameraMismatchError, match=r"scene b\) beside .*scene map"):
        TRAINER.run(mixed, tmp_path / "mixed", tiny_extractor.settings(), OPTIONS)
    assert not (tmp_path / "map").exists()


def test_the_command_line_finds_trainer_and_builder():
    trainer, builder = find(TRAINERS, "retrieval", "train"), find(BUILDERS, "retrieval", "map build")
    assert trainer.presets[0] == "paper" and trainer.settings("small", None, "").loss.kind == "distance"
    assert builder.settings(builder.presets[0], {"fit_images": 5}, "").fit_images == 5
