"""The state of the sequence: which estimates to believe, what to claim, where to look next.

One mechanism finds the first pose, recovers from LOST, and notices that the vehicle was carried away: a
*candidate* track that confident estimates outside the current track build together. It takes over once enough
of them agree with each other (through odometry, or at bounded speed). The current track moves by odometry or at
nearly constant velocity and gates every estimate by Mahalanobis distance.

All decisions are made in the frame of the vehicle's base, whose odometry is known; estimates and priors are the
camera's, carried over by ``T_base_cam`` (identity when not given: then "base" means the camera). Decisions depend
on stamps alone, never on the wall clock: live and replay agree.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from vloc_ros.errors import GeometryError, StampError
from vloc_ros.geometry.se3 import covariance_of_base, inverse, largest_sigma
from vloc_ros.tracking.correction import Correction, DriftFilter
from vloc_ros.tracking.motion import Track, plausible_step
from vloc_ros.tracking.proof import Proof
from vloc_ros.tracking.settings import MIN_SIGMA_DEG, MIN_SIGMA_M, TrackerSettings
from vloc_ros.types import Array, Estimate, LocalizationState, PosePrior, check_covariance, check_transform

__all__ = ["Decision", "Tracker"]

_INITIALIZING, _LOCALIZED = LocalizationState.INITIALIZING, LocalizationState.LOCALIZED
_DEGRADED, _LOST = LocalizationState.DEGRADED, LocalizationState.LOST
_FLOOR = np.diag([MIN_SIGMA_M**2] * 3 + [float(np.radians(MIN_SIGMA_DEG)) ** 2] * 3)


@dataclass(frozen=True)
class Decision:
    """What the tracker made of the last frame.

    :ivar accepted: the estimate is part of the track, and may be published as the state allows.
    :ivar reason: ``accepted``, ``initialized`` (the estimate that completed the first fix), ``relocalized`` (the one
        that moved the track), ``confirming`` (agrees so far), ``low_score``, ``jump``, ``speed``, ``scene``,
        ``uncertain``, ``no_estimate``.
    :ivar mahalanobis_squared: distance from the prediction, NaN where there was none.
    """

    accepted: bool
    reason: str
    mahalanobis_squared: float = float("nan")


@dataclass(frozen=True)
class _Candidate:
    """A track beside the one that is believed: what it is, how many estimates agree, and what bears it out."""

    track: Track
    fixes: int
    proof: Proof


class Tracker:
    """Gates estimates, keeps the state, predicts.

    A rejected estimate is never published and never part of map -> odom: its frame is DEGRADED (silent), until
    the misses add up to LOST. A frame accepted though it is weak is DEGRADED too, but may be published. So is every
    frame of a map without points until the vehicle has moved (:mod:`.proof`): then its track bears it out.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self.counters: Counter[str] = Counter()
        self.last = Decision(False, "no_estimate")
        self._clear(_INITIALIZING)
        self._last_stamp_ns: int | None = None

    def _clear(self, state: LocalizationState) -> None:
        self._state = state
        self._track: Track | None = None
        self._window: Track | None = None
        self._proof: Proof | None = None
        self._candidate: _Candidate | None = None
        self._misses = 0
        self._owed = 0
        self._accepted_ns: int | None = None
        self._hold_until_ns: int | None = None
        self._hold_s = 0.0
        self._correction: Correction | None = None
        self._drift = DriftFilter(self.settings)

    # What is known

    @property
    def state(self) -> LocalizationState:
        """The state of the sequence so far."""
        return self._state

    @property
    def T_map_odom(self) -> Array | None:
        """Map -> odom from the accepted estimates; None while the pose or the odometry is unknown."""
        return self._correction.T_map_odom if self._correction is not None else None

    @property
    def correction(self) -> Correction | None:
        """:attr:`T_map_odom` with the odometry it corrects and its drift; None while unknown."""
        return self._correction

    @property
    def T_map_base(self) -> Array | None:
        """The fused pose at the last frame; None while unknown."""
        return self._track.T_map_base if self._track is not None else None

    @property
    def covariance(self) -> Array | None:
        """6x6 covariance of :attr:`T_map_base`; None while unknown."""
        return self._track.pose_covariance if self._track is not None else None

    @property
    def least_speed_mps(self) -> float:
        """The speed of the track less its standard deviation; 0 while unknown."""
        if self._track is None:
            return 0.0
        deviation = largest_sigma(self._track.covariance[6:9, 6:9])
        return max(0.0, float(np.linalg.norm(self._track.twist[:3])) - deviation)

    @property
    def scene(self) -> str | None:
        """The scene of the track or of the user's pose, None while unknown or unnamed."""
        track = self._track or self._window
        return (track.scene or None) if track is not None else None

    @property
    def accepted_ns(self) -> int | None:
        """Stamp of the last accepted estimate of this track."""
        return self._accepted_ns

    @property
    def awaits_motion(self) -> bool:
        """Whether the track goes on and nothing but the vehicle's motion can bear it out."""
        return self._track is not None and not self._proven and self._misses == 0

    @property
    def searching(self) -> bool:
        """Whether an initial pose is waiting to be confirmed."""
        return self._track is None and self._window is not None

    def prior(
        self,
        stamp_ns: int,
        T_odom_base: Array | None = None,
        T_base_cam: Array | None = None,
        any_misses: bool = False,
    ) -> PosePrior | None:
        """Where the camera should be at ``stamp_ns``: the search window for the localizer.

        None when the tracker does not know: not initialised, LOST, or too many misses in a row. After
        :meth:`set_initial_pose`, that pose and its covariance (moved by odometry), until it is confirmed or dropped.

        :param any_misses: however many frames in a row were missed, as long as the track is not LOST.
        """
        track = self._track or self._window
        if track is None or self._overdue(stamp_ns):
            return None
        if self._misses > self.settings.prior_max_misses and not any_misses:
            return None
        at = track.predicted(stamp_ns, T_odom_base, self.settings)
        extrinsics = np.eye(4) if T_base_cam is None else T_base_cam
        covariance = covariance_of_base(at.T_map_base, at.pose_covariance, extrinsics)
        try:
            return PosePrior(at.T_map_base @ extrinsics, covariance)
        except GeometryError:  # after hours without a frame it is anywhere
            return None

    # What happens

    def set_initial_pose(
        self,
        T_map_base: Array,
        covariance: Array,
        T_odom_base: Array | None = None,
        scene: str = "",
        hold_s: float | None = None,
    ) -> None:
        """Forget the track and look here; the 6x6 covariance is the search window and the gate.

        :param T_odom_base: odometry at the time of the pose; without it the pose holds for the next frame.
        :param hold_s: instead of the setting ``initial_pose_hold_s``.
        :raises GeometryError: not a rigid transform, or not a covariance.
        """
        T = check_transform(T_map_base, "initial pose")
        P = check_covariance(covariance, "initial pose covariance") + _FLOOR
        if T_odom_base is not None:
            T_odom_base = check_transform(T_odom_base, "odometry of the initial pose")
        self._clear(_INITIALIZING)
        self._window = Track.window(T, P, T_odom_base, scene)
        self._hold_s = self.settings.initial_pose_hold_s if hold_s is None else hold_s
        self.counters["initial_poses"] += 1

    def change_map(self) -> None:
        """Go on in another map of the same frame: the pose stays, the names of scenes are others."""
        if self._track is not None:
            self._track = replace(self._track, scene="")
        self._candidate = None
        self.counters["map_changes"] += 1

    def relocalize(self) -> None:
        """Forget the pose and search the whole map; stamps go on."""
        self._clear(_INITIALIZING)
        self.counters["relocalize_requests"] += 1

    def reset(self) -> None:
        """Forget everything but the counters: the clock jumped back, or another map was loaded."""
        self._clear(_INITIALIZING)
        self._last_stamp_ns = None
        self.last = Decision(False, "no_estimate")
        self.counters["resets"] += 1

    def expire(self, stamp_ns: int) -> LocalizationState:
        """Let time pass without a frame: LOST once ``lost_after_s`` has gone by. Returns the state."""
        if self._overdue(stamp_ns):
            self._lose()
        return self._state

    def miss(self, stamp_ns: int, T_odom_base: Array | None = None) -> LocalizationState:
        """A frame that gave no estimate (refused image). Returns the state.

        :raises StampError: not newer than the last frame.
        """
        self._advance_stamp(stamp_ns)
        self.expire(stamp_ns)
        if self._track is not None:
            self._reject(self._predict(self._track, stamp_ns, T_odom_base))
        elif self._window is not None:
            self._window = self._predict(self._window, stamp_ns, T_odom_base)
        self.last = Decision(False, "no_estimate")
        return self._state

    def update(self, estimate: Estimate, T_odom_base: Array | None = None, T_base_cam: Array | None = None) -> Estimate:
        """Judge an estimate; returns it under the state of the sequence. :attr:`last` says why.

        :param T_odom_base: odometry at the estimate's stamp, 4x4, or None.
        :param T_base_cam: the camera in the base's frame, 4x4; None means identity.
        :raises StampError: not newer than the last frame.
        :raises GeometryError: the estimate's covariance or pose is not one.
        """
        T_cam = check_transform(estimate.T_map_cam, "estimate")
        covariance = check_covariance(estimate.covariance, "estimate covariance")
        T_cam_base = np.eye(4) if T_base_cam is None else inverse(T_base_cam)
        T = T_cam @ T_cam_base
        covariance = check_covariance(
            covariance_of_base(T_cam, covariance, T_cam_base), "estimate covariance", definite=True
        )
        R = covariance + _FLOOR
        self._advance_stamp(estimate.stamp_ns)
        self.expire(estimate.stamp_ns)
        if self._track is None:
            self.last = self._without_track(estimate, T, R, T_odom_base)
        else:
            self.last = self._with_track(self._track, estimate, T, R, T_odom_base)
        self.counters[self.last.reason] += 1
        return estimate.with_state(self._state)

    # How it is decided

    def _without_track(self, estimate: Estimate, T: Array, R: Array, odometry: Array | None) -> Decision:
        claimed, distance, needed = self._claimed(estimate, R), float("nan"), self.settings.initial_fixes
        if self._window is not None:
            # What agrees must lie in the user's window; the user's word counts as one fix, never as all.
            before, needed = self._window, max(1, needed - 1)
            self._window = self._predict(before, estimate.stamp_ns, odometry)
            distance = self._window.mahalanobis_squared(T, R)
            reason = self._refusal(before, self._window, estimate, T, R, distance, claimed)
            if reason is not None:
                return Decision(False, reason, distance)
        if claimed is not _LOCALIZED:
            return Decision(False, "low_score" if claimed is _LOST else "uncertain", distance)
        candidate = self._candidate = self._fed(estimate, T, R, odometry)
        if candidate.fixes < needed:
            return Decision(False, "confirming", distance)
        self._adopt(candidate, T, R, odometry, vouched=self._window is not None)
        return Decision(True, "initialized", distance)

    def _with_track(self, track: Track, estimate: Estimate, T: Array, R: Array, odometry: Array | None) -> Decision:
        stamp = estimate.stamp_ns
        claimed = self._claimed(estimate, R)
        predicted = self._predict(track, stamp, odometry)
        distance = predicted.mahalanobis_squared(T, R)
        reason = self._refusal(track, predicted, estimate, T, R, distance, claimed)
        if reason is None:
            self._accept(predicted, estimate, T, R, odometry, confident=claimed is _LOCALIZED)
            return Decision(True, "accepted", distance)
        # A pose from the user is not overruled while it is held.
        if claimed is _LOCALIZED and (self._hold_until_ns is None or stamp > self._hold_until_ns):
            candidate = self._candidate = self._fed(estimate, T, R, odometry)
            # It is borne out as well as the track: frames of a standing vehicle do not move that.
            proven = candidate.proof.given or not self._proven
            if candidate.fixes >= self.settings.relocalize_after and proven:
                self._adopt(candidate, T, R, odometry)
                return Decision(True, "relocalized", distance)
        self._reject(predicted)
        return Decision(False, reason, distance)

    def _refusal(
        self,
        track: Track,
        predicted: Track,
        estimate: Estimate,
        T: Array,
        R: Array,
        distance: float,
        claimed: LocalizationState,
    ) -> str | None:
        if claimed is _LOST:
            return "low_score"
        if track.scene and estimate.scene and track.scene != estimate.scene:
            return "scene"
        if not distance <= self.settings.gate:
            return "jump"
        by_velocity = track.T_odom_base is None or predicted.T_odom_base is None
        if by_velocity and not track.reachable(T, R, estimate.stamp_ns, self.settings):
            return "speed"
        return None

    def _claimed(self, estimate: Estimate, R: Array) -> LocalizationState:
        """The backend's state of the frame, lowered where the covariance is too wide to be of use."""
        if estimate.claimed is not _LOCALIZED:
            return _LOST if estimate.state is _LOST else _DEGRADED
        sigma_m = largest_sigma(R[:3, :3])
        sigma_deg = float(np.degrees(largest_sigma(R[3:, 3:])))
        limit_m, limit_deg = self.settings.max_sigma_m, self.settings.max_sigma_deg
        if (limit_m and sigma_m > limit_m) or (limit_deg and sigma_deg > limit_deg):
            return _DEGRADED
        return _LOCALIZED

    @property
    def _proven(self) -> bool:
        """Whether the track is borne out."""
        return self._proof is not None and self._proof.given

    def _accept(
        self, predicted: Track, estimate: Estimate, T: Array, R: Array, odometry: Array | None, confident: bool
    ) -> None:
        self._track = predicted.corrected(T, R * self.settings.correlated_frames, self.settings)
        self._accepted_ns = stamp_ns = estimate.stamp_ns
        self._misses = 0
        self._candidate = None
        if confident:
            self._owed = max(0, self._owed - 1)
            if self._proof is not None:
                self._proof = self._proof.after(not estimate.awaits_track, self._track.T_map_base, R, odometry)
        self._state = _LOCALIZED if confident and self._owed == 0 and self._proven else _DEGRADED
        self._correct(T, R, odometry, stamp_ns)

    def _reject(self, predicted: Track) -> None:
        self._track = predicted
        self._misses += 1
        self._owed = min(self._owed + 1, self.settings.recover_after)
        limit = self.settings.lost_after_frames
        if limit and self._misses >= limit:
            self._lose()
        else:
            self._state = _DEGRADED

    def _fed(self, estimate: Estimate, T: Array, R: Array, odometry: Array | None) -> _Candidate:
        """The candidate with one more confident estimate, or another that begins there."""
        stamp, settings, alone = estimate.stamp_ns, self.settings, not estimate.awaits_track
        track = None if self._candidate is None else self._candidate.track
        if self._candidate is not None and track is not None and track.stamp_ns is not None:
            recent = not settings.lost_after_s or stamp - track.stamp_ns <= settings.lost_after_s * 1e9
            predicted = track.predicted(stamp, odometry, settings)
            by_velocity = track.T_odom_base is None or odometry is None
            if (
                track.scene == estimate.scene
                and recent
                and predicted.mahalanobis_squared(T, R) <= settings.gate
                and (not by_velocity or track.reachable(T, R, stamp, settings))
            ):
                track = predicted.corrected(T, R * settings.correlated_frames, settings)
                proof = self._candidate.proof.after(alone, track.T_map_base, R, odometry)
                return _Candidate(track, self._candidate.fixes + 1, proof)
        begun = Track.start(T, R, stamp, odometry, estimate.scene, settings)
        return _Candidate(begun, 1, Proof(alone, T, odometry))

    def _adopt(self, candidate: _Candidate, T: Array, R: Array, odometry: Array | None, vouched: bool = False) -> None:
        """Go on with a candidate. :param vouched: somebody else said so, too."""
        track, hold = candidate.track, self._hold_until_ns
        proof = replace(candidate.proof, given=candidate.proof.given or vouched)
        self._clear(_LOCALIZED if proof.given else _DEGRADED)
        self._track, self._proof, self._accepted_ns, self._hold_until_ns = track, proof, track.stamp_ns, hold
        assert track.stamp_ns is not None
        self._correct(T, R, odometry, track.stamp_ns)

    def _predict(self, track: Track, stamp_ns: int, odometry: Array | None) -> Track:
        if track.stamp_ns is None:  # a pose from the user meets its first frame
            self._hold_until_ns = stamp_ns + round(self._hold_s * 1e9)
        elif track.T_odom_base is not None and odometry is not None:
            dt = (stamp_ns - track.stamp_ns) * 1e-9
            if not plausible_step(inverse(track.T_odom_base) @ odometry, dt, self.settings):
                self.counters["odometry_jumps"] += 1
                # They belonged to the odometry before its restart.
                self._correction, self._drift = None, DriftFilter(self.settings)
        return track.predicted(stamp_ns, odometry, self.settings)

    def _correct(self, T: Array, R: Array, odometry: Array | None, stamp_ns: int) -> None:
        """Map -> odom after an accepted estimate, which the track has taken up."""
        assert self._track is not None
        if odometry is None:
            return
        if self.settings.smoothing:
            self._correction = self._drift.fuse(T, R, odometry, stamp_ns, self._track)
        else:
            self._correction = Correction(T @ inverse(odometry), odometry, np.zeros(6))

    def _overdue(self, stamp_ns: int) -> bool:
        if self._window is not None:
            return self._hold_until_ns is not None and stamp_ns > self._hold_until_ns
        limit = self.settings.lost_after_s
        return bool(limit) and self._accepted_ns is not None and stamp_ns - self._accepted_ns > limit * 1e9

    def _lose(self) -> None:
        """Give the pose up. A user's pose that nothing confirmed leaves no LOST behind: nothing was known."""
        known = self._window is None
        self.counters["lost" if known else "initial_poses_dropped"] += 1
        self._clear(_LOST if known else _INITIALIZING)

    def _advance_stamp(self, stamp_ns: int) -> None:
        if stamp_ns <= 0 or (self._last_stamp_ns is not None and stamp_ns <= self._last_stamp_ns):
            raise StampError(
                f"tracker: expected a stamp after {self._last_stamp_ns}, found {stamp_ns}; "
                "reset the tracker when the clock jumps back"
            )
        self._last_stamp_ns = stamp_ns
