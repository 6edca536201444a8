"""The recall curve passes through the table's recalls, and ends below 1 where frames have no pose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vloc_ros.evaluation.metrics import RECALL_THRESHOLDS, FrameRecord, evaluate
from vloc_ros.evaluation.plots import draw_recall, recall_curve
from vloc_ros.geometry.se3 import se3_exp
from vloc_ros.types import LocalizationState

LOCALIZED, LOST = LocalizationState.LOCALIZED, LocalizationState.LOST


def records(count=200, silent=20):
    rng = np.random.default_rng(0)
    truth = se3_exp(rng.normal(size=(count, 6)))
    made = truth @ se3_exp(
        rng.normal(size=(count, 6)) * 10 ** rng.uniform(-2, 0.5, (count, 1)) * ([1] * 3 + [0.05] * 3)
    )
    out = [FrameRecord(i + 1, LOCALIZED, made[i], np.eye(6), truth[i]) for i in range(count)]
    out[:silent] = [FrameRecord(i + 1, LOST, None, None, truth[i]) for i in range(silent)]
    return [*out, FrameRecord(count + 1, LOCALIZED, np.eye(4), np.eye(6))]


def test_the_curve_passes_through_the_recalls():
    found = evaluate(records()).recall
    for (metres, degrees), recall in zip(RECALL_THRESHOLDS, found, strict=True):
        distances, shares = recall_curve(records(), degrees)
        assert max([0.0, *shares[distances <= metres]]) == pytest.approx(recall.share)
    assert recall_curve(records())[1][-1] == pytest.approx(180 / 200)
    assert all(len(part) == 0 for part in recall_curve([FrameRecord(1, LOST)]))


def test_ate_is_over_the_frames_with_a_pose():
    metrics = evaluate(records())
    distances, _ = recall_curve(records())
    assert metrics.mean_over == 180 and metrics.ate_rmse_m == pytest.approx(np.sqrt((distances**2).mean()))
    assert metrics.ate_rmse_deg > metrics.mean_rotation_deg > 0
    assert np.isnan(evaluate([FrameRecord(1, LOST, T_reference=np.eye(4))]).ate_rmse_m)


def test_it_is_drawn(tmp_path: Path):
    assert draw_recall(records(40, 40), tmp_path / "none.png").stat().st_size > 1000
    assert draw_recall(records(), tmp_path / "recall.png").stat().st_size > 1000
