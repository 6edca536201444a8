from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import tiny_drive
import torch

import vloc_ros
from vloc_ros.errors import (
    CameraMismatchError,
    ConfigError,
    MapChecksumError,
    MapFormatError,
    MapNotFoundError,
    MapTensorError,
)
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.localizers import base as registry
from vloc_ros.localizers.base import Hypothesis, Localizer
from vloc_ros.localizers.cascade.bundle import MEMBERS_FILE, write_cascade
from vloc_ros.localizers.cascade.localizer import FAILURES
from vloc_ros.localizers.cascade.settings import CascadeSettings
from vloc_ros.localizers.device import Clock
from vloc_ros.maps import MapManifest, Scene, pack_map, read_map, write_map
from vloc_ros.types import CameraModel, LocalizationState, Query

CAMERA = tiny_drive.CAMERA
IMAGE = tiny_drive.picture(tiny_drive.circle(4)[0])
LOCALIZED, DEGRADED, LOST = LocalizationState.LOCALIZED, LocalizationState.DEGRADED, LocalizationState.LOST


@dataclass(frozen=True)
class Knobs:
    knob: int = 0


class Answering(Localizer):
    """Answers what its class was told to; the fine one stands beside its prior by ``moved``."""

    position, sigma, state, known = np.zeros(3), 1.0, LOCALIZED, True
    asked: ClassVar[list[Query]] = []
    settings_class = Knobs

    def pose(self, query: Query) -> np.ndarray:
        T = np.eye(4)
        T[:3, 3] = self.position
        return T

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        type(self).asked.append(query)
        T, covariance = self.pose(query), np.eye(6) * self.sigma**2
        diagnostics = {"position_sigma_m": self.sigma} if self.known else {}
        clock.lap("work")
        return Hypothesis(
            query.scene or "town", T, 0.5, covariance=covariance, state=self.state, diagnostics=diagnostics
        )


class Coarse(Answering):
    backend = "coarse_one"
    asked: ClassVar[list[Query]] = []


class Fine(Answering):
    backend = "fine_one"
    asked: ClassVar[list[Query]] = []
    moved, turned, problem, sigma = (0.4, 0.0, 0.0), 0.0, None, 0.05

    def pose(self, query: Query) -> np.ndarray:
        if self.problem is not None:
            raise self.problem
        assert query.prior is not None
        T = query.prior.T_map_cam.copy()
        T[:3, 3] += self.moved
        T[:3, :3] = so3_exp(np.array([0.0, 0.0, np.radians(self.turned)])) @ T[:3, :3]
        return T


def member(path, backend, scenes=("town",), area=(0.0, 9.0), datum=None, value=0.0, frame="map"):
    manifest = MapManifest(
        backend,
        tuple(Scene(s, frame, (area[0],) * 3, (area[1],) * 3, datum) for s in scenes),
        CAMERA,
        preprocessing=tiny_drive.preprocess().settings(),
    )
    return write_map(path, manifest, {"w.safetensors": {"w": torch.full((2,), value)}}, overwrite=path.exists()).path


@pytest.fixture
def backends(monkeypatch):
    import sys
    import types

    module = types.ModuleType("cascade_members")
    module.Coarse, module.Fine = Coarse, Fine
    monkeypatch.setitem(sys.modules, "cascade_members", module)
    monkeypatch.setitem(registry.BUILT_IN, "coarse_one", "cascade_members:Coarse")
    monkeypatch.setitem(registry.BUILT_IN, "fine_one", "cascade_members:Fine")
    for cls in (Coarse, Fine):
        monkeypatch.setattr(cls, "asked", [])
    return monkeypatch


@pytest.fixture
def cascade(tmp_path, backends):
    member(tmp_path / "maps" / "a", "coarse_one")
    member(tmp_path / "maps" / "b", "fine_one")
    return write_cascade(tmp_path / "maps" / "both", tmp_path / "maps" / "a", tmp_path / "maps" / "b")


def ask(bundle, settings=None, **query):
    with vloc_ros.load_localizer(bundle.path, "cpu", "cascade", settings) as localizer:
        return localizer.localize(Query(IMAGE, CAMERA, 7, **query))


def test_coarse_then_fine(cascade):
    estimate = ask(cascade)
    np.testing.assert_allclose(estimate.T_map_cam[:3, 3], (0.4, 0.0, 0.0))
    assert (estimate.backend, estimate.map_id, estimate.scene) == ("cascade", cascade.id, "town")
    assert estimate.diagnostics["refined"] == 1.0 and estimate.diagnostics["refinement_failure"] == 0.0
    assert estimate.diagnostics["refinement_m"] == pytest.approx(0.4)
    assert set(estimate.timings_ms) == {"coarse_work", "coarse_assess", "fine_work", "fine_assess", "assess"}
    prior = Fine.asked[0].prior
    np.testing.assert_array_equal(prior.covariance, np.eye(6))
    np.testing.assert_allclose(estimate.covariance, np.eye(6) * 0.0025)


@pytest.mark.parametrize(
    ("changes", "settings", "why"),
    [
        ({"Coarse.state": LOST}, {}, "coarse_lost"),
        ({"Coarse.sigma": 11.0}, {}, "coarse_unsure"),
        ({"Coarse.sigma": 2.0}, {"max_sigma_m": 1.0}, "coarse_unsure"),
        ({"Fine.problem": MapTensorError("a tile is altered")}, {}, "fine_refused"),
        ({"Fine.state": LOST}, {}, "fine_lost"),
        ({"Fine.moved": (4.5, 0.0, 0.0)}, {}, "outside_gate"),
        ({"Fine.moved": (2.0, 0.0, 0.0)}, {"gate_sigmas": 1.0}, "outside_gate"),
        ({"Coarse.sigma": 0.02, "Fine.sigma": 0.01}, {"gate_floor_m": 0.3}, "outside_gate"),
        ({"Fine.turned": 1.5, "Coarse.sigma": 0.005, "Fine.sigma": 0.001}, {"gate_floor_deg": 1.0}, "outside_gate"),
        ({"Fine.turned": 10.0, "Coarse.sigma": 0.02}, {}, "outside_gate"),
        ({"Fine.sigma": 1.5}, {}, "less_sure"),
    ],
)
def test_falls_back_to_the_coarse_estimate_and_says_so(cascade, backends, changes, settings, why):
    for name, value in changes.items():
        cls, _, attribute = name.partition(".")
        backends.setattr({"Coarse": Coarse, "Fine": Fine}[cls], attribute, value)
    estimate = ask(cascade, settings)
    np.testing.assert_array_equal(estimate.T_map_cam, np.eye(4))
    assert estimate.covariance[0, 0] == pytest.approx(Coarse.sigma**2)
    assert estimate.state is Coarse.state and estimate.diagnostics["refined"] == 0.0
    assert estimate.diagnostics["refinement_failure"] == FAILURES[why]


def test_what_may_be_believed_all_the_same(cascade, backends):
    backends.setattr(Coarse, "sigma", 0.01)
    backends.setattr(Fine, "sigma", 0.005)
    assert ask(cascade).diagnostics["refined"] == 1.0, "0.4 m pass the floor of the gate"
    backends.setattr(Fine, "sigma", 5.0)
    assert ask(cascade, {"keep_surer": False}).diagnostics["refined"] == 1.0
    backends.setattr(Fine, "known", False)
    assert ask(cascade).diagnostics["refined"] == 1.0, "without a calibration nobody knows who is surer"
    backends.setattr(Coarse, "state", LOST)
    assert ask(cascade).diagnostics["refined"] == 0.0
    assert ask(cascade, {"refine_lost": True}).diagnostics["refined"] == 1.0


def test_an_image_that_cannot_be_used_is_refused(cascade):
    other = CameraModel(64, 36, 80.0, 80.0, 31.5, 17.5)
    with vloc_ros.load_localizer(cascade.path, "cpu") as localizer, pytest.raises(CameraMismatchError):
        localizer.localize(Query(IMAGE, other, 1))
    with pytest.raises(ConfigError, match="scene"):
        ask(cascade, scene="elsewhere")


def test_settings_reach_the_members(cascade):
    ask(cascade, {"coarse": {"knob": 1}})
    with pytest.raises(ConfigError, match="unknown"):
        ask(cascade, {"fine": {"nob": 1}})
    with pytest.raises(ConfigError, match="gate_sigmas"):
        ask(cascade, {"gate_sigmas": -1.0})


def test_scenes_by_name_or_the_only_one(tmp_path, backends):
    a = member(tmp_path / "a", "coarse_one", ("town", "yard"))
    b = member(tmp_path / "b", "fine_one", ("yard",))
    both = write_cascade(tmp_path / "both", a, b)
    assert [s.name for s in both.manifest.scenes] == ["yard"]
    assert ask(both, scene="yard").diagnostics["refined"] == 1.0
    assert ask(both).diagnostics["refinement_failure"] == FAILURES["scene_unknown"]
    c = member(tmp_path / "c", "fine_one", ("hall",))
    with pytest.raises(MapFormatError, match="scene in common"):
        write_cascade(tmp_path / "none", a, c)
    only = member(tmp_path / "only", "coarse_one", ("town",))
    assert ask(write_cascade(tmp_path / "one", only, c)).diagnostics["refined"] == 1.0
    assert Fine.asked[-1].scene == "hall"


def test_maps_of_different_places_are_refused(tmp_path, backends):
    a = member(tmp_path / "a", "coarse_one")
    for changes, told in (
        ({"area": (500.0, 600.0)}, "same place"),
        ({"frame": "utm"}, "one frame"),
        ({"datum": Datum(48.0, 11.0, 500.0)}, None),
    ):
        b = member(tmp_path / "b", "fine_one", **changes)
        if told is None:
            write_cascade(tmp_path / "fine", a, b)  # the coarse map says nothing about its place on the Earth
            continue
        with pytest.raises(MapFormatError, match=told):
            write_cascade(tmp_path / "both", a, b)


def test_rows_of_the_references_are_those_of_the_fine_map(tmp_path, backends):
    from vloc_ros.replay.about import map_references

    a = member(tmp_path / "a", "coarse_one", ("town",))
    manifest = read_map(member(tmp_path / "b", "fine_one", ("hall",))).manifest
    poses = torch.zeros(3, 7)
    poses[:, 6] = 1.0
    fine = write_map(tmp_path / "c", manifest, {"references.safetensors": {"hall.poses": poses}})
    both = write_cascade(tmp_path / "both", a, fine.path)
    assert map_references(both)["town"].shape == (3, 4, 4)


def test_members_are_who_they_were(cascade, tmp_path):
    maps = tmp_path / "maps"
    moved = tmp_path / "elsewhere"
    maps.rename(moved)
    assert ask(read_map(moved / "both")).diagnostics["refined"] == 1.0, "paths are relative"
    packed = pack_map(moved / "both")
    assert ask(read_map(packed)).diagnostics["refined"] == 1.0

    # Calibrated anew it is the same map; with other tensors it is not.
    tiny_drive.edited(moved / "b", lambda m: m["validation"].update(frames=3))
    ask(read_map(moved / "both"))
    member(moved / "b", "fine_one", value=1.0)
    with pytest.raises(MapChecksumError, match=r"fine: expected the map .*vloc map cascade"):
        ask(read_map(moved / "both"))
    (moved / "b").rename(moved / "gone")
    with pytest.raises(MapNotFoundError):
        ask(read_map(moved / "both"))
    with pytest.raises(MapFormatError, match="another cascade"):
        write_cascade(tmp_path / "deeper", moved / "a", moved / "both")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "members"),
        ("coarse: {path: a, sha256: x}", "members"),
        ("coarse: {path: /etc, sha256: x}\nfine: {path: b, sha256: x}", "relative path"),
        ("coarse: {path: 3, sha256: x}\nfine: {path: b, sha256: x}", "relative path"),
        ("coarse: [", "YAML"),
    ],
)
def test_bad_members_file(cascade, tmp_path, text, told):
    bad = write_map(tmp_path / "maps" / "bad", cascade.manifest, {}, extra_files={MEMBERS_FILE: text.encode()})
    with pytest.raises(MapFormatError, match=told):
        ask(bad)


def test_two_cascades_are_two_maps(cascade, tmp_path):
    other = member(tmp_path / "maps" / "c", "fine_one", value=2.0)
    assert write_cascade(tmp_path / "maps" / "two", tmp_path / "maps" / "a", other).id != cascade.id
    assert cascade.manifest.settings["cascade"]["gate_sigmas"] == CascadeSettings().gate_sigmas
