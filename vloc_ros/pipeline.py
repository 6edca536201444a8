"""From a camera frame to a decision: decode, check, rectify, localize, track.

The live node and offline replay hand in frames and publish results; every decision is made here or below, the same
for both. Bad data never raises out of :meth:`Pipeline.process`: the frame is refused, counted by reason, and
nothing is published for it. Anything else that is raised is a bug.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from vloc_ros.diagnostics import Snapshot
from vloc_ros.errors import CameraError, CameraMismatchError, DeviceError, GeometryError, ImageError, VlocError
from vloc_ros.frames import REFUSALS, Frame, FrameResult
from vloc_ros.geometry.se3 import covariance_of_base, inverse, largest_sigma
from vloc_ros.images.content import MIN_STANDARD_DEVIATION, check_content
from vloc_ros.images.decode import decode, unused_bits
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import Localizer
from vloc_ros.settings import Fixed, ranged
from vloc_ros.tracking import PictureMemory, Tracker
from vloc_ros.tracking.fixes import FixMemory, FixSettings
from vloc_ros.types import Array, CameraModel, Estimate, LocalizationState, Query, RgbImage, View, check_transform

_log = logging.getLogger(__name__)

__all__ = ["REFUSALS", "Frame", "FrameResult", "Pipeline", "PipelineSettings"]

#: Refusals after which the camera has been looked through in vain; the others say nothing about the place.
_MISSES = {"bad_image", "blank_image", "bad_estimate", "localizer"}
#: Frames stamped further ahead of the clock than this (s) are refused: no synchronisation is that bad.
MAX_FUTURE_S = 1.0
#: A frame older than its predecessor by at most this (s) is refused as out of order: two transports can overtake each
#: other by that much. By more, the clock has jumped back (a bag loops), and the tracker starts over.
REORDER_TOLERANCE_S = 0.2
_RECENT = 50
_AGAINST = "the last estimate is farther from the satellite fix than both can be wrong"
_CAMERAS = 8


@dataclass(frozen=True)
class PipelineSettings:
    """What the pipeline itself decides; the tracker and the backend have settings of their own.

    :param max_age_s: frames older than this when their turn comes are dropped as stale; 0: never.
    :param publish_degraded: publish accepted poses in state DEGRADED too.
    :param prior: when the localizer gets a search window: ``initial_pose``, only an initial pose until it is confirmed,
        so that the poses of successive frames stay independent, as filters that fuse them assume; ``always``, the
        tracker's prediction too, which saves search steps; ``never``. For a localizer that finds nothing without a
        prior, ``initial_pose`` means ``always``.
    :param bit_depth: significant bits of 16-bit images.
    :param scene: of a multi-scene map, when the vehicle never leaves it; empty: the localizer's choice.
    """

    max_age_s: float = ranged(1.0, minimum=0.0)
    publish_degraded: bool = True
    prior: Literal["initial_pose", "always", "never"] = "initial_pose"
    bit_depth: int = ranged(16, minimum=8, maximum=16)
    scene: str = ""

    FORMER: ClassVar[Mapping[str, str | Fixed]] = {
        "max_future_s": Fixed(MAX_FUTURE_S),
        "reorder_tolerance_s": Fixed(REORDER_TOLERANCE_S),
        "min_standard_deviation": Fixed(MIN_STANDARD_DEVIATION),
    }


class _Refused(Exception):
    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class _Lens:
    """One camera's rectifier and whether the map takes it; made once, kept for the frames that follow.

    Without a rectifier the localizer takes the image of ``camera`` as it is.
    """

    def __init__(self, localizer: Localizer, camera: CameraModel, rectified: bool) -> None:
        self.refusal: _Refused | None = None
        self.rectifier: Rectifier | None = None
        try:
            if rectified and camera.is_distorted:
                camera = replace(camera, distortion_model="none", distortion=())
            self.camera = camera
            if localizer.takes_distorted:
                localizer.check_camera(camera)
                return
            self.rectifier = Rectifier(camera)
            localizer.check_camera(self.rectifier.target)
        except CameraMismatchError as problem:
            self.refusal = _Refused("camera_mismatch", str(problem))
        except CameraError as problem:
            self.refusal = _Refused("bad_camera_info", str(problem))


@dataclass(frozen=True)
class _Seen:
    """A usable image of one camera: ready for the localizer, with the camera's place at the frame's stamp."""

    frame: Frame
    image: RgbImage
    camera: CameraModel
    T_base_cam: Array

    def view_of(self, first: _Seen) -> View:
        """As another camera's view beside the query's."""
        return View(self.image, self.camera, inverse(first.T_base_cam) @ self.T_base_cam, self.frame.name)


class Pipeline:
    """One localizer and one tracker behind one entrance. Not thread-safe: one worker calls it.

    :param spare: makes the localizer that takes over when the device of this one fails
        (:class:`~vloc_ros.errors.DeviceError`); None: frames are refused then.
    :ivar counters: ``frames``, ``published``, ``refused``, ``refused_<key>``, ``state_<STATE>``, ``clock_jumps``.
    """

    def __init__(
        self,
        localizer: Localizer,
        settings: PipelineSettings | None = None,
        tracker: Tracker | None = None,
        fixes: FixSettings | None = None,
        spare: Callable[[], Localizer] | None = None,
    ) -> None:
        self.localizer = localizer
        self._spare = spare
        self.settings = settings or PipelineSettings()
        self.tracker = tracker or Tracker()
        #: By camera: what it showed already, and why it is left out, empty where it is not.
        self._memories: dict[str, PictureMemory] = {}
        self._cameras: dict[str, str] = {}
        self.counters: Counter[str] = Counter()
        needed = localizer.needs_prior and self.settings.prior == "initial_pose"
        #: When the localizer gets a search window: the setting, unless it finds nothing without one.
        self.prior: Literal["initial_pose", "always", "never"] = "always" if needed else self.settings.prior
        scenes = getattr(localizer.manifest, "scenes", ())
        self.fixes = FixMemory(scenes, fixes or FixSettings(), self.tracker.settings.max_speed_mps)
        self._last_stamp_ns: int | None = None
        self._last_odometry: Array | None = None
        self._lenses: OrderedDict[tuple[CameraModel, bool], _Lens] = OrderedDict()
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        self._latencies: deque[float] = deque(maxlen=_RECENT)
        self._last_result: FrameResult | None = None
        self._last_estimate: Estimate | None = None
        self._last_refusal = ""

    def _taken_over(self, problem: DeviceError) -> Localizer:
        """The spare localizer, from now on; said once, since there is only one. :raises DeviceError: there is none."""
        if self._spare is None:
            raise problem
        _log.error("%s; the CPU takes over", problem)
        make, self._spare = self._spare, None
        self.localizer.close()
        self.localizer = make()
        self._lenses.clear()
        return self.localizer

    @property
    def state(self) -> LocalizationState:
        """The state of the sequence."""
        return self.tracker.state

    @property
    def stuck(self) -> bool:
        """Whether the camera hangs, or every one of a rig: nothing but pictures that were used before."""
        return bool(self._memories) and all(memory.stuck for memory in self._memories.values())

    def process(self, frame: Frame) -> FrameResult:
        """Handle one frame; a refused one comes back with its reason instead of an estimate."""
        timings: dict[str, float] = {}
        jumps = self.counters["clock_jumps"]
        self.counters["frames"] += 1
        started = time.perf_counter()
        try:
            result = self._process(frame, timings)
        except _Refused as refusal:
            result = self._refusal_result(frame.stamp_ns, refusal, timings)
        timings["total"] = 1e3 * (time.perf_counter() - started)
        result = replace(result, timings_ms=timings, clock_jump=self.counters["clock_jumps"] > jumps)
        self._record(result)
        return result

    def refuse(self, stamp_ns: int, key: str, message: str) -> FrameResult:
        """Count a frame that a front end could not even turn into a :class:`Frame` (a camera_info with NaN).

        :param key: one of :data:`REFUSALS`.
        """
        if key not in REFUSALS:
            raise ValueError(f"unknown refusal {key!r}")
        jumps = self.counters["clock_jumps"]
        self.counters["frames"] += 1
        refusal = _Refused(key, message)
        try:
            self._check_stamp(stamp_ns, None)
        except _Refused as worse:
            refusal = worse
        self._last_odometry = None
        result = self._refusal_result(stamp_ns, refusal, {})
        result = replace(result, clock_jump=self.counters["clock_jumps"] > jumps)
        self._record(result)
        return result

    def set_initial_pose(
        self,
        T_map_base: Array,
        covariance: Array,
        stamp_ns: int = 0,
        T_odom_base: Array | None = None,
        scene: str = "",
        hold_s: float | None = None,
    ) -> None:
        """Look here: the base's pose and its 6x6 covariance, which is the search window.

        :param stamp_ns: of the pose; within half a second of the last frame, its odometry carries the pose on.
        :param T_odom_base: odometry at the stamp, when the caller knows it.
        :raises GeometryError: not a pose, or not a covariance.
        """
        if T_odom_base is None and self._last_stamp_ns is not None and abs(stamp_ns - self._last_stamp_ns) < 5e8:
            T_odom_base = self._last_odometry
        self.tracker.set_initial_pose(T_map_base, covariance, T_odom_base, scene, hold_s)

    def use(self, localizer: Localizer) -> None:
        """Go on with another map of the same frame; the track stays. The one that was in use is not closed."""
        self.localizer = localizer
        self._lenses.clear()
        self.fixes = FixMemory(localizer.manifest.scenes, self.fixes.settings, self.tracker.settings.max_speed_mps)
        self.tracker.change_map()

    def relocalize(self) -> None:
        """Forget the pose and search the whole map."""
        self.tracker.relocalize()

    def clock_jumped(self) -> None:
        """The clock of the stamps jumped, as its owner knows: count it and start over."""
        self.counters["clock_jumps"] += 1
        self.reset()

    def reset(self) -> None:
        """Forget pose, stamps and pictures; counters go on."""
        self.tracker.reset()
        self._memories.clear()
        self._last_stamp_ns, self._last_odometry = None, None

    def expire(self, now_ns: int) -> LocalizationState:
        """Let time pass without frames (a silent camera ends in LOST); ``now_ns`` by the clock of the stamps."""
        return self.tracker.expire(now_ns)

    def snapshot(self) -> Snapshot:
        """What :func:`vloc_ros.diagnostics.diagnose` needs."""
        estimate, last = self._last_estimate, self._last_result
        sigma_m = sigma_deg = None
        if estimate is not None:
            sigma_m = largest_sigma(estimate.covariance[:3, :3])
            sigma_deg = float(np.degrees(largest_sigma(estimate.covariance[3:, 3:])))
        return Snapshot(
            state=self.state,
            backend=self.localizer.backend,
            map_id=self.localizer.map_id,
            device=str(self.localizer.device),
            counters=dict(self.counters),
            tracker_counters=dict(self.tracker.counters),
            recent_refused_share=sum(self._recent) / len(self._recent) if self._recent else 0.0,
            picture_repeated_s=min((m.repeated_s for m in self._memories.values()), default=0.0),
            awaits_motion=self.tracker.awaits_motion,
            standing=any(memory.standing for memory in self._memories.values()),
            cameras=dict(self._cameras),
            fix_problem=self.fixes.problem,
            last_refusal=self._last_refusal,
            last_frame_ns=self._last_stamp_ns,
            last_pose_ns=self.tracker.accepted_ns,
            score=None if estimate is None else estimate.score,
            sigma_m=sigma_m,
            sigma_deg=sigma_deg,
            estimate={} if estimate is None else dict(estimate.diagnostics),
            latencies_ms=tuple(self._latencies),
            timings_ms=dict(last.timings_ms) if last is not None else {},
        )

    def _process(self, frame: Frame, timings: dict[str, float]) -> FrameResult:
        self._check_stamp(frame.stamp_ns, frame.received_ns)
        odometry = self._odometry(frame)
        seen = self._rig(frame, odometry, timings)
        camera, T_base_cam = seen[0].frame.name, seen[0].T_base_cam

        # Without a prior there is nothing to search: then the prediction is the best there is, until the track is LOST.
        known = self.tracker.prior(frame.stamp_ns, odometry, T_base_cam, any_misses=self.localizer.needs_prior)
        scene = frame.scene or self.settings.scene or (self.tracker.scene if known is not None else None)
        wanted = self.prior == "always" or (self.prior == "initial_pose" and self.tracker.searching)
        prior = known if wanted else None
        lost = self.tracker.T_map_base is None and not self.tracker.searching
        if lost and prior is None and self.prior != "never":
            prior = self.fixes.prior(frame.stamp_ns, T_base_cam)
        with _timed(timings, "localize"):
            try:
                others = tuple(s.view_of(seen[0]) for s in seen[1:])
                query = Query(seen[0].image, seen[0].camera, frame.stamp_ns, prior, scene or None, others)
                try:
                    estimate = self.localizer.localize(query, frame.keep_candidates)
                except DeviceError as problem:
                    estimate = self._taken_over(problem).localize(query, frame.keep_candidates)
            except VlocError as problem:
                raise _Refused(_key_of(problem), str(problem)) from problem
        timings.update({f"localize/{stage}": t for stage, t in estimate.timings_ms.items()})

        with _timed(timings, "track"), _refusing("bad_estimate", GeometryError):
            estimate = self._beside_fix(estimate, T_base_cam, lost)
            estimate = self.tracker.update(estimate, odometry, T_base_cam)
            T_cam_base = inverse(T_base_cam)
            covariance = covariance_of_base(estimate.T_map_cam, estimate.covariance, T_cam_base)
        decision, state = self.tracker.last, self.tracker.state
        allowed = state is LocalizationState.LOCALIZED or (
            state is LocalizationState.DEGRADED and self.settings.publish_degraded
        )
        return FrameResult(
            stamp_ns=frame.stamp_ns,
            estimate=estimate,
            refused=None,
            state=state,
            publish=decision.accepted and allowed,
            T_map_base=estimate.T_map_cam @ T_cam_base,
            covariance_base=covariance,
            T_map_odom=self.tracker.T_map_odom,
            correction=self.tracker.correction if decision.accepted and odometry is not None else None,
            reason=decision.reason,
            camera=camera,
            T_base_cam=T_base_cam,
            cameras=dict(self._cameras),
        )

    def _beside_fix(self, estimate: Estimate, T_base_cam: Array, lost: bool) -> Estimate:
        """The estimate, or a LOST one where nothing is known yet and the newest satellite fix contradicts it."""
        T_cam_base = inverse(T_base_cam)
        covariance = covariance_of_base(estimate.T_map_cam, estimate.covariance, T_cam_base)
        T_map_base = estimate.T_map_cam @ T_cam_base
        if estimate.state is LocalizationState.LOST:
            return estimate
        if not self.fixes.contradicts(T_map_base, covariance, estimate.stamp_ns, estimate.scene):
            if self.fixes.problem.startswith(_AGAINST):
                self.fixes.problem = ""
            return estimate
        self.counters["fix_contradicts"] += 1
        self.fixes.problem = f"{_AGAINST}: the receiver errs, or the place only looks alike"
        return estimate.with_state(LocalizationState.LOST) if lost else estimate

    def _rig(self, frame: Frame, odometry: Array | None, timings: dict[str, float]) -> list[_Seen]:
        """What the cameras of a frame that can be used saw; one that cannot is left out and named.

        The place of each is that at the frame's stamp: where the odometry knows how the vehicle moved since, a camera
        that was exposed a little earlier stood a little further back. Without odometry the tracker's velocity would be
        circular; what cameras are apart by then, in time, is for the synchronisation to keep small.

        :raises _Refused: no camera can be used; why the first cannot.
        """
        usable: list[_Seen] = []
        first: _Refused | None = None
        for member in (frame, *frame.others):
            try:
                lens = self._lens(member)
                with _refusing("bad_transform", GeometryError):
                    T = np.eye(4) if member.T_base_cam is None else check_transform(member.T_base_cam, "T_base_cam")
                    if member is not frame and odometry is not None and member.T_odom_base is not None:
                        T = inverse(odometry) @ check_transform(member.T_odom_base, "T_odom_base") @ T
                own = odometry if member is frame else member.T_odom_base
                image, camera = self._image(member, lens, own, timings)
            except _Refused as refusal:
                first = first or refusal
                # One that sends each picture twice is well.
                twice = refusal.key == "repeated_image" and not self._memories[member.name].stuck
                self._cameras[member.name] = "" if twice else f"{refusal.key}: {refusal}"
                if frame.others:
                    self.counters[f"camera_{member.name}_left_out"] += 1
                continue
            self._cameras[member.name] = ""
            usable.append(_Seen(member, image, camera, T))
        if not usable:
            assert first is not None
            raise first
        return usable

    def left_out(self, name: str, problem: str) -> None:
        """A camera of the rig sends nothing that could become part of a frame, as the front end knows.

        :param problem: why, in words.
        """
        self._cameras[name] = problem
        self._memories.pop(name, None)

    def _check_stamp(self, stamp: int, received_ns: int | None) -> None:
        last = self._last_stamp_ns
        if stamp <= 0:
            raise _Refused("stamp_zero", f"expected a stamp, found {stamp}; make the driver stamp its images")
        # A clock at 0 has not started yet (simulated time before the first /clock).
        age = (received_ns - stamp) * 1e-9 if received_ns else 0.0
        if -age > MAX_FUTURE_S:
            # Not remembered: one such stamp would make every later frame look like a jump back.
            raise _Refused("stamp_in_future", f"the stamp is {-age:.3f} s ahead of the clock; synchronise the clocks")
        if last is not None and stamp <= last:
            if stamp == last:
                raise _Refused("stamp_repeated", f"the stamp {stamp} was handled already")
            back = (last - stamp) * 1e-9
            if back <= REORDER_TOLERANCE_S:
                raise _Refused("stamp_out_of_order", f"the stamp is {back:.3f} s older than the last one")
            self.clock_jumped()
        self._last_stamp_ns = stamp
        if self.settings.max_age_s and age > self.settings.max_age_s:
            raise _Refused("stale", _stale(age, self.settings.max_age_s))

    def _odometry(self, frame: Frame) -> Array | None:
        """The frame's odometry; a broken one is counted and done without, which the tracker can."""
        self._last_odometry = None
        if frame.T_odom_base is not None:
            try:
                self._last_odometry = check_transform(frame.T_odom_base, "T_odom_base")
            except GeometryError:
                self.counters["bad_odometry"] += 1
        return self._last_odometry

    def _lens(self, frame: Frame) -> _Lens:
        if frame.camera is None:
            raise _Refused("no_camera_info", "no camera_info for the image; check its topic and the time stamps")
        key = (frame.camera, frame.rectified)
        lens = self._lenses.get(key)
        if lens is None:
            lens = self._lenses[key] = _Lens(self.localizer, *key)
            if len(self._lenses) > _CAMERAS:
                self._lenses.popitem(last=False)
        self._lenses.move_to_end(key)
        if lens.refusal is not None:
            raise _Refused(lens.refusal.key, str(lens.refusal))
        return lens

    def _image(
        self, frame: Frame, lens: _Lens, odometry: Array | None, timings: dict[str, float]
    ) -> tuple[RgbImage, CameraModel]:
        with _timed(timings, "decode"):
            with _refusing("bad_image", ImageError):
                image = decode(frame.image, self.settings.bit_depth, lens.camera.size)
            try:
                check_content(image)
            except ImageError as problem:
                raise _Refused("blank_image", f"{problem}{self._bits_hint(frame)}") from problem
            memory = self._memories.setdefault(frame.name, PictureMemory(self.tracker.settings))
            repeated = memory.judge(image, frame.stamp_ns, odometry, self.tracker.least_speed_mps)
            if repeated is not None:
                raise _Refused("repeated_image", repeated)
        if lens.rectifier is None:
            return image, lens.camera
        with _timed(timings, "rectify"), _refusing("bad_image", ImageError):
            return lens.rectifier.rectify(image)

    def _bits_hint(self, frame: Frame) -> str:
        """A 12-bit sensor in 16-bit words is nearly black."""
        depth = self.settings.bit_depth
        unused = 0 if isinstance(frame.image, np.ndarray) else unused_bits(frame.image, depth)
        return (
            f"; the top {unused} of {depth} bits are never set: pipeline.bit_depth={depth - unused}" if unused else ""
        )

    def _refusal_result(self, stamp_ns: int, refusal: _Refused, timings: dict[str, float]) -> FrameResult:
        self.counters["refused"] += 1
        self.counters[f"refused_{refusal.key}"] += 1
        self._last_refusal = f"{refusal.key}: {refusal}"
        if refusal.key in _MISSES or (refusal.key == "repeated_image" and self.stuck):
            self.tracker.miss(stamp_ns, self._last_odometry)
        elif stamp_ns == self._last_stamp_ns:
            self.tracker.expire(stamp_ns)
        return FrameResult(
            stamp_ns=stamp_ns,
            estimate=None,
            refused=refusal.key,
            state=self.tracker.state,
            publish=False,
            T_map_odom=self.tracker.T_map_odom,
            timings_ms=timings,
            message=str(refusal),
            cameras=dict(self._cameras),
        )

    def _record(self, result: FrameResult) -> None:
        self.counters[f"state_{result.state.value}"] += 1
        self.counters["published"] += int(result.publish)
        if result.refused != "repeated_image" or self.stuck:  # a camera that sends each picture twice is well
            self._recent.append(result.refused is not None)
        self._last_result = result
        if result.estimate is not None:
            self._last_estimate = result.estimate
            self._latencies.append(result.timings_ms["total"])


def _key_of(problem: VlocError) -> str:
    for kind, key in (
        (CameraMismatchError, "camera_mismatch"),
        (CameraError, "bad_camera_info"),
        (ImageError, "bad_image"),
        (GeometryError, "bad_estimate"),
    ):
        if isinstance(problem, kind):
            return key
    return "localizer"


def _stale(age_s: float, limit_s: float) -> str:
    text = f"the frame is {age_s:.3f} s old, expected at most {limit_s:g} s"
    if age_s < 60.0:
        return text
    days = f" ({age_s / 86400:.0f} days)" if age_s > 2 * 86400 else ""
    return (
        f"the stamp is {age_s:.0f} s{days} behind the clock: a recording needs its own clock (use_sim_time, ros2 bag "
        "play --clock), a camera whose clock is not synchronised max_image_age 0"
    )


@contextmanager
def _refusing(key: str, *kinds: type[VlocError]) -> Iterator[None]:
    try:
        yield
    except kinds as problem:
        raise _Refused(key, str(problem)) from problem


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        timings[stage] = timings.get(stage, 0.0) + 1e3 * (time.perf_counter() - started)  # cameras add up
