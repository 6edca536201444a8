"""The plots of one trajectory against another: where, when, and how often it errs by how much."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vloc_ros.evaluation.canvas import REFERENCE, new_figure, save
from vloc_ros.evaluation.trajectory import Comparison
from vloc_ros.types import Array

__all__ = ["draw_comparison"]

_ESTIMATE = "#0072B2"


def draw_comparison(found: Comparison, reference: Array, folder: Path) -> list[Path]:
    """``plan.png``, ``errors.png`` and ``distribution.png`` in ``folder``; the paths written.

    :param reference: (K, 4, 4) of the whole reference, associated or not.
    """
    return [
        _draw_plan(found, reference, folder / "plan.png"),
        _draw_errors(found, folder / "errors.png"),
        _draw_distribution(found, folder / "distribution.png"),
    ]


def _draw_plan(found: Comparison, reference: Array, path: Path) -> Path:
    figure = new_figure(9, 8)
    axes = figure.add_subplot()
    axes.plot(reference[:, 0, 3], reference[:, 1, 3], "-", color=REFERENCE, lw=1, label="reference", zorder=2)
    # One gross error must not make all others look alike.
    top = float(np.quantile(found.absolute_m, 0.99)) or 1.0
    dots = axes.scatter(
        found.estimate[:, 0, 3], found.estimate[:, 1, 3], c=found.absolute_m, cmap="viridis", vmin=0.0, vmax=top, s=9,
        label=f"estimate ({len(found.estimate)})", zorder=3,
    )  # fmt: skip
    figure.colorbar(dots, ax=axes, label="translation error [m]", extend="max")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("x [m]")
    axes.set_ylabel("y [m]")
    axes.set_title("Estimate over reference")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    return save(figure, path)


def _draw_errors(found: Comparison, path: Path) -> Path:
    figure = new_figure(11, 6)
    rows = figure.subplots(2, 1, sharex=True)
    seconds = (found.stamps_ns - found.stamps_ns[0]) * 1e-9
    ends = seconds[found.pairs[:, 1]]
    for axes, absolute, relative, label in (
        (rows[0], found.absolute_m, found.relative_m, "translation [m]"),
        (rows[1], found.absolute_deg, found.relative_deg, "rotation [deg]"),
    ):
        axes.plot(seconds, absolute, ".-", color=_ESTIMATE, ms=3, lw=0.6, label="absolute")
        if len(ends):
            axes.plot(ends, relative, "x", color="#D55E00", ms=4, label="relative, at the pair's end")
        axes.axhline(
            float(np.sqrt((absolute**2).mean())), color=REFERENCE, lw=1, ls="--", label="rmse of the absolute errors"
        )
        axes.set_ylim(bottom=0.0)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    rows[0].legend(fontsize=8, ncols=3)
    rows[0].set_title("Errors over time")
    rows[1].set_xlabel("time [s]")
    return save(figure, path)


def _draw_distribution(found: Comparison, path: Path) -> Path:
    figure = new_figure(11, 4.5)
    columns = figure.subplots(1, 2)
    for axes, values, label in (
        (columns[0], found.absolute_m, "translation error [m]"),
        (columns[1], found.absolute_deg, "rotation error [deg]"),
    ):
        axes.hist(values, bins=min(60, max(10, len(values) // 20)), color=_ESTIMATE, alpha=0.6)
        axes.set_xlabel(label)
        axes.set_ylabel("poses")
        shares = axes.twinx()
        ordered = np.sort(values)
        shares.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post", color=REFERENCE, lw=1)
        shares.set_ylim(0.0, 1.02)
        shares.set_ylabel("share of the associated poses up to here")
        axes.grid(alpha=0.3)
    figure.suptitle("Absolute errors")
    return save(figure, path)
