"""The quality report of a sparse model: ``report.md``, ``report.html``, ``report.json``, and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.datasets import PosedSequence
from vloc_ros.evaluation.document import Document, require_jinja2, write_json
from vloc_ros.evaluation.figure import BLUE, GREY, RED, new_figure, plain_ticks, require_matplotlib, save
from vloc_ros.geometry.cameras import project
from vloc_ros.images.reduction import reduced_image
from vloc_train.mapping.points import SparseModel
from vloc_train.mapping.quality import Quality, advice, assess, places_in_words

__all__ = ["write_quality_report"]


def write_quality_report(
    out: Path,
    models: Mapping[str, SparseModel],
    drives: Mapping[str, Sequence[PosedSequence]] | None = None,
    source: str = "sfm",
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report of a map's scenes into a folder; returns ``report.md``.

    :param drives: those that ``model.drive`` and ``model.number`` count, for pictures of frames.
    :param source: where the points come from, for the advice.
    :param notes: more lines for the head of the report.
    :raises ConfigError: matplotlib is not installed.
    """
    require_matplotlib()
    require_jinja2()
    out.mkdir(parents=True, exist_ok=True)
    document = Document("Quality of the sparse model")
    document.items([f"{name}: {value}" for name, value in (notes or {}).items()])
    figures: dict[str, Any] = {}
    for scene, model in models.items():
        quality = assess(model)
        words = advice(quality, source)
        figures[scene] = {
            **quality.summary,
            "weak_places": [
                {"first": p.first, "last": p.last, "drive": p.drive, "position": p.position, "reasons": p.reasons}
                for p in quality.weak
            ],
            "advice": words,
        }
        document.heading(f"Scene {scene}")
        document.paragraph("Advice:" if words else "Nothing stands out.")
        document.items(words)
        _tables(document, quality.summary)
        if quality.weak:
            document.paragraph("Weak places:")
            document.items(places_in_words(quality))
        document.picture(_plot_map(out / f"{scene}_map.png", model, quality), "map")
        document.picture(_plot_histograms(out / f"{scene}_histograms.png", model, quality), "histograms")
        document.picture(_plot_along(out / f"{scene}_along.png", quality), "along")
        if drives is not None and len(model.point_ids):
            document.picture(_plot_frames(out / f"{scene}_frames.png", model, quality, drives[scene]), "frames")
    write_json(out / "report.json", figures)
    return document.write(out)


def _tables(document: Document, summary: Mapping[str, Any]) -> None:
    """Counts first, then the figures that have a spread."""
    counts = ("frames", "drives", "cameras", "points", "observations", "weak_frames")
    document.facts([(name.replace("_", " "), summary[name]) for name in counts])
    rows = [
        (name.replace("_", " "), *(f"{values[k]:.4g}" for k in ("min", "p10", "median", "p90", "max")))
        for name, values in summary.items()
        if isinstance(values, Mapping)
    ]
    document.table(("", "min", "10 %", "median", "90 %", "max"), rows)


def _weak_frames(quality: Quality, count: int) -> Any:
    weak = np.zeros(count, dtype=bool)
    for place in quality.weak:
        weak[place.first : place.last + 1] = True
    return weak


def _plot_map(path: Path, model: SparseModel, quality: Quality) -> Path:
    """From above: points, the drives by what they see, and where that is weak."""
    figure = new_figure(8, 6.5)
    axes = figure.subplots()
    t = model.T_map_cam[:, :3, 3]
    shown = model.points
    if len(shown) > 40_000:
        shown = shown[np.linspace(0, len(shown) - 1, 40_000).astype(np.int64)]
    if len(t):
        # A few points at the horizon would make the drive a dot.
        reach = max(30.0, 0.5 * float(np.ptp(t[:, :2], axis=0).max()))
        low, high = t[:, :2].min(axis=0) - reach, t[:, :2].max(axis=0) + reach
        inside = ((shown[:, :2] >= low) & (shown[:, :2] <= high)).all(axis=1)
        axes.scatter(*shown[inside, :2].T, s=1, color=GREY, alpha=0.4, lw=0, label="points", rasterized=True)
        dots = axes.scatter(*t[:, :2].T, c=quality.observations, s=14, cmap="viridis", vmin=0, zorder=3)
        figure.colorbar(dots, ax=axes, label="points that a frame sees")
        weak = _weak_frames(quality, len(model))
        if weak.any():
            axes.scatter(*t[weak, :2].T, s=60, facecolors="none", edgecolors=RED, lw=1.2, zorder=4, label="weak frames")
        for handle in axes.legend(loc="upper right", markerscale=1.0).legend_handles[:1]:
            handle.set_sizes([12.0])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("x [m]")
    axes.set_ylabel("y [m]")
    axes.set_title("Points and frames from above")
    return save(figure, path)


def _plot_histograms(path: Path, model: SparseModel, quality: Quality) -> Path:
    figure = new_figure(10, 3.6)
    left, middle, right = figure.subplots(1, 3)
    longest = int(model.track_length.max(initial=2))
    left.hist(np.minimum(model.track_length, 60), bins=np.arange(1.5, min(longest, 60) + 1.5), color=BLUE)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_xlabel("frames that see a point")
    left.set_ylabel("points")
    left.set_title("Track length")
    errors = model.reprojection_errors()
    errors = errors[np.isfinite(errors)]
    middle.hist(errors, bins=np.linspace(0, max(float(errors.max(initial=0.0)), 1e-3), 41), color=BLUE)
    middle.set_xlabel("pixels")
    middle.set_ylabel("observations")
    middle.set_title(f"Reprojection error, median {quality.summary['reprojection_px']['median']:.2f} px")
    depth = model.points_cam()[:, 2]
    depth = depth[depth > 0]
    if len(depth):
        edges = np.geomspace(max(float(depth.min()), 1e-2), float(depth.max()) * 1.001 + 1e-6, 41)
        right.hist(depth, bins=edges, color=BLUE)
        right.set_xscale("log")
        plain_ticks(right.xaxis)
    right.set_xlabel("metres (logarithmic)")
    right.set_ylabel("observations")
    right.set_title("Distance of the points")
    return save(figure, path)


def _plot_along(path: Path, quality: Quality) -> Path:
    """By frame: what it sees, where in the image, and how well that fixes its position."""
    figure = new_figure(10, 6)
    rows = figure.subplots(3, 1, sharex=True)
    frames, limits = np.arange(len(quality.observations)), quality.limits
    weak = _weak_frames(quality, len(frames))
    finite = np.where(np.isfinite(quality.sigma_m), quality.sigma_m, np.nan)
    for axes, values, limit, label in (
        (rows[0], quality.observations, limits.observations, "points seen"),
        (rows[1], quality.coverage, limits.coverage, "share of the image"),
        (rows[2], finite, limits.sigma_m, "sigma [m] at 1 px"),
    ):
        axes.plot(frames, values, color=BLUE, lw=1.0, marker=".", ms=4 if len(frames) < 200 else 1)
        axes.axhline(limit, color=RED, lw=1.0, ls="--", label="limit")
        axes.set_ylabel(label)
        for start, end in _spans(weak):
            axes.axvspan(start - 0.5, end + 0.5, color=RED, alpha=0.12, lw=0)
    for axes in rows[:2]:
        axes.set_ylim(bottom=0)
    if np.isfinite(finite).any():
        rows[2].set_yscale("log")
        plain_ticks(rows[2].yaxis)
    rows[0].legend(loc="upper right")
    rows[0].set_title("Along the frames; weak ones are shaded")
    rows[-1].set_xlabel("frame")
    return save(figure, path)


def _spans(weak: Any) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], weak, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _plot_frames(path: Path, model: SparseModel, quality: Quality, drives: Sequence[PosedSequence]) -> Path:
    """The frames that see fewest, middling and most: their points, and by colour how far each is from its pixel."""
    order = np.argsort(quality.observations, kind="stable")
    chosen = list(dict.fromkeys(int(order[k]) for k in (0, len(order) // 2, len(order) - 1)))
    shape = model.camera(chosen[0])
    figure = new_figure(9, 0.6 + 9 * len(chosen) * shape.height / shape.width)
    grid = figure.subplots(len(chosen), 1, squeeze=False)[:, 0]
    dots = None
    for axes, frame, name in zip(grid, chosen, ("fewest", "median", "most"), strict=False):
        image = drives[int(model.drive[frame])].image(int(model.number[frame]))
        axes.imshow(reduced_image(image, model.camera(frame)))
        ids, pixels = model.observations(frame)
        T = model.T_map_cam[frame]
        shown, _ = project(model.camera(frame), (model.points[ids] - T[:3, 3]) @ T[:3, :3])
        error = np.linalg.norm(shown - pixels, axis=1)
        dots = axes.scatter(*pixels.T, c=error, s=7, cmap="plasma", vmin=0, vmax=2.0, lw=0)
        axes.set_title(f"frame {frame}: {len(ids)} points ({name})", fontsize=9)
        axes.set_axis_off()
        axes.set_xlim(-0.5, model.camera(frame).width - 0.5)
        axes.set_ylim(model.camera(frame).height - 0.5, -0.5)
    if dots is not None:
        figure.colorbar(dots, ax=list(grid), label="reprojection error [px]", shrink=0.7)
    return save(figure, path)
