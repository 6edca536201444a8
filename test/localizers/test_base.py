from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

import vloc_ros
from vloc_ros.errors import (
    CameraMismatchError,
    ConfigError,
    ImageError,
    LocalizerClosedError,
    MapBackendError,
)
from vloc_ros.geometry.rotations import rotation_angle, so3_exp
from vloc_ros.localizers import available_backends, load_localizer, select_device
from vloc_ros.localizers import base as registry
from vloc_ros.types import CameraModel, CandidateStep, Estimate, LocalizationState, Query

pytestmark = pytest.mark.usefixtures("fake_backend")
MakeMap = Callable[..., Path]
CAMERA = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)
IMAGE = np.zeros((48, 64, 3), np.uint8)


def test_library_call(make_map: MakeMap) -> None:
    localizer = vloc_ros.load_localizer(make_map(), device="cpu")
    estimate = localizer.localize(Query(IMAGE, CAMERA, 5))
    assert estimate.T_map_cam[0, 3] == 7.0
    assert estimate.map_id == localizer.map_id
    assert localizer.device == torch.device("cpu")


def test_settings_override_the_map(make_map: MakeMap) -> None:
    path = make_map(settings={"score": 0.2})
    assert load_localizer(path, "cpu").settings.score == 0.2
    assert load_localizer(path, "cpu", settings={"score": 0.3}).settings.score == 0.3
    with pytest.raises(ConfigError, match="scroe"):
        load_localizer(path, "cpu", settings={"scroe": 0.3})


def test_map_of_another_backend(make_map: MakeMap) -> None:
    path = make_map()
    assert load_localizer(path, "cpu", backend="fake").backend == "fake"
    with pytest.raises(MapBackendError, match=r"'imposing'.*'fake'"):
        load_localizer(path, "cpu", backend="imposing")
    with pytest.raises(ConfigError, match="unheard_of"):
        load_localizer(path, "cpu", backend="unheard_of")
    with pytest.raises(MapBackendError, match="not installed"):
        load_localizer(make_map("stranger"), "cpu")


@pytest.mark.parametrize(
    "value", ["fake_localizer_module:Missing", "fake_localizer_module:NotALocalizer", "absent_module:X"]
)
def test_broken_registration(make_map: MakeMap, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    path = make_map()
    monkeypatch.setitem(registry.BUILT_IN, "fake", value)
    with pytest.raises(ConfigError, match="'fake'"):
        load_localizer(path, "cpu")


def test_third_parties_plug_in(make_map: MakeMap, monkeypatch: pytest.MonkeyPatch) -> None:
    group = registry.BACKENDS.group
    point = metadata.EntryPoint("third_party", "fake_localizer_module:FakeLocalizer", group)
    thief = metadata.EntryPoint("imposing", "fake_localizer_module:FakeLocalizer", group)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point, thief])
    assert load_localizer(make_map("third_party"), "cpu").localize(Query(IMAGE, CAMERA, 1)).stamp_ns == 1
    assert available_backends()[-1] == "third_party"
    assert registry.backend_class("imposing").backend == "imposing", "built-in names cannot be taken over"


def test_built_in_table_points_at_classes() -> None:
    for name in registry.BUILT_IN:
        assert registry.backend_class(name).backend == name


def test_camera_is_checked(make_map: MakeMap) -> None:
    localizer = load_localizer(make_map(), "cpu")
    twice = CameraModel(128, 96, 100.0, 100.0, 63.5, 47.5)
    localizer.check_camera(twice)
    with pytest.raises(CameraMismatchError, match="field of view"):
        localizer.check_camera(CameraModel(64, 48, 80.0, 80.0, 31.5, 23.5))


@pytest.mark.parametrize("image", [IMAGE[:, :32], IMAGE.astype(np.float32), IMAGE[..., 0]])
def test_image_is_checked(make_map: MakeMap, image: np.ndarray) -> None:
    with pytest.raises(ImageError):
        load_localizer(make_map(), "cpu").localize(Query(image, CAMERA, 1))


def test_warm_up_and_close(make_map: MakeMap) -> None:
    with load_localizer(make_map(), "cpu") as localizer:
        localizer.warm_up()
    localizer.close()
    for use in (localizer.warm_up, lambda: localizer._pose):  # type: ignore[attr-defined]
        with pytest.raises(LocalizerClosedError, match="fake"):
            use()
    assert localizer.manifest.backend == "fake", "what it was stays known"


def test_select_device_falls_back_only_for_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == select_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "cuda:7"):
        with pytest.raises(ConfigError, match="no CUDA device"):
            select_device(name)


def test_select_device_that_is_visible_but_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "ones", broken)
    assert select_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no kernel image"):
        select_device("cuda:0")
    with pytest.raises(ConfigError, match="only 1"):
        select_device("cuda:1")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"])
def test_select_device_refuses_other_words(name: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        select_device(name)


def test_other_places_are_the_best_candidates_outside_the_radii_of_better_ones(make_map: MakeMap) -> None:
    """Against one pair at a time."""
    rng = np.random.default_rng(3)
    poses = np.tile(np.eye(4), (300, 1, 1))
    poses[:, :2, 3] = rng.uniform(0, 12, (300, 2))
    poses[:, :3, :3] = so3_exp(np.stack([*np.zeros((2, 300)), rng.choice([0.0, 1.0, np.pi], 300)], axis=1))
    scores = rng.uniform(size=300).round(2)
    step = CandidateStep(poses, scores, np.arange(1))
    first = Estimate(1, poses[0], np.eye(6), 0.5, LocalizationState.LOCALIZED, "b", "m", "s", (step,))

    localizer, expected = load_localizer(make_map(), "cpu"), [poses[0]]
    radius_m, radius_rad = localizer.hypothesis_radius[0], np.radians(localizer.hypothesis_radius[1])
    for T in poses[np.argsort(-scores, kind="stable")]:
        apart = [(np.linalg.norm(T[:3, 3] - p[:3, 3]), rotation_angle(T[:3, :3], p[:3, :3])) for p in expected]
        if len(expected) < 9 and all(m > radius_m or a > radius_rad for m, a in apart):
            expected.append(T)
    found = localizer.distinct(first, 9, slice(None))
    np.testing.assert_allclose([e.T_map_cam for e in found], expected)
    assert [e.state for e in found] == [LocalizationState.LOCALIZED] + 8 * [LocalizationState.DEGRADED]
