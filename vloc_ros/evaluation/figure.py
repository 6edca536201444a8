"""Figures without global state: made without a display and from any thread, written as PNG, one set of colours."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vloc_ros.errors import ConfigError
from vloc_ros.staging import replacing
from vloc_ros.types import LocalizationState

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "LIGHT_BLUE",
    "ORANGE",
    "PINK",
    "RED",
    "REFERENCE",
    "STATE_COLOURS",
    "YELLOW",
    "new_figure",
    "plain_ticks",
    "require_matplotlib",
    "save",
]

# Distinguishable without red-green vision (Okabe and Ito).
BLUE, LIGHT_BLUE, GREEN, ORANGE, RED, PINK, YELLOW = (
    "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#F0E442"
)  # fmt: skip
GREY, REFERENCE = "#999999", "#222222"
STATE_COLOURS = {
    LocalizationState.LOCALIZED: BLUE,
    LocalizationState.DEGRADED: ORANGE,
    LocalizationState.LOST: RED,
    LocalizationState.INITIALIZING: GREY,
}


def require_matplotlib() -> None:
    """Ask, without the seconds that importing it takes, before the work whose result is to be drawn.

    :raises ConfigError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError("plots need matplotlib: pip install 'vloc_ros[replay]', or --no-plots")


def new_figure(
    width: float,
    height: float,
    margins: tuple[float, float, float, float] | None = None,
    gaps: tuple[float, float] = (0.6, 0.5),
) -> Any:
    """A matplotlib figure (inches) drawn by Agg; works without a display and from any thread.

    :param margins: inches left, right, below and above the plots. None: by what is drawn there, which takes as long
        as the drawing itself.
    :param gaps: with margins, between two plots that stand beside each other, and one above the other, as shares of
        a plot's width and height.
    :raises ConfigError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout=None if margins else "constrained")
    if margins:
        left, right, below, above = margins
        figure.subplots_adjust(
            left=left / width, right=1 - right / width, bottom=below / height, top=1 - above / height,
            wspace=gaps[0], hspace=gaps[1],
        )  # fmt: skip
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    """Write a PNG; equal data gives equal files (no date, no version inside)."""
    engine = figure.get_layout_engine()
    if engine is not None:  # here, and not by drawing everything once for nothing
        engine.execute(figure)
        figure.set_layout_engine("none")
    with replacing(path) as stream:
        figure.savefig(stream, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 4})
    return path


def plain_ticks(axis: Any) -> None:
    """1, 2, 5, 10 on a logarithmic axis instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
