"""From drives to a map with a trained network: learning, resuming, starting from other weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_aligned
import tiny_drive
import tiny_job
import torch
from safetensors.torch import save_file

from vloc_ros.errors import ConfigError, DatasetError, MapBackendError, TrainingError
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.pixloc.model import read_model
from vloc_ros.localizers.pixloc.store import NETWORK_FILE
from vloc_ros.maps import read_map, write_map
from vloc_train.pixloc.data import KeyedPairs
from vloc_train.pixloc.module import PixLocModule, make_model
from vloc_train.pixloc.settings import PriorSettings, TrainSettings
from vloc_train.pixloc.train import TRAINER, training_place
from vloc_train.pixloc.validate import pose_errors, try_pairs
from vloc_train.training.registry import TRAINERS, find
from vloc_train.training.run import RunOptions

OPTIONS = RunOptions(device="cpu", progress=False)
EVERY_STEP = RunOptions(device="cpu", progress=False, checkpoint_minutes=1e-6)
SHORT = {"train_iterations": 2, "both_ways": False, "epochs": 1, "weight_average": 0.9, "validation_pairs": 4}
CPU = torch.device("cpu")


def train(out: Path, options: RunOptions = OPTIONS, data=None, calibration=None, extractor=None, **changes):
    settings = tiny_aligned.settings(**{**SHORT, **changes})
    drives = data or {"box": [tiny_aligned.drive(16)]}
    return TRAINER.run(drives, out, settings, options, calibration, extractor=extractor, hold_out="every:4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pixloc") / "map"
    train(out, EVERY_STEP)
    return out


def test_training_widens_the_basin_of_convergence(tmp_path):
    """From offsets of several pixels, more pairs of frames that training never saw end within one pixel."""
    settings = tiny_aligned.settings(learning_rate=8e-3, prior=PriorSettings("noise", 2.0, 14.0))
    drives = [tiny_aligned.drive(24), tiny_aligned.drive(24, "second", phase=0.1)]
    place = training_place("box", tiny_job.every(drives, 4), settings, tmp_path)
    pairs = KeyedPairs([place.training], settings)
    torch.manual_seed(0)
    module = PixLocModule(settings, pairs, Preprocess(64, 36))

    def basin() -> tuple[float, float]:
        """Shares of near and of far starts that converge."""
        trials = [
            try_pairs(module.network, place.held_out, settings, Preprocess(64, 36), CPU, seed=s) for s in (1, 2, 3)
        ]
        start, end = (np.concatenate([getattr(t, n) for t in trials]) for n in ("start_px", "px"))
        near = start < np.median(start)
        return float((end[near] < 1.0).mean()), float((end[~near] < 1.0).mean())

    before = basin()
    optimizer, steps = torch.optim.AdamW(module.parameters(), lr=8e-3), 40
    rng, losses = np.random.default_rng(0), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 8e-3 * min(1.0, (step + 1) / 5) * (1.0 - step / steps)
        loss, _, _ = module.losses(pairs.collate([pairs[(step, 0, 0, int(k))] for k in rng.integers(0, len(pairs), 6)]))
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.total.detach()))
    after = basin()
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8]), losses
    assert after[1] > before[1] + 0.15 and after[0] >= before[0], (before, after)


def test_both_ways_are_the_two_localizations_of_a_pair(tmp_path):
    settings = tiny_aligned.settings(weight_average=0.0)
    place = training_place("box", tiny_job.every([tiny_aligned.drive(16)], 4), settings, tmp_path)
    results = []
    torch.manual_seed(0)
    model = make_model(settings).eval()
    for both in (True, False):
        chosen = replace(settings, both_ways=both)
        pairs = KeyedPairs([place.training], chosen)
        module = PixLocModule(chosen, pairs, Preprocess(64, 36), model).eval()
        with torch.no_grad():
            loss, poses, examples = module.losses(pairs.collate([pairs[(0, 0, 0, n)] for n in (0, 5)]))
        results.append((poses[-1], examples.T_true, loss.errors))
    # Images lie pair by pair (anchor, partner), examples by the image that gives the points: the anchor is localized
    # by its partner in every second one.
    torch.testing.assert_close(results[0][0][1::2], results[1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(results[0][1][1::2], results[1][1])
    torch.testing.assert_close(results[0][1][0::2], torch.linalg.inv(results[1][1]), atol=1e-5, rtol=1e-5)


def test_true_poses_of_identical_images_are_a_fixed_point(tmp_path):
    """A frame localized by itself from its own pose stays there, whatever the features and the scale."""
    settings = tiny_aligned.settings(weight_average=0.0)
    place = training_place("box", tiny_job.every([tiny_aligned.drive(16)], 4), settings, tmp_path)
    pairs = KeyedPairs([place.training], settings)
    torch.manual_seed(0)
    module = PixLocModule(settings, pairs, Preprocess(64, 36)).eval()
    batch = pairs.collate([pairs[(0, 0, 0, 0)]])
    for name in ("images", "pixels", "points"):
        getattr(batch, name)[:, 1] = getattr(batch, name)[:, 0]
    batch.T_other[:] = torch.eye(4)
    batch.T_start[:] = torch.eye(4)
    for scale in (1.0, 0.5):
        with torch.no_grad():
            _, poses, _ = module.losses(replace(batch, scale=scale))
        metres, degrees = pose_errors(poses[-1], batch.T_other[0])
        assert float(metres.max()) < 1e-3 and float(degrees.max()) < 1e-2


def test_a_run_gives_a_map_with_the_network_alone(trained):
    bundle = read_map(trained)
    manifest = bundle.manifest
    assert manifest.backend == "pixloc" and [f.name for f in manifest.files] == [NETWORK_FILE]
    assert manifest.settings["network"]["strides"] == [1, 4] and manifest.settings["optimizer"]["iterations"] == 8
    found = manifest.validation["box"]
    assert found["frames"] == 4 and {"median_translation_m", "median_rotation_deg", "recall_2m_5deg"} <= set(found)
    assert manifest.provenance["frames"] == {"box": 12} and manifest.provenance["data"] == {"box": ["lap"]}
    model = read_model(bundle)
    assert model.dimensions == (12, 8) and model.damping.theta.shape == (2, 6)
    assert float(model.damping.theta.detach().abs().max()) > 0  # it has learned
    assert [s.name for s in manifest.scenes] == ["box"]


class Killed(Exception):
    """As far as the files are concerned, what a kill does."""


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(tmp_path, monkeypatch, trained):
    original = PixLocModule.training_step

    def stopping(self, batch, batch_idx):
        if self.global_step == 2:
            raise Killed
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(PixLocModule, "training_step", stopping)
        train(tmp_path / "map", EVERY_STEP)
    assert not (tmp_path / "map").exists() and (tmp_path / "map.work" / "last.ckpt").exists()
    resumed, expected = train(tmp_path / "map", EVERY_STEP), read_map(trained)
    for name, value in expected.tensors(NETWORK_FILE).items():
        torch.testing.assert_close(resumed.tensors(NETWORK_FILE)[name], value, rtol=1e-3, atol=1e-3, msg=name)
    with pytest.raises(TrainingError, match="no-resume"):
        train(tmp_path / "map", seed=9)


def test_a_run_starts_from_a_map_and_validates_on_other_drives(tmp_path, trained):
    other = {"box": [tiny_aligned.drive(20, "other", phase=0.1)]}
    bundle = train(tmp_path / "m", calibration=other, extractor=trained, epochs=0)
    before = read_map(trained).tensors(NETWORK_FILE)
    for name, value in bundle.tensors(NETWORK_FILE).items():
        assert torch.equal(value, before[name]), name
    assert bundle.manifest.provenance["extractor"]["id"] == read_map(trained).id
    assert bundle.manifest.provenance["calibration_data"] == {"box": ["other"]}
    wider = tiny_aligned.settings().network
    with pytest.raises(TrainingError, match="network settings"):
        train(tmp_path / "n", extractor=trained, network={"dimensions": (8, wider.dimensions[1] + 1)})
    foreign = read_map(trained)
    write_map(tmp_path / "foreign", replace(foreign.manifest, backend="retrieval"), {})
    with pytest.raises(MapBackendError, match="pixloc"):
        train(tmp_path / "n", extractor=tmp_path / "foreign")


def test_a_public_checkpoint_becomes_a_map(tmp_path):
    torch.manual_seed(3)
    source = make_model(tiny_aligned.settings())
    names = {
        "encoder.blocks.": "extractor.encoder.", "decoder.": "extractor.decoder.",
        "adaptation.0.": "extractor.adaptation.0.0.", "adaptation.1.": "extractor.adaptation.1.0.",
        "uncertainty.0.": "extractor.uncertainty.0.0.", "uncertainty.1.": "extractor.uncertainty.1.0.",
    }  # fmt: skip
    tensors = {}
    for name, value in source.network.state_dict().items():
        prefix = next(p for p in names if name.startswith(p))
        tensors[names[prefix] + name.removeprefix(prefix)] = value
    tensors |= {f"optimizer.{i}.dampingnet.const": torch.full((6,), float(i + 1)) for i in range(2)}
    save_file(tensors, tmp_path / "public.safetensors")
    bundle = train(tmp_path / "m", epochs=0, pretrained=str(tmp_path / "public.safetensors"))
    model = read_model(bundle)
    torch.testing.assert_close(model.damping.theta[:, 0], torch.tensor([2.0, 1.0]))
    for name, value in source.network.state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[name], value, atol=1e-2, rtol=1e-2)
    with pytest.raises(TrainingError, match="nothing at"):
        train(tmp_path / "n", pretrained=str(tmp_path / "nowhere.safetensors"))


def test_places_of_several_kinds_are_trained_together(tmp_path):
    """One with depth, one whose points structure from motion gives, of another size."""
    drive = tiny_aligned.drive(240, "plain", paint=2).select(np.arange(12))
    plain = replace(drive, source=tiny_drive.Pictures(drive.T_map_cam))
    model, _ = tiny_aligned.sparse_model(drive, range(12))
    model.save(tmp_path / "model.npz")
    pairs = replace(tiny_aligned.settings().pairs, least_points=10, overlap=0.05)
    points = {"stored": 256, "drawn": 64, "models": {"yard": str(tmp_path / "model.npz")}}
    settings = tiny_aligned.settings(**SHORT)
    settings = replace(
        settings, pairs=pairs, points=replace(settings.points, **points), sizes={"yard": (48, 27)}, scales=(0.5, 1.0),
    )  # fmt: skip
    data = {"box": [tiny_aligned.drive(24)], "yard": [plain]}
    bundle = TRAINER.run(data, tmp_path / "m", settings, OPTIONS, hold_out="every:2")
    assert set(bundle.manifest.validation) == {"box", "yard"}
    with pytest.raises(ConfigError, match="'field'"):
        TRAINER.run(data, tmp_path / "n", replace(settings, sizes={"field": (32, 32)}), OPTIONS, hold_out="every:2")


def test_what_cannot_be_trained(tmp_path):
    with pytest.raises(DatasetError, match="at least 2 frames"):
        train(tmp_path / "m", data={"far": [tiny_aligned.drive(2)]})
    with pytest.raises(ConfigError, match="rotation"):
        TrainSettings.preset("small", {"augment": {"rotate_deg": [1.0, 0.0, 0.0]}})
    with pytest.raises(ConfigError, match="scales"):
        TrainSettings.preset("small", {"scales": []})


def test_presets_and_table():
    assert find(TRAINERS, "pixloc", "train") is TRAINER and TRAINER.presets[0] == "paper"
    paper = TrainSettings.preset("paper")
    assert paper.network.encoder == "vgg19" and paper.network.strides == (1, 4, 16)
    assert paper.network.dimensions == (32, 128, 128) and paper.train_iterations == 15
    assert paper.prior.kind == "reference" and not paper.both_ways


def test_the_commands_find_drives_of_the_town_with_depth(tmp_path, monkeypatch):
    from vloc_train.training.depth import has_depth
    from vloc_train.training.scenes import by_scene
    from vloc_train.training.town import open_town

    monkeypatch.setenv("VLOC_CACHE", str(tmp_path))
    name = "town:seed=3,index=1,width=64,height=36,loop_m=120,spacing_m=20"
    scenes = by_scene([f"a={name}", name], None)
    assert list(scenes) == ["a", "map"] and has_depth(scenes["a"])
    drive = scenes["a"][0]
    assert drive.name == "town3_1" and drive.camera.size == (64, 36) and drive.source.depth(0).shape == (36, 64)
    assert len(list(tmp_path.glob("town3_1-*.npy"))) == 2  # rendered once, depths beside images
    for bad in ("town:seed=x", "town:seed", "town:colour=red"):
        with pytest.raises(ConfigError):
            open_town(bad, tmp_path)
