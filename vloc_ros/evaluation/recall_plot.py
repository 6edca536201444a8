"""Recall as a curve: the share of frames within a distance, for several limits of rotation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vloc_ros.evaluation.canvas import REFERENCE, new_figure, save
from vloc_ros.evaluation.metrics import RECALL_THRESHOLDS, FrameRecord, frame_errors
from vloc_ros.types import Array

__all__ = ["draw_recall", "recall_curve"]

#: Degrees; those of the table's thresholds, and none.
_LIMITS_DEG = (2.0, 5.0, 10.0, float("inf"))
_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#999999")


def recall_curve(records: Sequence[FrameRecord], limit_deg: float = float("inf")) -> tuple[Array, Array]:
    """Distances (K,) in metres, increasing, and the share (K,) of frames within each and ``limit_deg``.

    Over all frames with a reference, so that a curve ends below 1 where frames have no pose.
    """
    translation, rotation = frame_errors(records)
    known = ~np.isnan(translation)
    inside = known & np.isfinite(translation) & (rotation <= limit_deg)
    distances = np.sort(translation[inside])
    return distances, np.arange(1, len(distances) + 1) / max(int(known.sum()), 1)


def draw_recall(records: Sequence[FrameRecord], path: Path) -> Path:
    """The curves over a logarithmic axis, with the thresholds of the table as marks."""
    figure = new_figure(9, 5.5)
    axes = figure.add_subplot()
    # A lower end of the axis that any drive shares, unless it is better than that.
    floor, end = 0.01, 20.0
    for limit, colour in zip(_LIMITS_DEG, _COLOURS, strict=True):
        distances, shares = recall_curve(records, limit)
        label = f"within {limit:g} deg" if np.isfinite(limit) else "any rotation"
        if len(distances):
            floor = min(floor, max(float(distances[0]), 1e-4))
            end = max(end, float(distances[-1]))
        x = np.concatenate([[1e-4], np.maximum(distances, 1e-4), [1e6]])
        y = np.concatenate([[0.0], shares, shares[-1:] if len(shares) else [0.0]])
        axes.step(x, y, where="post", color=colour, lw=1.5, label=label)
    for metres, degrees in RECALL_THRESHOLDS:
        distances, shares = recall_curve(records, degrees)
        reached = int(np.searchsorted(distances, metres, side="right"))
        share = float(shares[reached - 1]) if reached else 0.0
        axes.plot(metres, share, "o", color=REFERENCE, ms=4)
        axes.annotate(
            f"{metres:g} m, {degrees:g} deg", (metres, share), xytext=(4, -10), textcoords="offset points", fontsize=7
        )
    axes.set_xscale("log")
    axes.set_xlim(floor, end)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("translation error at most [m]")
    axes.set_ylabel("share of the frames with a reference")
    axes.set_title("Recall")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="upper left")
    return save(figure, path)
