"""A covariance that means something: fitted per map on frames that the training never saw.

A localizer offers a few numbers for each frame (how well the best candidates scored, how far they spread, ...).
On held-out frames with known poses this module learns what size of error goes with such numbers, and what
shape the error has in the camera's axes (along the road, across it, up), and scales the result so that the share
of frames inside the 95 % ellipsoid is right, for confident and for unsure frames alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import CalibrationError, ConfigError, MapFormatError
from vloc_ros.geometry.se3 import largest_sigma
from vloc_ros.maps import MapBundle
from vloc_ros.settings import is_number, ranged
from vloc_ros.types import Array, LocalizationState

__all__ = [
    "CHI2_95_6DOF",
    "UNCALIBRATED",
    "Confidence",
    "ConfidenceSettings",
    "CovarianceModel",
    "SceneCalibration",
    "fit_covariance",
    "in_map_axes",
    "number",
    "section",
]

# From a frame's statistics to its covariance and state, by what the map's calibration says.


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
    if not is_number(value) or not math.isfinite(value):
        raise MapFormatError(f"{where}.{name}: expected a finite number, found {value!r}")
    return float(value)


@dataclass(frozen=True)
class ConfidenceSettings:
    """Up to which uncertainty a frame is believed; a backend's own settings derive from it.

    :param localized_sigma_m: a frame is LOCALIZED up to this standard deviation of position (largest axis).
    :param lost_sigma_m: a frame is LOST beyond this standard deviation of position (largest axis).
    """

    localized_sigma_m: float = ranged(3.0, minimum=0.0)
    lost_sigma_m: float = ranged(10.0, minimum=0.0)

    def __post_init__(self) -> None:
        if self.lost_sigma_m < self.localized_sigma_m:
            raise ConfigError(
                f"expected lost_sigma_m ({self.lost_sigma_m}) not to be below "
                f"localized_sigma_m ({self.localized_sigma_m})"
            )


@dataclass(frozen=True)
class Confidence:
    """How far a pose is believed: its 6x6 covariance, its state, and the largest sigma of its position (m), which is
    None where nothing is known about it (a map without calibration, a frame that could not be localized).
    """

    covariance: Array
    state: LocalizationState
    position_sigma_m: float | None = None


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

    @property
    def calibrated(self) -> bool:
        """Whether held-out frames have told what errors and scores to expect."""
        return self.covariance is not None or self.covariance_prior is not None

    def relative(self, score: float) -> float:
        """A score in units of what frames of this scene score."""
        return (score - self.score_mean) / self.score_spread

    def confidence(
        self,
        statistics: npt.ArrayLike,
        T_map_cam: Array,
        score: float,
        limits: ConfidenceSettings,
        *,
        with_prior: bool = False,
        whitening: npt.ArrayLike | None = None,
        uncalibrated: Array | None = None,
    ) -> Confidence:
        """The confidence in a frame's pose. LOST: sigma beyond ``lost_sigma_m``, or a score below half of
        ``min_score``. Without a calibration a frame is at best DEGRADED.

        :param whitening: (6,) the frame's own standard deviations in the camera's axes, where the backend has them:
            the calibration was fitted to errors divided by them.
        :param uncalibrated: the covariance to state without a calibration; default :data:`UNCALIBRATED`.
        """
        model = self.covariance_prior if with_prior else self.covariance
        if model is None:
            if uncalibrated is None:
                return Confidence(UNCALIBRATED.copy(), LocalizationState.DEGRADED)
            hopeless = largest_sigma(uncalibrated[:3, :3]) > limits.lost_sigma_m
            return Confidence(uncalibrated, LocalizationState.LOST if hopeless else LocalizationState.DEGRADED)
        covariance = model.covariance(statistics, T_map_cam[:3, :3])
        if whitening is not None:
            scale = in_map_axes(whitening, T_map_cam[:3, :3])
            covariance = scale @ covariance @ scale.T
        sigma = largest_sigma(covariance[:3, :3])
        if not np.isfinite(sigma) or sigma > limits.lost_sigma_m or score < 0.5 * self.min_score:
            state = LocalizationState.LOST
        elif sigma > limits.localized_sigma_m or score < self.min_score:
            state = LocalizationState.DEGRADED
        else:
            state = LocalizationState.LOCALIZED
        return Confidence(covariance, state, sigma)


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
            f"{where}: expected statistics {', '.join(names)}, found {', '.join(map(repr, model.names))}; "
            "calibrate the map again with this release"
        )
    return model


#: 95 % quantile of chi-square with six degrees of freedom.
CHI2_95_6DOF = 12.591587243743977
#: Stretches of the calibration drive, each of which is judged by a fit to the others.
_STRETCHES = 5
#: Autocorrelation below this is noise.
_UNCORRELATED = 0.05
#: Fewer calibration frames than this cannot say what 95 % means.
MIN_FRAMES = 20
#: Standardised statistics beyond this are as strange as at it: no linear model holds out there.
_CLIP = 3.0
#: Shares of the frames that the shape of the error may come from. Which one is right depends on the drive (gross
#: errors, turns in which only the heading errs): the one whose ellipsoids are the smallest that hold what is wanted.
_CORES = (0.5, 0.7, 0.8, 0.9, 0.97)
#: No error of a camera has a log sigma (m, rad) beyond this: a micrometre, a thousand kilometres.
_LOG_SIGMA = 14.0


@dataclass(frozen=True)
class CovarianceModel:
    """Maps a frame's statistics to its covariance.

    log sigma is linear in the standardised statistics; the covariance is ``R D S D R^T`` with D the two sigmas (of
    translation, m, and rotation, rad), S the 6x6 shape in camera axes and R the camera's rotation in the map.

    :ivar names: the statistics it expects, in order.
    :ivar center, spread: (F,) standardisation.
    :ivar translation, rotation: (F + 1,) coefficients, the constant first.
    :ivar limits: smallest and largest log sigma seen in calibration, translation and rotation: (2, 2).
    :ivar shape: 6x6, camera axes.
    :ivar knots, factors: log sigma of translation against the factor on the covariance.
    :ivar frames: how many frames it was fitted on.
    """

    names: tuple[str, ...]
    center: Array
    spread: Array
    translation: Array
    rotation: Array
    limits: Array
    shape: Array
    knots: Array
    factors: Array
    frames: int

    def log_sigmas(self, statistics: npt.ArrayLike) -> Array:
        """log of the two sigmas before the factor; ``(..., F)`` to ``(..., 2)``."""
        x = np.asarray(statistics, dtype=np.float64)
        z = np.clip((x - self.center) / self.spread, -_CLIP, _CLIP)
        out = np.stack([c[0] + z @ c[1:] for c in (self.translation, self.rotation)], axis=-1)
        # Beyond what calibration has seen a frame may be worse than all of them, never better.
        return np.asarray(np.clip(out, self.limits[:, 0], self.limits[:, 1] + 1.0), dtype=np.float64)

    def normalised(self, statistics: npt.ArrayLike, local: Array) -> Array:
        """(M, 6) errors in the camera's axes in units of the two sigmas before the factor."""
        return np.asarray(local / np.repeat(np.exp(self.log_sigmas(statistics)), 3, axis=1))

    def nees(self, statistics: npt.ArrayLike, local: Array) -> Array:
        """(M,) squared lengths of errors in the camera's axes under the covariance before the factor."""
        x = self.normalised(statistics, local)
        return np.asarray(np.einsum("ni,ij,nj->n", x, np.linalg.inv(self.shape), x))

    def covariance(self, statistics: npt.ArrayLike, R_map_cam: Array) -> Array:
        """The 6x6 covariance, map axes, of ``(F,)`` statistics and the camera's rotation.

        Statistics that are not finite count as the strangest frame: the largest covariance.
        """
        x = np.asarray(statistics, dtype=np.float64)
        known = bool(np.isfinite(x).all())
        log_t, log_r = map(float, self.log_sigmas(x) if known else self.limits[:, 1] + 1.0)
        factor = float(np.interp(log_t, self.knots, self.factors))
        scale = np.repeat(np.exp([log_t, log_r]), 3) * np.sqrt(factor)
        turn = np.zeros((6, 6))
        turn[:3, :3] = turn[3:, 3:] = R_map_cam
        out = turn @ (scale[:, None] * self.shape * scale) @ turn.T
        return np.asarray(0.5 * (out + out.T), dtype=np.float64)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for a map's manifest."""
        return {
            "names": list(self.names),
            "frames": self.frames,
            **{name: np.asarray(getattr(self, name)).tolist() for name in _ARRAYS},
        }

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], where: str = "calibration") -> CovarianceModel:
        """Read what :meth:`to_mapping` wrote.

        :raises CalibrationError: a field is missing, of the wrong size, or not finite.
        """
        try:
            names = tuple(str(n) for n in data["names"])
            arrays = {name: np.asarray(data[name], dtype=np.float64) for name in _ARRAYS}
            frames = int(data["frames"])
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            raise CalibrationError(
                f"{where}: expected the fields of a covariance model, found {problem!r}"
            ) from problem
        n, k = len(names), arrays["knots"].size
        shapes = {
            "center": (n,), "spread": (n,), "translation": (n + 1,), "rotation": (n + 1,), "limits": (2, 2),
            "shape": (6, 6), "knots": (k,), "factors": (k,),
        }  # fmt: skip
        for name, size in shapes.items():
            if arrays[name].shape != size or not np.isfinite(arrays[name]).all():
                raise CalibrationError(f"{where}: {name}: expected finite values of shape {size}")
        if not k or (np.diff(arrays["knots"]) <= 0).any() or (arrays["factors"] <= 0).any():
            raise CalibrationError(f"{where}: expected increasing knots and positive factors")
        limits, factors = arrays["limits"], arrays["factors"]
        if (
            (np.diff(limits) < 0).any()
            or np.abs(limits).max() > _LOG_SIGMA
            or np.abs(np.log(factors)).max() > _LOG_SIGMA
        ):
            raise CalibrationError(
                f"{where}: expected limits in order, and limits and logarithms of factors within {_LOG_SIGMA:g}"
            )
        shape = arrays["shape"]
        if (arrays["spread"] <= 0).any() or not np.allclose(shape, shape.T) or np.linalg.eigvalsh(shape)[0] <= 0:
            raise CalibrationError(f"{where}: expected positive spreads and a symmetric positive definite shape")
        return cls(names=names, frames=frames, **arrays)


_ARRAYS = ("center", "spread", "translation", "rotation", "limits", "shape", "knots", "factors")


def _regress(z: Array, log_error: Array, ridge: float) -> Array:
    """Robust ridge regression (Huber weights) of log errors on standardised statistics: (F + 1,) coefficients."""
    x = np.column_stack((np.ones(len(z)), z))
    penalty = ridge * np.diag([0.0] + [1.0] * z.shape[1])
    weights: Array = np.ones(len(z), dtype=np.float64)
    coefficients: Array = np.zeros(x.shape[1])
    for _ in range(20):
        weighted = x * weights[:, None]
        coefficients = np.asarray(np.linalg.solve(x.T @ weighted + penalty, weighted.T @ log_error), dtype=np.float64)
        residual = np.abs(log_error - x @ coefficients)
        knee = 1.5 * max(float(np.median(residual)), 1e-6)
        weights[:] = np.minimum(1.0, knee / np.maximum(residual, 1e-12))
    return coefficients


def fit_covariance(
    names: Sequence[str],
    statistics: Array,
    errors: Array,
    R_map_cam: Array,
    *,
    inside: float = 0.955,
    ridge: float = 100.0,
) -> CovarianceModel:
    """Fit a :class:`CovarianceModel`.

    :param statistics: ``(M, F)``.
    :param errors: ``(M, 6)``: [t_est - t_true; Log(R_est R_true^T)] in map axes.
    :param R_map_cam: ``(M, 3, 3)`` rotations of the estimates.
    :param inside: share of calibration frames to have inside the 95 % ellipsoid. A little above 0.95: other drives
        differ from the calibration drive, and an optimistic covariance does more harm than a cautious one.
    :param ridge: regularisation, in frames.
    :raises CalibrationError: fewer than 20 frames, values that are not finite, or no errors at all.
    """
    statistics, errors = np.asarray(statistics, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    m = len(errors)
    if m < MIN_FRAMES:
        raise CalibrationError(f"calibration: expected at least {MIN_FRAMES} frames with known poses, found {m}")
    if not (np.isfinite(statistics).all() and np.isfinite(errors).all()):
        raise CalibrationError("calibration: expected finite statistics and errors, found NaN or infinity")
    # Errors in the camera's axes: across, down, along.
    local = np.concatenate(
        [np.einsum("nji,nj->ni", R_map_cam, part) for part in (errors[:, :3], errors[:, 3:])], axis=1
    )
    if not (local[:, :3].any() and local[:, 3:].any()):
        raise CalibrationError("calibration: expected errors to learn from, found all of them zero")
    made = [_scaled(tuple(names), statistics, local, ridge, inside, core) for core in _CORES]
    return min(made, key=lambda model: _log_volume(model, statistics))


def _scaled(
    names: tuple[str, ...], statistics: Array, local: Array, ridge: float, inside: float, core: float
) -> CovarianceModel:
    """The model whose shape comes from this share of the frames, scaled so that ``inside`` of them are inside."""
    m = len(local)
    fitted = _fitted(names, statistics, local, ridge, core)
    # What was fitted to these frames fits them better than any others, and their neighbours nearly as well: the factors
    # come from stretches of the drive that the fit has not seen.
    nees = np.empty(m)
    for stretch in np.array_split(np.arange(m), _STRETCHES):
        rest = np.setdiff1d(np.arange(m), stretch)
        nees[stretch] = _fitted(names, statistics[rest], local[rest], ridge, core).nees(
            statistics[stretch], local[stretch]
        )
    log_sigma = fitted.log_sigmas(statistics)[:, 0]
    knots, factors = _factors(log_sigma, nees / CHI2_95_6DOF, inside)
    # A drive of few frames shows few places: others are farther from what was fitted than its own stretches are.
    factors *= m / max(m - statistics.shape[1] - 7, 0.1 * m)
    return replace(fitted, knots=knots, factors=factors)


def _log_volume(model: CovarianceModel, statistics: Array) -> float:
    """Twice the logarithm of the volume of its ellipsoids over these frames, but for what all shapes share."""
    factors = np.interp(model.log_sigmas(statistics)[:, 0], model.knots, model.factors)
    return float(np.linalg.slogdet(model.shape)[1] + 6.0 * np.log(factors).mean())


def _fitted(names: tuple[str, ...], statistics: Array, local: Array, ridge: float, core: float) -> CovarianceModel:
    """Coefficients, limits and shape for errors in the camera's axes (M, 6); all factors are one."""
    center = np.median(statistics, axis=0)
    spread = np.maximum(statistics.std(axis=0), 1e-3)
    z = np.clip((statistics - center) / spread, -_CLIP, _CLIP)
    norms = np.stack([np.linalg.norm(local[:, :3], axis=1), np.linalg.norm(local[:, 3:], axis=1)], axis=1)
    floors = np.maximum(0.1 * np.median(norms, axis=0), 1e-6)  # a lucky frame says little about its sigma
    coefficients = [_regress(z, np.log(norms[:, i] + floors[i]), ridge) for i in (0, 1)]
    predicted = np.stack([c[0] + z @ c[1:] for c in coefficients], axis=1)
    limits = np.stack([np.quantile(predicted, 0.01, axis=0), np.quantile(predicted, 0.99, axis=0)], axis=1)
    made = CovarianceModel(
        names, center, spread, coefficients[0], coefficients[1], limits, np.eye(6), np.zeros(1), np.ones(1), len(local)
    )
    return replace(made, shape=_robust_second_moment(made.normalised(statistics, local), core))


def _robust_second_moment(x: Array, core: float) -> Array:
    """Second moments ``(6, 6)`` of ``(M, 6)``, what is far out pulled in, a little shrunk to the diagonal.

    :param core: far out is what lies beyond this quantile of sizes; sizes are in units of the same quantile along each
        axis. In units of a root mean square, which gross errors make large, they would not be far.
    """
    scale = np.maximum(np.quantile(np.abs(x), core, axis=0), 1e-3 * np.sqrt((x**2).mean(axis=0)))
    size = np.linalg.norm(x / np.maximum(scale, 1e-9), axis=1)
    limit = np.quantile(size, core)
    pulled = x * np.minimum(1.0, limit / np.maximum(size, 1e-12))[:, None]
    moment = pulled.T @ pulled / len(x)
    diagonal = np.maximum(np.diag(moment), 1e-4 * np.diag(moment).max())
    share = 0.1 + 12.0 / (12.0 + len(x))
    out = (1.0 - min(1.0, share)) * moment
    np.fill_diagonal(out, diagonal)
    return np.asarray(out, dtype=np.float64)


def _factors(log_sigma: Array, ratio: Array, inside: float) -> tuple[Array, Array]:
    """Factors on the covariance by predicted sigma: the ``inside`` quantile of NEES / limit in groups of frames.

    The logarithm of the ratio is taken as normal: its median in a group (60 frames or more, at most six groups, each
    drawn towards the median of all) and one spread for all groups, from the middle 80 % of frames. An order statistic
    would hang on the two or three worst frames of a group; gross errors are for the gates to refuse, not for the
    covariance to swallow. On normal errors this quantile is a little cautious.

    A quantile of few frames is itself uncertain, and a drive has fewer frames than it seems: neighbours err alike. One
    standard error of it, for as many frames as are independent, is added: a map that is unsure of its covariance says a
    larger one.
    """
    log_ratio = np.log(np.maximum(ratio, 1e-9))
    groups = int(np.clip(len(ratio) // 60, 1, 6))
    order = np.argsort(log_sigma)
    knots, medians, rest = [], [], np.empty_like(log_ratio)
    for part in np.array_split(order, groups):
        weight = len(part) / (len(part) + 40.0)
        knots.append(float(np.median(log_sigma[part])))
        medians.append(float(weight * np.median(log_ratio[part]) + (1.0 - weight) * np.median(log_ratio)))
        rest[part] = log_ratio[part] - medians[-1]
    normal = NormalDist()
    low, high = np.quantile(rest, (0.1, 0.9))
    spread = float(high - low) / (2.0 * normal.inv_cdf(0.9))
    knots_array, first = np.unique(np.asarray(knots), return_index=True)
    far = normal.inv_cdf(inside)
    unsure = spread * math.sqrt((1.0 + 0.5 * far**2) / independent(log_ratio))
    return knots_array, np.exp(np.asarray(medians)[first] + far * spread + unsure)


def independent(values: Array) -> float:
    """As how many independent numbers a sequence counts: its length over its integrated autocorrelation time."""
    x = values - values.mean()
    variance = float((x * x).mean())
    if not variance > 0.0:
        return float(len(x))
    time = 1.0
    for lag in range(1, len(x) // 4):
        correlation = float((x[:-lag] * x[lag:]).mean()) / variance
        if correlation <= _UNCORRELATED:
            break
        time += 2.0 * correlation
    return len(x) / time
