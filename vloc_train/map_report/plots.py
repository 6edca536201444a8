"""The pictures of a map-quality report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.evaluation.figure import (
    BLUE,
    GREEN,
    LIGHT_BLUE,
    ORANGE,
    PINK,
    RED,
    REFERENCE,
    YELLOW,
    new_figure,
    plain_ticks,
    save,
)
from vloc_ros.staging import replacing
from vloc_ros.types import Array, RgbImage
from vloc_train.frame_choice.selection import IMAGE_REASONS, REASONS
from vloc_train.frame_choice.split import GUARD, HELD, USED
from vloc_train.map_report.scene import SceneReport
from vloc_train.map_report.segments import weak_segments

__all__ = [
    "draw_accuracy",
    "draw_alike",
    "draw_along",
    "draw_ambiguous",
    "draw_coverage",
    "draw_dropped",
    "draw_errors",
]

#: Of the frames in plans and histograms.
_USED, _HELD, _BAD, _GUARD, _ROUTE = BLUE, ORANGE, RED, LIGHT_BLUE, "#c8c8c8"
_PAIRS = (BLUE, RED, GREEN, PINK, ORANGE, LIGHT_BLUE, YELLOW, REFERENCE)


def _plan(scene: SceneReport, title: str, width: float = 8.0) -> tuple[Any, Any]:
    """A plan as wide as the page and as high as the route asks for, with the routes in grey and their starts."""
    routes = [c.sequence.T_map_base[:, :2, 3] for c in scene.choices]
    spread = np.ptp(np.concatenate(routes), axis=0) if routes else np.ones(2)
    aspect = float(np.clip((spread[1] + 20) / (spread[0] + 20), 0.45, 1.1))
    figure = new_figure(width, 1.2 + (width - 1.0) * aspect)
    axes = figure.add_subplot()
    for k, route in enumerate(routes):
        axes.plot(
            *route.T, "-", color=_ROUTE, lw=4, zorder=1, solid_capstyle="round", label="driven" if not k else None
        )
        axes.plot(*route[0], "^", color=REFERENCE, ms=7, zorder=6, label="start" if not k else None)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("map x [m]")
    axes.set_ylabel("map y [m]")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    return figure, axes


def draw_coverage(scene: SceneReport, path: Path) -> Path:
    """From above: frames of the map, held-out ones, those dropped for their image, metres, and weak segments."""
    figure, axes = _plan(scene, "Coverage")
    drives = list(zip(scene.split.drives, scene.split.part, strict=True))
    for code, colour, size, name in (
        (USED, _USED, 8, "in the map"), (GUARD, _GUARD, 4, "not used (guard)"), (HELD, _HELD, 10, "held out"),
    ):  # fmt: skip
        chosen = [d.T_map_base[p == code][:, :2, 3] for d, p in drives]
        points = np.concatenate(chosen) if chosen else np.zeros((0, 2))
        if len(points):
            axes.scatter(
                *points.T, s=size, color=colour, lw=0, zorder=3 + (code == HELD), label=f"{name} ({len(points)})"
            )
    for k, reason in enumerate(REASONS):
        if reason not in IMAGE_REASONS:
            continue
        points = np.concatenate([c.sequence.T_map_base[c.reason == k][:, :2, 3] for c in scene.choices])
        if len(points):
            axes.scatter(
                *points.T, s=22, marker="xv*s+"[IMAGE_REASONS.index(reason)], color=_BAD, lw=1, zorder=5,
                label=f"{reason} ({len(points)})",
            )  # fmt: skip
    weak = weak_segments(scene.segments)
    for segment in weak:
        axes.plot(*segment.position[:2], "o", ms=22, mfc="none", mec=_BAD, mew=1.5, zorder=5)
    if weak:
        axes.plot([], [], "o", ms=9, mfc="none", mec=_BAD, label="weak segment")
    _metres(axes, scene)
    axes.legend(loc="best", fontsize=8)
    return save(figure, path)


def _metres(axes: Any, scene: SceneReport) -> None:
    """Metres along the longest drive, a dozen of them."""
    if not scene.choices:
        return
    longest = max(scene.choices, key=lambda c: c.length_m)
    steps = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
    step = next((s for s in steps if longest.length_m / s <= 12), steps[-1])
    T = longest.sequence.T_map_base
    for metre in np.arange(step, longest.length_m, step):
        index = int(np.searchsorted(longest.along_m, metre))
        side = T[index, :2, 1]  # to the left of the vehicle
        axes.annotate(
            f"{metre:g} m", T[index, :2, 3], xytext=tuple(14 * side), textcoords="offset points", fontsize=7,
            color=REFERENCE, ha="center", va="center", zorder=7,
        )  # fmt: skip


def draw_accuracy(scene: SceneReport, path: Path) -> Path:
    """From above: the error of every held-out frame by colour, its predicted sigma as a circle."""
    figure, axes = _plan(scene, "Expected accuracy: held-out frames")
    at = np.concatenate([h.positions for h in scene.held])
    error = np.concatenate([h.error_m for h in scene.held])
    sigma = np.concatenate([h.sigma_m for h in scene.held])
    order = np.argsort(error)
    at, error, sigma = at[order], error[order], sigma[order]
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import LogNorm

    low, high = max(float(np.quantile(error, 0.02)), 1e-3), max(float(error.max()), 2e-3)
    known = np.isfinite(sigma)
    if known.any():
        extent = float(np.ptp(np.concatenate([c.sequence.T_map_base[:, :2, 3] for c in scene.choices]), axis=0).max())
        wanted = 0.015 * max(extent, 1.0) / max(float(np.median(sigma[known])), 1e-9)
        steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
        scale = max((k for k in steps if k <= wanted), default=steps[0])
        # A frame with no idea would cover the plan.
        size = 2 * scale * np.minimum(sigma[known], 8 * np.median(sigma[known]))
        axes.add_collection(
            EllipseCollection(
                size,
                size,
                np.zeros(len(size)),
                units="xy",
                offsets=at[known, :2],
                offset_transform=axes.transData,
                facecolors="none",
                edgecolors=REFERENCE,
                linewidths=0.5,
                alpha=0.4,
                zorder=3,
            )
        )
        note = "" if scale == 1 else f", drawn {scale:g} times larger"
        note = f", drawn {1 / scale:g} times smaller" if scale < 1 else note
        axes.plot([], [], "o", mfc="none", mec=REFERENCE, ms=9, label=f"predicted sigma{note}")
    dots = axes.scatter(
        *at[:, :2].T, c=np.maximum(error, low), s=22, cmap="plasma", norm=LogNorm(low, max(high, 2 * low)), lw=0,
        zorder=4,
    )  # fmt: skip
    bar = figure.colorbar(dots, ax=axes, label="error [m]", shrink=0.8)
    plain_ticks(bar.ax.yaxis)
    _metres(axes, scene)
    axes.legend(loc="best", fontsize=8)
    return save(figure, path)


def draw_along(scene: SceneReport, path: Path) -> Path:
    """Along each drive: error and sigma of held-out frames, frames in ten metres, and sharpness."""
    figure = new_figure(10, 0.6 + 4.6 * len(scene.choices))
    grid = figure.subplots(3 * len(scene.choices), 1, squeeze=False)[:, 0]
    weak = weak_segments(scene.segments)
    parts = {d.name: p for d, p in zip(scene.split.drives, scene.split.part, strict=True)}
    for k, choice in enumerate(scene.choices):
        rows = grid[3 * k : 3 * k + 3]
        name = choice.sequence.name
        rows[0].set_title(
            f"Along {name}" + ("; weak segments are shaded" if any(p.drive == name for p in weak) else "")
        )
        mine = [h for h in scene.held if h.sequence.name.removesuffix(" (held out)") == name]
        for held in mine:
            rows[0].plot(held.along_m, held.sigma_m, ".", color=_ROUTE, ms=5, label="predicted sigma")
            rows[0].plot(held.along_m, held.error_m, ".", color=_USED, ms=5, label="error")
        if any(len(h.error_m) for h in mine):
            rows[0].set_yscale("log")
            plain_ticks(rows[0].yaxis)
            rows[0].legend(loc="upper right", fontsize=8, ncols=2)
        rows[0].set_ylabel("held out [m]")
        edges = np.arange(0.0, choice.length_m + 10.0, 10.0)
        part = parts.get(name)
        kept = choice.along_m[choice.kept]
        stack = [(kept, _USED, "used")]
        if part is not None and len(part) == len(kept):
            stack = [
                (kept[part == USED], _USED, "in the map"), (kept[part == GUARD], _GUARD, "guard"),
                (kept[part == HELD], _HELD, "held out"),
            ]  # fmt: skip
        bad = np.isin(choice.reason, [REASONS.index(r) for r in IMAGE_REASONS])
        stack.append((choice.along_m[bad], _BAD, "bad image"))
        stack = [s for s in stack if len(s[0])]
        if len(edges) > 1 and stack:
            rows[1].hist(
                [s[0] for s in stack],
                bins=edges,
                stacked=True,
                color=[s[1] for s in stack],
                label=[s[2] for s in stack],
            )
            rows[1].legend(loc="upper right", fontsize=8, ncols=4)
        rows[1].set_ylabel("frames in 10 m")
        rows[2].plot(choice.along_m, choice.measures.sharpness, "-", color=_USED, lw=0.8)
        blurred = choice.reason == REASONS.index("blurred")
        rows[2].plot(
            choice.along_m[blurred], choice.measures.sharpness[blurred], "x", color=_BAD, ms=4, label="blurred"
        )
        if blurred.any():
            rows[2].legend(loc="upper right", fontsize=8)
        rows[2].set_ylabel("sharpness")
        rows[2].set_ylim(bottom=0)
        rows[2].set_xlabel("metres along the drive")
        for axes in rows:
            axes.set_xlim(0, max(choice.length_m, 1e-3))
            axes.grid(alpha=0.3)
            for segment in weak:
                if segment.drive == name:
                    axes.axvspan(segment.start_m, segment.stop_m, color=_BAD, alpha=0.12, lw=0)
    return save(figure, path)


def draw_ambiguous(scene: SceneReport, path: Path) -> Path:
    """From above: lines between places that look alike."""
    figure, axes = _plan(scene, "Places that look alike")
    for k, pair in enumerate(scene.ambiguity.pairs):
        ends: Array = np.stack([pair.T_a[:2, 3], pair.T_b[:2, 3]])
        label = f"{k + 1}: similarity {pair.similarity:.2f}, {pair.distance_m:.0f} m apart, {pair.frames} frames"
        axes.plot(*ends.T, "o-", color=_PAIRS[k % len(_PAIRS)], lw=1.5, ms=7, zorder=4, label=label)
    _metres(axes, scene)
    axes.legend(loc="best", fontsize=8)
    return save(figure, path)


# Camera pictures: what was dropped, what looks alike, and where the map errs most.

#: Pixels across.
_WIDTH = 240


def draw_dropped(scene: SceneReport, path: Path, most: int = 6) -> Path | None:
    """Frames that were dropped for their image, of every reason and all over the drives; None when there are none."""
    shown: list[tuple[RgbImage, str]] = []
    reasons = [r for r in IMAGE_REASONS if r != "damaged"]
    present = [r for r in reasons if any((c.reason == REASONS.index(r)).any() for c in scene.choices)]
    for reason in present:
        where = [(c, int(i)) for c in scene.choices for i in np.flatnonzero(c.reason == REASONS.index(reason))]
        for k in np.unique(np.linspace(0, len(where) - 1, max(1, most // len(present))).round().astype(np.int64)):
            choice, index = where[k]
            shown.append((_small(choice.sequence.image(index)), f"{reason}, {choice.along_m[index]:.0f} m"))
    return _grid(shown, 3, path)


def draw_alike(scene: SceneReport, path: Path, most: int = 3) -> Path | None:
    """The two places of the most similar pairs, side by side."""
    shown: list[tuple[RgbImage, str]] = []
    for number, pair in enumerate(scene.ambiguity.pairs[:most]):
        both = [_picture_at(scene.split.training, T) for T in (pair.T_a, pair.T_b)]
        for T, image in zip((pair.T_a, pair.T_b), both, strict=True):
            shown.append((_small(image), f"{number + 1}: x {T[0, 3]:.0f}, y {T[1, 3]:.0f}"))
    return _grid(shown, 2, path)


def draw_errors(scene: SceneReport, path: Path, most: int = 3) -> Path | None:
    """The held-out frames with the largest errors."""
    every = [(float(e), h, k) for h in scene.held for k, e in enumerate(h.error_m)]
    every.sort(key=lambda item: -item[0])
    shown = []
    for error, held, k in every[:most]:
        sigma = held.sigma_m[k]
        told = f", sigma {sigma:.2f} m" if np.isfinite(sigma) else ""
        label = f"{held.along_m[k]:.0f} m: error {error:.2f} m{told}, {held.state[k].value}"
        shown.append((_small(held.sequence.image(k)), label))
    return _grid(shown, 3, path)


def _picture_at(drives: Sequence[PosedSequence], T: Array) -> RgbImage:
    """The frame nearest to a pose."""
    distances = [np.abs(d.T_map_cam - T).sum(axis=(1, 2)) for d in drives]
    drive = int(np.argmin([d.min() for d in distances]))
    return drives[drive].image(int(distances[drive].argmin()))


def _small(image: RgbImage) -> RgbImage:
    if image.shape[1] <= _WIDTH:
        return image
    height = max(1, round(image.shape[0] * _WIDTH / image.shape[1]))
    return np.asarray(cv2.resize(image, (_WIDTH, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _grid(shown: Sequence[tuple[RgbImage, str]], columns: int, path: Path) -> Path | None:
    if not shown:
        return None
    rows = -(-len(shown) // columns)
    height, width = shown[0][0].shape[:2]
    figure = new_figure(8, rows * (8 / columns * height / width + 0.3))
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (image, label) in zip(cells, shown, strict=False):
        axes.imshow(image)
        axes.set_title(label, fontsize=8)
    for axes in cells:
        axes.set_axis_off()
    # Photographs: a tenth of the size of a PNG.
    with replacing(path) as stream:
        figure.savefig(stream, format=path.suffix[1:], dpi=100, pil_kwargs={"quality": 80})
    return path
