"""How candidates close in on the pose, step by step (as in Figure 2 of the ImPosing paper)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vloc_ros.evaluation.canvas import REFERENCE, new_figure, save
from vloc_ros.types import Array, Estimate

__all__ = ["draw_candidates"]

MAX_COLUMNS = 7


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
    columns = max(min(len(e.candidates), MAX_COLUMNS) for e, _ in samples)
    figure = new_figure(2.9 * columns + 0.8, 3.1 * len(samples) + 0.5)
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
                axes.scatter(*points[step.selected].T, s=14, fc="none", ec="#D55E00", lw=0.4, alpha=0.5, zorder=3)
            if truth is not None:
                axes.plot(*truth[:2, 3], "*", color="white", mec=REFERENCE, ms=12, zorder=5)
            axes.plot(*estimate.T_map_cam[:2, 3], "+", color="#D55E00", ms=11, mew=2, zorder=6)
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
    figure.colorbar(dots, ax=grid.ravel().tolist(), label="score", shrink=0.8)
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
