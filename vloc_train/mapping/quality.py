"""How good a sparse model is: tracks, reprojection, what each frame sees, how well that fixes its pose, and advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vloc_ros.geometry.cameras import projection_jacobian
from vloc_ros.geometry.rotations import skew
from vloc_ros.geometry.se3 import largest_sigma
from vloc_ros.types import Array
from vloc_train.mapping.points import SparseModel

__all__ = ["Limits", "Quality", "WeakPlace", "advice", "assess", "places_in_words"]

_COLUMNS, _ROWS = 8, 4


@dataclass(frozen=True)
class Limits:
    """Where a frame begins to count as weak.

    :param observations: points that a frame sees. :param coverage: share of an 8 x 4 grid over the image with a point.
    :param sigma_m: standard deviation of its position, largest axis, if every point were seen with an error of 1 px.
    :param shared: points in common with the frame before or behind it.
    """

    observations: int = 100
    coverage: float = 0.3
    sigma_m: float = 0.05
    shared: int = 30


@dataclass(frozen=True)
class WeakPlace:
    """Frames in a row that are weak: ``first`` to ``last`` of a drive, where, and why."""

    first: int
    last: int
    drive: int
    position: tuple[float, float, float]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Quality:
    """Figures by frame (R,) and of the whole."""

    observations: npt.NDArray[np.int64]
    coverage: Array
    sigma_m: Array
    shared: npt.NDArray[np.int64]
    frame_error_px: Array
    weak: tuple[WeakPlace, ...]
    limits: Limits
    summary: dict[str, Any]


def assess(model: SparseModel, limits: Limits | None = None) -> Quality:
    """All figures of a model. Frames that see nothing have coverage 0 and an infinite sigma."""
    limits = limits or Limits()
    observations = np.diff(model.offsets)
    errors = model.reprojection_errors()
    frame_error = _by_frame(model, errors)
    coverage, sigma = _coverage(model), _position_sigma(model)
    shared = _shared(model)
    weak = _weak_places(model, observations, coverage, sigma, shared, limits)
    finite = errors[np.isfinite(errors)]
    bad = np.zeros(len(model), dtype=bool)
    for place in weak:
        bad[place.first : place.last + 1] = True
    length = model.track_length
    summary: dict[str, Any] = {
        "frames": len(model),
        "drives": len(np.unique(model.drive)),
        "cameras": len(model.cameras),
        "points": len(model.points),
        "observations": len(model.point_ids),
        "observations_per_frame": _spread(observations),
        "track_length": {**_spread(length), "mean": _number(length.mean() if len(length) else 0.0)},
        "reprojection_px": _spread(finite),
        "coverage": _spread(coverage),
        "position_sigma_m_per_px": _spread(sigma),
        "shared_with_neighbour": _spread(shared),
        "depth_m": _spread(model.points_cam()[:, 2]),
        "weak_frames": int(bad.sum()),
        "weak_share": _number(bad.mean() if len(bad) else 0.0),
    }
    return Quality(observations, coverage, sigma, shared, frame_error, weak, limits, summary)


def _number(value: float) -> float:
    return float(f"{value:.4g}") if np.isfinite(value) else float("inf")


def _spread(values: npt.ArrayLike) -> dict[str, float]:
    found = np.asarray(values, dtype=np.float64)
    if not len(found):
        return {"min": 0.0, "p10": 0.0, "median": 0.0, "p90": 0.0, "max": 0.0}
    # Of the values themselves, not between two: infinities would make NaN of it.
    shares = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: _number(float(np.quantile(found, q, method="inverted_cdf"))) for name, q in shares.items()}


def _by_frame(model: SparseModel, values: Array) -> Array:
    """Median of each frame's values; NaN for a frame without."""
    out = np.full(len(model), np.nan)
    for frame in range(len(model)):
        mine = values[model.offsets[frame] : model.offsets[frame + 1]]
        if len(mine):
            out[frame] = np.median(mine)
    return out


def _coverage(model: SparseModel) -> Array:
    sizes = np.array([c.size for c in model.cameras], dtype=np.float64)[model.camera_index[model.frame_of]]
    grid = np.array([_COLUMNS, _ROWS])
    cell = np.clip(((model.pixels + 0.5) / sizes * grid).astype(np.int64), 0, grid - 1)
    number = model.frame_of * (_COLUMNS * _ROWS) + cell[:, 1] * _COLUMNS + cell[:, 0]
    hit = np.bincount(number, minlength=len(model) * _COLUMNS * _ROWS) > 0
    return np.asarray(hit.reshape(len(model), -1).mean(axis=1))


def _position_sigma(model: SparseModel) -> Array:
    """(R,) m, largest axis of the position's covariance when each observation errs by one pixel in each direction."""
    cam, out = model.points_cam(), np.full(len(model), np.inf)
    for frame in range(len(model)):
        points = cam[model.offsets[frame] : model.offsets[frame + 1]]
        points = points[points[:, 2] > 1e-6]
        if len(points) < 3:
            continue
        J = projection_jacobian(model.camera(frame), points)
        # p_cam moves by rho + phi x p: translation first, as everywhere.
        full = np.concatenate([J, -J @ skew(points)], axis=-1).reshape(-1, 6)
        scale = np.array([1.0, 1.0, 1.0, *np.full(3, 1.0 / max(float(np.median(points[:, 2])), 1e-6))])
        H = (full * scale).T @ (full * scale)
        values, vectors = np.linalg.eigh(H)
        if values[0] <= 1e-9 * values[-1]:
            continue  # points on a line, or one point: some motion is free
        covariance = ((vectors / values) @ vectors.T) * np.outer(scale, scale)
        out[frame] = largest_sigma(covariance[:3, :3])
    return out


def _shared(model: SparseModel) -> npt.NDArray[np.int64]:
    """(R,) most points in common with the frame before or behind it in the same drive."""
    out = np.zeros(len(model), dtype=np.int64)
    for frame in range(len(model) - 1):
        if model.drive[frame] == model.drive[frame + 1]:
            both = np.intersect1d(model.observations(frame)[0], model.observations(frame + 1)[0], assume_unique=True)
            out[frame] = max(out[frame], len(both))
            out[frame + 1] = max(out[frame + 1], len(both))
    return out


def _weak_places(
    model: SparseModel,
    observations: npt.NDArray[np.int64],
    coverage: Array,
    sigma: Array,
    shared: npt.NDArray[np.int64],
    limits: Limits,
) -> tuple[WeakPlace, ...]:
    reasons = {
        "few points": observations < limits.observations,
        "points in one part of the image": coverage < limits.coverage,
        "points that hardly fix the position": sigma > limits.sigma_m,
        "hardly a point in common with the frames beside": shared < limits.shared,
    }
    weak = np.any(list(reasons.values()), axis=0) if len(model) else np.zeros(0, dtype=bool)
    out, frame = [], 0
    while frame < len(model):
        if not weak[frame]:
            frame += 1
            continue
        last = frame
        while last + 1 < len(model) and weak[last + 1] and model.drive[last + 1] == model.drive[frame]:
            last += 1
        span = slice(frame, last + 1)
        x, y, z = model.T_map_cam[(frame + last) // 2, :3, 3]
        named = tuple(name for name, found in reasons.items() if found[span].any())
        out.append(WeakPlace(frame, last, int(model.drive[frame]), (float(x), float(y), float(z)), named))
        frame = last + 1
    return tuple(out)


def advice(quality: Quality, source: str = "sfm") -> list[str]:
    """What to do about it, in words; empty when nothing stands out.

    :param source: ``sfm``, ``depth`` or ``colmap``.
    """
    found, out = quality.summary, []
    reasons = [r for place in quality.weak for r in place.reasons]
    error = found["reprojection_px"]["median"]
    if source == "sfm" and error > 1.0:
        out.append(
            f"The points miss the pixels by {error:.2f} px in the median: the reference poses are less exact than the "
            "images. Refine them with the points (sfm.refine_poses=true), or check extrinsics, intrinsics and stamps."
        )
    if source == "sfm" and found["track_length"]["median"] < 4:
        out.append(
            "Most points are seen by three frames or fewer: record more slowly, use every frame (sfm.spacing_m), or "
            "match with more neighbours (sfm.neighbours)."
        )
    if reasons.count("few points"):
        more = "sfm.features, sfm.peak" if source == "sfm" else "depth.cell_px" if source == "depth" else "the model"
        out.append(f"Some frames see few points: is it dark, blurred or plain there? Otherwise ask for more ({more}).")
    if reasons.count("points that hardly fix the position"):
        out.append(
            "Somewhere the points alone do not fix the position (all far, or all on one line): expect a wide "
            "covariance there, or add a drive in another lane."
        )
    if reasons.count("hardly a point in common with the frames beside"):
        out.append(
            "Somewhere the model falls into parts that share no points: look for a gap in the drive or its poses."
        )
    if found["weak_share"] > 0.3:
        out.append(f"{100 * found['weak_share']:.0f} % of the frames are weak: this map will often refuse to localize.")
    return out


def places_in_words(quality: Quality, most: int = 12) -> Sequence[str]:
    """One line for each weak place, the longest first."""
    ordered = sorted(quality.weak, key=lambda p: p.first - p.last)
    lines = [
        f"frames {p.first} to {p.last} (drive {p.drive}, near {p.position[0]:.1f}, {p.position[1]:.1f}, "
        f"{p.position[2]:.1f} m): {'; '.join(p.reasons)}"
        for p in ordered[:most]
    ]
    if len(ordered) > most:
        lines.append(f"and {len(ordered) - most} shorter ones")
    return lines
