"""What every backend promises, asked of each with a small map of its own (``test/data/maps_0_1``).

Accuracy, and what one backend alone can do, is tested in the backend's folder.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_drive

import vloc_ros
from vloc_ros.datasets import open_sequence
from vloc_ros.errors import (
    CameraMismatchError,
    ConfigError,
    ImageError,
    LocalizerClosedError,
    MapBackendError,
    MapChecksumError,
    MapError,
    MapNotFoundError,
    MapVersionError,
    VlocError,
)
from vloc_ros.geometry.cameras import cropped
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import BUILT_IN, Localizer, load_localizer
from vloc_ros.localizers.calibration import Confidence
from vloc_ros.maps import read_map
from vloc_ros.types import CameraModel, Estimate, LocalizationState, PosePrior, Query, check_covariance, check_transform

MAPS = Path(__file__).resolve().parents[1] / "data" / "maps_0_1"
DRIVE = open_sequence(MAPS / "drive")
PATHS = {name: MAPS / name if (MAPS / name).exists() else MAPS / f"{name}.vmap" for name in BUILT_IN}
NEAR = np.diag([0.25] * 3 + [0.01] * 3)

backends = pytest.mark.parametrize("backend", BUILT_IN)


def query(localizer: Localizer, index: int = 10, **changes: Any) -> Query:
    """A frame, with a prior for those who find nothing without one."""
    prior = PosePrior(DRIVE.T_map_cam[index], NEAR) if localizer.needs_prior else None
    made = Query(DRIVE.image(index), DRIVE.camera, int(DRIVE.stamps_ns[index]), prior)
    return replace(made, **changes)


def same(a: Estimate, b: Estimate) -> bool:
    """Everything but the clock's times."""
    return bool(
        np.array_equal(a.T_map_cam, b.T_map_cam)
        and np.array_equal(a.covariance, b.covariance)
        and (a.score, a.state, a.scene, a.diagnostics) == (b.score, b.state, b.scene, b.diagnostics)
    )


@pytest.fixture(scope="module")
def opened() -> Iterator[Callable[[str], Localizer]]:
    """``opened(backend)``: a localizer that the tests of this module share."""
    made: dict[str, Localizer] = {}

    def get(backend: str) -> Localizer:
        # One frame must not depend on another here: CamNet's memory of a sequence has tests of its own.
        settings = {"sequence": 0} if backend == "camnet" else None
        if backend not in made:
            made[backend] = load_localizer(PATHS[backend], "cpu", backend=backend, settings=settings)
        return made[backend]

    yield get
    for localizer in made.values():
        localizer.close()


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    """``copy(backend)``: a copy of its map, members beside it, to be damaged."""

    def make(backend: str) -> Path:
        folder = tmp_path / "maps"
        shutil.copytree(MAPS, folder, ignore=shutil.ignore_patterns("drive", "expected", "*.md"))
        for packed in folder.glob("*.vmap"):
            shutil.unpack_archive(packed, packed.with_suffix(""), "zip")
        return folder / backend

    return make


# -- estimates ------------------------------------------------------------------------------------


@backends
@pytest.mark.parametrize("with_prior", [False, True], ids=["alone", "with a prior"])
def test_an_estimate_is_whole(opened, backend, with_prior):
    localizer = opened(backend)
    prior = PosePrior(DRIVE.T_map_cam[10], NEAR) if with_prior or localizer.needs_prior else None
    estimate = localizer.localize(query(localizer, prior=prior))
    check_transform(estimate.T_map_cam)
    check_covariance(estimate.covariance)
    assert np.linalg.eigvalsh(estimate.covariance)[0] > 0, "an error is possible in every direction"
    assert 0.0 <= estimate.score <= 1.0 and estimate.state is not LocalizationState.INITIALIZING
    assert (estimate.backend, estimate.map_id) == (backend, localizer.map_id)
    assert estimate.stamp_ns == int(DRIVE.stamps_ns[10]) and estimate.scene == localizer.manifest.scenes[0].name
    assert all(np.isfinite(value) for value in estimate.diagnostics.values()), estimate.diagnostics
    assert set(localizer.statistics) <= set(estimate.diagnostics)
    assert estimate.timings_ms and min(estimate.timings_ms.values()) >= 0 and estimate.candidates == ()
    if "position_sigma_m" in estimate.diagnostics:
        largest = np.sqrt(np.linalg.eigvalsh(estimate.covariance[:3, :3])[-1])
        assert estimate.diagnostics["position_sigma_m"] == pytest.approx(largest, rel=1e-6)


@backends
def test_a_map_without_points_leaves_the_last_word_to_the_track(opened, backend, monkeypatch):
    """However sure: alone it is DEGRADED, and says that only the track is missing."""
    localizer = opened(backend)
    sure = Confidence(1e-4 * np.eye(6), LocalizationState.LOCALIZED, 0.01)
    monkeypatch.setattr(localizer, "assess", lambda query, found: sure)
    estimate = localizer.localize(query(localizer))
    assert estimate.claimed is LocalizationState.LOCALIZED
    if localizer.sees_points:
        assert estimate.state is LocalizationState.LOCALIZED and not estimate.awaits_track
    else:
        assert estimate.state is LocalizationState.DEGRADED and estimate.awaits_track
    assert localizer.sees_points == (backend in ("features", "pixloc", "cascade"))
    final = estimate.with_state(LocalizationState.DEGRADED)
    assert final.claimed is LocalizationState.DEGRADED, "what the tracker has said is not said again"


@backends
def test_a_frame_depends_on_map_and_stamp_alone(opened, backend):
    localizer = opened(backend)
    first = localizer.localize(query(localizer))
    localizer.localize(query(localizer, 3))
    assert same(first, localizer.localize(query(localizer)))
    settings = {"sequence": 0} if backend == "camnet" else None
    with load_localizer(PATHS[backend], "cpu", settings=settings) as another:
        assert same(first, another.localize(query(another)))


@backends
def test_threads_take_turns(opened, backend):
    localizer = opened(backend)
    queries = [query(localizer, i) for i in (2, 10)]
    expected = [localizer.localize(q) for q in queries]
    found: dict[int, Estimate] = {}
    threads = [
        threading.Thread(target=lambda i=i, q=q: found.update({i: localizer.localize(q)}))  # type: ignore[misc]
        for i, q in enumerate(queries * 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(same(found[i], expected[i % 2]) for i in range(4))


@backends
def test_candidates_and_hypotheses(opened, backend):
    localizer = opened(backend)
    plain = localizer.localize(query(localizer))
    kept = localizer.localize(query(localizer), keep_candidates=True)
    assert same(plain, kept), "asking for candidates changes nothing"
    assert bool(kept.candidates) == localizer.offers_candidates
    for step in kept.candidates:
        assert step.T_map_cam.shape == (len(step.scores), 4, 4) and set(step.selected) <= set(range(len(step.scores)))
        check_transform(step.T_map_cam[0])
    hypotheses = localizer.hypotheses(query(localizer), 4)
    assert 1 <= len(hypotheses) <= 4 and same(hypotheses[0], plain)
    for other in hypotheses[1:]:
        check_transform(other.T_map_cam)
        check_covariance(other.covariance)
        assert other.claimed is not LocalizationState.LOCALIZED
        assert np.linalg.norm(other.T_map_cam[:3, 3] - plain.T_map_cam[:3, 3]) > 0.0
    assert len(localizer.hypotheses(query(localizer), 1)) == 1


@backends
def test_nearest_reference_is_a_row_of_the_references(opened, backend):
    localizer = opened(backend)
    poses = localizer.reference_poses()
    row = localizer.localize(query(localizer)).diagnostics.get("nearest_reference")
    assert (poses is None) or poses.shape[1:] == (4, 4)
    if row is not None:
        assert poses is not None and row == int(row) and 0 <= row < len(poses)
    with pytest.raises(ConfigError, match="nowhere"):
        localizer.localize(query(localizer, scene="nowhere"))


@pytest.mark.parametrize("backend", [name for name in BUILT_IN if name != "cascade"])  # as sure as its members
def test_a_map_without_calibration_never_claims_to_be_localized(copy, backend):
    path = tiny_drive.edited(copy(backend), lambda m: m.update(calibration={}))
    with load_localizer(path, "cpu") as localizer:
        estimate = localizer.localize(query(localizer))
    assert estimate.state in (LocalizationState.DEGRADED, LocalizationState.LOST)
    assert "position_sigma_m" not in estimate.diagnostics
    assert np.sqrt(np.linalg.eigvalsh(estimate.covariance)[-1]) >= 0.25


# -- what is refused ------------------------------------------------------------------------------


def seen_wider(image: np.ndarray, camera: CameraModel) -> tuple[np.ndarray, CameraModel]:
    """An image of a lens that sees more than the map's, grey where nobody knows what it would have seen."""
    w, h = camera.width // 5, camera.height // 5
    wide = np.full((camera.height + 2 * h, camera.width + 2 * w, 3), 120, np.uint8)
    wide[h : h + camera.height, w : w + camera.width] = image
    return wide, cropped(camera, -w, -h, camera.width + 2 * w, camera.height + 2 * h)


@backends
def test_another_lens_finds_the_same_place(opened, backend):
    localizer = opened(backend)
    asked = query(localizer)
    expected = localizer.localize(asked)
    image, camera = seen_wider(asked.image_rgb, DRIVE.camera)
    fisheye = replace(camera, distortion_model="equidistant", distortion=(0.0, 0.0, 0.0, 0.0))
    others = {
        "wider": (image, camera),
        "fisheye": (Rectifier(camera, fisheye, beyond="nearest").rectify(image)[0], fisheye),
    }
    for name, (seen, lens) in others.items():
        if lens.is_distorted and not localizer.takes_distorted:
            rectifier = Rectifier(lens)
            seen, lens = rectifier.rectify(seen)
        found = localizer.localize(replace(asked, image_rgb=seen, camera=lens))
        moved = np.linalg.norm(found.T_map_cam[:3, 3] - expected.T_map_cam[:3, 3])
        assert moved < (1.5 if name == "wider" else 6.0), "of a place 60 m across"
        assert found.state is not LocalizationState.LOST
        if localizer.view(lens) is not None:
            assert found.diagnostics["view_covered"] > 0.9 and found.diagnostics["view_enlarged"] < 2.0
            assert "view" in found.timings_ms
    assert "view_covered" not in expected.diagnostics, "the map's own lens"


@backends
def test_wrong_cameras_and_images(opened, backend):
    localizer, camera = opened(backend), DRIVE.camera
    others = [replace(camera, fx=factor * camera.fx, fy=factor * camera.fy) for factor in (1.4, 1.8)]
    squeezed = replace(camera, height=camera.width, cy=(camera.width - 1) / 2)
    image = np.zeros((camera.width, camera.width, 3), np.uint8)
    if backend in ("features", "pixloc"):  # take any calibrated lens
        for other in others:
            assert localizer.localize(query(localizer, camera=other)).backend == backend
        assert localizer.localize(query(localizer, camera=squeezed, image_rgb=image)).backend == backend
    else:
        for other in others:
            with pytest.raises(CameraMismatchError, match=r"at least 70 % of the map's view.*field of view"):
                localizer.localize(query(localizer, camera=other))
    good = DRIVE.image(10)
    for image in (good[:10], good[..., 0], good.astype(np.float32), good.tolist(), None):
        with pytest.raises(ImageError, match="expected"):
            localizer.localize(query(localizer, image_rgb=image))


@backends
def test_settings(opened, backend):
    localizer = opened(backend)
    cls = type(localizer).settings_class
    assert isinstance(localizer.settings, cls)
    with pytest.raises(ConfigError, match="no_such_setting"):
        load_localizer(PATHS[backend], "cpu", settings={"no_such_setting": 1})
    ranged = [f for f in fields(cls) if f.metadata.get("minimum") is not None]
    assert ranged, "every backend has a number to set"
    for item in ranged:
        with pytest.raises(ConfigError, match=item.name):
            load_localizer(PATHS[backend], "cpu", settings={item.name: item.metadata["minimum"] - 1.0})
        with pytest.raises(ConfigError, match=item.name):
            load_localizer(PATHS[backend], "cpu", settings={item.name: "many"})
    if localizer.statistics:
        sigma = localizer.localize(query(localizer)).diagnostics["position_sigma_m"]
        limits = {"LOCALIZED": (1.01, 9.0), "DEGRADED": (0.9, 1.1), "LOST": (0.5, 0.9)}
        rank = list(limits)
        for state, (low, high) in limits.items():
            asked = {"localized_sigma_m": low * sigma, "lost_sigma_m": high * sigma}
            with load_localizer(PATHS[backend], "cpu", settings=asked) as limited:
                found = limited.localize(query(limited)).claimed.value
            # Evidence of its own may make a backend less sure, never surer.
            assert rank.index(found) >= rank.index(state)
        with pytest.raises(ConfigError, match="lost_sigma_m"):
            load_localizer(PATHS[backend], "cpu", settings={"localized_sigma_m": 2.0, "lost_sigma_m": 1.0})


@backends
def test_the_end(backend):
    with load_localizer(PATHS[backend], "cpu") as localizer:
        localizer.warm_up()
        asked = query(localizer)
    localizer.close()  # twice is harmless
    for use in (localizer.localize, lambda _: localizer.reference_poses(), lambda q: localizer.hypotheses(q, 2)):
        with pytest.raises(LocalizerClosedError, match=backend):
            use(asked)
    assert localizer.manifest.backend == backend and localizer.settings is not None


@backends
def test_another_backend_or_version_than_asked_for(copy, backend):
    other = "retrieval" if backend != "retrieval" else "copr"
    with pytest.raises(MapBackendError, match=f"'{other}'.*'{backend}'"):
        load_localizer(PATHS[backend], "cpu", backend=other)
    path = tiny_drive.edited(copy(backend), lambda m: m.update(format_version=99))
    with pytest.raises(MapVersionError, match="99"):
        load_localizer(path, "cpu")
    with pytest.raises(MapNotFoundError):
        load_localizer(path / "nowhere", "cpu")


@backends
def test_damaged_files(copy, backend):
    path = copy(backend)
    for entry in read_map(path).manifest.files:
        if entry.name == "regressor.safetensors":  # for `vloc map densify`; no localizer reads it
            continue
        file, content = path / entry.name, (path / entry.name).read_bytes()
        altered = bytearray(content)
        altered[-7] ^= 1
        damages = {MapChecksumError: (content[: len(content) // 2], bytes(altered)), MapNotFoundError: (None,)}
        for error, versions in damages.items():
            for version in versions:
                if version is None:
                    file.unlink()
                else:
                    file.write_bytes(version)
                with pytest.raises(error, match=entry.name.split("/")[0]), load_localizer(path, "cpu") as localizer:
                    for index in range(0, len(DRIVE), 4):  # tiles are read when they are needed
                        localizer.localize(query(localizer, index, prior=PosePrior(DRIVE.T_map_cam[index], NEAR)))
        file.write_bytes(content)
    with load_localizer(path, "cpu") as localizer:
        localizer.localize(query(localizer))


NONSENSE: list[Callable[[dict[str, Any]], object]] = [
    lambda m: m.update(settings=[1]),
    lambda m: m["settings"].update({name: 3 for name in m["settings"]}),
    lambda m: [part.update(surprise=1) for part in m["settings"].values() if isinstance(part, dict)],
    lambda m: m["preprocessing"].update(width=0),
    lambda m: m["preprocessing"].update(fit="stretch"),
    lambda m: m["camera"].update(fx=-1.0),
    lambda m: m.update(scenes=[]),
    lambda m: m["calibration"].update(map=7),
    lambda m: m["calibration"]["map"].update(covariance=[1]),
    lambda m: m["calibration"]["map"].update(score_mean=float("nan")),
    lambda m: m["calibration"]["map"].update(min_score="high"),
    lambda m: m["calibration"]["map"]["covariance"].pop("knots"),
    lambda m: m["calibration"]["map"]["covariance"].update(shape=[[0.0] * 6] * 6),
    lambda m: m["calibration"]["map"]["covariance"]["shape"][0].__setitem__(5, 9.0),
    lambda m: m["calibration"]["map"]["covariance"]["names"].__setitem__(0, "something"),
]


@pytest.mark.parametrize("backend", ["imposing", "retrieval", "camnet", "pixloc"])
@pytest.mark.parametrize("change", NONSENSE)
def test_a_manifest_that_does_not_make_sense(copy, backend, change):
    path = tiny_drive.edited(copy(backend), change)
    with pytest.raises((MapError, ConfigError, VlocError), match=r"\w{4}"):
        load_localizer(path, "cpu")


def test_every_built_in_backend_is_asked():
    assert all(path.exists() for path in PATHS.values()), "a new backend needs a small map in test/data/maps_0_1"
    for name, path in PATHS.items():
        assert read_map(path).manifest.backend == name
    assert vloc_ros.load_localizer is load_localizer
