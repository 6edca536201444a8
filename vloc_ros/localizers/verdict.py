"""From a frame's statistics to its covariance and state, by what the map's calibration says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError, MapFormatError
from vloc_ros.maps import MapBundle
from vloc_ros.tracking.calibration import CovarianceModel
from vloc_ros.types import Array, LocalizationState

__all__ = ["UNCALIBRATED", "SceneCalibration", "Verdict", "in_map_axes", "number", "section"]

#: Covariance of a map without calibration, metres and radians: cautious on purpose.
UNCALIBRATED = np.diag([25.0, 25.0, 4.0, 0.03, 0.03, 0.03])


def section(mapping: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """The mapping under ``name``, empty where there is none. :raises MapFormatError: it is something else."""
    value = mapping.get(name, {})
    if not isinstance(value, Mapping):
        raise MapFormatError(f"{where}.{name}: expected a mapping, found {type(value).__name__}")
    return dict(value)


def number(mapping: Mapping[str, Any], name: str, default: float, where: str) -> float:
    """The finite number under ``name``. :raises MapFormatError: it is something else."""
    value = mapping.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise MapFormatError(f"{where}.{name}: expected a finite number, found {value!r}")
    return float(value)


@dataclass(frozen=True)
class Verdict:
    """What a frame is worth: its 6x6 covariance, its state, and the largest sigma of its position (m)."""

    covariance: Array
    state: LocalizationState
    position_sigma_m: float | None


@dataclass(frozen=True)
class SceneCalibration:
    """The calibration of one scene.

    ``covariance`` belongs to frames localized without a prior, ``covariance_prior`` to those with one. ``score_mean``
    and ``score_spread`` make scores of different scenes comparable; below ``min_score`` a frame does not look like the
    map. ``lowest_score`` is what the weakest frame scored that was localized well.
    """

    covariance: CovarianceModel | None = None
    covariance_prior: CovarianceModel | None = None
    score_mean: float = 0.0
    score_spread: float = 1.0
    min_score: float = 0.0
    lowest_score: float = 0.0

    @classmethod
    def read(cls, bundle: MapBundle, scene: str, names: Sequence[str]) -> SceneCalibration:
        """From a map's manifest.

        :param names: the statistics that the backend of this release computes.
        :raises ConfigError: the map was calibrated on other statistics.
        :raises MapFormatError: a field is not what it should be.
        """
        stored = section(bundle.manifest.calibration, scene, f"{bundle.path}: calibration")
        where = f"{bundle.path}: calibration.{scene}"
        return cls(
            _model(stored.get("covariance"), names, where),
            _model(stored.get("covariance_prior"), names, where),
            number(stored, "score_mean", 0.0, where),
            max(number(stored, "score_spread", 1.0, where), 1e-9),
            number(stored, "min_score", 0.0, where),
            number(stored, "lowest_score", 0.0, where),
        )

    def relative(self, score: float) -> float:
        """A score in units of what frames of this scene score."""
        return (score - self.score_mean) / self.score_spread

    def judge(
        self,
        statistics: npt.ArrayLike,
        T_map_cam: Array,
        score: float,
        localized_sigma_m: float,
        lost_sigma_m: float,
        with_prior: bool = False,
        whitening: npt.ArrayLike | None = None,
    ) -> Verdict:
        """The verdict on a frame. Without calibration it is DEGRADED with a large constant covariance.

        LOST: sigma beyond ``lost_sigma_m``, or a score below half of ``min_score``.

        :param whitening: (6,) the frame's own standard deviations in the camera's axes, where the backend has them:
            the calibration was fitted to errors divided by them.
        """
        model = self.covariance_prior if with_prior else self.covariance
        if model is None:
            return Verdict(UNCALIBRATED.copy(), LocalizationState.DEGRADED, None)
        covariance = model.covariance(statistics, T_map_cam[:3, :3])
        if whitening is not None:
            scale = in_map_axes(whitening, T_map_cam[:3, :3])
            covariance = scale @ covariance @ scale.T
        sigma = float(np.sqrt(np.linalg.eigvalsh(covariance[:3, :3])[-1]))
        if not np.isfinite(sigma) or sigma > lost_sigma_m or score < 0.5 * self.min_score:
            state = LocalizationState.LOST
        elif sigma > localized_sigma_m or score < self.min_score:
            state = LocalizationState.DEGRADED
        else:
            state = LocalizationState.LOCALIZED
        return Verdict(covariance, state, sigma)


def in_map_axes(whitening: npt.ArrayLike, R_map_cam: Array) -> Array:
    """The 6x6 matrix that multiplies errors in map axes by (6,) numbers along the camera's axes."""
    turn = np.zeros((6, 6))
    turn[:3, :3] = turn[3:, 3:] = R_map_cam
    return np.asarray(turn @ np.diag(np.asarray(whitening, dtype=np.float64)) @ turn.T)


def _model(data: Any, names: Sequence[str], where: str) -> CovarianceModel | None:
    if not data:
        return None
    model = CovarianceModel.from_mapping(data, where)
    if model.names != tuple(names):
        raise ConfigError(
            f"{where}: expected statistics {', '.join(names)}, found {', '.join(model.names)}; "
            "calibrate the map again with this release"
        )
    return model
