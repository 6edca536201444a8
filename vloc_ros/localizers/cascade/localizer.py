"""A coarse localizer and a fine one behind one entrance: ``imposing_pixloc``, or any other pair."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from vloc_ros.errors import CameraMismatchError, ConfigError, ImageError, VlocError
from vloc_ros.geometry.rotations import so3_log
from vloc_ros.localizers.base import Hypothesis, Localizer, backend_class
from vloc_ros.localizers.calibration import largest_sigma
from vloc_ros.localizers.cascade.bundle import open_members, scene_pairs
from vloc_ros.localizers.cascade.settings import SECTION, CascadeSettings
from vloc_ros.localizers.device import Clock
from vloc_ros.maps import MapBundle
from vloc_ros.types import Array, CameraModel, Estimate, LocalizationState, PosePrior, Query

__all__ = ["FAILURES", "CascadeLocalizer"]

#: Why an estimate is the coarse one: the values of the diagnostic ``refinement_failure``; 0 means it is refined.
FAILURES = {
    "none": 0.0,
    "coarse_lost": 1.0,
    "coarse_unsure": 2.0,
    "scene_unknown": 3.0,
    "fine_refused": 4.0,
    "fine_lost": 5.0,
    "outside_gate": 6.0,
    "less_sure": 7.0,
}


class CascadeLocalizer(Localizer):
    """Coarse, then fine. See the backend's README.

    The coarse estimate is the fine localizer's prior; its covariance says how far to search and which refinement to
    believe. Where refinement fails the coarse estimate stands, with its own covariance and state, and the diagnostics
    ``refined`` (0) and ``refinement_failure`` (:data:`FAILURES`) say so.
    """

    backend: ClassVar[str] = "cascade"
    settings_class = CascadeSettings
    settings_section: ClassVar[str] = SECTION

    def load(self, bundle: MapBundle) -> None:
        coarse, fine = open_members(bundle)
        self._pairs = scene_pairs(coarse.bundle, fine.bundle)
        self._coarse, self._fine = (
            backend_class(member.bundle.manifest.backend).from_map(member.bundle, self._device, settings)
            for member, settings in ((coarse, self._settings.coarse), (fine, self._settings.fine))
        )
        self.offers_candidates = self._coarse.offers_candidates

    @property
    def coarse(self) -> Localizer:
        """The first localizer."""
        return self._coarse

    @property
    def fine(self) -> Localizer:
        """The localizer that refines."""
        return self._fine

    def reference_poses(self, scene: str | None = None) -> Array | None:
        """``T_map_cam`` (M, 4, 4) of the fine map's references, else of the coarse map's, else None."""
        name = next(iter(self._pairs)) if scene is None else scene
        for member, own in ((self._fine, self._pairs.get(name, name)), (self._coarse, name)):
            poses = member.reference_poses(own)
            if poses is not None:
                return poses
        return None

    def check_camera(self, camera: CameraModel) -> None:
        self._coarse.check_camera(camera)
        self._fine.check_camera(camera)

    def release(self) -> None:
        self._coarse.close()
        self._fine.close()

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        if query.scene is not None and query.scene not in self._pairs:
            raise ConfigError(f"scene: expected one of {', '.join(self._pairs)}, found {query.scene!r}")
        coarse = self._coarse.localize(query, keep_candidates)
        clock.take("coarse", coarse.timings_ms)
        sigma_m, sigma_rad = _sigmas(coarse.covariance)
        about = {"coarse_sigma_m": sigma_m, "coarse_score": coarse.score}
        fine, failure = self._refined(query, coarse, sigma_m)
        if fine is not None:
            clock.take("fine", fine.timings_ms)
            moved, turned = _difference(fine.T_map_cam, coarse.T_map_cam)
            about["refinement_m"], about["refinement_deg"] = moved, float(np.degrees(turned))
            if failure == "none":
                failure = self._believed(fine, sigma_m, sigma_rad, moved, turned)
        used = fine if fine is not None and failure == "none" else coarse
        about["refined"], about["refinement_failure"] = float(used is fine), FAILURES[failure]
        if failure != "none" and fine is not None:
            about.update({f"fine_{name}": value for name, value in fine.diagnostics.items()})
        diagnostics = dict(used.diagnostics)
        if used is coarse and "nearest_reference" in diagnostics:
            # A row of the coarse map; everywhere else the word means one of the fine map's, :meth:`reference_poses`.
            diagnostics["coarse_nearest_reference"] = diagnostics.pop("nearest_reference")
        return Hypothesis(
            coarse.scene, used.T_map_cam, used.score, covariance=used.covariance, state=used.state,
            diagnostics={**diagnostics, **about}, candidates=coarse.candidates, matches=used.matches,
        )  # fmt: skip

    def hypotheses(self, query: Query, count: int) -> list[Estimate]:
        """The refined estimate, and the other places that the coarse localizer proposes."""
        first, others = self.localize(query), self._coarse.hypotheses(query, count)
        return [first, *(replace(o, backend=self.backend, map_id=self.map_id) for o in others[1:])][:count]

    def _refined(self, query: Query, coarse: Estimate, sigma_m: float) -> tuple[Estimate | None, str]:
        """The fine localizer's estimate, if it was asked, and why it cannot be used as far as it says so itself."""
        if coarse.state is LocalizationState.LOST and not self._settings.refine_lost:
            return None, "coarse_lost"
        if not sigma_m <= self._settings.max_sigma_m:
            return None, "coarse_unsure"
        scene = self._pairs.get(coarse.scene)
        if scene is None:
            return None, "scene_unknown"
        try:
            prior = PosePrior(coarse.T_map_cam, coarse.covariance)
            fine = self._fine.localize(replace(query, prior=prior, scene=scene))
        except (CameraMismatchError, ImageError):
            raise  # nothing is wrong with the refinement: the image cannot be used
        except VlocError:
            return None, "fine_refused"
        return fine, "fine_lost" if fine.state is LocalizationState.LOST else "none"

    def _believed(self, fine: Estimate, sigma_m: float, sigma_rad: float, moved: float, turned: float) -> str:
        settings = self._settings
        limit_m = max(settings.gate_sigmas * sigma_m, settings.gate_floor_m)
        limit_rad = max(settings.gate_sigmas * sigma_rad, np.radians(settings.gate_floor_deg))
        if not (moved <= limit_m and turned <= limit_rad):
            return "outside_gate"
        # A fine map without calibration says nothing about how sure it is.
        known = "position_sigma_m" in fine.diagnostics
        if settings.keep_surer and known and _sigmas(fine.covariance)[0] > sigma_m:
            return "less_sure"
        return "none"


def _sigmas(covariance: Array) -> tuple[float, float]:
    """Largest standard deviations of position (m) and rotation (rad)."""
    return largest_sigma(covariance[:3, :3]), largest_sigma(covariance[3:, 3:])


def _difference(a: Array, b: Array) -> tuple[float, float]:
    """Distance (m) and angle (rad) of two poses."""
    angle = np.linalg.norm(so3_log(a[:3, :3] @ b[:3, :3].T))
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3])), float(angle)
