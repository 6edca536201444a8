"""Calibrate a map's covariance: localize held-out frames with the map itself and fit what the errors were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vloc_ros.errors import CalibrationError
from vloc_ros.geometry.se3 import pose_error
from vloc_ros.localizers.imposing.localizer import ImPosingLocalizer
from vloc_ros.localizers.imposing.statistics import STATISTICS
from vloc_ros.maps import MapBundle
from vloc_ros.tracking.calibration import fit_covariance
from vloc_ros.types import Query
from vloc_train.imposing.data import FrameSet

__all__ = ["calibrate", "describe_errors"]


def calibrate(
    bundle: MapBundle, held_out: Sequence[FrameSet], device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Localize the held-out frames of every scene; return the manifest's ``calibration`` and ``validation`` sections.

    Scenes with too few held-out frames stay uncalibrated, and say so.
    """
    localizer = ImPosingLocalizer.from_map(bundle, device)
    calibration: dict[str, Any] = {}
    validation: dict[str, Any] = {}
    for frames in held_out:
        rows, errors, rotations, scores = [], [], [], []
        for index in range(len(frames)):
            query = Query(
                np.array(frames.images[index]), frames.camera, int(frames.stamps_ns[index]), scene=frames.scene
            )
            estimate = localizer.localize(query)
            rows.append([estimate.diagnostics[name] for name in STATISTICS])
            errors.append(pose_error(estimate.T_map_cam, frames.T_map_cam[index]))
            rotations.append(estimate.T_map_cam[:3, :3])
            scores.append(estimate.score)
        if not rows:
            continue
        table = np.asarray(errors)
        validation[frames.scene] = describe_errors(table)
        try:
            model = fit_covariance(STATISTICS, np.asarray(rows), table, np.asarray(rotations))
        except CalibrationError as problem:
            validation[frames.scene]["calibration"] = f"none: {problem}"
            continue
        distance = np.linalg.norm(table[:, :3], axis=1)
        good = np.asarray(scores)[distance <= max(2.0, 3.0 * float(np.median(distance)))]
        calibration[frames.scene] = {
            "covariance": model.to_mapping(),
            "score_mean": float(good.mean()),
            "score_spread": float(max(good.std(), 1e-3)),
            # Half of what the weakest good frame scored: below it a frame does not look like this map.
            "min_score": float(0.5 * np.quantile(good, 0.01)),
        }
    return calibration, validation


def describe_errors(errors: np.ndarray) -> dict[str, Any]:
    """Medians, means and recall of ``(M, 6)`` errors, for a manifest."""
    distance, angle = np.linalg.norm(errors[:, :3], axis=1), np.degrees(np.linalg.norm(errors[:, 3:], axis=1))
    return {
        "frames": len(errors),
        "median_translation_m": float(np.median(distance)),
        "median_rotation_deg": float(np.median(angle)),
        "mean_translation_m": float(distance.mean()),
        "mean_rotation_deg": float(angle.mean()),
        "recall_2m_5deg": float(((distance <= 2.0) & (angle <= 5.0)).mean()),
    }
