"""How far a trajectory is from its reference: absolutely (ATE), and over stretches of the way (RPE).

As Sturm et al. define them, "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012, and as evo counts them:
translation errors are lengths in metres, rotation errors angles in degrees. Only associated poses count; a pose that
was never published does not: beside these figures belongs the share of the reference that has an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ConfigError, GeometryError
from vloc_ros.evaluation.alignment import Alignment, Similarity, align
from vloc_ros.evaluation.document import Document, write_json
from vloc_ros.evaluation.trajectory import write_tum
from vloc_ros.geometry.interpolation import PoseTrack
from vloc_ros.geometry.rotations import matrix_to_quaternion, rotation_angle
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import Array

__all__ = [
    "Association",
    "Comparison",
    "PairChoice",
    "Statistics",
    "absolute_errors",
    "associate",
    "choose_pairs",
    "compare",
    "pairs_by_frames",
    "pairs_by_path",
    "relative_errors",
    "statistics",
    "trajectory_report",
    "trajectory_rows",
    "write_trajectory_report",
]

#: (N,) rows of a trajectory; (P, 2) pairs of rows.
Rows = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Association:
    """Rows of both trajectories that belong together, (M,) int64 each, both increasing.

    ``contested`` is the number of poses that were left out because a nearer one took theirs.
    """

    estimate: Rows
    reference: Rows
    contested: int = 0

    def __len__(self) -> int:
        return len(self.estimate)


def associate(
    estimate_ns: npt.ArrayLike, reference_ns: npt.ArrayLike, max_difference_ns: int = 10_000_000, offset_ns: int = 0
) -> Association:
    """Associate two trajectories by their stamps, in integers: a float64 of seconds since 1970 is off by 200 ns.

    :param estimate_ns: (N,) strictly increasing nanoseconds.
    :param reference_ns: (M,) strictly increasing nanoseconds.
    :param max_difference_ns: stamps further apart than this do not belong together.
    :param offset_ns: added to the stamps of the estimate.
    :raises GeometryError: stamps that do not increase, or a negative limit.
    """
    estimate = _increasing(estimate_ns, "estimate") + np.int64(offset_ns)
    reference = _increasing(reference_ns, "reference")
    if max_difference_ns < 0:
        raise GeometryError(f"association: expected a limit of at least 0 ns, found {max_difference_ns}")
    swap = len(estimate) > len(reference)
    few, many = (reference, estimate) if swap else (estimate, reference)
    if not len(few):
        none = np.zeros(0, dtype=np.int64)
        return Association(none, none)
    rows, taken, contested = _nearest_once(few, many, max_difference_ns)
    return Association(taken, rows, contested) if swap else Association(rows, taken, contested)


def _nearest_once(few: Rows, many: Rows, limit_ns: int) -> tuple[Rows, Rows, int]:
    """Rows of ``few``, the rows of ``many`` that are theirs, and how many of ``few`` lost theirs to a nearer one."""
    after = np.clip(np.searchsorted(many, few, side="left"), 0, len(many) - 1)
    before = np.maximum(after - 1, 0)
    to_after, to_before = np.abs(many[after] - few), np.abs(few - many[before])
    chosen = np.where(to_before <= to_after, before, after)
    distance = np.minimum(to_before, to_after)
    rows = np.flatnonzero(distance <= limit_ns)
    # Sorted by (partner, distance, row), the first of each partner keeps it.
    order = rows[np.lexsort((rows, distance[rows], chosen[rows]))]
    partners, first = np.unique(chosen[order], return_index=True)
    return order[first].astype(np.int64), partners.astype(np.int64), len(rows) - len(first)


def _increasing(stamps_ns: npt.ArrayLike, what: str) -> Rows:
    stamps = np.asarray(stamps_ns, dtype=np.int64)
    if stamps.ndim != 1:
        raise GeometryError(f"association: {what}: expected stamps (N,), found shape {stamps.shape}")
    backwards = np.flatnonzero(np.diff(stamps) <= 0)
    if len(backwards):
        k = int(backwards[0])
        raise GeometryError(
            f"association: {what}: expected increasing stamps, found {stamps[k + 1]} after {stamps[k]} at index {k + 1}"
        )
    return stamps


@dataclass(frozen=True)
class Statistics:
    """Of ``count`` errors; ``std`` is that of the population, ``sse`` the sum of the squares."""

    count: int
    rmse: float
    mean: float
    median: float
    std: float
    min: float
    max: float
    sse: float


def statistics(errors: Array) -> Statistics | None:
    """The figures of errors (N,); None of none."""
    if not len(errors):
        return None
    squares = errors**2
    return Statistics(
        len(errors),
        float(np.sqrt(squares.mean())),
        float(errors.mean()),
        float(np.median(errors)),
        float(errors.std()),
        float(errors.min()),
        float(errors.max()),
        float(squares.sum()),
    )


def absolute_errors(estimate: Array, reference: Array) -> tuple[Array, Array]:
    """Distances (m) and angles (degrees), (N,) each, between poses (N, 4, 4) of the same moments."""
    distances = np.linalg.norm(estimate[:, :3, 3] - reference[:, :3, 3], axis=1)
    return distances, np.degrees(rotation_angle(estimate[:, :3, :3], reference[:, :3, :3]))


def relative_errors(estimate: Array, reference: Array, pairs: Pairs) -> tuple[Array, Array]:
    """Errors (m, degrees) of the motion from pose i to pose j, for pairs (P, 2) of rows."""
    i, j = pairs.T
    moved = inverse(estimate[i]) @ estimate[j]
    should = inverse(reference[i]) @ reference[j]
    difference = inverse(should) @ moved
    distances = np.linalg.norm(difference[:, :3, 3], axis=1)
    return distances, np.degrees(rotation_angle(moved[:, :3, :3], should[:, :3, :3]))


@dataclass(frozen=True)
class PairChoice:
    """Between which poses relative errors are taken.

    :param delta: how far apart: poses (``f``, whole) or metres of the way (``m``).
    :param all_pairs: from every pose, so that pairs overlap; otherwise one pair begins where the last one ends.
    :param tolerance: with ``all_pairs`` in metres, the share of ``delta`` that a pair may be longer or shorter.
    :param path: whose way is measured. evo measures the estimate's, which noise makes longer.
    """

    delta: float = 10.0
    unit: Literal["f", "m"] = "m"
    all_pairs: bool = False
    tolerance: float = 0.1
    path: Literal["estimate", "reference"] = "estimate"

    def __post_init__(self) -> None:
        if self.unit not in ("f", "m"):
            raise ConfigError(f"delta unit: expected f (frames) or m (metres), found {self.unit!r}")
        if not (np.isfinite(self.delta) and self.delta > 0):
            raise ConfigError(f"delta: expected a positive number, found {self.delta}")
        if self.unit == "f" and self.delta != int(self.delta):
            raise ConfigError(f"delta: expected a whole number of frames, found {self.delta:g}; or give --delta-unit m")


def choose_pairs(choice: PairChoice, estimate: Array, reference: Array) -> Pairs:
    """Pairs (P, 2) of rows of the associated poses (N, 4, 4); possibly none."""
    if choice.unit == "f":
        return pairs_by_frames(len(estimate), int(choice.delta), choice.all_pairs)
    positions = (estimate if choice.path == "estimate" else reference)[:, :3, 3]
    return pairs_by_path(positions, choice.delta, choice.all_pairs, choice.tolerance)


def pairs_by_frames(count: int, delta: int, all_pairs: bool = False) -> Pairs:
    """Pairs of rows that are ``delta`` apart: one after the other from row 0, or from every row."""
    starts = np.arange(0, max(count - delta, 0), 1 if all_pairs else delta, dtype=np.int64)
    return np.stack([starts, starts + delta], axis=1)


def pairs_by_path(positions: Array, delta_m: float, all_pairs: bool = False, tolerance: float = 0.1) -> Pairs:
    """Pairs of rows between which the way along ``positions`` (N, 3) is ``delta_m``.

    One after the other: row 0 is a mark, and every row when at least ``delta_m`` lie behind the last mark; pairs are of
    successive marks (older releases of evo leave out the first pair). From every row: with the later row where the way
    is nearest to ``delta_m``, if it is within ``tolerance * delta_m``.
    """
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if not all_pairs:
        marks, way = [0], 0.0
        for row, step in enumerate(steps.tolist(), 1):
            way += step
            if way >= delta_m:
                marks.append(row)
                way = 0.0
        ends = np.array(marks, dtype=np.int64)
        return np.stack([ends[:-1], ends[1:]], axis=1)
    way_to = np.concatenate([[0.0], np.cumsum(steps)])
    starts = np.arange(len(way_to) - 1, dtype=np.int64)
    after = np.searchsorted(way_to, way_to[:-1] + delta_m, side="left")
    after = np.clip(after, starts + 1, len(way_to) - 1)
    # The nearest row is this one or the one before it; where the vehicle stood, the first of those at that place.
    before = np.searchsorted(way_to, way_to[after - 1], side="left")
    before = np.clip(before, starts + 1, len(way_to) - 1)
    off_after = np.abs(way_to[after] - way_to[:-1] - delta_m)
    off_before = np.abs(way_to[before] - way_to[:-1] - delta_m)
    ends = np.where(off_before <= off_after, before, after).astype(np.int64)
    kept = np.minimum(off_before, off_after) <= tolerance * delta_m
    return np.stack([starts[kept], ends[kept]], axis=1)


@dataclass(frozen=True)
class Comparison:
    """One trajectory against another. Arrays are over the M associated poses, or over the P pairs of them.

    ``estimate`` (M, 4, 4) is aligned. Errors: ``absolute_m``, ``absolute_deg`` (M,), ``relative_m``, ``relative_deg``
    (P,).
    """

    association: Association
    stamps_ns: npt.NDArray[np.int64]
    estimate: Array
    reference: Array
    alignment: Similarity
    absolute_m: Array
    absolute_deg: Array
    pairs: Pairs
    relative_m: Array
    relative_deg: Array


def compare(
    estimate: PoseTrack,
    reference: PoseTrack,
    max_difference_ns: int = 10_000_000,
    offset_ns: int = 0,
    how: Alignment = "none",
    choice: PairChoice | None = None,
) -> Comparison:
    """Associate, align, and take the errors. ``stamps_ns`` of the result are the reference's.

    :param offset_ns: added to the stamps of the estimate.
    :raises ConfigError: no two poses belong together. :raises GeometryError: the alignment is not determined.
    """
    found = associate(estimate.stamps_ns, reference.stamps_ns, max_difference_ns, offset_ns)
    if not len(found):
        raise ConfigError(
            f"expected stamps at most {max_difference_ns * 1e-9:g} s apart, found none: the estimate is from "
            f"{estimate.start_ns} to {estimate.end_ns} ns, the reference from {reference.start_ns} to "
            f"{reference.end_ns} ns; allow more (--max-difference), or shift the estimate (--time-offset)"
        )
    mine, truth = estimate.T[found.estimate], reference.T[found.reference]
    similarity = align(mine, truth, how)
    mine = similarity.poses(mine)
    pairs = choose_pairs(choice or PairChoice(), mine, truth)
    return Comparison(
        found, reference.stamps_ns[found.reference], mine, truth, similarity, *absolute_errors(mine, truth), pairs,
        *relative_errors(mine, truth, pairs),
    )  # fmt: skip


def trajectory_report(
    found: Comparison, choice: PairChoice, poses: tuple[int, int], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything as plain values.

    :param poses: how many the estimate and the reference have.
    :param about: what was compared, and how.
    """
    figures: dict[str, Statistics | None] = {
        "ate_translation_m": statistics(found.absolute_m),
        "ate_rotation_deg": statistics(found.absolute_deg),
        "rpe_translation_m": statistics(found.relative_m),
        "rpe_rotation_deg": statistics(found.relative_deg),
    }
    similarity = found.alignment
    return {
        **about,
        "poses_estimate": poses[0],
        "poses_reference": poses[1],
        "associated": len(found.association),
        "associated_share_of_reference": len(found.association) / poses[1],
        "contested": found.association.contested,
        "alignment": {
            "rotation_xyzw": matrix_to_quaternion(similarity.rotation).tolist(),
            "translation_m": similarity.translation.tolist(),
            "scale": similarity.scale,
        },
        "pairs": {**asdict(choice), "count": len(found.pairs)},
        **{name: None if value is None else asdict(value) for name, value in figures.items()},
    }


def trajectory_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report as ``(name, text)`` lines for a person."""
    share = 100 * report["associated_share_of_reference"]
    associated = (
        f"{report['associated']} of {report['poses_estimate']} estimated and {report['poses_reference']} reference "
        f"poses ({share:.1f} % of the reference)"
    )
    if report["contested"]:
        associated += f"; {report['contested']} left out because a nearer pose took theirs"
    pairs = report["pairs"]
    unit = "frames" if pairs["unit"] == "f" else "m"
    kind = "from every pose" if pairs["all_pairs"] else "one after the other"
    rows = [("associated", associated), ("alignment", _alignment(report))]
    rows += [
        ("ATE translation", _figures(report["ate_translation_m"], "m")),
        ("ATE rotation", _figures(report["ate_rotation_deg"], "deg")),
    ]
    if not pairs["count"]:
        return [*rows, ("RPE", f"no two poses are {pairs['delta']:g} {unit} apart")]
    over = f"over {pairs['delta']:g} {unit}, {pairs['count']} pairs {kind}"
    return [
        *rows,
        (f"RPE translation {over}", _figures(report["rpe_translation_m"], "m")),
        (f"RPE rotation {over}", _figures(report["rpe_rotation_deg"], "deg")),
    ]


def _alignment(report: Mapping[str, Any]) -> str:
    if report["align"] == "none":
        return "none"
    found = report["alignment"]
    x, y, z = found["translation_m"]
    degrees = 2 * np.degrees(np.arccos(min(1.0, abs(found["rotation_xyzw"][3]))))
    scale = f", scale {found['scale']:.6f}" if report["align"] == "sim3" else ""
    return f"{report['align']}: turned by {degrees:.3f} deg, moved by ({x:.3f}, {y:.3f}, {z:.3f}) m{scale}"


def _figures(found: Mapping[str, float], unit: str) -> str:
    return (
        f"rmse {found['rmse']:.4f} {unit}, mean {found['mean']:.4f}, median {found['median']:.4f}, "
        f"std {found['std']:.4f}, min {found['min']:.4f}, max {found['max']:.4f}, sse {found['sse']:.4g}"
    )


def write_trajectory_report(report: Mapping[str, Any], found: Comparison, folder: Path) -> Path:
    """Write ``report.json``, ``report.md``, ``report.html``, and the associated poses (the estimate aligned) as
    ``estimate.tum`` and ``reference.tum`` with equal stamps; the path of ``report.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", report)
    stamps = found.stamps_ns.tolist()
    write_tum(folder / "estimate.tum", zip(stamps, found.estimate, strict=True))
    write_tum(folder / "reference.tum", zip(stamps, found.reference, strict=True))
    document = Document(f"`{report['estimate']}` against `{report['reference']}`")
    document.facts(trajectory_rows(report))
    document.paragraph("Errors are over associated poses only: a pose that was never given is no error here.")
    document.paragraph(
        "Plots and other measures: `evo_ape tum reference.tum estimate.tum --plot`, `evo_traj`, `evo_rpe`."
    )
    return document.write(folder)
