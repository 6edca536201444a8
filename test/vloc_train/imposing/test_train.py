from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_drive
import torch

from vloc_ros.errors import DatasetError, MapError, TrainingError
from vloc_ros.localizers import load_localizer
from vloc_ros.localizers.imposing.localizer import WEIGHTS_FILE
from vloc_ros.localizers.imposing.statistics import STATISTICS
from vloc_ros.maps import read_map, verify_map
from vloc_train.imposing.module import ImPosingModule
from vloc_train.imposing.train import TRAINER
from vloc_train.training.run import RunOptions

QUIET = RunOptions(device="cpu", progress=False)
EVERY_STEP = dataclasses.replace(QUIET, checkpoint_minutes=1e-6)


def train(out: Path, options: RunOptions = QUIET, calibration: bool = True, data=None, **changes):
    drives = {"map": [tiny_drive.drive(22)]} if data is None else data
    extra = {"map": [tiny_drive.drive(24, name="calibration", phase=0.1)]} if calibration else None
    return TRAINER.run(drives, out, tiny_drive.settings(**changes), options, extra, hold_out="every:4")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "map", weight_average=0.9)


def test_a_run_writes_a_map_that_is_whole_calibrated_and_explains_itself(uninterrupted):
    assert all(check.passed for check in verify_map(uninterrupted.path))
    manifest = read_map(uninterrupted.path).manifest
    assert set(manifest.calibration) == {"map"}
    assert manifest.calibration["map"]["covariance"]["names"] == list(STATISTICS)
    assert manifest.calibration["map"]["covariance"]["frames"] == 24
    assert manifest.validation["map"]["frames"] == 24
    p = manifest.provenance
    assert p["data"] == {"map": ["lap"]} and p["calibration_data"] == {"map": ["calibration"]}
    assert p["frames"] == {"map": 22} and p["training_minutes"] >= 0
    assert p["settings"]["epochs"] == 3 and p["settings"]["network"]["embed_dim"] == 32
    assert manifest.settings["search"]["candidates"] == 48
    estimate = load_localizer(uninterrupted.path, "cpu").localize(_query())
    assert estimate.covariance.shape == (6, 6) and "position_sigma_m" in estimate.diagnostics


def test_an_interrupted_training_says_so_in_one_line(tmp_path, monkeypatch):
    """Lightning ends with exit code 1 and without a word after Ctrl-C, or SIGTERM, which is made the same."""

    def struck(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImPosingModule, "on_train_epoch_start", struck, raising=False)
    with pytest.raises(
        TrainingError, match=r"^interrupted; the same command starts again: there is no checkpoint yet$"
    ):
        train(tmp_path / "map")
    assert not (tmp_path / "map").exists()


def _query():
    from vloc_ros.types import Query

    return Query(tiny_drive.picture(tiny_drive.circle(5)[3]), tiny_drive.CAMERA, 12)


def test_every_nth_frame_is_held_out_where_that_is_asked_for_and_the_map_says_so(tmp_path):
    bundle = train(tmp_path / "map", calibration=False, data={"map": [tiny_drive.drive(84)]}, epochs=1)
    p = bundle.manifest.provenance
    assert p["hold_out"] == {"map": "every"} and p["calibration_data"] == {"map": ["lap (held out)"]}
    assert p["frames"] == {"map": 63} and p["held_out_frames"]["map"]["frames"] == 21
    assert p["held_out_frames_used_for"] == ["choice of the weights", "covariance", "validation"]
    assert bundle.manifest.calibration["map"]["covariance"]["frames"] == 21


def test_too_few_calibration_frames_leave_the_map_uncalibrated_and_it_says_so(tmp_path):
    bundle = train(tmp_path / "map", calibration=False, epochs=1)
    assert bundle.manifest.calibration == {} and "20 frames" in bundle.manifest.validation["map"]["calibration"]
    assert load_localizer(bundle.path, "cpu").localize(_query()).state.value == "DEGRADED"


def test_two_scenes(tmp_path):
    data = {"north": [tiny_drive.drive(24)], "south": [tiny_drive.drive(20, "other", paint=1)]}
    bundle = train(tmp_path / "map", calibration=False, data=data, epochs=1)
    assert [s.name for s in bundle.manifest.scenes] == ["north", "south"]
    assert set(bundle.manifest.validation) == {"north", "south"}


class Killed(Exception):
    """As far as the files are concerned, what a kill does."""


def stop_at(monkeypatch, step: int) -> None:
    original = ImPosingModule.training_step

    def stopping(self, batch, batch_idx):
        if self.global_step == step:
            raise Killed
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ImPosingModule, "training_step", stopping)


# 22 frames in batches of 8 are 3 steps an epoch, 9 in all: in the middle of an epoch, at its first and its last step.
@pytest.mark.parametrize("step", [1, 3, 4, 6, 8])
def test_a_run_that_was_cut_off_ends_like_one_that_was_not(tmp_path, monkeypatch, uninterrupted, step):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, step)
        train(tmp_path / "map", EVERY_STEP, weight_average=0.9)
    assert not (tmp_path / "map").exists()
    resumed = train(tmp_path / "map", EVERY_STEP, weight_average=0.9)
    logs = tmp_path / "map.work" / "log"
    assert sorted(p.name for p in logs.iterdir()) == ["version_0", "version_1"]  # the first part's log is kept
    assert resumed.manifest.settings == uninterrupted.manifest.settings
    for field in ("data", "frames", "calibration_data", "settings"):
        assert resumed.manifest.provenance[field] == uninterrupted.manifest.provenance[field]
    expected, found = uninterrupted.tensors(WEIGHTS_FILE), resumed.tensors(WEIGHTS_FILE)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3, msg=name)


def test_a_killed_process_is_continued(tmp_path, uninterrupted):
    """kill -9 after the first checkpoint, then the same call again."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        f"sys.path[:0] = {[str(Path(tiny_drive.__file__).parent), str(Path(__file__).parents[3])]!r}\n"
        "import tiny_drive, torch\n"
        "from vloc_train.imposing.module import ImPosingModule\n"
        "from vloc_train.imposing.train import TRAINER\n"
        "from vloc_train.training.run import RunOptions\n"
        "step = ImPosingModule.training_step\n"
        "def slowly(self, batch, index):\n"
        "    time.sleep(600 if self.global_step == 5 else 0)\n"
        "    return step(self, batch, index)\n"
        "ImPosingModule.training_step = slowly\n"
        "TRAINER.run({'map': [tiny_drive.drive(22)]}, Path(sys.argv[1]), tiny_drive.settings(weight_average=0.9),\n"
        "    RunOptions(device='cpu', progress=False, checkpoint_minutes=1e-6),\n"
        "    {'map': [tiny_drive.drive(24, name='calibration', phase=0.1)]})\n"
    )
    out = tmp_path / "map"
    process = subprocess.Popen([sys.executable, str(script), str(out)], stderr=subprocess.PIPE)
    try:
        checkpoint, begun = tmp_path / "map.work" / "last.ckpt", time.monotonic()
        while not (checkpoint.exists() and _steps(checkpoint) == 5):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() - begun < 600
            time.sleep(0.2)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
    resumed = train(out, EVERY_STEP, weight_average=0.9)
    expected, found = uninterrupted.tensors(WEIGHTS_FILE), resumed.tensors(WEIGHTS_FILE)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3, msg=name)


def _steps(checkpoint: Path) -> int:
    try:
        return int(torch.load(checkpoint, weights_only=True)["global_step"])
    except (RuntimeError, EOFError, OSError):  # being written
        return -1


def test_the_same_seed_makes_the_same_map_and_another_does_not(tmp_path, uninterrupted):
    again = train(tmp_path / "again", weight_average=0.9)
    other = train(tmp_path / "other", weight_average=0.9, seed=1)
    name = "image_encoder.heads.0.weight"
    weights = [b.tensors(WEIGHTS_FILE)[name].float() for b in (uninterrupted, again, other)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(weights[2], weights[0], atol=1e-2)


def test_every_epoch_brings_new_images_and_noise(tmp_path, monkeypatch):
    seen = []
    original = ImPosingModule.loss

    def recording(self, batch, progress=0.0):
        seen.append((batch.images.clone(), batch.initial_noise.clone()))
        return original(self, batch, progress)

    monkeypatch.setattr(ImPosingModule, "loss", recording)
    train(tmp_path / "map", batch_size=22)
    assert len(seen) == 3
    for (images, noise), (others, other_noise) in itertools.pairwise(seen):
        assert not torch.equal(images, others) and not torch.equal(noise, other_noise)


def test_a_working_directory_of_another_run_is_refused(tmp_path, monkeypatch):
    train(tmp_path / "map", epochs=1)
    with pytest.raises(TrainingError, match="--no-resume"):
        train(tmp_path / "map", epochs=2)
    with pytest.raises(TrainingError, match="--no-resume"):
        train(tmp_path / "map", epochs=1, data={"map": [tiny_drive.drive(23)]})
    fresh = train(tmp_path / "map", dataclasses.replace(QUIET, resume=False), epochs=2)
    assert fresh.manifest.provenance["settings"]["epochs"] == 2


def test_a_failed_run_leaves_the_old_map_alone(tmp_path, monkeypatch):
    before = train(tmp_path / "map", epochs=1).id
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 2)
        train(tmp_path / "map", dataclasses.replace(QUIET, resume=False), epochs=2)
    assert read_map(tmp_path / "map").id == before


def test_minutes_end_a_run_and_leave_a_map(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        bundle = train(tmp_path / "map", epochs=100_000, max_minutes=0.02)
    assert bundle.manifest.provenance["training_minutes"] < 0.2
    assert np.isfinite(bundle.manifest.validation["map"]["median_translation_m"])


def test_a_run_that_is_over_is_only_exported_again(tmp_path, monkeypatch):
    first = train(tmp_path / "map")

    def forbidden(self, batch, batch_idx):
        raise AssertionError("trained again")

    monkeypatch.setattr(ImPosingModule, "training_step", forbidden)
    assert train(tmp_path / "map").id == first.id


def test_what_cannot_be_written_is_said_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("vloc_train.training.recipe.cache_drives", None)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(MapError, match=r"without map\.yaml"):
        train(tmp_path / "photos")
    with pytest.raises(TrainingError, match="auto, cpu, cuda or cuda:N"):
        train(tmp_path / "map", dataclasses.replace(QUIET, device="tpu"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_what_cannot_be_trained(tmp_path):
    with pytest.raises(DatasetError, match="at least 2 frames"):
        train(tmp_path / "few", calibration=False, data={"map": [tiny_drive.drive(4)]})
    with pytest.raises(TrainingError, match="nothing at"):
        train(tmp_path / "pretrained", pretrained=str(tmp_path / "no_such_weights"))
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="CUDA"):
            train(tmp_path / "gpu", dataclasses.replace(QUIET, device="cuda"))
