"""Frames of a drive aligned from many priors: the convergence basin, and plots of how single frames align."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.datasets import open_sequence
from vloc_ros.errors import DatasetError, MapBackendError
from vloc_ros.evaluation.alignment_plots import Basin, draw_basin, draw_confidence, draw_reprojections, draw_residuals
from vloc_ros.evaluation.figure import require_matplotlib
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import load_localizer
from vloc_ros.localizers.pixloc.localizer import PixLocLocalizer
from vloc_ros.staging import write_text
from vloc_ros.types import Array, LocalizationState, PosePrior, Query

__all__ = ["align_drive", "offset_prior"]

#: Frames that are drawn one by one.
_DRAWN = 3


def offset_prior(truth: Array, metres: float, degrees: float, rng: np.random.Generator) -> PosePrior:
    """A prior that far from ``truth`` (T_map_cam), in a random direction and about a random axis."""
    way, axis = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    T = np.array(truth)
    T[:3, 3] += metres * way
    T[:3, :3] = so3_exp(np.radians(degrees) * axis) @ T[:3, :3]
    return PosePrior(T, np.diag([max(metres, 0.1) ** 2] * 3 + [np.radians(max(degrees, 0.5)) ** 2] * 3))


def align_drive(
    map_path: Path,
    drive: str,
    out: Path,
    frames: int = 10,
    priors: int = 10,
    offset_m: float = 2.0,
    offset_deg: float = 5.0,
    seed: int = 0,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Align ``frames`` of a drive from ``priors`` each, uniform in distance and angle; write plots and ``basin.json``.

    :returns: shares of success, medians of what succeeded, and how many attempts were given up.
    :raises DatasetError: no frames with poses. :raises MapBackendError: not a PixLoc map.
    """
    require_matplotlib()
    sequence = open_sequence(drive)
    if not len(sequence):
        raise DatasetError(f"{drive}: expected frames with reference poses, found none")
    chosen = np.unique(np.linspace(0, len(sequence) - 1, min(frames, len(sequence))).round().astype(np.int64))
    rng = np.random.default_rng(seed)
    numbers = []
    with load_localizer(map_path, device, settings=settings) as localizer:
        if not isinstance(localizer, PixLocLocalizer):
            raise MapBackendError(f"{map_path}: expected a map of backend 'pixloc', found {localizer.backend!r}")
        rectifier = Rectifier(sequence.camera)
        drawn = set(chosen[np.linspace(0, len(chosen) - 1, min(_DRAWN, len(chosen))).round().astype(int)].tolist())
        for done, index in enumerate(chosen.tolist()):
            image, camera, truth = sequence.image(index), sequence.camera, sequence.T_map_cam[index]
            if camera.is_distorted and not localizer.takes_distorted:
                image, camera = rectifier.rectify(image)
            for attempt in range(priors):
                metres, degrees = rng.uniform(0.0, offset_m), rng.uniform(0.0, offset_deg)
                prior = offset_prior(truth, metres, degrees, rng)
                query = Query(image, camera, int(sequence.stamps_ns[index]), prior)
                estimate = localizer.localize(query)
                error = pose_error(estimate.T_map_cam, truth)
                found = (np.linalg.norm(error[:3]), np.degrees(np.linalg.norm(error[3:])))
                lost = estimate.state is LocalizationState.LOST
                numbers.append((metres, degrees, *((np.inf, np.inf) if lost else found)))
                if attempt == 0 and index in drawn:
                    aligned = localizer.trace(query)
                    if aligned is not None:
                        draw_reprojections(image, camera, aligned, out / f"reprojections_{index}.png", truth)
                        draw_confidence(image, aligned, out / f"confidence_{index}.png")
                        draw_residuals(aligned, out / f"residuals_{index}.png", truth)
            if progress is not None:
                progress(done + 1, len(chosen))
    basin = Basin(*np.array(numbers).T)
    draw_basin(basin, out / "basin.png")
    result = _figures(basin)
    write_text(out / "basin.json", json.dumps(result, indent=2) + "\n")
    return result


def _figures(basin: Basin) -> dict[str, Any]:
    found = np.isfinite(basin.error_m)
    limits = ((0.05, 0.2), (0.25, 2.0), (0.5, 5.0))
    return {
        "attempts": len(found),
        "given_up": int((~found).sum()),
        "median_translation_m": float(np.median(basin.error_m)) if found.mean() > 0.5 else None,
        "median_rotation_deg": float(np.median(basin.error_deg)) if found.mean() > 0.5 else None,
        "success": [
            {"translation_m": m, "rotation_deg": d, "share": float(basin.success(m, d).mean())} for m, d in limits
        ],
    }
