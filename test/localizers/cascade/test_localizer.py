from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
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
from vloc_ros.localizers.calibration import SceneCalibration
from vloc_ros.localizers.cascade.bundle import MEMBERS_FILE, write_cascade
from vloc_ros.localizers.cascade.localizer import FAILURES, CascadeLocalizer
from vloc_ros.localizers.cascade.settings import CascadeSettings
from vloc_ros.localizers.device import Clock
from vloc_ros.maps import MapManifest, Scene, pack_map, read_map, write_map
from vloc_ros.types import CameraModel, Estimate, LocalizationState, Matches, PosePrior, Query

CAMERA = tiny_drive.CAMERA
IMAGE = tiny_drive.picture(tiny_drive.circle(4)[0])
LOCALIZED, DEGRADED, LOST = LocalizationState.LOCALIZED, LocalizationState.DEGRADED, LocalizationState.LOST


@dataclass(frozen=True)
class Knobs:
    knob: int = 0


@dataclass(frozen=True)
class Judged:
    radius_px: float = 3.0
    rival: float = 0.6


@dataclass(frozen=True)
class JudgeKnobs:
    knob: int = 0
    judge: Judged = field(default_factory=Judged)


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
        diagnostics = {"x": float(T[0, 3])} | ({"position_sigma_m": self.sigma} if self.known else {})
        clock.lap("work")
        return Hypothesis(
            query.scene or "town", T, 0.5, covariance=covariance, state=self.state, diagnostics=diagnostics
        )


class Coarse(Answering):
    backend = "coarse_one"
    asked: ClassVar[list[Query]] = []


class Fine(Answering):
    backend = "fine_one"
    sees_points = True
    asked: ClassVar[list[Query]] = []
    moved, turned, problem, sigma, supported = (0.4, 0.0, 0.0), 0.0, None, 0.05, True

    def is_supported(self, diagnostics: Mapping[str, float]) -> bool:
        return self.supported is True or diagnostics["x"] == self.supported

    def pose(self, query: Query) -> np.ndarray:
        if self.problem is not None:
            raise self.problem
        assert query.prior is not None
        T = query.prior.T_map_cam.copy()
        T[:3, 3] += self.moved
        T[:3, :3] = so3_exp(np.array([0.0, 0.0, np.radians(self.turned)])) @ T[:3, :3]
        return T


class Judge(Answering):
    """Supports what is within ``reach`` of ``place``, and finds the place itself where it may search."""

    backend = "features"
    asked: ClassVar[list] = []
    settings_class = JudgeKnobs
    place, reach, sigma, supported, rivalry, finds, known = (0.0, 0.0, 0.0), 0.3, 0.04, LOCALIZED, 0.0, True, True

    def find(self, query, clock, keep_candidates):
        raise AssertionError("a judge is asked by localize_from")

    def reduced_camera(self, camera):
        return camera

    def localize_from(self, query, proposals, keep_candidates=False, search=False):
        type(self).asked.append((query, tuple(proposals), search))
        near = [p for p in proposals if np.linalg.norm(p.T_map_cam[:3, 3] - self.place) <= self.reach]
        T, state = np.eye(4), self.supported if near or (search and self.finds) else LOST
        T[:3, 3] = self.place
        matches = Matches(*seen_at(T), np.ones(40, dtype=bool))
        about = {"rivalry": self.rivalry} | ({"position_sigma_m": self.sigma} if self.known else {})
        return Estimate(
            query.stamp_ns, T, np.eye(6) * self.sigma**2, 0.8, state, "features", self.map_id, query.scene or "town",
            (), {"work": 1.0}, about, matches,
        )  # fmt: skip


def seen_at(T):
    """Points all over the image of a camera at T, 4 to 8 m away, and where it sees them."""
    pixels = np.stack(np.meshgrid(np.linspace(2, 61, 8), np.linspace(2, 33, 5)), -1).reshape(-1, 2)
    rays = (pixels - (CAMERA.cx, CAMERA.cy)) / (CAMERA.fx, CAMERA.fy)
    depth = np.linspace(4.0, 8.0, 40)[:, None]
    return np.concatenate([rays * depth, depth], 1) @ T[:3, :3].T + T[:3, 3], pixels


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
    module.Coarse, module.Fine, module.Judge = Coarse, Fine, Judge
    monkeypatch.setitem(sys.modules, "cascade_members", module)
    monkeypatch.setitem(registry.BUILT_IN, "coarse_one", "cascade_members:Coarse")
    monkeypatch.setitem(registry.BUILT_IN, "fine_one", "cascade_members:Fine")
    monkeypatch.setitem(registry.BUILT_IN, "features", "cascade_members:Judge")
    for cls in (Coarse, Fine, Judge):
        monkeypatch.setattr(cls, "asked", [])
    return monkeypatch


@pytest.fixture
def cascade(tmp_path, backends):
    member(tmp_path / "maps" / "a", "coarse_one")
    member(tmp_path / "maps" / "b", "fine_one")
    return write_cascade(tmp_path / "maps" / "both", [tmp_path / "maps" / "a", tmp_path / "maps" / "b"])


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
        ({"Fine.supported": False}, {}, "unsupported"),
    ],
)
def test_falls_back_to_the_coarse_estimate_and_says_so(cascade, backends, changes, settings, why):
    for name, value in changes.items():
        cls, _, attribute = name.partition(".")
        backends.setattr({"Coarse": Coarse, "Fine": Fine}[cls], attribute, value)
    estimate = ask(cascade, settings)
    np.testing.assert_array_equal(estimate.T_map_cam, np.eye(4))
    assert estimate.covariance[0, 0] == pytest.approx(Coarse.sigma**2)
    # Where the refinement was tried and found nothing of the map, the coarse estimate is in doubt, too.
    doubted = why in ("fine_lost", "outside_gate", "unsupported") and Coarse.state is LOCALIZED
    assert estimate.claimed is (DEGRADED if doubted else Coarse.state) and estimate.diagnostics["refined"] == 0.0
    assert estimate.state is not LOCALIZED, "the coarse map has no points"
    assert estimate.diagnostics["refinement_failure"] == FAILURES[why]


def test_other_proposals_are_tried_where_the_first_is_not_borne_out(cascade, backends):
    """Two more places, of which the fine localizer finds the map at the second."""

    def hypotheses(self, query, count):
        first = self.localize(query)
        places = [first.T_map_cam.copy() for _ in range(2)]
        for place, x in zip(places, (50.0, 80.0), strict=True):
            place[0, 3] = x
        return [first, *(replace(first.with_state(DEGRADED), T_map_cam=place) for place in places)][:count]

    backends.setattr(Coarse, "hypotheses", hypotheses)
    backends.setattr(Fine, "supported", 80.4)
    found = ask(cascade)
    assert found.T_map_cam[0, 3] == pytest.approx(80.4) and found.state is LOCALIZED
    assert found.diagnostics["proposal"] == 1.0 and found.diagnostics["refined"] == 1.0
    assert ask(cascade, {"hypotheses": 2}).state is DEGRADED, "the second place is not reached"
    backends.setattr(Fine, "supported", 0.4)
    assert ask(cascade).diagnostics["proposal"] == 0.0


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


def test_settings_of_a_member_are_changed_one_by_one():
    stored = {"cascade": {"fine": {"references": 3}, "hypotheses": 2}}
    bundle = SimpleNamespace(path="map", manifest=SimpleNamespace(settings=stored))
    found = CascadeLocalizer.merged_settings(bundle, {"fine": {"radius_m": 9.0}})
    assert found.fine == {"references": 3, "radius_m": 9.0} and found.hypotheses == 2
    assert CascadeLocalizer.merged_settings(bundle, {"fine": {"references": 5}}).fine == {"references": 5}


def test_settings_reach_the_members(cascade):
    ask(cascade, {"coarse": {"knob": 1}})
    with pytest.raises(ConfigError, match="unknown"):
        ask(cascade, {"fine": {"nob": 1}})
    with pytest.raises(ConfigError, match="gate_sigmas"):
        ask(cascade, {"gate_sigmas": -1.0})


def test_scenes_by_name_or_the_only_one(tmp_path, backends):
    a = member(tmp_path / "a", "coarse_one", ("town", "yard"))
    b = member(tmp_path / "b", "fine_one", ("yard",))
    both = write_cascade(tmp_path / "both", [a, b])
    assert [s.name for s in both.manifest.scenes] == ["yard"]
    assert ask(both, scene="yard").diagnostics["refined"] == 1.0
    assert ask(both).diagnostics["refinement_failure"] == FAILURES["scene_unknown"]
    c = member(tmp_path / "c", "fine_one", ("hall",))
    with pytest.raises(MapFormatError, match="scene in common"):
        write_cascade(tmp_path / "none", [a, c])
    only = member(tmp_path / "only", "coarse_one", ("town",))
    assert ask(write_cascade(tmp_path / "one", [only, c])).diagnostics["refined"] == 1.0
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
            write_cascade(tmp_path / "fine", [a, b])  # the coarse map says nothing about its place on the Earth
            continue
        with pytest.raises(MapFormatError, match=told):
            write_cascade(tmp_path / "both", [a, b])


def test_rows_of_the_references_are_those_of_the_fine_map(tmp_path, backends):
    from vloc_ros.replay.about import map_references

    a = member(tmp_path / "a", "coarse_one", ("town",))
    manifest = read_map(member(tmp_path / "b", "fine_one", ("hall",))).manifest
    poses = torch.zeros(3, 7)
    poses[:, 6] = 1.0
    fine = write_map(tmp_path / "c", manifest, {"references.safetensors": {"hall.poses": poses}})
    both = write_cascade(tmp_path / "both", [a, fine.path])
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
    with pytest.raises(MapNotFoundError, match=r"fine: expected a map at b, .*vloc map cascade"):
        ask(read_map(moved / "both"))
    with pytest.raises(MapFormatError, match="another cascade"):
        write_cascade(tmp_path / "deeper", [moved / "a", moved / "both"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "members"),
        ("coarse: {path: a, sha256: x}", "members"),
        ("coarse: {path: /etc, sha256: x}\nfine: {path: b, sha256: x}", "relative path"),
        ("coarse: {path: 3, sha256: x}\nfine: {path: b, sha256: x}", "relative path"),
        ("coarse: [", "YAML"),
        ("coarse: {path: a, sha256: x}\nsurer: {path: b, sha256: x}", "members of coarse, features, fine"),
        (
            f"features: {{path: a, sha256: {'a' * 64}}}\nfine: {{path: b, sha256: {'a' * 64}}}",
            "expected a map of features, found one of",
        ),
        ('coarse: {path: a, sha256: "two\\nlines"}\nfine: {path: b, sha256: x}', "relative path.*sha256"),
    ],
)
def test_bad_members_file(cascade, tmp_path, text, told):
    bad = write_map(tmp_path / "maps" / "bad", cascade.manifest, {}, extra_files={MEMBERS_FILE: text.encode()})
    with pytest.raises(MapFormatError, match=told) as told_of:
        ask(bad)
    assert "\n" not in str(told_of.value)


def test_two_cascades_are_two_maps(cascade, tmp_path):
    other = member(tmp_path / "maps" / "c", "fine_one", value=2.0)
    assert write_cascade(tmp_path / "maps" / "two", [tmp_path / "maps" / "a", other]).id != cascade.id
    assert cascade.manifest.settings["cascade"]["gate_sigmas"] == CascadeSettings().gate_sigmas


# -- with a judge ---------------------------------------------------------------------------------


@pytest.fixture
def chain(tmp_path, backends):
    """A coarse map, a judge and a fine map; the fine one stands 3 cm beside where it began."""
    folder = tmp_path / "chain"
    backends.setattr(Fine, "moved", (0.03, 0.0, 0.0))
    backends.setattr(Fine, "sigma", 0.04)
    maps = [member(folder / name, backend) for name, backend in CHAIN]
    return write_cascade(folder / "all", maps)


CHAIN = (("a", "coarse_one"), ("j", "features"), ("b", "fine_one"))


def test_proposed_judged_and_refined(chain):
    estimate = ask(chain)
    assert estimate.state is LOCALIZED and estimate.diagnostics["refined"] == 1.0
    (_, proposals, search), prior = Judge.asked[0], Fine.asked[0].prior
    np.testing.assert_array_equal(proposals[0].T_map_cam, np.eye(4))
    assert search, "a place that looks the same elsewhere is found only by looking for it"
    np.testing.assert_allclose(prior.covariance, np.eye(6) * 0.04**2, err_msg="the fine one begins at the judge's pose")
    # Equally sure of themselves: the middle, and no surer than either of them.
    np.testing.assert_allclose(estimate.T_map_cam[:3, 3], (0.015, 0.0, 0.0), atol=1e-9)
    np.testing.assert_allclose(estimate.covariance, np.eye(6) * 0.04**2, atol=1e-12)
    assert estimate.matches is not None and len(estimate.matches.points) == 40
    assert {"coarse_work", "features_work", "fine_work"} <= set(estimate.timings_ms)


def test_the_covariance_follows_what_is_combined(chain, backends):
    backends.setattr(Fine, "sigma", 0.01)
    sure = ask(chain)
    np.testing.assert_allclose(sure.T_map_cam[:3, 3], (0.03 * 16 / 17, 0.0, 0.0), atol=1e-9)
    assert 0.01**2 < sure.covariance[0, 0] < 1.46 * 0.01**2
    backends.setattr(Fine, "sigma", 20.0)
    np.testing.assert_allclose(ask(chain).covariance, np.eye(6) * 0.04**2, rtol=0.01, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "settings", "why"),
    [
        ({"problem": MapTensorError("a tile is altered")}, {}, "fine_refused"),
        ({"state": LOST}, {}, "fine_lost"),
        ({"moved": (0.4, 0.0, 0.0)}, {}, "outside_gate"),
        ({"moved": (2.5, 0.0, 0.0), "sigma": 0.9}, {}, "unsupported"),
        ({}, {"fine_pose": "never"}, "no_fine"),
    ],
)
def test_what_the_judge_supports_stands_when_refinement_fails(chain, backends, changes, settings, why):
    for name, value in changes.items():
        backends.setattr(Fine, name, value)
    estimate = ask(chain, settings)
    np.testing.assert_array_equal(estimate.T_map_cam, np.eye(4))
    assert estimate.state is LOCALIZED and estimate.covariance[0, 0] == pytest.approx(0.04**2)
    assert estimate.diagnostics["refined"] == 0.0 and estimate.diagnostics["refinement_failure"] == FAILURES[why]


def test_the_better_evidence(chain, backends):
    assert ask(chain, {"fine_pose": "better"}).diagnostics["judged_share"] == 1.0, "3 cm off, no point fits better"
    backends.setattr(Fine, "moved", (0.0, 0.0, 0.0))
    backends.setattr(Judge, "place", (0.0, 0.0, 0.0))
    assert ask(chain, {"fine_pose": "better"}).diagnostics["judged_share"] == 1.0, "no better than equal"


def test_nothing_is_localized_without_the_judge(chain, backends):
    """However sure coarse and fine are, and though they agree."""
    backends.setattr(Judge, "finds", False)
    backends.setattr(Judge, "place", (50.0, 0.0, 0.0))
    estimate = ask(chain)
    assert estimate.state is DEGRADED and estimate.diagnostics["refinement_failure"] == FAILURES["unsupported"]
    np.testing.assert_array_equal(estimate.T_map_cam, np.eye(4))
    backends.setattr(Coarse, "state", LOST)
    assert ask(chain).state is LOST
    backends.setattr(Coarse, "state", LOCALIZED)
    backends.setattr(Coarse, "sigma", 11.0)
    assert ask(chain).state is LOST, "too wide to be proposed"


def test_two_places_that_look_the_same_are_lost(chain, backends):
    backends.setattr(Judge, "supported", LOST)
    backends.setattr(Judge, "rivalry", 0.95)
    assert ask(chain).state is LOST, "the coarse localizer cannot tell them apart either"
    assert not Fine.asked


def test_what_is_too_far_off_to_be_matched_is_refined_first(chain, backends):
    backends.setattr(Judge, "finds", False)
    backends.setattr(Judge, "place", (0.9, 0.0, 0.0))
    backends.setattr(Fine, "moved", (0.9, 0.0, 0.0))
    estimate = ask(chain, {"fine_pose": "never"})
    assert estimate.state is LOCALIZED and estimate.diagnostics["rescued"] == 1.0
    np.testing.assert_allclose(estimate.T_map_cam[:3, 3], (0.9, 0.0, 0.0))
    assert ask(chain, {"rescue": False}).state is DEGRADED


def test_a_prior_needs_no_proposer(chain, backends):
    prior = PosePrior(np.eye(4), np.eye(6) * 0.01)
    assert ask(chain, prior=prior).state is LOCALIZED
    assert not Coarse.asked and [search for _, _, search in Judge.asked] == [False]
    backends.setattr(Judge, "place", (3.0, 0.0, 0.0))
    assert ask(chain, prior=prior).state is LOCALIZED, "a wrong prior is forgotten"
    assert len(Coarse.asked) == 1 and Coarse.asked[0].prior is None


def test_a_judge_may_propose_itself(tmp_path, backends):
    judge, fine = member(tmp_path / "j", "features"), member(tmp_path / "b", "fine_one")
    backends.setattr(Fine, "moved", (0.0, 0.0, 0.0))
    estimate = ask(write_cascade(tmp_path / "two", [judge, fine]))
    assert estimate.state is LOCALIZED and estimate.diagnostics["refined"] == 1.0
    coarse = member(tmp_path / "a", "coarse_one")
    estimate = ask(write_cascade(tmp_path / "judged", [coarse, judge]))
    assert estimate.state is LOCALIZED and estimate.diagnostics["refinement_failure"] == FAILURES["no_fine"]
    assert "features" in read_map(tmp_path / "judged").manifest.provenance


def test_chains_that_cannot_be(tmp_path, backends):
    maps = {name: member(tmp_path / name, backend) for name, backend in CHAIN}
    for names in ("a", "j", "jj", "aab", "aaj", "jbb", ""):
        with pytest.raises(MapFormatError, match="in this order"):
            write_cascade(tmp_path / "none", [maps[name] for name in names])


def test_members_of_another_frame_or_datum(tmp_path, backends):
    here, there = Datum(48.0, 11.0, 500.0), Datum(49.0, 11.0, 500.0)
    a = member(tmp_path / "a", "coarse_one", datum=here)
    j = member(tmp_path / "j", "features")
    with pytest.raises(MapFormatError, match="one datum"):
        write_cascade(tmp_path / "none", [a, j, member(tmp_path / "b", "fine_one", datum=there)])
    with pytest.raises(MapFormatError, match="one frame"):
        write_cascade(tmp_path / "none", [a, member(tmp_path / "u", "features", frame="utm")])


def test_a_judge_that_is_gone(chain, tmp_path):
    (tmp_path / "chain" / "j").rename(tmp_path / "chain" / "gone")
    with pytest.raises(MapNotFoundError, match="features: expected a map at j"):
        ask(chain)


def test_unjudged_an_unfamiliar_place_is_not_localized(cascade, backends):
    """However well the refinement has converged."""
    assert ask(cascade).state is LOCALIZED
    assert ask(cascade, {"unjudged": "degraded"}).state is DEGRADED
    backends.setattr(Coarse, "read_calibration", lambda self, bundle, scene: SceneCalibration(min_score=0.6))
    estimate = ask(cascade)
    assert estimate.state is DEGRADED and estimate.diagnostics["refined"] == 1.0
    # Of a map that could be calibrated and is not nobody knows what is familiar.
    backends.setattr(Coarse, "read_calibration", lambda self, bundle, scene: SceneCalibration())
    backends.setattr(Coarse, "statistics", ("spread",))
    assert ask(cascade).state is DEGRADED


def test_without_calibration_the_error_of_the_map_is_counted_once(chain, backends):
    floor = np.eye(6) * 0.03**2
    for cls in (Judge, Fine):
        backends.setattr(cls, "shared_floor", floor)
        backends.setattr(cls, "known", False)
    backends.setattr(Judge, "sigma", 0.05)
    backends.setattr(Fine, "sigma", np.hypot(0.03, 0.01))
    estimate = ask(chain)
    # 4 cm and 1 cm above the floor: weights 1 and 16.
    np.testing.assert_allclose(estimate.T_map_cam[0, 3], 0.03 * 16 / 17, rtol=1e-4)
    assert np.hypot(0.03, 0.01) <= np.sqrt(estimate.covariance[0, 0]) <= np.hypot(0.03, 0.0125)
