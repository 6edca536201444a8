"""How PixLoc aligns: where the points go, what the network trusts, what each level gains, how far off it may begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.evaluation.figure import new_figure, save
from vloc_ros.geometry.cameras import project
from vloc_ros.geometry.se3 import inverse
from vloc_ros.localizers.pixloc.alignment import Aligned
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["Basin", "draw_basin", "draw_confidence", "draw_reprojections", "draw_residuals"]

BEFORE, AFTER, TRUTH = "#D55E00", "#0072B2", "#009E73"


def _pixels(points: Array, T_map_cam: Array, camera: CameraModel) -> tuple[Array, npt.NDArray[np.bool_]]:
    T = inverse(T_map_cam)
    return project(camera, points @ T[:3, :3].T + T[:3, 3])


def draw_reprojections(
    image_rgb: RgbImage, camera: CameraModel, aligned: Aligned, path: Path, truth: Array | None = None
) -> Path:
    """The points in the image at the prior and at the result, joined by lines (Figure 2 of the paper).

    :param image_rgb: the query's. :param camera: of it.
    :param truth: T_map_cam: its reprojections are drawn too, and the mean distance to them is said.
    """
    figure = new_figure(10, 10.5 * camera.height / camera.width + 0.6)
    axes = figure.add_subplot()
    axes.imshow(image_rgb, alpha=0.8)
    points = aligned.eyes[0].points.points
    start = aligned.starts[aligned.result.start]
    found = {"prior": (start, BEFORE, "x"), "result": (aligned.result.T_map_cam, AFTER, ".")}
    if truth is not None:
        found["truth"] = (truth, TRUTH, "+")
    shown = {name: (*_pixels(points, T, camera), colour, mark) for name, (T, colour, mark) in found.items()}
    both = shown["prior"][1] & shown["result"][1]
    pairs = np.stack([shown["prior"][0][both], shown["result"][0][both]], axis=1)
    for pair in pairs:
        axes.plot(*pair.T, "-", color="white", lw=0.5, alpha=0.6)
    for name, (uv, valid, colour, mark) in shown.items():
        label = name
        if truth is not None and name != "truth":
            seen = valid & shown["truth"][1]
            if seen.any():
                off = np.linalg.norm(uv[seen] - shown["truth"][0][seen], axis=1)
                label = f"{name}: {np.median(off):.2f} px from the truth"
        axes.plot(*uv[valid].T, mark, color=colour, ms=4, label=label)
    axes.set_xlim(-0.5, camera.width - 0.5)
    axes.set_ylim(camera.height - 0.5, -0.5)
    axes.set_axis_off()
    axes.legend(loc="lower right", fontsize=8)
    axes.set_title(f"{len(points)} points before and after, {aligned.result.valid} of them counted", fontsize=10)
    return save(figure, path)


def draw_confidence(image_rgb: RgbImage, aligned: Aligned, path: Path) -> Path:
    """The confidence (eq. 6) of every scale and level over the image: red counts, blue does not (Figure 6)."""
    rows, columns = len(aligned.eyes[0].pyramid), len(aligned.eyes[0].pyramid[0].levels)
    aspect = aligned.eyes[0].camera.height / aligned.eyes[0].camera.width
    figure = new_figure(4.2 * columns + 0.8, (4.2 * aspect + 0.4) * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    shade: Any = None
    for row, scale in zip(grid, aligned.eyes[0].pyramid, strict=True):
        grey = cv2.resize(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY), (scale.width, scale.height))
        for axes, level in zip(row, scale.levels, strict=True):
            confidence = level.confidence[0].float().cpu().numpy()
            axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
            # Cell u of the map covers the pixels from u stride - 0.5 on.
            extent = (-0.5, confidence.shape[1] * level.stride - 0.5, confidence.shape[0] * level.stride - 0.5, -0.5)
            shade = axes.imshow(confidence, cmap="jet", vmin=0, vmax=1, alpha=0.5, extent=extent)
            axes.set_xlim(-0.5, scale.width - 0.5)
            axes.set_ylim(scale.height - 0.5, -0.5)
            axes.set_axis_off()
            axes.set_title(f"{scale.width} x {scale.height}, stride {level.stride}", fontsize=9)
    figure.colorbar(shade, ax=grid.ravel().tolist(), label="confidence", shrink=0.8)
    return save(figure, path)


def draw_residuals(aligned: Aligned, path: Path, truth: Array | None = None) -> Path:
    """What every level did: mean cost before and after, and with ``truth`` (T_map_cam) the error of the pose."""
    levels, best = aligned.refinement.levels, aligned.result.start
    names = [f"{scale.width} px\nstride {level.stride}" for scale in aligned.eyes[0].pyramid for level in scale.levels]
    before = np.array([float(level.cost_initial[best]) for level in levels])
    after = np.array([float(level.cost[best]) for level in levels])
    figure = new_figure(1.3 * len(levels) + 2.5, 4.2)
    axes = figure.add_subplot()
    x = np.arange(len(levels))
    axes.bar(x - 0.2, before, 0.4, color=BEFORE, label="mean cost before")
    axes.bar(x + 0.2, after, 0.4, color=AFTER, label="after")
    for i, level in enumerate(levels):
        axes.text(x[i], max(before[i], after[i]), f"{int(level.iterations[best])} steps", ha="center", fontsize=7)
    axes.set_xticks(x, names, fontsize=8)
    axes.set_ylabel("mean robust cost of a point")
    axes.legend(loc="upper left", fontsize=8)
    if truth is not None:
        poses = [aligned.starts[best], *(np.linalg.inv(level.T_cam_map[best].cpu().numpy()) for level in levels)]
        errors = [max(float(np.linalg.norm(T[:3, 3] - truth[:3, 3])), 1e-5) for T in poses]
        right = axes.twinx()
        right.semilogy(np.arange(-1, len(levels)) + 0.5, errors, "o-", color=TRUTH, ms=4, label="position error")
        right.set_ylabel("position error, m")
        right.legend(loc="upper right", fontsize=8)
    return save(figure, path)


@dataclass(frozen=True)
class Basin:
    """Attempts from many priors: their offsets from the truth, and the errors of what came out.

    ``offset_m``, ``offset_deg``, ``error_m`` and ``error_deg`` are (N,); a failed attempt has infinite errors.
    """

    offset_m: Array
    offset_deg: Array
    error_m: Array
    error_deg: Array

    def success(self, within_m: float, within_deg: float) -> npt.NDArray[np.bool_]:
        """(N,) which ended within these limits."""
        return np.asarray((self.error_m <= within_m) & (self.error_deg <= within_deg))


def draw_basin(
    basin: Basin, path: Path, limits: Sequence[tuple[float, float]] = ((0.05, 0.2), (0.25, 2.0)), bins: int = 6
) -> Path:
    """Success against the initial offset: by distance, by angle, and by both for the first of ``limits`` (m, deg)."""
    figure = new_figure(13, 4)
    by_m, by_deg, both = figure.subplots(1, 3)
    for axes, offset, unit in ((by_m, basin.offset_m, "m"), (by_deg, basin.offset_deg, "deg")):
        edges = np.linspace(0.0, max(float(offset.max()), 1e-6), bins + 1)
        place = np.clip(np.digitize(offset, edges) - 1, 0, bins - 1)
        for within_m, within_deg in limits:
            success = basin.success(within_m, within_deg)
            share = [100.0 * success[place == i].mean() if (place == i).any() else np.nan for i in range(bins)]
            middle = 0.5 * (edges[1:] + edges[:-1])
            axes.plot(middle, share, "o-", ms=4, label=f"within {within_m:g} m, {within_deg:g} deg")
        axes.set_xlabel(f"offset of the prior, {unit}")
        axes.set_ylabel("success, %")
        axes.set_ylim(0, 103)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    success = basin.success(*limits[0])
    both.plot(basin.offset_m[~success], basin.offset_deg[~success], "x", color=BEFORE, ms=4, label="failed")
    both.plot(basin.offset_m[success], basin.offset_deg[success], ".", color=AFTER, ms=5, label="succeeded")
    both.set_xlabel("offset of the prior, m")
    both.set_ylabel("offset of the prior, deg")
    both.legend(fontsize=8)
    figure.suptitle(f"Convergence from {len(success)} priors: {100 * success.mean():.1f} % within the first limit")
    return save(figure, path)
