"""How figures are counted, everywhere: reports, tables, tests.

Medians, recalls and shares are over *all* frames that have a reference pose; a frame without a published pose
counts as an infinite error, so silence is never free. Means are over the frames that have a pose, with their
number beside them. So is the ATE (``ate_rmse_m``, ``ate_rmse_deg``): the root mean square of the same errors over the
same frames, without alignment; it says nothing of frames without a pose. NEES = e^T S^-1 e with
e = [t_est - t_ref; Log(R_est R_ref^T)] in map axes; where the reference states a covariance it is added to S.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from vloc_ros.geometry.rotations import rotation_angle
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.types import Array, LocalizationState

__all__ = [
    "CHI2_95_6",
    "CHI2_BAND_6",
    "CONSTANT_SIGMA",
    "RECALL_THRESHOLDS",
    "Consistency",
    "FrameRecord",
    "Metrics",
    "Recall",
    "consistency",
    "evaluate",
    "frame_errors",
    "frame_nees",
    "nearest",
    "sigma_position",
    "spearman",
    "total_ms",
]

#: Chi-square with 6 degrees of freedom: the 95 % quantile, and the two-sided 95 % interval of one sample.
CHI2_95_6 = 12.591587
CHI2_BAND_6 = (1.237344, 14.449375)
#: (metres, degrees); other thresholds may be added, these are always there.
RECALL_THRESHOLDS = ((0.05, 5.0), (0.25, 2.0), (0.5, 5.0), (2.0, 5.0), (5.0, 10.0))
#: Sigma is called constant when its median in the largest third is less than this times that in the smallest one. The
#: errors of one and the same sigma scatter by far more, so that such a difference orders nothing.
CONSTANT_SIGMA = 1.2


@dataclass(frozen=True)
class FrameRecord:
    """What happened to one frame. Poses are of the base in the map; covariances 6x6 as in :mod:`vloc_ros.types`.

    ``T_map_base`` and ``covariance`` are None unless a pose was published. ``T_reference`` is None where the
    reference does not reach. ``refused`` says why a frame never reached the localizer. ``T_retrieved`` is the base
    pose of the map image that looks most alike by the model's own image vectors, where the backend tells;
    ``T_estimated`` what the localizer alone said, published or not; ``awaits_track``: it would call the frame LOCALIZED
    if a track bore it out.
    """

    stamp_ns: int
    state: LocalizationState
    T_map_base: Array | None = None
    covariance: Array | None = None
    T_reference: Array | None = None
    covariance_reference: Array | None = None
    score: float = float("nan")
    refused: str = ""
    timings_ms: dict[str, float] = field(default_factory=dict)
    T_retrieved: Array | None = None
    T_estimated: Array | None = None
    awaits_track: bool = False

    @property
    def published(self) -> bool:
        """Whether a pose went out for this frame."""
        return self.T_map_base is not None


def total_ms(timings: Mapping[str, float]) -> float:
    """The whole frame's time: measured as ``total``, or the sum of the stages."""
    return timings["total"] if "total" in timings else sum(timings.values())


@dataclass(frozen=True)
class Recall:
    """The share of frames within both limits."""

    translation_m: float
    rotation_deg: float
    share: float


@dataclass(frozen=True)
class Consistency:
    """How well predicted covariances fit the errors made.

    ``share_in_95`` is the share of ``count`` frames with a NEES of at most 12.59; ``thirds`` the same in each
    third of predicted position sigma (smallest first), ``sigma_thirds_m`` the median sigma there;
    ``rank_correlation`` Spearman's, of sigma with translation error. All NaN where nothing was published.
    ``constant``: sigma hardly differs between frames (:data:`CONSTANT_SIGMA`), so that it tells no good pose from a
    bad one, whatever the shares are.
    """

    count: int
    mean: float
    share_in_95: float
    thirds: tuple[float, float, float]
    sigma_thirds_m: tuple[float, float, float]
    rank_correlation: float
    constant: bool = False


@dataclass(frozen=True)
class Metrics:
    """The figures of one run; infinite medians mean that more than half of the frames had no pose."""

    frames: int
    frames_with_reference: int
    published: int
    localized: int
    lost: int
    refused: dict[str, int]
    states: dict[str, float]
    median_translation_m: float
    median_rotation_deg: float
    mean_translation_m: float
    mean_rotation_deg: float
    mean_over: int
    max_translation_localized_m: float
    max_rotation_localized_deg: float
    recall: tuple[Recall, ...]
    nees: Consistency
    nees_localized: Consistency
    oracle_median_translation_m: float
    oracle_median_rotation_deg: float
    localizer_median_translation_m: float
    localizer_median_rotation_deg: float
    retrieval_median_translation_m: float
    retrieval_median_rotation_deg: float
    ate_rmse_m: float
    ate_rmse_deg: float


def frame_errors(records: Sequence[FrameRecord]) -> tuple[Array, Array]:
    """Translation (m) and rotation (degrees) errors, (N,) each; infinite without a pose, NaN without a reference."""
    translation = np.full(len(records), np.nan)
    rotation = np.full(len(records), np.nan)
    for i, record in enumerate(records):
        if record.T_reference is None:
            continue
        if record.T_map_base is None:
            translation[i] = rotation[i] = np.inf
        else:
            e = pose_error(record.T_map_base, record.T_reference)
            translation[i] = np.linalg.norm(e[:3])
            rotation[i] = np.degrees(np.linalg.norm(e[3:]))
    return translation, rotation


def frame_nees(record: FrameRecord) -> float:
    """NEES of one frame; NaN without pose, covariance or reference, infinite where the covariance is singular."""
    if record.T_map_base is None or record.covariance is None or record.T_reference is None:
        return float("nan")
    e = pose_error(record.T_map_base, record.T_reference)
    S = record.covariance
    if record.covariance_reference is not None:
        S = S + record.covariance_reference
    try:
        return float(e @ np.linalg.solve(S, e))
    except np.linalg.LinAlgError:
        return float("inf")


def sigma_position(covariance: Array) -> float:
    """Predicted position sigma in metres: the root of the trace of the position block."""
    return float(np.sqrt(np.trace(covariance[:3, :3])))


def consistency(records: Sequence[FrameRecord]) -> Consistency:
    """See :class:`Consistency`; over the given records that have a pose, a covariance and a reference."""
    nees_all = np.array([frame_nees(r) for r in records], dtype=np.float64)
    use = np.flatnonzero(~np.isnan(nees_all))
    nan = float("nan")
    if not len(use):
        return Consistency(0, nan, nan, (nan, nan, nan), (nan, nan, nan), nan)
    nees = nees_all[use]
    translation = frame_errors(records)[0][use]
    covariances = [record.covariance for record, kept in zip(records, ~np.isnan(nees_all), strict=True) if kept]
    sigma = np.array([sigma_position(c) for c in covariances if c is not None])
    inside = nees <= CHI2_95_6
    shares, medians = [], []
    for part in np.array_split(np.argsort(sigma, kind="stable"), 3):
        shares.append(float(inside[part].mean()) if len(part) else nan)
        medians.append(float(np.median(sigma[part])) if len(part) else nan)
    return Consistency(
        len(use),
        float(nees.mean()),
        float(inside.mean()),
        (shares[0], shares[1], shares[2]),
        (medians[0], medians[1], medians[2]),
        spearman(sigma, translation),
        constant=len(use) > 2 and medians[2] < CONSTANT_SIGMA * medians[0],
    )


def evaluate(
    records: Sequence[FrameRecord],
    map_cameras: Array | None = None,
    T_base_cam: Array | None = None,
    thresholds: Sequence[tuple[float, float]] = RECALL_THRESHOLDS,
) -> Metrics:
    """All figures of a run.

    :param map_cameras: (M, 4, 4) camera poses that the map was made from, for the oracle that always answers with
        the nearest of them; None: NaN.
    :param T_base_cam: where the camera sits on the base; None: at it.
    """
    nan = float("nan")
    translation, rotation = frame_errors(records)
    referenced = np.flatnonzero(~np.isnan(translation))
    with_reference = [record for record in records if record.T_reference is not None]
    counted = with_reference or list(records)
    states = {
        state.value: (sum(r.state is state for r in counted) / len(counted) if counted else nan)
        for state in LocalizationState
    }
    refused: dict[str, int] = {}
    for record in records:
        if record.refused:
            refused[record.refused] = refused.get(record.refused, 0) + 1
    t, r = translation[referenced], rotation[referenced]
    posed = np.isfinite(t)
    localized = [x for x in counted if x.state is LocalizationState.LOCALIZED and x.published]
    t_localized, r_localized = (e[np.isfinite(e)] for e in frame_errors(localized))
    recall = tuple(Recall(dt, dr, float(((t <= dt) & (r <= dr)).mean()) if len(t) else nan) for dt, dr in thresholds)
    mounting = np.eye(4) if T_base_cam is None else T_base_cam
    oracle = _oracle(records, map_cameras, mounting)
    retrieval = _medians([replace(x, T_map_base=x.T_retrieved) for x in with_reference])
    alone = _medians([replace(x, T_map_base=x.T_estimated) for x in with_reference])
    return Metrics(
        frames=len(records),
        frames_with_reference=len(referenced),
        published=sum(x.published for x in records),
        localized=sum(x.state is LocalizationState.LOCALIZED for x in records),
        lost=sum(x.state is LocalizationState.LOST for x in records),
        refused=refused,
        states=states,
        median_translation_m=float(np.median(t)) if len(t) else nan,
        median_rotation_deg=float(np.median(r)) if len(r) else nan,
        mean_translation_m=float(t[posed].mean()) if posed.any() else nan,
        mean_rotation_deg=float(r[posed].mean()) if posed.any() else nan,
        mean_over=int(posed.sum()),
        max_translation_localized_m=float(t_localized.max()) if len(t_localized) else nan,
        max_rotation_localized_deg=float(r_localized.max()) if len(r_localized) else nan,
        recall=recall,
        nees=consistency(records),
        nees_localized=consistency(localized),
        oracle_median_translation_m=oracle[0],
        oracle_median_rotation_deg=oracle[1],
        localizer_median_translation_m=alone[0],
        localizer_median_rotation_deg=alone[1],
        retrieval_median_translation_m=retrieval[0],
        retrieval_median_rotation_deg=retrieval[1],
        ate_rmse_m=_rms(t[posed]),
        ate_rmse_deg=_rms(r[posed]),
    )


def _rms(values: Array) -> float:
    """Root of the mean square; NaN of none."""
    return float(np.sqrt((values**2).mean())) if len(values) else float("nan")


def _medians(records: Sequence[FrameRecord]) -> tuple[float, float]:
    """Median errors (m, degrees); NaN where not one record has a pose."""
    if not any(r.published for r in records):
        return float("nan"), float("nan")
    translation, rotation = frame_errors(records)
    return float(np.median(translation)), float(np.median(rotation))


def _oracle(records: Sequence[FrameRecord], map_cameras: Array | None, T_base_cam: Array) -> tuple[float, float]:
    """Median errors (m, degrees) of always answering with the map pose whose camera is nearest to the truth."""
    references = [r.T_reference for r in records if r.T_reference is not None]
    if map_cameras is None or not len(map_cameras) or not references:
        return float("nan"), float("nan")
    cameras = np.stack(references) @ T_base_cam
    distances, indices = nearest(cameras[:, :3, 3], map_cameras[:, :3, 3])
    angles = np.degrees(rotation_angle(map_cameras[indices, :3, :3], cameras[:, :3, :3]))
    return float(np.median(distances)), float(np.median(angles))


def nearest(points: Array, candidates: Array, block: int = 512) -> tuple[Array, npt.NDArray[np.int64]]:
    """Distance (N,) from each of ``points`` (N, 3) to the nearest of ``candidates`` (M, 3), and its index."""
    distances = np.empty(len(points))
    indices = np.empty(len(points), dtype=np.int64)
    for start in range(0, len(points), block):
        part = slice(start, start + block)
        table = np.linalg.norm(points[part, None] - candidates[None], axis=-1)
        indices[part] = table.argmin(axis=1)
        distances[part] = table.min(axis=1)
    return distances, indices


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Spearman's rank correlation with average ranks for ties; NaN where either is constant or fewer than 3."""
    x, y = _ranks(np.asarray(a, dtype=np.float64)), _ranks(np.asarray(b, dtype=np.float64))
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    average: Array = (last - (counts - 1) / 2.0)[inverse]
    return average
