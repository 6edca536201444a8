from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_drive
import tiny_job
import torch

from vloc_ros.errors import (
    ConfigError,
    MapError,
    MapTensorError,
)
from vloc_ros.geometry.se3 import make_transform, nees, pose_error
from vloc_ros.localizers import load_localizer
from vloc_ros.localizers.imposing.localizer import CANDIDATES_FILE, WEIGHTS_FILE
from vloc_ros.localizers.imposing.network import ImPosingNetwork
from vloc_ros.types import CameraModel, PosePrior, Query
from vloc_train.imposing.export import map_contents

POSES = tiny_drive.circle(16, phase=0.17)


def query(index: int = 0, stamp_ns: int = 5, camera: CameraModel = tiny_drive.CAMERA, **more) -> Query:
    return Query(tiny_drive.picture(POSES[index], camera), camera, stamp_ns, **more)


@pytest.fixture(scope="module")
def town_map() -> Path:
    return tiny_drive.trained_map()


@pytest.fixture(scope="module")
def localizer(town_map):
    return load_localizer(town_map, "cpu")


def untrained(path: Path, scenes=("map",), calibration=None, **changes) -> Path:
    made = tiny_drive.settings(**changes)
    frames = [tiny_drive.frames(40, name, paint=i) for i, name in enumerate(scenes)]
    contents = map_contents(tiny_drive.network(made, frames), frames, made, tiny_drive.preprocess())
    tiny_job.written(contents, "imposing", frames, tiny_drive.preprocess(), path, calibration=calibration or {})
    return path


# -- localizing ---------------------------------------------------------------------------------------


def test_finds_cameras_between_the_training_frames(localizer):
    errors, turned, inside = [], [], []
    for i in range(len(POSES)):
        estimate = localizer.localize(query(i, stamp_ns=100 + i))
        e = pose_error(estimate.T_map_cam, POSES[i])
        errors.append(np.linalg.norm(e[:3]))
        inside.append(nees(e, estimate.covariance) <= 12.59)
        turned.append(np.degrees(np.linalg.norm(e[3:])))
        assert estimate.backend == "imposing" and estimate.map_id == localizer.map_id and estimate.scene == "map"
        assert 0.0 <= estimate.score <= 1.0 and estimate.stamp_ns == 100 + i
        assert set(estimate.timings_ms) == {"encode", "search", "assess"}
    assert np.median(errors) < 2.5 and max(errors) < 8.0 and np.median(turned) < 8.0
    assert np.mean(inside) >= 0.8


def test_another_stamp_draws_other_numbers(localizer):
    first, other = (localizer.localize(query(3, stamp_ns=stamp)).T_map_cam for stamp in (77, 79))
    assert not np.array_equal(first, other)


def test_another_map_draws_other_numbers(tmp_path, town_map, localizer):
    def nudge(tensors):
        tensors["pose_encoders.0.linears.0.bias"][0] += 1e-7

    other = tiny_drive.rewritten(town_map, tmp_path / "other", WEIGHTS_FILE, nudge)
    found = load_localizer(other, "cpu")
    assert found.map_id != localizer.map_id
    assert not np.array_equal(found.localize(query()).T_map_cam, localizer.localize(query()).T_map_cam)


def test_candidates_of_every_step_on_demand(localizer):
    estimate = localizer.localize(query(), keep_candidates=True)
    assert len(estimate.candidates) == localizer.settings.refinements
    for step in estimate.candidates:
        assert step.T_map_cam.shape == (len(step.scores), 4, 4) and step.scores.dtype == np.float64
        np.testing.assert_allclose(np.linalg.det(step.T_map_cam[:, :3, :3]), 1.0, atol=1e-5)
        assert step.scores[step.selected].min() >= np.median(step.scores)
    assert localizer.localize(query()).candidates == ()


def test_another_resolution_of_the_same_lens(localizer):
    c = tiny_drive.CAMERA
    double = CameraModel(2 * c.width, 2 * c.height, 2 * c.fx, 2 * c.fy, 2 * c.cx + 0.5, 2 * c.cy + 0.5)
    moved = []
    for i in range(len(POSES)):
        plain, fine = localizer.localize(query(i)), localizer.localize(query(i, camera=double))
        moved.append(np.linalg.norm(plain.T_map_cam[:3, 3] - fine.T_map_cam[:3, 3]))
        # Averaging pixels is not rendering: the vectors differ a little, and one swapped candidate moves the search.
        a, b = (localizer.image_vector(tiny_drive.picture(POSES[i], c)) for c in (tiny_drive.CAMERA, double))
        assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) > 0.99
        assert fine.score == pytest.approx(plain.score, abs=0.05)
    assert np.median(moved) < 0.4 and max(moved) < 2.0


def test_a_prior_saves_steps_and_leads_to_the_same_place(localizer):
    covariance = np.diag([0.3**2, 0.3**2, 0.05**2, 0.005**2, 0.005**2, 0.02**2])
    near = POSES[2] @ make_transform(np.eye(3), np.array([0.2, 0.0, 0.3]))
    prior = PosePrior(near, covariance)
    whole = localizer.localize(query(2), keep_candidates=True)
    led = localizer.localize(query(2, prior=prior), keep_candidates=True)
    assert len(led.candidates) < len(whole.candidates)
    spread = led.candidates[0].T_map_cam[:, :3, 3].std(axis=0)
    np.testing.assert_allclose(spread[:2], 0.3 * localizer.settings.prior_sigmas, rtol=0.35)
    assert np.linalg.norm(led.T_map_cam[:3, 3] - POSES[2][:3, 3]) < 2.5


def test_the_nearest_training_image_is_named(localizer):
    references = localizer.reference_poses()
    assert references.shape == (40, 4, 4)
    distances = []
    for i in range(len(POSES)):
        row = int(localizer.localize(query(i)).diagnostics["nearest_reference"])
        distances.append(np.linalg.norm(references[row][:3, 3] - POSES[i][:3, 3]))
    assert np.median(distances) < 2.5  # training frames stand 1.9 m apart


def test_search_settings_may_change_at_run_time(town_map):
    fewer = load_localizer(
        town_map, "cpu", settings={"candidates": 64, "refinements": 2, "components": 8, "averaged": 8}
    )
    estimate = fewer.localize(query(), keep_candidates=True)
    assert [len(step.scores) for step in estimate.candidates] == [64, 64]
    more = load_localizer(town_map, "cpu", settings={"candidates": 200})
    assert [len(step.scores) for step in more.localize(query(), keep_candidates=True).candidates] == [128, 200, 200]


def test_bfloat16_is_a_setting_and_stays_close(town_map, localizer):
    rounded = load_localizer(town_map, "cpu", settings={"precision": "bfloat16"})
    assert rounded.precision == torch.bfloat16 and localizer.precision == torch.float32
    moved = []
    for i in range(len(POSES)):
        a, b = rounded.localize(query(i)), localizer.localize(query(i))
        moved.append(np.linalg.norm(a.T_map_cam[:3, 3] - b.T_map_cam[:3, 3]))
        assert a.score == pytest.approx(b.score, abs=0.03)
    assert np.median(moved) < 0.8 and max(moved) < 4.0  # another rounding is like another seed


def test_grid_candidates_in_the_map(tmp_path):
    path = untrained(tmp_path / "grid", search={"initial": "grid"})
    estimate = load_localizer(path, "cpu").localize(query(), keep_candidates=True)
    assert len(estimate.candidates[0].scores) == 48


# -- state and covariance ---------------------------------------------------------------------------


def test_the_state_follows_the_score(tmp_path, town_map, localizer):
    score = localizer.localize(query(1)).score
    wide = {"localized_sigma_m": 1e3, "lost_sigma_m": 1e4}
    for number, (least, state) in enumerate(
        [(0.95 * score, "LOCALIZED"), (1.2 * score, "DEGRADED"), (2.5 * score, "LOST")]
    ):
        path = tmp_path / str(number)
        shutil.copytree(town_map, path)

        def demand(manifest, least=least):
            manifest["calibration"]["map"]["min_score"] = least

        tiny_drive.edited(path, demand)
        found = load_localizer(path, "cpu", settings=wide).localize(query(1))
        assert found.claimed.value == state and found.awaits_track is (state == "LOCALIZED")


# -- several scenes -----------------------------------------------------------------------------------


def test_two_scenes_named_and_unnamed(tmp_path):
    path = untrained(tmp_path / "map", scenes=("north", "south"))
    found = load_localizer(path, "cpu")
    for name in ("north", "south"):
        assert found.localize(query(scene=name)).scene == name
    assert found.localize(query()).scene in ("north", "south")
    north, south = (found.image_vector(query().image_rgb, name) for name in ("north", "south"))
    assert not torch.equal(north, south)


@pytest.mark.parametrize("best", ["north", "south"])
def test_without_a_name_scores_count_in_units_of_their_scene(tmp_path, best):
    calibration = {name: {"score_mean": -3.0 if name == best else 3.0, "score_spread": 0.5} for name in
                   ("north", "south")}  # fmt: skip
    path = untrained(tmp_path / "map", scenes=("north", "south"), calibration=calibration)
    assert load_localizer(path, "cpu").localize(query()).scene == best


# -- damaged maps -------------------------------------------------------------------------------------

FIRST = "pose_encoders.0.linears.0.weight"


def drop(tensors):
    del tensors[FIRST]


def reshape(tensors):
    tensors[FIRST] = tensors[FIRST][:, :-1]


def add(tensors):
    tensors["stranger"] = torch.zeros(2)


def poison(tensors):
    tensors[FIRST][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "match"),
    [(drop, "linears"), (reshape, "expected shape"), (add, "stranger"), (poison, "finite")],
)
def test_weights_that_do_not_fit(tmp_path, town_map, change, match):
    path = tiny_drive.rewritten(town_map, tmp_path / "map", WEIGHTS_FILE, change)
    with pytest.raises(MapTensorError, match=match):
        load_localizer(path, "cpu")


def test_a_network_larger_than_its_weights_takes_no_memory(copy, monkeypatch):
    """Within the allowed ranges a manifest can still ask for gigabytes: shapes are compared before they are taken."""
    made = []
    original = ImPosingNetwork.__init__

    def watched(self, *args, **kwargs):
        original(self, *args, **kwargs)
        made.append({p.device.type for p in self.parameters()})

    monkeypatch.setattr(ImPosingNetwork, "__init__", watched)
    tiny_drive.edited(copy, lambda m: m["settings"]["network"].update(hidden=4096, layers=16, embed_dim=4096))
    with pytest.raises(MapTensorError, match="expected shape"):
        load_localizer(copy, "cpu")
    assert made == [{"meta"}]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("map.poses"),
        lambda t: t.pop("map.signatures"),
        lambda t: t.update({"map.poses": t["map.poses"][:, :6]}),
        lambda t: t.update({"map.poses": t["map.poses"].double()}),
        lambda t: t.update({"map.signatures": t["map.signatures"][:-1]}),
        lambda t: t.update({k: v[:5] for k, v in t.items()}),
        lambda t: t.update({"map.signatures": t["map.signatures"] * float("inf")}),
    ],
)
def test_candidates_that_do_not_fit(tmp_path, town_map, change):
    path = tiny_drive.rewritten(town_map, tmp_path / "map", CANDIDATES_FILE, change)
    with pytest.raises(MapTensorError):
        load_localizer(path, "cpu")


@pytest.fixture
def copy(tmp_path, town_map) -> Path:
    return Path(shutil.copytree(town_map, tmp_path / "copy"))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["settings"]["network"].update(backbone="resnet_of_mine"),
        lambda m: m["settings"]["network"].update(backbone="hf_hub:somebody/something"),
        lambda m: m["settings"]["network"].update(backbone="local-dir:/etc"),
        lambda m: m["settings"]["network"]["backbone_options"].update(checkpoint_path="/etc/passwd"),
        lambda m: m["settings"]["network"].update(embed_dim=-1),
        lambda m: m["settings"]["network"].update(embed_dim=1 << 40),
        lambda m: m["settings"]["network"].update(hidden=65536, layers=64),
        lambda m: m["settings"]["network"].update(pool_grid=[4096, 4096]),
        lambda m: m["settings"]["search"].update(candidates="many"),
        lambda m: m["preprocessing"].clear(),
    ],
)
def test_a_manifest_that_does_not_make_sense(copy, change):
    tiny_drive.edited(copy, change)
    with pytest.raises((MapError, ConfigError), match=r"\w"):
        load_localizer(copy, "cpu")
