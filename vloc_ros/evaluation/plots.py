"""The plots of a replay: where it drove, how wrong it was, whether its covariance told, and where the time went."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.evaluation.figure import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_BLUE,
    ORANGE,
    RED,
    REFERENCE,
    STATE_COLOURS,
    new_figure,
    plain_ticks,
    save,
)
from vloc_ros.evaluation.metrics import (
    CHI2_95_6,
    CHI2_BAND_6,
    RECALL_THRESHOLDS,
    FrameRecord,
    consistency,
    frame_errors,
    frame_nees,
    sigma_position,
    total_ms,
)
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.types import Array, Estimate, LocalizationState

__all__ = [
    "caption",
    "draw_all",
    "draw_candidates",
    "draw_errors",
    "draw_nees",
    "draw_recall",
    "draw_stages",
    "draw_trajectory",
    "recall_curve",
]

CHI2_95_2 = 5.991465  # 95 % of a planar normal distribution lies within this squared Mahalanobis distance
#: Limits of the recall curves in degrees, those of the table's thresholds and none, with their colours.
_RECALL_LIMITS = ((2.0, BLUE), (5.0, GREEN), (10.0, ORANGE), (float("inf"), GREY))
#: Refinement steps that a row of candidates has room for.
_MAX_COLUMNS = 7


#: What :func:`draw_all` draws, by the name of its file.
_CAPTIONS = {
    "trajectory": "From above: estimates with their 95 % ellipses over the reference; grey is where the map is.",
    "errors": "Errors over time, within three times what the map expected of itself (the blue band).",
    "nees": "Whether the covariance is right. Above, errors in units of what was expected: 95 % should lie below the "
    "dashed line. Below, expected against real errors: they should rise together.",
    "recall": "What share of all frames has an error of at most so much.",
    "stages": "Where the time of a frame goes.",
}
#: Seconds between frames, in units of the median, from which on nothing is drawn between them.
_GAP = 5.0


def caption(picture: Path) -> str:
    """A sentence on one of the pictures of :func:`draw_all`; the file's stem for any other."""
    return _CAPTIONS.get(picture.stem, picture.stem)


def draw_all(records: Sequence[FrameRecord], folder: Path, map_positions: Array | None = None) -> list[Path]:
    """Draw what the records support; the paths written."""
    paths = [draw_trajectory(records, folder / "trajectory.png", map_positions)]
    if any(r.T_reference is not None and r.published for r in records):
        paths += [draw_errors(records, folder / "errors.png"), draw_nees(records, folder / "nees.png")]
        paths.append(draw_recall(records, folder / "recall.png"))
    if any(r.timings_ms for r in records):
        paths.append(draw_stages(records, folder / "stages.png"))
    return paths


def draw_trajectory(records: Sequence[FrameRecord], path: Path, map_positions: Array | None = None) -> Path:
    """Estimates over the reference, seen from above, with 95 % covariance ellipses."""
    from matplotlib.patches import Ellipse

    figure = new_figure(9, 8, (0.85, 0.15, 0.6, 0.4))
    axes = figure.add_subplot()
    if map_positions is not None and len(map_positions):
        axes.plot(
            map_positions[:, 0], map_positions[:, 1], ".", color="#c8c8c8", ms=9, label="poses of the map", zorder=1
        )
    reference = np.array([r.T_reference[:2, 3] if r.T_reference is not None else (np.nan, np.nan) for r in records])
    reference = reference.reshape(-1, 2)
    reference = np.insert(reference, _after_gaps(_seconds(records)), np.nan, axis=0)
    axes.plot(*reference.T, "-", color=REFERENCE, lw=1, label="reference", zorder=2)
    published = [r for r in records if r.T_map_base is not None]
    for state, colour in STATE_COLOURS.items():
        points = np.array([r.T_map_base[:2, 3] for r in published if r.state is state and r.T_map_base is not None])
        if len(points):
            axes.plot(*points.T, ".", color=colour, ms=5, label=f"{state.value} ({len(points)})", zorder=4)
    for record in published:
        if record.T_reference is not None and record.T_map_base is not None:
            pair = np.stack([record.T_reference[:2, 3], record.T_map_base[:2, 3]])
            axes.plot(*pair.T, "-", color="#888888", lw=0.6, zorder=3)
    silent = np.array([r.T_reference[:2, 3] for r in records if not r.published and r.T_reference is not None])
    if len(silent):
        axes.plot(
            *silent.T, "x", color=STATE_COLOURS[records[0].state.LOST], ms=5, label=f"no pose ({len(silent)})", zorder=5
        )
    shown = [r for r in published if r.covariance is not None]
    shown = shown[:: max(len(shown) // 60, 1)]
    axes.set_aspect("equal", adjustable="datalim")
    if shown:
        extent = max(float(np.ptp(axes.get_xlim())), float(np.ptp(axes.get_ylim())))
        shapes = [_ellipse(r.covariance[:2, :2]) for r in shown if r.covariance is not None]
        enlarge = _enlargement(float(np.median([s[0] for s in shapes])), extent)
        for record, (major, minor, angle) in zip(shown, shapes, strict=True):
            assert record.T_map_base is not None
            x, y = (float(v) for v in record.T_map_base[:2, 3])
            size = 2 * enlarge * major, 2 * enlarge * minor
            colour = STATE_COLOURS[record.state]
            axes.add_patch(Ellipse((x, y), *size, angle=angle, fc=colour, ec=colour, alpha=0.25, lw=0.8, zorder=3))
        scale = "" if enlarge == 1 else f", drawn {enlarge} times larger"
        axes.plot([], [], "o", mfc="none", mec=BLUE, ms=9, label=f"95 % ellipse{scale}")
    axes.set_xlabel("map x [m]")
    axes.set_ylabel("map y [m]")
    axes.set_title("Trajectory over reference")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    return save(figure, path)


def _ellipse(covariance: Array) -> tuple[float, float, float]:
    """Semi-axes (m) of the 95 % ellipse and the angle of the major one (degrees)."""
    values, vectors = np.linalg.eigh(covariance)
    minor, major = np.sqrt(np.maximum(values, 0.0) * CHI2_95_2)
    return float(major), float(minor), float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))


def _enlargement(semi_axis: float, extent: float) -> int:
    """A round factor that makes a typical ellipse visible: 1 where it already is."""
    wanted = 0.012 * extent / max(semi_axis, 1e-9)
    return max([1] + [k for k in (2, 5, 10, 20, 50, 100) if k <= wanted])


def draw_errors(records: Sequence[FrameRecord], path: Path) -> Path:
    """Errors along the map's axes and of the rotation over time, within three predicted sigmas, with the states."""
    seconds, called, gaps = _time_axis(records)
    figure = new_figure(11, 8.5, (0.85, 0.15, 0.6, 0.4), (0.0, 0.08))
    rows = figure.subplots(4, 1, sharex=True)
    errors = np.full((len(records), 6), np.nan)
    sigma = np.full((len(records), 6), np.nan)
    for i, record in enumerate(records):
        if record.T_map_base is not None and record.T_reference is not None:
            errors[i] = pose_error(record.T_map_base, record.T_reference)
        if record.covariance is not None:
            sigma[i] = np.sqrt(np.maximum(np.diag(record.covariance), 0.0))
    panels = [(errors[:, k], 3 * sigma[:, k], f"{'xyz'[k]} error [m]") for k in range(3)]
    angle = np.degrees(np.linalg.norm(errors[:, 3:], axis=1))
    panels.append((angle, np.degrees(3 * np.sqrt((sigma[:, 3:] ** 2).sum(axis=1))), "rotation error [deg]"))
    states = [r.state for r in records]
    for axes, (values, band, label) in zip(rows, panels, strict=True):
        lower = -band if label[0] in "xyz" else np.zeros_like(band)
        told = (np.insert(v, gaps, np.nan) for v in (seconds, lower, band))
        axes.fill_between(*told, color=LIGHT_BLUE, alpha=0.35, lw=0, label="3 predicted sigma")
        for state, colour in STATE_COLOURS.items():
            mask = np.array([s is state for s in states])
            if np.isfinite(values[mask]).any():
                axes.plot(seconds[mask], values[mask], ".", color=colour, ms=4)
        # One gross error must not hide all others: the axis shows 99 % of errors and sigmas.
        both = np.abs(np.concatenate([values, band]))
        both = both[np.isfinite(both)]
        if len(both):
            top = 1.15 * float(max(np.quantile(both, 0.99), 1e-3))
            bottom = -top if label[0] in "xyz" else -0.08 * top
            axes.set_ylim(bottom, top)
            beyond = int((np.abs(values) > top).sum())
            if beyond:
                axes.text(
                    0.995, 0.96, f"{beyond} beyond the axis", transform=axes.transAxes, ha="right", va="top", fontsize=8
                )
        _shade_states(axes, seconds, states, gaps)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    for state in dict.fromkeys(states):
        rows[0].plot([], [], "s", color=STATE_COLOURS[state], ms=6, label=state.value)
    rows[0].legend(loc="upper left", fontsize=8, ncols=5)
    rows[0].set_title("Errors over time (base in the map); the strip below each panel is the state")
    rows[-1].set_xlabel(called)
    return save(figure, path)


def _shade_states(axes: Any, seconds: Any, states: list[LocalizationState], gaps: list[int]) -> None:
    """A strip along the bottom of a time axis that shows the state of every frame."""
    if not len(seconds):
        return
    step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0
    bounds = [0, *gaps, len(seconds)]
    for first, last in pairwise(bounds):
        mine = seconds[first:last]
        edges = [float(mine[0]) - step / 2, *((mine[1:] + mine[:-1]) / 2), float(mine[-1]) + step / 2]
        start = 0
        for i in range(1, len(mine) + 1):
            if i == len(mine) or states[first + i] is not states[first + start]:
                colour = STATE_COLOURS[states[first + start]]
                axes.axvspan(edges[start], edges[i], ymin=0.0, ymax=0.04, color=colour, lw=0)
                start = i


def draw_nees(records: Sequence[FrameRecord], path: Path) -> Path:
    """NEES over time against its 95 % band, and predicted sigma against the error made."""
    use = [r for r in records if not np.isnan(frame_nees(r))]
    figure = new_figure(11, 7.5, (0.85, 0.15, 0.6, 0.4), (0.0, 0.38))
    top, low = figure.subplots(2, 1, height_ratios=(1, 1.15))
    seconds, called, _ = _time_axis(records)
    values = np.array([frame_nees(r) for r in records])
    top.axhspan(*CHI2_BAND_6, color=GREEN, alpha=0.18, lw=0, label="95 % of consistent estimates")
    top.axhline(CHI2_95_6, color=GREEN, lw=1, ls="--", label="95 % limit, 12.59")
    for state, colour in STATE_COLOURS.items():
        mask = np.array([r.state is state for r in records]) & np.isfinite(values)
        if mask.any():
            top.plot(seconds[mask], values[mask], ".", color=colour, ms=5, label=state.value)
    top.set_yscale("log")
    top.set_xlabel(called)
    top.set_ylabel("NEES")
    figures = consistency(records)
    top.set_title(
        f"NEES: mean {figures.mean:.1f} (consistent: 6), {100 * figures.share_in_95:.1f} % within the 95 % limit, "
        f"{figures.count} frames"
    )
    top.legend(fontsize=8, ncols=3)
    top.grid(alpha=0.3, which="both")
    sigma = np.array([sigma_position(r.covariance) for r in use if r.covariance is not None])
    error = frame_errors(use)[0]
    for state, colour in STATE_COLOURS.items():
        mask = np.array([r.state is state for r in use], dtype=bool)
        if mask.any():
            low.loglog(sigma[mask], np.maximum(error[mask], 1e-4), ".", color=colour, ms=5)
    if len(sigma):
        line = np.array([sigma.min() * 0.8, sigma.max() * 1.25])
        low.plot(line, line, "-", color=REFERENCE, lw=1, label="error = sigma")
        low.plot(line, 3 * line, ":", color=REFERENCE, lw=1, label="error = 3 sigma")
        for edge in np.quantile(sigma, (1 / 3, 2 / 3)):
            low.axvline(float(edge), color="#888888", lw=0.8)
        thirds = ", ".join(f"{100 * s:.0f} %" for s in figures.thirds)
        told = f"rank correlation {figures.rank_correlation:.2f}"
        if figures.constant:
            told = "sigma is nearly constant: no information"
        low.set_title(f"Within the limit in each third of sigma: {thirds}; {told}")
        low.legend(fontsize=8)
    if len(sigma):
        plain_ticks(low.xaxis)
    low.set_xlabel("predicted position sigma [m]")
    low.set_ylabel("translation error [m]")
    low.grid(alpha=0.3, which="both")
    return save(figure, path)


def draw_recall(records: Sequence[FrameRecord], path: Path) -> Path:
    """The curves over a logarithmic axis, with the thresholds of the table as marks."""
    figure = new_figure(9, 5.5, (0.75, 0.2, 0.6, 0.4))
    axes = figure.add_subplot()
    # A lower end of the axis that any drive shares, unless it is better than that.
    floor, end = 0.01, 20.0
    for limit, colour in _RECALL_LIMITS:
        distances, shares = recall_curve(records, limit)
        label = f"within {limit:g} deg" if np.isfinite(limit) else "any rotation"
        if len(distances):
            floor = min(floor, max(float(distances[0]), 1e-3))
            end = max(end, float(distances[-1]))
        x = np.concatenate([[1e-4], np.maximum(distances, 1e-4), [1e6]])
        y = np.concatenate([[0.0], shares, shares[-1:] if len(shares) else [0.0]])
        axes.step(x, y, where="post", color=colour, lw=1.5, label=label)
    for number, (metres, degrees) in enumerate(RECALL_THRESHOLDS):
        distances, shares = recall_curve(records, degrees)
        reached = int(np.searchsorted(distances, metres, side="right"))
        share = float(shares[reached - 1]) if reached else 0.0
        axes.plot(metres, share, "o", color=REFERENCE, ms=4)
        axes.annotate(
            f"{metres:g} m, {degrees:g} deg",
            (metres, share),
            xytext=(4, -10 - 9 * (number % 2) if share > 0.1 else 5 + 9 * (number % 2)),  # neighbours do not overlap
            textcoords="offset points",
            fontsize=7,
        )
    axes.set_xscale("log")
    axes.set_xlim(floor, end)
    plain_ticks(axes.xaxis)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("translation error at most [m]")
    axes.set_ylabel("share of the frames with a reference")
    axes.set_title("Recall")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="upper left")
    return save(figure, path)


CHI2_95_2 = 5.991465  # 95 % of a planar normal distribution lies within this squared Mahalanobis distance


def recall_curve(records: Sequence[FrameRecord], limit_deg: float = float("inf")) -> tuple[Array, Array]:
    """Distances (K,) in metres, increasing, and the share (K,) of frames within each and ``limit_deg``.

    Over all frames with a reference, so that a curve ends below 1 where frames have no pose.
    """
    translation, rotation = frame_errors(records)
    known = ~np.isnan(translation)
    inside = known & np.isfinite(translation) & (rotation <= limit_deg)
    distances = np.sort(translation[inside])
    return distances, np.arange(1, len(distances) + 1) / max(int(known.sum()), 1)


def draw_candidates(
    samples: Sequence[tuple[Estimate, Array | None]],
    path: Path,
    positions: Array | None = None,
) -> Path:
    """One row a frame, one column a refinement step: candidates coloured by score, the best ones marked.

    The view follows the candidates: each panel is as wide as they are spread, and says how wide that is.

    :param samples: estimates with candidates, each with the camera's true pose ``T_map_cam`` if known.
    :param positions: (M, 2 or 3) places of the drive or the map, as background.
    """
    from matplotlib.ticker import MaxNLocator

    scores = np.concatenate([step.scores for e, _ in samples for step in e.candidates])
    shades = {"cmap": "viridis", "vmin": float(scores.min()), "vmax": float(scores.max())}
    columns = max(min(len(e.candidates), _MAX_COLUMNS) for e, _ in samples)
    size = 2.9 * columns + 1.2, 3.1 * len(samples) + 0.7
    figure = new_figure(*size, (0.75, 1.1, 0.35, 0.65), (0.22, 0.22))
    grid = figure.subplots(len(samples), columns, squeeze=False)
    start = samples[0][0].stamp_ns
    for row, (estimate, truth) in zip(grid, samples, strict=True):
        for axes in row[len(estimate.candidates) :]:
            axes.set_visible(False)
        for number, (axes, step) in enumerate(zip(row, estimate.candidates, strict=False)):
            points = step.T_map_cam[:, :2, 3]
            if positions is not None and len(positions):
                axes.plot(*positions[:, :2].T, "-", color="#cccccc", lw=1, zorder=1)
            order = np.argsort(step.scores)  # the best on top
            dots = axes.scatter(*points[order].T, c=step.scores[order], s=7, linewidths=0, zorder=2, **shades)
            if len(step.selected):
                axes.scatter(*points[step.selected].T, s=14, fc="none", ec=RED, lw=0.4, alpha=0.5, zorder=3)
            if truth is not None:
                axes.plot(*truth[:2, 3], "*", color="white", mec=REFERENCE, ms=12, zorder=5)
            axes.plot(*estimate.T_map_cam[:2, 3], "+", color=RED, ms=11, mew=2, zorder=6)
            centre, half = _view(points, truth, estimate)
            axes.set_xlim(centre[0] - half, centre[0] + half)
            axes.set_ylim(centre[1] - half, centre[1] + half)
            axes.set_aspect("equal")
            axes.tick_params(labelsize=6)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.set_title(f"step {number + 1}: {2 * half:.3g} m wide", fontsize=9)
        seconds = (estimate.stamp_ns - start) * 1e-9
        error = "" if truth is None else f", off by {np.linalg.norm(estimate.T_map_cam[:3, 3] - truth[:3, 3]):.2f} m"
        row[0].set_ylabel(f"{seconds:.1f} s after the first{error}", fontsize=8)
    beside = figure.add_axes((1 - 0.85 / size[0], 0.1, 0.22 / size[0], 0.8))
    figure.colorbar(dots, cax=beside, label="score")
    figure.suptitle("Candidates by refinement step (circles: selected, cross: estimate, star: truth)", fontsize=10)
    return save(figure, path)


def _view(points: Array, truth: Array | None, estimate: Estimate) -> tuple[Array, float]:
    """Centre and half width that show the candidates, the estimate and the truth."""
    shown = [points, estimate.T_map_cam[None, :2, 3]]
    if truth is not None:
        shown.append(truth[None, :2, 3])
    both = np.concatenate(shown)
    low, high = both.min(axis=0), both.max(axis=0)
    centre: Array = (low + high) / 2
    return centre, max(0.55 * float((high - low).max()), 0.05)


def draw_stages(records: Sequence[FrameRecord], path: Path) -> Path:
    """Where the time of a frame goes: every stage's spread, and the total over time."""
    timed = [r for r in records if r.timings_ms]
    names = list(dict.fromkeys(name for r in timed for name in r.timings_ms))
    stages = [name for name in names if name != "total"]
    columns: list[list[float]] = [[r.timings_ms[name] for r in timed if name in r.timings_ms] for name in stages]
    totals = np.array([total_ms(r.timings_ms) for r in timed])
    named = 0.3 + 0.085 * max(map(len, stages), default=0)  # inches of the longest name
    height = max(4.0, 1.8 + 0.45 * len(stages))
    figure = new_figure(11, height, (named, 0.15, 0.6, 0.4), (0.18, 0.0))
    left, right = figure.subplots(1, 2)
    # `orientation` came with matplotlib 3.10, `vert` is deprecated since: ask the one that is there.
    sideways: dict[str, Any] = {"orientation": "horizontal"} if _has_orientation() else {"vert": False}
    left.boxplot(columns[::-1], whis=(5, 95), showfliers=False, widths=0.6, **sideways)
    left.set_yticks(range(1, len(stages) + 1), stages[::-1])
    left.set_xlabel("time [ms]")
    left.set_title("Stages: quartiles, whiskers 5 to 95 %")
    left.grid(alpha=0.3, axis="x")
    places, called, _ = _time_axis(timed)
    right.plot(places, totals, ".", color=BLUE, ms=4)
    for share, style in ((50, "-"), (95, "--")):
        value = float(np.percentile(totals, share))
        right.axhline(value, color=REFERENCE, lw=1, ls=style, label=f"{share} %: {value:.1f} ms")
    right.set_ylim(0, 1.3 * float(np.percentile(totals, 99)))
    right.set_xlabel(called)
    right.set_ylabel("frame [ms]")
    right.set_title("Whole frame")
    right.legend(fontsize=8)
    right.grid(alpha=0.3)
    return save(figure, path)


def _has_orientation() -> bool:
    from matplotlib.axes import Axes

    return "orientation" in inspect.signature(Axes.boxplot).parameters


def _time_axis(records: Sequence[FrameRecord]) -> tuple[Any, str, list[int]]:
    """Where each frame is on the axis of time, what that is called, and the numbers of frames after gaps.

    Seconds; the numbers of the frames where most of the time was left out.
    """
    seconds = _seconds(records)
    gaps = _after_gaps(seconds)
    if gaps and np.diff(seconds)[np.array(gaps) - 1].sum() > 0.5 * (seconds[-1] - seconds[0]):
        return np.arange(len(seconds), dtype=np.float64), "frame (only those in some pieces of the drive)", gaps
    return seconds, "time [s]", gaps


def _after_gaps(seconds: Any) -> list[int]:
    """Numbers of frames before which time was left out."""
    steps = np.diff(seconds)
    if not len(steps):
        return []
    return [int(i) + 1 for i in np.flatnonzero(steps > _GAP * max(float(np.median(steps)), 1e-9))]


def _seconds(records: Sequence[FrameRecord]) -> Any:
    if not records:
        return np.zeros(0)
    first = records[0].stamp_ns
    return np.array([(r.stamp_ns - first) * 1e-9 for r in records])
