"""From a tiny drive to an IRPNet map: passes, stored descriptors, resuming, densified descriptors, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_drive
import tiny_irpnet
import torch
from safetensors.torch import load_file, save_file

from vloc_ros import load_localizer
from vloc_ros.errors import ConfigError, DatasetError, MapBackendError, TrainingError
from vloc_ros.geometry.vectors import to_vectors
from vloc_ros.localizers.irpnet.localizer import WEIGHTS_FILE
from vloc_ros.maps import read_map
from vloc_ros.types import Query
from vloc_train.irpnet import data
from vloc_train.irpnet.data import KeyedDescriptors, Regressions, SceneDescriptors, stored_copies
from vloc_train.irpnet.module import RegressorModule
from vloc_train.irpnet.settings import TrainSettings
from vloc_train.irpnet.train import TRAINER
from vloc_train.training.augment import AugmentSettings
from vloc_train.training.registry import TRAINERS, find
from vloc_train.training.sampling import TrainingData

AUGMENT = AugmentSettings(photometric=0.3, blur=0.0, erase=0.0, rotate_deg=(0.0, 0.0, 0.0))


def test_the_paper_s_settings():
    outdoors, indoors = (TrainSettings.preset(name) for name in ("paper", "indoor"))
    assert next(iter(TrainSettings.PRESETS)) == "paper" and find(TRAINERS, "irpnet", "train") is TRAINER
    assert (outdoors.network.shared, outdoors.network.widths) == (4096, (4096, 2048, 1024))
    assert outdoors.network.dropout == 0.2 and outdoors.copies == 10 and outdoors.batch_size == 8
    assert (outdoors.epochs, outdoors.learning_rate, outdoors.orientation_weights) == (1000, 1e-3, (1.0, 250.0))
    assert (indoors.epochs, indoors.learning_rate, indoors.orientation_weights) == (300, 1e-2, (0.0, 1.0))
    assert outdoors.position_weights == indoors.position_weights == (1.0, 0.0)
    assert outdoors.weight_decay == 0.01 and outdoors.schedule == "constant"
    for weights in ({"position_weights": [0.0, 1.0]}, {"orientation_weights": [1.0, 0.0]}):
        with pytest.raises(ConfigError, match="would learn nothing"):
            TrainSettings.preset("small", weights)


def scene(images: int = 10, copies: int = 3, regressions: Regressions | None = None) -> SceneDescriptors:
    """Descriptors that say drive, image and copy."""
    drives = []
    for drive in range(2):
        grid = np.stack(np.meshgrid([drive], np.arange(images), np.arange(copies), indexing="ij"), axis=-1)[0]
        drives.append(grid.astype(np.float16))
    poses = torch.zeros(2 * images, 7)
    poses[:, 0], poses[:, 6] = torch.arange(2 * images), 1.0
    return SceneDescriptors("map", drives, poses, torch.zeros(2, 3), poses[:2], regressions)


def test_every_image_once_an_epoch_by_one_of_its_copies():
    made = replace(TrainSettings(), copies=3, batch_size=5)
    seen, drawn = [], set()
    for descriptors, poses in TrainingData(KeyedDescriptors(scene(), made)).train_dataloader():
        assert torch.equal(10 * descriptors[:, 0] + descriptors[:, 1], poses[:, 0])
        seen += poses[:, 0].tolist()
        drawn |= set(descriptors[:, 2].tolist())
    assert sorted(seen) == list(range(20)) and drawn == {0.0, 1.0, 2.0}


def test_the_share_of_densified_descriptors():
    extra = Regressions(torch.full((4, 3), 9.0), torch.full((4, 7), 0.5))
    made = replace(TrainSettings(), copies=3, batch_size=20, densified_share=0.3)
    rows = KeyedDescriptors(scene(regressions=extra), made)
    taken = []
    for step in range(100):
        descriptors, poses = rows.__getitems__([(0, step, 0, i) for i in range(20)])
        mine = descriptors[:, 0] == 9.0
        assert torch.equal(mine, poses[:, 6] == 0.5)
        taken.append(float(mine.float().mean()))
    assert np.mean(taken) == pytest.approx(0.3, abs=0.05)


def test_descriptors_are_stored_once_and_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    frames, descriptor = tiny_drive.frames(70), tiny_irpnet.descriptor()
    arguments = (descriptor, frames, 2, AUGMENT, 0)
    whole, seconds = stored_copies(*arguments, tmp_path / "whole")
    assert whole.shape == (70, 2, descriptor.dimension) and whole.dtype == np.float16 and seconds > 0
    assert isinstance(whole, np.memmap) and not np.array_equal(whole[:, 0], whole[:, 1])
    plain = descriptor.describe_images(frames.images[:3]).numpy()
    weak, _ = stored_copies(descriptor, frames, 1, replace(AUGMENT, photometric=0.0), 0, tmp_path)
    assert np.allclose(weak[:3, 0], plain, atol=0.01 * np.abs(plain).max())
    real, calls = data.describe_augmented, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(data, "describe_augmented", failing)
    with pytest.raises(KeyboardInterrupt):
        stored_copies(*arguments, tmp_path / "parts")
    note = next((tmp_path / "parts").glob("*.json"))
    assert json.loads(note.read_text())["frames"] == 32
    found, _ = stored_copies(*arguments, tmp_path / "parts")
    assert len(calls) == 4  # 1 done, 1 interrupted, 2 left
    assert np.array_equal(found, whole)
    stored_copies(*arguments, tmp_path / "parts")
    assert len(calls) == 4
    stored_copies(*arguments[:4], 1, tmp_path / "parts")
    assert len(calls) == 7


@pytest.mark.parametrize(
    ("kept", "weights", "made", "result"),
    [
        (("position",), (0.0, 1.0), {"position"}, {"position"}),
        (("orientation",), (0.0, 1.0), {"orientation"}, {"orientation"}),
        (("orientation",), (1.0, 250.0), {"position", "orientation"}, {"orientation"}),
    ],
)
def test_the_branches_of_a_pass(kept, weights, made, result):
    settings = tiny_irpnet.settings(orientation_weights=weights)
    module = RegressorModule(scene(), settings, kept)
    assert set(module.network.branches) == made
    assert set(module.result().branches) == result
    group = module.configure_optimizers().param_groups[0]
    assert group["weight_decay"] == pytest.approx(0.01 * settings.learning_rate) and group["eps"] == 1e-10


def test_the_mlp_learns_its_weights():
    module = RegressorModule(
        scene(), tiny_irpnet.settings(network={"architecture": "mlp"}), ("position", "orientation")
    )
    before = module.learned.s.detach().clone()
    optimizer = module.configure_optimizers()
    module.loss((torch.randn(4, 3), torch.tensor([[5.0, 5, 5, 0, 0, 0, 1]] * 4))).backward()
    optimizer.step()
    assert not torch.equal(module.learned.s.detach(), before)


def test_a_run_that_was_done_is_not_done_again(tmp_path):
    made = tiny_irpnet.settings(epochs=3)
    name = "map.position.branches.position.head.bias"
    first = tiny_irpnet.train("again", made).tensors(WEIGHTS_FILE)[name]
    place = tiny_irpnet.folder() / "again.work" / "map-position"
    state = load_file(place / "finished.safetensors")
    state["branches.position.head.bias"] += 100.0
    save_file(state, place / "finished.safetensors")
    again = tiny_irpnet.train("again", made).tensors(WEIGHTS_FILE)[name]
    assert torch.allclose(again - first, torch.full((3,), 100.0), atol=1e-3)
    with pytest.raises(TrainingError, match="another"):
        tiny_irpnet.train("again", replace(made, epochs=4))
    fresh = tiny_irpnet.train("again", made, options=replace(tiny_irpnet.OPTIONS, resume=False))
    assert torch.equal(fresh.tensors(WEIGHTS_FILE)[name], first)


def test_two_scenes_as_an_mlp():
    drives = {name: [tiny_drive.drive(24, name=name, paint=paint)] for name, paint in (("north", 0), ("south", 3))}
    made = tiny_irpnet.settings(epochs=2, copies=1, network={"architecture": "mlp"})
    bundle = TRAINER.run(
        drives,
        tiny_irpnet.folder() / "scenes",
        made,
        tiny_irpnet.OPTIONS,
        extractor=tiny_irpnet.extractor_map(),
        hold_out="every",
    )
    names = {name.split(".")[0] + "." + name.split(".")[1] for name in bundle.tensors(WEIGHTS_FILE)}
    assert names == {"north.both", "south.both"}
    assert all("none: " in bundle.manifest.validation[s]["calibration"] for s in ("north", "south"))
    localizer = load_localizer(bundle.path, device="cpu")
    for scene, (drive,) in drives.items():
        image = drive.image(0)
        assert localizer.localize(Query(image, tiny_drive.CAMERA, 1)).scene == scene
        assert localizer.localize(Query(image, tiny_drive.CAMERA, 1, scene="north")).scene == "north"


def test_densified_descriptors_are_trained_on(tmp_path):
    densified = tiny_irpnet.descriptor_map("densified", regressed=10).path
    bundle = tiny_irpnet.train("on_densified", tiny_irpnet.settings(epochs=2, densified=str(densified)))
    assert bundle.manifest.provenance["settings"]["densified"] == str(densified)
    made = data.regressed_rows(densified, "map", tiny_irpnet.descriptor())
    assert len(made) == 10
    assert torch.equal(made.poses, torch.from_numpy(to_vectors(tiny_drive.frames(40).T_map_cam[-10:])))


def test_densified_maps_that_do_not_fit():
    descriptor = tiny_irpnet.descriptor()
    with pytest.raises(ConfigError, match="found images alone"):
        data.regressed_rows(tiny_irpnet.extractor_map(), "map", descriptor)
    with pytest.raises(ConfigError, match="extractor"):
        data.regressed_rows(tiny_irpnet.descriptor_map("other", 5, seed=1).path, "map", descriptor)
    with pytest.raises(ConfigError, match="expected a scene 'moon'"):
        data.regressed_rows(tiny_irpnet.descriptor_map("densified", 5).path, "moon", descriptor)
    with pytest.raises(MapBackendError, match="database"):
        data.regressed_rows(tiny_irpnet.trained_map(), "map", descriptor)


def test_what_is_refused(tmp_path):
    drives, made, out = {"map": [tiny_drive.drive(20)]}, tiny_irpnet.settings(), tmp_path / "map"
    with pytest.raises(ConfigError, match="--extractor"):
        TRAINER.run(drives, out, made, tiny_irpnet.OPTIONS)
    extractor = tiny_irpnet.extractor_map()
    with pytest.raises(ConfigError, match="one device"):
        TRAINER.run(drives, out, made, replace(tiny_irpnet.OPTIONS, devices=2), extractor=extractor)
    with pytest.raises(DatasetError, match="at least 2"):
        TRAINER.run(
            {"map": [tiny_drive.drive(3)]}, out, made, tiny_irpnet.OPTIONS, extractor=extractor, hold_out="every"
        )


def test_the_map_says_how_it_was_made():
    manifest = read_map(tiny_irpnet.trained_map()).manifest
    assert manifest.backend == "irpnet" and manifest.validation["map"]["frames"] == 40
    assert manifest.provenance["extractor"]["id"] == tiny_irpnet.descriptor().identity
    assert manifest.provenance["frames"] == {"map": 60} and manifest.provenance["training_minutes"] > 0
