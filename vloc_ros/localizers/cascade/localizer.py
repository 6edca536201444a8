"""A chain of localizers behind one entrance: one that proposes places, a judge that decides, one that refines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np

from vloc_ros.errors import CameraMismatchError, ConfigError, ImageError, VlocError
from vloc_ros.geometry.se3 import largest_sigma
from vloc_ros.localizers.base import Hypothesis, Localizer, backend_class
from vloc_ros.localizers.calibration import section
from vloc_ros.localizers.cascade.bundle import JUDGE, open_members, scene_names
from vloc_ros.localizers.cascade.judge import Agreement, Judge, agreement
from vloc_ros.localizers.cascade.settings import SECTION, CascadeSettings
from vloc_ros.localizers.device import Clock
from vloc_ros.localizers.fusion import combined, contradict, pose_difference
from vloc_ros.maps import MapBundle
from vloc_ros.types import Array, CameraModel, Estimate, LocalizationState, PosePrior, Query

__all__ = ["FAILURES", "CascadeLocalizer"]

#: Why an estimate is not refined: the values of the diagnostic ``refinement_failure``; 0 means it is.
FAILURES = {
    "none": 0.0,
    "coarse_lost": 1.0,
    "coarse_unsure": 2.0,
    "scene_unknown": 3.0,
    "fine_refused": 4.0,
    "fine_lost": 5.0,
    "outside_gate": 6.0,
    "less_sure": 7.0,
    "unsupported": 8.0,
    "no_fine": 9.0,
}
#: Of them those that put the coarse estimate in doubt, too.
_DOUBTS = ("fine_lost", "outside_gate", "unsupported")
#: States from the best to the worst.
_ORDER = (LocalizationState.LOCALIZED, LocalizationState.DEGRADED, LocalizationState.LOST)
#: Keeps a covariance without its floor invertible.
_LEAST = 1e-12 * np.eye(6)
_NOTHING = Agreement(0, float("inf"))
_LOST, _DEGRADED = LocalizationState.LOST, LocalizationState.DEGRADED


@dataclass(frozen=True)
class _Tried:
    """A refinement of one proposal, why it is not believed (``none``: it is), and what to tell about it."""

    fine: Estimate | None
    failure: str
    about: dict[str, float]


class CascadeLocalizer(Localizer):
    """Proposers, a judge, and a refiner; see the backend's README.

    **With a judge** (a member of the backend ``features``) the places that the coarse localizer proposes, the query's
    prior and what the judge finds itself are compared by the map's points that are seen there. Only what these support
    is LOCALIZED. The fine localizer then refines the pose; the two are combined as far as both say how sure they are.

    **Without one** the coarse estimate is the fine localizer's prior; its covariance says how far to search and which
    refinement to believe. Where the fine localizer does not find its map there (:meth:`Localizer.is_supported`), the
    other places that the coarse one proposes are tried in turn. Where all fail the coarse estimate stands with its own
    covariance, in doubt.

    The diagnostics ``refined`` and ``refinement_failure`` (:data:`FAILURES`) tell which it was.
    """

    backend: ClassVar[str] = "cascade"
    takes_any_lens: ClassVar[bool] = True
    takes_rigs: ClassVar[bool] = True
    #: What its members do not bear out they do not call LOCALIZED.
    sees_points: ClassVar[bool] = True
    settings_class = CascadeSettings
    _settings: CascadeSettings
    settings_section: ClassVar[str] = SECTION

    @classmethod
    def merged_settings(cls, bundle: MapBundle, changes: Mapping[str, Any]) -> CascadeSettings:
        """As the base's; those of a member are changed one by one."""
        where = f"{bundle.path}: settings"
        stored = section(bundle.manifest.settings, SECTION, where)
        merged = dict(changes)
        for role in ("coarse", JUDGE, "fine"):
            before, asked = stored.get(role), changes.get(role)
            if isinstance(before, Mapping) and isinstance(asked, Mapping):
                merged[role] = {**before, **asked}
        settings: CascadeSettings = super().merged_settings(bundle, merged)
        return settings

    def load(self, bundle: MapBundle) -> None:
        members = open_members(bundle)
        self._names = scene_names(members)
        loaded = {
            m.role: backend_class(m.bundle.manifest.backend).from_map(
                m.bundle, self._device, getattr(self._settings, m.role)
            )
            for m in members
        }
        self._members = loaded
        self._coarse, self._fine = loaded.get("coarse"), loaded.get("fine")
        self._judge = cast("Judge | None", loaded.get(JUDGE))
        self.offers_candidates = next(iter(loaded.values())).offers_candidates

    @property
    def coarse(self) -> Localizer | None:
        """The localizer that proposes places; None where the judge finds them itself."""
        return self._coarse

    @property
    def judge(self) -> Localizer | None:
        """The localizer whose matched points decide."""
        return self._members.get(JUDGE)

    @property
    def fine(self) -> Localizer | None:
        """The localizer that refines."""
        return self._fine

    def reference_poses(self, scene: str | None = None) -> Array | None:
        """``T_map_cam`` (M, 4, 4) of the references of the last member that has them, else None."""
        name = next(iter(self._names)) if scene is None else scene
        for role, member in reversed(self._members.items()):
            poses = member.reference_poses(self._names.get(name, {}).get(role, name))
            if poses is not None:
                return poses
        return None

    def map_points(self, scene: str | None = None) -> Array | None:
        """Those of the judge, else of the last member that has some."""
        name = next(iter(self._names)) if scene is None else scene
        members = {JUDGE: self.judge} if self.judge is not None else dict(reversed(self._members.items()))
        for role, member in members.items():
            points = member.map_points(self._names.get(name, {}).get(role, name))
            if points is not None:
                return points
        return None

    @property
    def takes_distorted(self) -> bool:
        return all(member.takes_distorted for member in self._members.values())

    def check_camera(self, camera: CameraModel) -> None:
        for member in self._members.values():
            member.check_camera(camera)

    def release(self) -> None:
        for member in self._members.values():
            member.close()

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        if query.scene is not None and query.scene not in self._names:
            raise ConfigError(f"scene: expected one of {', '.join(self._names)}, found {query.scene!r}")
        if self._judge is not None:
            return self._judged(query, clock, keep_candidates)
        return self._unjudged(query, clock, keep_candidates)

    def hypotheses(self, query: Query, count: int) -> list[Estimate]:
        """The estimate, and the other places that the first localizer proposes."""
        first, others = self.localize(query), next(iter(self._members.values())).hypotheses(query, count)
        return [first, *(replace(o, backend=self.backend, map_id=self.map_id) for o in others[1:])][:count]

    # -- with a judge -----------------------------------------------------------------------------

    def _judged(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        settings, about = self._settings, {"proposals": 0.0, "rescued": 0.0}
        judged, proposed = None, list[Estimate]()
        if query.prior is not None:  # what the sequence knows needs no proposer
            judged = self._decided(query, (query.prior,), False, keep_candidates, clock)
        if judged is None or judged.state is _LOST:
            proposed = self._proposed(query, clock)
            about["proposals"] = float(len(proposed))
            if proposed or judged is None:
                priors = [PosePrior(e.T_map_cam, e.covariance) for e in proposed]
                judged = self._decided(query, priors, settings.rivals or not priors, keep_candidates, clock)
        if judged.state is _LOST and settings.rescue and proposed and not self._ambiguous(judged):
            # What is seen from metres away may be too far off to be matched: refined first, then judged.
            refined = [self._refined(query, e, clock) for e in proposed]
            priors = [PosePrior(e.T_map_cam, e.covariance) for e in refined if e is not None and e.state is not _LOST]
            if priors:
                again = self._decided(query, priors, settings.rivals, keep_candidates, clock)
                if again.state is not _LOST:
                    judged, about["rescued"] = again, 1.0
        if judged.state is _LOST:
            return self._unsupported(judged, proposed, about)
        return self._refined_judged(query, judged, about, clock)

    def _decided(
        self, query: Query, priors: Sequence[PosePrior], search: bool, keep_candidates: bool, clock: Clock
    ) -> Estimate:
        """What the judge makes of some proposals, in the names of this map's scenes."""
        assert self._judge is not None
        found = self._judge.localize_from(self._asked(query, JUDGE), priors, keep_candidates, search)
        clock.take(JUDGE, found.timings_ms)
        return replace(found, scene=self._scene_of(found.scene, JUDGE))

    def _proposed(self, query: Query, clock: Clock) -> list[Estimate]:
        """Places that the coarse localizer proposes, those that are worth a look."""
        if self._coarse is None:
            return []
        found = self._coarse.hypotheses(replace(query, prior=None), self._settings.hypotheses)
        clock.take("coarse", found[0].timings_ms)
        usable = [e for e in found if (self._settings.refine_lost or e.state is not _LOST) and e.scene in self._names]
        return [e for e in usable if _sigmas(e.covariance)[0] <= self._settings.max_sigma_m]

    def _unsupported(self, judged: Estimate, proposed: Sequence[Estimate], about: dict[str, float]) -> Hypothesis:
        """Nothing is supported: at best the coarse estimate stands, and nobody vouches for it."""
        diagnostics = {**judged.diagnostics, **about, "refined": 0.0, "refinement_failure": FAILURES["unsupported"]}
        used, state = judged, _LOST
        if proposed and not self._ambiguous(judged):
            used, state = proposed[0], _worse(proposed[0].state, _DEGRADED)
            diagnostics |= {f"coarse_{name}": value for name, value in used.diagnostics.items()}
        return Hypothesis(
            used.scene, used.T_map_cam, used.score, covariance=used.covariance, state=state, diagnostics=diagnostics,
            candidates=judged.candidates,
        )  # fmt: skip

    def _ambiguous(self, judged: Estimate) -> bool:
        """Whether another place has nearly as much evidence as the best one."""
        assert self._judge is not None
        return judged.diagnostics.get("rivalry", 0.0) >= self._judge.settings.judge.rival

    def _refined_judged(self, query: Query, judged: Estimate, about: dict[str, float], clock: Clock) -> Hypothesis:
        """A supported pose, refined where the refinement agrees with it."""
        T, covariance, failure = judged.T_map_cam, judged.covariance, "no_fine"
        if judged.scene not in self._names:
            failure = "scene_unknown"
        elif self._fine is not None and self._settings.fine_pose != "never":
            fine = self._refined(query, judged, clock)
            failure = "fine_refused" if fine is None else "fine_lost" if fine.state is _LOST else "none"
            if fine is not None and failure == "none":
                moved = pose_difference(fine.T_map_cam, T)
                about["refinement_m"] = float(np.linalg.norm(moved[:3]))
                about["refinement_deg"] = float(np.degrees(np.linalg.norm(moved[3:])))
                supported = self._fine.is_supported(fine.diagnostics)
                failure = self._contradiction(query, judged, fine) if supported else "unsupported"
            if fine is not None and failure == "none":
                T, covariance, about["judged_share"] = self._together(query, judged, fine)
        about["refined"], about["refinement_failure"] = float(failure == "none"), FAILURES[failure]
        return Hypothesis(
            judged.scene, T, judged.score, covariance=covariance, state=judged.state,
            diagnostics={**judged.diagnostics, **about}, candidates=judged.candidates, matches=judged.matches,
        )  # fmt: skip

    def _contradiction(self, query: Query, judged: Estimate, fine: Estimate) -> str:
        """Why a refinement of a supported pose is not believed."""
        if contradict(fine.T_map_cam, fine.covariance, judged.T_map_cam, judged.covariance):
            return "outside_gate"
        before, now = self._evidence(query, judged, fine)
        return "none" if now.count >= self._settings.fine_evidence * before.count else "unsupported"

    def _evidence(self, query: Query, judged: Estimate, fine: Estimate) -> list[Agreement]:
        """How well the judge's matched points fit both poses."""
        assert self._judge is not None
        if judged.matches is None:
            return [_NOTHING, _NOTHING]
        # The judge's limit is of images that it has reduced, its matches are in the query's own.
        camera = query.camera
        radius = self._judge.settings.judge.radius_px * camera.width / self._judge.reduced_camera(camera).width
        return [agreement(e.T_map_cam, query, judged.matches, radius) for e in (judged, fine)]

    def _together(self, query: Query, judged: Estimate, fine: Estimate) -> tuple[Array, Array, float]:
        """The pose of the two, its covariance, and what share the judge's own pose has in it."""
        if self._settings.fine_pose == "combine":
            return self._combined(judged, fine)
        before, now = self._evidence(query, judged, fine)
        used = fine if (now.count, -now.error_px) > (before.count, -before.error_px) else judged
        return used.T_map_cam, used.covariance, float(used is judged)

    def _combined(self, judged: Estimate, fine: Estimate) -> tuple[Array, Array, float]:
        """Weighted by what each knows. Of two maps without calibration that is what lies above the error of the map."""
        assert self._judge is not None and self._fine is not None
        floor, other = self._judge.shared_floor, self._fine.shared_floor
        known = any("position_sigma_m" in e.diagnostics for e in (judged, fine))
        if known or floor is None or other is None:
            return combined(judged.T_map_cam, judged.covariance, fine.T_map_cam, fine.covariance)
        T, covariance, share = combined(
            judged.T_map_cam, judged.covariance - floor + _LEAST, fine.T_map_cam, fine.covariance - other + _LEAST
        )
        return T, covariance + floor, share

    # -- without a judge --------------------------------------------------------------------------

    def _unjudged(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        assert self._coarse is not None
        coarse = self._coarse.localize(query, keep_candidates)
        clock.take("coarse", coarse.timings_ms)
        # The first proposal whose place the refinement bears out; where there is none, the coarse estimate.
        tried = self._tried(query, coarse, coarse, clock)
        if tried.failure in _DOUBTS and query.prior is None:
            # Asked again for them: candidates of every frame, for the few that need them, would cost more.
            for other in self._coarse.hypotheses(query, self._settings.hypotheses)[1:]:
                again = self._tried(query, other, coarse, clock)
                if again.failure == "none":
                    tried = again
                    break
        fine, failure = tried.fine, tried.failure
        used = fine if fine is not None and failure == "none" else coarse
        sigma_m, _ = _sigmas(coarse.covariance)
        about = {"coarse_sigma_m": sigma_m, "coarse_score": coarse.score, **tried.about}
        about["refined"], about["refinement_failure"] = float(used is fine), FAILURES[failure]
        if failure != "none" and fine is not None:
            about.update({f"fine_{name}": value for name, value in fine.diagnostics.items()})
        diagnostics = dict(used.diagnostics)
        if used is coarse and "nearest_reference" in diagnostics:
            # A row of the coarse map; everywhere else the word means one of the fine map's, :meth:`reference_poses`.
            diagnostics["coarse_nearest_reference"] = diagnostics.pop("nearest_reference")
        # Where the map is not found around the coarse pose, that one is in doubt as well.
        if failure in _DOUBTS or self._settings.unjudged == "degraded" or not self._coarse.is_familiar(coarse):
            used = used.with_state(_worse(used.state, _DEGRADED))
        return Hypothesis(
            used.scene, used.T_map_cam, used.score, covariance=used.covariance, state=used.state,
            diagnostics={**diagnostics, **about}, candidates=coarse.candidates, matches=used.matches,
            awaits_track=used.awaits_track,
        )  # fmt: skip

    def _tried(self, query: Query, begin: Estimate, coarse: Estimate, clock: Clock) -> _Tried:
        """What the fine localizer makes of a proposal, and whether it is believed."""
        sigma_m, sigma_rad = _sigmas(begin.covariance)
        fine, failure = self._refinement(query, begin, sigma_m, clock)
        about = {"proposal": float(begin is not coarse)}
        if fine is not None:
            difference = pose_difference(fine.T_map_cam, begin.T_map_cam)
            moved, turned = float(np.linalg.norm(difference[:3])), float(np.linalg.norm(difference[3:]))
            about |= {"refinement_m": moved, "refinement_deg": float(np.degrees(turned))}
            if failure == "none":
                failure = self._believed(fine, sigma_m, sigma_rad, moved, turned)
        return _Tried(fine, failure, about)

    def _refinement(self, query: Query, coarse: Estimate, sigma_m: float, clock: Clock) -> tuple[Estimate | None, str]:
        """The fine localizer's estimate, if it was asked, and why it cannot be used as far as it says so itself."""
        if coarse.state is _LOST and not self._settings.refine_lost:
            return None, "coarse_lost"
        if not sigma_m <= self._settings.max_sigma_m:
            return None, "coarse_unsure"
        if coarse.scene not in self._names:
            return None, "scene_unknown"
        fine = self._refined(query, coarse, clock)
        if fine is None:
            return None, "fine_refused"
        return fine, "fine_lost" if fine.state is _LOST else "none"

    def _believed(self, fine: Estimate, sigma_m: float, sigma_rad: float, moved: float, turned: float) -> str:
        settings = self._settings
        if self._fine is not None and not self._fine.is_supported(fine.diagnostics):
            return "unsupported"
        limit_m = max(settings.gate_sigmas * sigma_m, settings.gate_floor_m)
        limit_rad = max(settings.gate_sigmas * sigma_rad, np.radians(settings.gate_floor_deg))
        if not (moved <= limit_m and turned <= limit_rad):
            return "outside_gate"
        # A fine map without calibration says nothing about how sure it is.
        known = "position_sigma_m" in fine.diagnostics
        if settings.keep_surer and known and _sigmas(fine.covariance)[0] > sigma_m:
            return "less_sure"
        return "none"

    # -- what both ways share ---------------------------------------------------------------------

    def _refined(self, query: Query, begin: Estimate, clock: Clock) -> Estimate | None:
        """The fine localizer's estimate from another one; None where it refuses (a missing tile)."""
        if self._fine is None:
            return None
        asked = self._asked(replace(query, scene=begin.scene), "fine")
        try:
            fine = self._fine.localize(replace(asked, prior=PosePrior(begin.T_map_cam, begin.covariance)))
        except (CameraMismatchError, ImageError):
            raise  # nothing is wrong with the refinement: the image cannot be used
        except VlocError:
            return None
        clock.take("fine", fine.timings_ms)
        return replace(fine, scene=begin.scene)

    def _asked(self, query: Query, role: str) -> Query:
        """The query with the scene as a member calls it."""
        return query if query.scene is None else replace(query, scene=self._names[query.scene][role])

    def _scene_of(self, theirs: str, role: str) -> str:
        """What this map calls a member's scene."""
        return next((name for name, by_role in self._names.items() if by_role[role] == theirs), theirs)


def _worse(a: LocalizationState, b: LocalizationState) -> LocalizationState:
    return max(a, b, key=_ORDER.index)


def _sigmas(covariance: Array) -> tuple[float, float]:
    """Largest standard deviations of position (m) and rotation (rad)."""
    return largest_sigma(covariance[:3, :3]), largest_sigma(covariance[3:, 3:])
