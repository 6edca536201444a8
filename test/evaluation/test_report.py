"""Reports hold no NaN in JSON, and say unknown where nothing is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vloc_ros.evaluation.metrics import FrameRecord, evaluate
from vloc_ros.evaluation.report import build_report, latency, table_rows, write_report
from vloc_ros.evaluation.trajectory import write_tum
from vloc_ros.types import LocalizationState


def records():
    T = np.eye(4)
    times = [{"decode": 1.0, "localize": v, "total": v + 2.0} for v in (10.0, 20.0, 30.0)]
    return [FrameRecord(i + 1, LocalizationState.LOCALIZED, T, np.eye(6), T, timings_ms=t) for i, t in enumerate(times)]


def test_latency_uses_the_measured_total():
    out = latency(records())
    assert (out["p50"], out["max"]) == (22.0, 32.0)
    assert set(out["stages"]) == {"decode", "localize"} and out["stages"]["localize"]["p50"] == 20.0


def test_json_is_strict(tmp_path: Path):
    silent = [FrameRecord(1, LocalizationState.LOST, T_reference=np.eye(4))]
    report = build_report(
        evaluate(silent), silent, {"backend": "x", "map_bytes": np.int64(3), "settings": {"a": (1, 2)}}
    )
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.png").write_bytes(b"png")
    write_report(report, tmp_path, [tmp_path / "plots" / "a.png"])
    text = (tmp_path / "report.json").read_text()
    back = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert back["median_translation_m"] is None and back["map_bytes"] == 3 and back["settings"] == {"a": [1, 2]}
    markdown = (tmp_path / "report.md").read_text()
    assert "inf m" in markdown and "![a](plots/a.png)" in markdown
    assert "inf m" in (tmp_path / "report.html").read_text()


def test_table_without_reference_states_no_errors():
    lone = [FrameRecord(1, LocalizationState.LOCALIZED, np.eye(4), np.eye(6))]
    names = [name for name, _ in table_rows(build_report(evaluate(lone), lone, {}))]
    assert "median error" not in names and "states" in names


def test_a_constant_covariance_is_said_to_carry_no_information():
    def told(sigmas):
        off = np.eye(4)
        off[0, 3] = 0.1
        made = [
            FrameRecord(i + 1, LocalizationState.LOCALIZED, off, np.eye(6) * s**2, np.eye(4))
            for i, s in enumerate(sigmas)
        ]
        report = build_report(evaluate(made), made, {})
        return report["nees_localized"]["constant"], dict(table_rows(report))["NEES, LOCALIZED only"]

    constant, text = told(np.linspace(0.2, 0.21, 9))
    assert constant and "100.0 % within 95 % (9 frames); sigma is nearly constant" in text and "no information" in text
    constant, text = told(np.linspace(0.2, 0.6, 9))
    assert not constant and "in the thirds of sigma 100.0 %, 100.0 %, 100.0 %" in text
    assert not told([0.2, 0.2])[0]  # two frames say nothing of it


def test_tum_keeps_nanoseconds(tmp_path: Path):
    stamp = 1_700_000_000_000_000_001
    assert write_tum(tmp_path / "t.tum", [(stamp, np.eye(4))]) == 1
    fields = (tmp_path / "t.tum").read_text().split()
    assert fields[0] == "1700000000.000000001" and [float(v) for v in fields[1:]] == [0, 0, 0, 0, 0, 0, 1]
