"""Where plots begin and end: a figure without any global state, and its way into a PNG."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from vloc_ros.errors import ConfigError
from vloc_ros.types import LocalizationState

__all__ = ["REFERENCE", "STATE_COLOURS", "new_figure", "require_matplotlib", "save", "shade_states"]

#: Distinguishable without red-green vision (Okabe and Ito).
STATE_COLOURS = {
    LocalizationState.LOCALIZED: "#0072B2",
    LocalizationState.DEGRADED: "#E69F00",
    LocalizationState.LOST: "#D55E00",
    LocalizationState.INITIALIZING: "#999999",
}
REFERENCE = "#222222"


def require_matplotlib() -> None:
    """Ask before the work whose result is to be drawn.

    :raises ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'vloc_ros[replay]', or --no-plots") from error


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure (inches) drawn by Agg; works without a display and from any thread.

    :raises ConfigError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    """Write a PNG; equal data gives equal files (no date, no version inside)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def shade_states(axes: Any, seconds: Any, states: list[LocalizationState]) -> None:
    """A strip along the bottom of a time axis that shows the state of every frame."""
    if not len(seconds):
        return
    edges = [float(seconds[0])]
    edges += [float(a + b) / 2 for a, b in pairwise(seconds)]
    edges.append(float(seconds[-1]) if len(seconds) > 1 else float(seconds[0]) + 1.0)
    start = 0
    for i in range(1, len(states) + 1):
        if i == len(states) or states[i] is not states[start]:
            axes.axvspan(edges[start], edges[i], ymin=0.0, ymax=0.04, color=STATE_COLOURS[states[start]], lw=0)
            start = i
