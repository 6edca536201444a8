"""Camera pictures in a report: what was dropped, what looks alike, and where the map errs most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.evaluation.canvas import new_figure
from vloc_ros.types import Array, RgbImage
from vloc_train.own_drive.selection import IMAGE_REASONS, REASONS
from vloc_train.own_drive.survey import Survey

__all__ = ["draw_alike", "draw_dropped", "draw_errors"]

_WIDTH = 240


def draw_dropped(survey: Survey, path: Path, most: int = 6) -> Path | None:
    """Frames that were dropped for their image, of every reason and all over the drives; None when there are none."""
    shown: list[tuple[RgbImage, str]] = []
    reasons = [r for r in IMAGE_REASONS if r != "damaged"]
    present = [r for r in reasons if any((c.reason == REASONS.index(r)).any() for c in survey.choices)]
    for reason in present:
        where = [(c, int(i)) for c in survey.choices for i in np.flatnonzero(c.reason == REASONS.index(reason))]
        for k in np.unique(np.linspace(0, len(where) - 1, max(1, most // len(present))).round().astype(np.int64)):
            choice, index = where[k]
            shown.append((_small(choice.sequence.image(index)), f"{reason}, {choice.along_m[index]:.0f} m"))
    return _grid(shown, 3, path)


def draw_alike(survey: Survey, path: Path, most: int = 3) -> Path | None:
    """The two places of the most similar pairs, side by side."""
    shown: list[tuple[RgbImage, str]] = []
    for number, pair in enumerate(survey.ambiguity.pairs[:most]):
        both = [_picture_at(survey.split.training, T) for T in (pair.T_a, pair.T_b)]
        for T, image in zip((pair.T_a, pair.T_b), both, strict=True):
            shown.append((_small(image), f"{number + 1}: x {T[0, 3]:.0f}, y {T[1, 3]:.0f}"))
    return _grid(shown, 2, path)


def draw_errors(survey: Survey, path: Path, most: int = 3) -> Path | None:
    """The held-out frames with the largest errors."""
    every = [(float(e), h, k) for h in survey.held for k, e in enumerate(h.error_m)]
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
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 80})
    return path
