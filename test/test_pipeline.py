from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.diagnostics import Level, diagnose
from vloc_ros.errors import ConfigError, DeviceError, GeometryError
from vloc_ros.frames import REFUSALS, Frame
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.se3 import covariance_of_base, inverse, make_transform
from vloc_ros.images.decode import CompressedImage, RawImage
from vloc_ros.localizers.base import Localizer, check_query
from vloc_ros.maps import Scene
from vloc_ros.pipeline import Pipeline, PipelineSettings
from vloc_ros.tracking import Tracker, TrackerSettings
from vloc_ros.tracking.fixes import SatelliteFix
from vloc_ros.types import CameraModel, CandidateStep, Estimate, LocalizationState, Query

SECOND = 1_000_000_000
CAMERA = CameraModel(64, 48, 50.0, 50.0, 31.5, 23.5)
IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
T_BASE_CAM = make_transform([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [1.0, 0.0, 1.5])


DATUM = Datum(48.0, 11.0, 500.0)
TOWN = Scene("town", "map", (-200.0, -200.0, -5.0), (200.0, 200.0, 5.0), DATUM)


class Scripted(Localizer):
    """Drives along x at 10 m/s, base poses by stamp, or does what ``script`` says."""

    backend = "scripted"
    sees_points = True

    def __init__(self) -> None:
        self._manifest = cast(
            Any,
            SimpleNamespace(
                preprocessing={"width": 32, "height": 24}, camera=CAMERA, backend="scripted", scenes=(TOWN,)
            ),
        )
        self._map_id = "abc"
        self._device = torch.device("cpu")
        self.queries: list[Query] = []
        self.script: Callable[[Query, Estimate], Estimate] = lambda query, estimate: estimate

    def find(self, query: Query, clock: Any, keep_candidates: bool) -> Any:
        raise NotImplementedError

    def localize(self, query: Query, keep_candidates: bool = False) -> Estimate:
        check_query(query)
        self.queries.append(query)
        T = make_transform(np.eye(3), [query.stamp_ns / SECOND * 10.0, 0.0, 0.0]) @ T_BASE_CAM
        estimate = Estimate(
            query.stamp_ns,
            T,
            np.diag([0.04] * 3 + [1e-4] * 3),
            0.9,
            LocalizationState.LOCALIZED,
            "scripted",
            "abc",
            timings_ms={"network": 1.0},
        )
        return self.script(query, estimate)


@dataclass
class Rig:
    localizer: Scripted
    pipeline: Pipeline

    def frame(self, i: int, **changes: Any) -> Frame:
        T_odom_base = make_transform(np.eye(3), [i * 1.0, 0.0, 0.0])
        # Every picture another one, as a vehicle that moves sees them.
        frame = Frame(SECOND + i * SECOND // 10, np.roll(IMAGE, i, axis=1), CAMERA, False, T_BASE_CAM, T_odom_base)
        return replace(frame, **changes)

    def run(self, first: int, last: int) -> list[Any]:
        return [self.pipeline.process(self.frame(i)) for i in range(first, last)]


def make_rig(**settings: Any) -> Rig:
    localizer = Scripted()
    return Rig(localizer, Pipeline(localizer, PipelineSettings(**settings), Tracker(TrackerSettings())))


@pytest.fixture
def rig() -> Rig:
    return make_rig()


def test_a_drive(rig: Rig) -> None:
    results = rig.run(0, 10)
    assert [result.publish for result in results] == [False, False] + [True] * 8
    last = results[-1]
    assert last.state is LocalizationState.LOCALIZED and last.refused is None
    assert last.T_map_base is not None and last.T_map_odom is not None and last.estimate is not None
    assert np.allclose(last.T_map_base[:3, 3], [19.0, 0, 0])
    assert np.allclose(last.T_map_base[:3, :3], np.eye(3))
    assert np.allclose(last.T_map_odom[:3, 3], [10.0, 0, 0], atol=0.05)
    expected = covariance_of_base(last.estimate.T_map_cam, last.estimate.covariance, inverse(T_BASE_CAM))
    assert np.allclose(last.covariance_base, expected)
    assert {"decode", "rectify", "localize", "localize/network", "track", "total"} <= last.timings_ms.keys()
    assert rig.pipeline.counters["frames"] == 10 and rig.pipeline.counters["published"] == 8


def test_prior_reaches_the_localizer_only_when_known_and_wanted() -> None:
    for policy, wanted in (("always", True), ("initial_pose", False), ("never", False)):
        rig = make_rig(prior=policy)
        rig.run(0, 6)
        assert [query.prior is not None for query in rig.localizer.queries] == [False] * 3 + [wanted] * 3
    prior = make_rig().pipeline.tracker.prior(SECOND)
    assert prior is None


def test_a_localizer_that_needs_a_prior_always_gets_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many frames were missed, until the track is LOST; unless nobody wants priors."""
    monkeypatch.setattr(Scripted, "needs_prior", True)
    rig = make_rig()
    assert rig.pipeline.prior == "always"
    rig.run(0, 4)
    rig.localizer.script = lambda query, estimate: estimate.with_state(LocalizationState.LOST)
    limit = rig.pipeline.tracker.settings.lost_after_frames
    assert limit > rig.pipeline.tracker.settings.prior_max_misses + 2
    rig.run(4, 4 + limit + 2)
    given = [query.prior is not None for query in rig.localizer.queries]
    assert given == [False] * 3 + [True] * (1 + limit) + [False] * 2
    never = make_rig(prior="never")
    never.run(0, 6)
    assert all(query.prior is None for query in never.localizer.queries)


def test_candidates_are_kept_when_asked_for(rig: Rig) -> None:
    class Generous(Scripted):
        def localize(self, query: Query, keep_candidates: bool = False) -> Estimate:
            estimate = super().localize(query)
            step = CandidateStep(estimate.T_map_cam[None], np.ones(1), np.zeros(1, dtype=np.int64))
            return replace(estimate, candidates=(step,) if keep_candidates else (), diagnostics={"best": 2.0})

    pipeline = Pipeline(Generous(), PipelineSettings(), Tracker(TrackerSettings()))
    estimates = [pipeline.process(rig.frame(i, keep_candidates=i == 1)).estimate for i in range(3)]
    assert [len(e.candidates) for e in estimates if e is not None] == [0, 1, 0]
    assert pipeline.snapshot().estimate == {"best": 2.0}, "the diagnostics of a backend are lost"


# Stamps


def test_stamp_zero(rig: Rig) -> None:
    result = rig.pipeline.process(rig.frame(0, stamp_ns=0))
    assert (result.refused, result.publish, result.estimate) == ("stamp_zero", False, None)


def test_nothing_twice_for_one_stamp(rig: Rig) -> None:
    rig.run(0, 5)
    result = rig.pipeline.process(rig.frame(4))
    assert result.refused == "stamp_repeated" and not result.publish
    assert len(rig.localizer.queries) == 5
    assert rig.pipeline.state is LocalizationState.LOCALIZED


def test_slightly_older_frames_are_dropped(rig: Rig) -> None:
    rig.run(0, 5)
    assert rig.pipeline.process(rig.frame(3)).refused == "stamp_out_of_order"
    assert rig.pipeline.counters["clock_jumps"] == 0
    assert rig.pipeline.process(rig.frame(5)).publish


def test_clock_jump_back_starts_over(rig: Rig) -> None:
    rig.run(0, 20)
    results = rig.run(0, 5)
    assert results[0].refused is None and results[0].clock_jump
    assert not results[1].clock_jump
    assert results[0].state is LocalizationState.INITIALIZING and results[0].T_map_odom is None
    assert results[4].publish
    assert rig.pipeline.counters["clock_jumps"] == 1


def test_stale_and_future_frames(rig: Rig) -> None:
    rig.run(0, 5)
    late = rig.frame(5)
    assert rig.pipeline.process(replace(late, received_ns=late.stamp_ns + 2 * SECOND)).refused == "stale"
    ahead = rig.frame(1000)
    assert rig.pipeline.process(replace(ahead, received_ns=SECOND)).refused == "stamp_in_future"
    # Neither spoils what follows; a clock that has not started says nothing.
    frame = rig.frame(6)
    assert rig.pipeline.process(replace(frame, received_ns=frame.stamp_ns + SECOND // 20)).publish
    assert rig.pipeline.process(rig.frame(7, received_ns=0)).publish


# Images and cameras

GOOD = RawImage("rgb8", 64, 48, 192, False, IMAGE.tobytes())
JPEG = cv2.imencode(".jpg", IMAGE)[1].tobytes()
BAD_IMAGES: dict[str, tuple[Any, str]] = {
    "short step": (replace(GOOD, step=100), "bad_image"),
    "short data": (replace(GOOD, data=GOOD.data[:-1]), "bad_image"),
    "no data": (replace(GOOD, data=b""), "bad_image"),
    "unknown encoding": (replace(GOOD, encoding="yuv999"), "bad_image"),
    "zero width": (replace(GOOD, width=0), "bad_image"),
    "zero height": (replace(GOOD, height=0, data=b""), "bad_image"),
    "empty jpeg": (CompressedImage("jpeg", b""), "bad_image"),
    "broken jpeg": (CompressedImage("jpeg", b"\xff\xd8 nonsense"), "bad_image"),
    "depth": (CompressedImage("16UC1; compressedDepth", JPEG), "bad_image"),
    "float array": (IMAGE.astype(np.float32), "bad_image"),
    "grey array": (IMAGE[..., 0], "bad_image"),
    "black": (np.zeros_like(IMAGE), "blank_image"),
    "one colour": (np.full_like(IMAGE, 130), "blank_image"),
    "another size than camera_info": (IMAGE[:24], "bad_image"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused(rig: Rig, name: str) -> None:
    rig.run(0, 5)
    image, key = BAD_IMAGES[name]
    result = rig.pipeline.process(rig.frame(5, image=image))
    assert (result.refused, result.publish, result.estimate, result.T_map_base) == (key, False, None, None)
    assert result.message and result.state is LocalizationState.DEGRADED
    assert rig.pipeline.counters[f"refused_{key}"] == rig.pipeline.counters["refused"] == 1
    assert len(rig.localizer.queries) == 5, "the localizer never sees it"
    assert rig.pipeline.process(rig.frame(6)).state is LocalizationState.LOCALIZED


@pytest.mark.parametrize("image", [GOOD, CompressedImage("rgb8; jpeg compressed bgr8", JPEG), IMAGE])
def test_good_images(rig: Rig, image: Any) -> None:
    assert rig.pipeline.process(rig.frame(0, image=image)).refused is None


def test_covered_lens_ends_in_lost(rig: Rig) -> None:
    rig.run(0, 5)
    results = [rig.pipeline.process(rig.frame(i, image=np.zeros_like(IMAGE))) for i in range(5, 30)]
    assert results[-1].state is LocalizationState.LOST and results[-1].T_map_odom is None
    assert results[5].T_map_odom is not None, "odometry bridges the first moments"


def test_absent_camera_info(rig: Rig) -> None:
    assert rig.pipeline.process(rig.frame(0, camera=None)).refused == "no_camera_info"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_bad_camera_info_is_counted_by_the_front_end(rig: Rig, bad: float) -> None:
    from vloc_ros.errors import CameraError

    rig.run(0, 3)
    frame = rig.frame(3)
    with pytest.raises(CameraError) as caught:
        CameraModel(64, 48, bad, 50.0, 31.5, 23.5)
    result = rig.pipeline.refuse(frame.stamp_ns, "bad_camera_info", str(caught.value))
    assert result.refused == "bad_camera_info" and not result.publish
    assert rig.pipeline.counters["refused_bad_camera_info"] == 1
    assert rig.pipeline.refuse(frame.stamp_ns, "bad_image", "again").refused == "stamp_repeated"
    assert rig.pipeline.refuse(0, "bad_image", "x").refused == "stamp_zero"
    assert rig.pipeline.refuse(frame.stamp_ns + 1, "bad_image", "x").state is LocalizationState.DEGRADED
    with pytest.raises(ValueError, match="unknown"):
        rig.pipeline.refuse(SECOND * 9, "whatever", "")


def test_another_resolution_of_the_same_lens_is_rescaled(rig: Rig) -> None:
    camera = CameraModel(128, 96, 100.0, 100.0, 63.5, 47.5)
    image = cv2.resize(IMAGE, (128, 96), interpolation=cv2.INTER_NEAREST)
    assert rig.pipeline.process(rig.frame(0, image=image, camera=camera)).refused is None
    assert rig.localizer.queries[0].camera == camera, "the intrinsics belong to the image handed over"


@pytest.mark.parametrize(
    ("camera", "size"),
    [(CameraModel(64, 48, 80.0, 80.0, 31.5, 23.5), (64, 48)), (CameraModel(64, 24, 50.0, 50.0, 31.5, 11.5), (64, 24))],
    ids=["field of view", "aspect"],
)
def test_another_lens_is_refused(rig: Rig, camera: CameraModel, size: tuple[int, int]) -> None:
    image = cv2.resize(IMAGE, size)
    for i in range(2):
        result = rig.pipeline.process(rig.frame(i, image=image, camera=camera))
        assert result.refused == "camera_mismatch" and "field of view" in result.message


def test_distorted_images_are_rectified() -> None:
    rig = make_rig()
    camera = replace(CAMERA, distortion_model="plumb_bob", distortion=(-0.02, 0.0, 0.0, 0.0))
    assert rig.pipeline.process(rig.frame(0, camera=camera)).refused is None
    query = rig.localizer.queries[-1]
    assert not query.camera.is_distorted and not np.array_equal(query.image_rgb, IMAGE)
    assert rig.pipeline.process(rig.frame(1, camera=camera, rectified=True)).refused is None
    query = rig.localizer.queries[-1]
    assert not query.camera.is_distorted and np.array_equal(query.image_rgb, np.roll(IMAGE, 1, axis=1))


# Transforms and estimates


@pytest.mark.parametrize("bad", [np.eye(3), np.full((4, 4), np.nan), np.zeros((4, 4))])
def test_bad_transforms(rig: Rig, bad: Any) -> None:
    assert rig.pipeline.process(rig.frame(0, T_base_cam=bad)).refused == "bad_transform"
    # Without odometry the tracker can do.
    assert rig.pipeline.process(rig.frame(1, T_odom_base=bad)).refused is None
    assert rig.pipeline.counters["bad_odometry"] == 1


@pytest.mark.parametrize("field", ["T_map_cam", "covariance"])
def test_estimates_that_are_not_finite(rig: Rig, field: str) -> None:
    rig.run(0, 5)

    def broken(query: Query, estimate: Estimate) -> Estimate:
        return replace(estimate, **{field: getattr(estimate, field) * np.nan})

    rig.localizer.script = broken
    result = rig.pipeline.process(rig.frame(5))
    assert result.refused == "bad_estimate" and result.state is LocalizationState.DEGRADED


def test_refusal_of_the_localizer_and_bugs(rig: Rig) -> None:
    def refuses(query: Query, estimate: Estimate) -> Estimate:
        raise ConfigError("no such scene")

    def bug(query: Query, estimate: Estimate) -> Estimate:
        raise KeyError("bug")

    rig.localizer.script = refuses
    result = rig.pipeline.process(rig.frame(0))
    assert result.refused == "localizer" and "no such scene" in result.message
    rig.localizer.script = bug
    with pytest.raises(KeyError):
        rig.pipeline.process(rig.frame(1))


def test_rejected_estimates_are_not_published(rig: Rig) -> None:
    rig.run(0, 5)
    rig.localizer.script = lambda query, estimate: replace(estimate, T_map_cam=make_transform(np.eye(3), [500.0, 0, 0]))
    result = rig.pipeline.process(rig.frame(5))
    assert result.estimate is not None and not result.publish and result.reason == "jump"
    assert result.state is LocalizationState.DEGRADED


@pytest.mark.parametrize("publish", [True, False])
def test_publish_degraded(publish: bool) -> None:
    rig = make_rig(publish_degraded=publish)
    rig.run(0, 5)
    rig.localizer.script = lambda query, estimate: estimate.with_state(LocalizationState.DEGRADED)
    result = rig.pipeline.process(rig.frame(5))
    assert result.state is LocalizationState.DEGRADED and result.publish is publish


# Requests


def test_initial_pose_relocalize_reset(rig: Rig) -> None:
    covariance = np.diag([1.0, 1.0, 1.0, 0.1, 0.1, 0.1])
    rig.run(0, 5)
    stamp = rig.frame(4).stamp_ns
    # Given at frame 4's stamp; its odometry carries it on to the next frame.
    rig.pipeline.set_initial_pose(make_transform(np.eye(3), [14.0, 0.5, 0.0]), covariance, stamp)
    assert rig.pipeline.process(rig.frame(5)).state is LocalizationState.INITIALIZING
    prior = rig.localizer.queries[-1].prior
    assert prior is not None
    assert np.allclose((prior.T_map_cam @ inverse(T_BASE_CAM))[:3, 3], [15.0, 0.5, 0.0])
    assert rig.pipeline.process(rig.frame(6)).publish
    rig.pipeline.relocalize()
    assert rig.pipeline.state is LocalizationState.INITIALIZING
    assert rig.pipeline.process(rig.frame(6)).refused == "stamp_repeated"
    rig.pipeline.reset()
    assert rig.pipeline.process(rig.frame(6)).refused is None
    with pytest.raises(GeometryError):
        rig.pipeline.set_initial_pose(np.zeros((4, 4)), covariance)


def test_silence_expires(rig: Rig) -> None:
    rig.run(0, 5)
    assert rig.pipeline.expire(rig.frame(4).stamp_ns + 10 * SECOND) is LocalizationState.LOST
    assert rig.pipeline.snapshot().state is LocalizationState.LOST


def test_snapshot_and_diagnostics(rig: Rig) -> None:
    assert diagnose(rig.pipeline.snapshot()).level is Level.WARN
    rig.run(0, 10)
    good = diagnose(rig.pipeline.snapshot())
    assert good.level is Level.OK and good.values["score"] == "0.900" and good.values["sigma_m"] == "0.200"
    assert float(good.values["latency_p95_ms"]) > 0 and "time_localize_network_ms" in good.values
    rig.pipeline.process(rig.frame(10, camera=None))
    bad = diagnose(rig.pipeline.snapshot())
    assert bad.values["refused_no_camera_info"] == "1" and "camera_info" in bad.values["last_refusal"]


def test_every_refusal_is_documented(repo_root: Path) -> None:
    text = (repo_root / "docs" / "diagnostics.md").read_text()
    for key, meaning in REFUSALS.items():
        assert f"`{key}`" in text and meaning in text


KINDS = ["good", "stamp 0", "repeat", "back", "no camera", "black", "broken", "nan", "jump"]


@given(st.lists(st.sampled_from(KINDS), max_size=40))
def test_nothing_raises_and_nothing_bad_is_published(kinds: list[str]) -> None:
    rig = make_rig()
    i = 0
    published: set[int] = set()
    for kind in kinds:
        i += 1
        frame = rig.frame(i)
        rig.localizer.script = lambda query, estimate: estimate
        if kind == "stamp 0":
            frame = replace(frame, stamp_ns=0)
        elif kind == "repeat":
            frame = rig.frame(i - 1)
        elif kind == "back":
            i, frame, published = 0, rig.frame(0), set()
        elif kind == "no camera":
            frame = replace(frame, camera=None)
        elif kind == "black":
            frame = replace(frame, image=np.zeros_like(IMAGE))
        elif kind == "broken":
            frame = replace(frame, image=CompressedImage("jpeg", b"x"))
        elif kind == "nan":
            rig.localizer.script = lambda query, estimate: replace(estimate, covariance=np.full((6, 6), np.nan))
        elif kind == "jump":
            rig.localizer.script = lambda query, estimate: replace(estimate, T_map_cam=T_BASE_CAM)
        result = rig.pipeline.process(frame)
        assert (result.refused is None) == (result.estimate is not None)
        if result.publish:
            assert result.stamp_ns not in published
            published.add(result.stamp_ns)
            assert result.state in (LocalizationState.LOCALIZED, LocalizationState.DEGRADED)
            assert result.T_map_base is not None and np.isfinite(result.T_map_base).all()
        if result.state in (LocalizationState.LOST, LocalizationState.INITIALIZING):
            assert not result.publish and result.T_map_odom is None
    assert rig.pipeline.counters["frames"] == len(kinds)


T_BASE_SIDE = make_transform([[1, 0, 0], [0, 0, 1], [0, -1, 0]], [0.5, 0.4, 1.5])


def rig_frame(rig: Rig, i: int, **side: Any) -> Frame:
    """Front and side camera; the side's picture is its own."""
    front = rig.frame(i, name="front")
    other = replace(front, image=np.roll(IMAGE[:, ::-1], i, axis=0), name="side", T_base_cam=T_BASE_SIDE)
    return replace(front, others=(replace(other, **side),))


def test_the_cameras_of_a_rig_reach_the_localizer_together(rig: Rig) -> None:
    for i in range(4):
        result = rig.pipeline.process(rig_frame(rig, i))
    assert result.camera == "front" and result.cameras == {"front": "", "side": ""}
    (view,) = rig.localizer.queries[-1].others
    assert view.name == "side" and np.allclose(view.T_query_cam, inverse(T_BASE_CAM) @ T_BASE_SIDE)
    assert result.T_base_cam is not None and np.allclose(result.T_base_cam, T_BASE_CAM)
    # Exposed earlier: by the odometry the vehicle was then a metre further back, and so was that camera.
    before = make_transform(np.eye(3), [3.0, 0.0, 0.0])
    result = rig.pipeline.process(rig_frame(rig, 4, stamp_ns=SECOND, T_odom_base=before))
    (view,) = rig.localizer.queries[-1].others
    there = T_BASE_CAM @ view.T_query_cam
    assert np.allclose(there[:3, 3], T_BASE_SIDE[:3, 3] - (1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    "fault, reason",
    [
        ({"image": np.zeros((48, 64, 3), np.uint8)}, "blank_image"),
        ({"image": np.roll(IMAGE[:, ::-1], 1, axis=0)}, "repeated_image"),
        ({"camera": None}, "no_camera_info"),
        ({"T_base_cam": np.full((4, 4), np.nan)}, "bad_transform"),
        ({"T_odom_base": np.full((4, 4), np.nan)}, "bad_transform"),
        ({"image": CompressedImage("jpeg", b"rubbish")}, "bad_image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_camera_that_fails_is_left_out_named_and_comes_back(rig: Rig, fault: Any, reason: str) -> None:
    for i in range(4):
        rig.pipeline.process(rig_frame(rig, i))
    for i in range(4, 14):
        result = rig.pipeline.process(rig_frame(rig, i, **fault))
        assert result.publish and result.state is LocalizationState.LOCALIZED and result.refused is None
        assert rig.localizer.queries[-1].others == ()
    assert result.cameras["side"].startswith(reason) and result.cameras["front"] == ""
    told = diagnose(rig.pipeline.snapshot())
    assert "camera side is left out" in told.message and told.level is Level.WARN
    assert rig.pipeline.counters["camera_side_left_out"] == 10
    result = rig.pipeline.process(rig_frame(rig, 14))
    assert result.cameras["side"] == "" and len(rig.localizer.queries[-1].others) == 1
    assert diagnose(rig.pipeline.snapshot()).level is Level.OK


def test_the_first_camera_that_can_be_used_is_the_query_s(rig: Rig) -> None:
    dark = np.zeros((48, 64, 3), np.uint8)
    result = rig.pipeline.process(replace(rig_frame(rig, 0), image=dark))
    assert result.refused is None and result.camera == "side" and result.cameras["front"].startswith("blank_image")
    # The scripted localizer says where its own camera stands, whichever that is.
    assert result.T_map_base is not None and result.T_base_cam is not None
    assert np.allclose(result.T_base_cam, T_BASE_SIDE)
    both = replace(rig_frame(rig, 1, image=dark), image=dark)
    assert rig.pipeline.process(both).refused == "blank_image"
    rig.pipeline.left_out("side", "silent")
    assert "camera side is left out (silent)" in diagnose(rig.pipeline.snapshot()).message


def test_a_start_with_a_fix_searches_around_it_and_refuses_other_places(rig: Rig) -> None:
    def fix(x: float, stamp: int) -> None:
        place = [float(v) for v in DATUM.to_geodetic(np.array([x, 0.0, 0.0]))]
        assert rig.pipeline.fixes.offer(SatelliteFix(stamp, *place, np.diag([4.0, 4.0, 9.0])))

    fix(15.0, SECOND)  # 5 m off
    results = rig.run(0, 4)
    assert [r.state.value for r in results][2:] == ["LOCALIZED"] * 2
    priors = [query.prior for query in rig.localizer.queries]
    assert all(p is not None for p in priors[:3]) and priors[3] is None
    assert np.allclose(priors[0].T_map_cam[0, 3], 16.0)
    # A track stands: a fix that contradicts it is told of, and not believed.
    fix(120.0, rig.frame(4).stamp_ns)
    (result,) = rig.run(4, 5)
    assert result.publish and "satellite fix" in diagnose(rig.pipeline.snapshot()).message
    # Nothing is known: what contradicts the fix is another place that looks alike.
    rig.pipeline.relocalize()
    results = rig.run(5, 12)
    assert not any(r.publish for r in results) and rig.pipeline.counters["fix_contradicts"] == 8
    fix(rig.frame(12).stamp_ns / SECOND * 10.0, rig.frame(12).stamp_ns)
    results = rig.run(12, 16)
    assert results[-1].publish and "satellite" not in diagnose(rig.pipeline.snapshot()).message


def test_a_spare_localizer_takes_over_when_the_device_fails(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def fails(query: Query, estimate: Estimate) -> Estimate:
        raise DeviceError("cuda:0: full")

    rig.localizer.script, spare = fails, Scripted()
    rig.localizer.close = lambda: None  # type: ignore[method-assign]
    pipeline = Pipeline(rig.localizer, spare=lambda: spare)
    results = [pipeline.process(rig.frame(i)) for i in range(4)]
    assert [r.refused for r in results] == [None] * 4 and pipeline.localizer is spare
    assert caplog.text.count("the CPU takes over") == 1
    assert [r.refused for r in rig.run(0, 2)] == ["localizer"] * 2, "without a spare one frames are refused"
