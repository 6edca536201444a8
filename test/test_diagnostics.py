from __future__ import annotations

import re
from dataclasses import replace

import pytest

from vloc_ros.diagnostics import KEYS, DiagnosticSettings, Level, Snapshot, diagnose
from vloc_ros.types import LocalizationState

SECOND = 1_000_000_000
GOOD = Snapshot(
    LocalizationState.LOCALIZED,
    "imposing",
    "abc",
    "cpu",
    {"frames": 10, "published": 9, "refused": 1, "refused_stale": 1, "clock_jumps": 2, "state_LOCALIZED": 9},
    {"accepted": 9},
    last_frame_ns=100 * SECOND,
    last_pose_ns=99 * SECOND,
    score=0.8,
    sigma_m=0.3,
    sigma_deg=0.5,
    estimate={"nearest_reference": 1234567.0, "best_distance": -1.23456789, "position_sigma_m": 0.25},
    latencies_ms=tuple(float(i) for i in range(1, 21)),
    timings_ms={"localize": 12.0, "localize/network": 7.0},
)


def test_good() -> None:
    found = diagnose(GOOD, now_ns=100 * SECOND + SECOND // 2, extra={"dropped": 3, "share": 0.25})
    assert (found.level, found.message) == (Level.OK, "localized")
    assert found.values["seconds_since_frame"] == "0.50" and found.values["seconds_since_pose"] == "1.50"
    assert (found.values["latency_p50_ms"], found.values["latency_p95_ms"]) == ("10.0", "19.0")
    assert found.values["dropped"] == "3" and found.values["share"] == "0.250"
    assert found.values["refused_stale"] == "1" and found.values["clock_jumps"] == "2"
    assert found.values["estimate_nearest_reference"] == "1234567", "a row of the map is no rounded number"
    assert found.values["estimate_best_distance"] == "-1.235" and found.values["estimate_position_sigma_m"] == "0.25"
    assert all(isinstance(value, str) for value in found.values.values())


@pytest.mark.parametrize(
    ("change", "age_s", "level", "word"),
    [
        ({"state": LocalizationState.LOST}, 0, Level.ERROR, "lost"),
        ({"state": LocalizationState.DEGRADED}, 0, Level.WARN, "degraded: recent estimates are weak"),
        ({"state": LocalizationState.DEGRADED, "awaits_motion": True}, 0, Level.WARN, "until the vehicle moves"),
        ({"awaits_motion": True}, 0, Level.OK, "localized"),
        ({"state": LocalizationState.INITIALIZING}, 0, Level.WARN, "initializing"),
        ({}, 2, Level.WARN, "no frame for 2.0 s"),
        ({}, 9, Level.ERROR, "no frame for 9.0 s"),
        ({"last_frame_ns": None}, 0, Level.WARN, "no frame yet"),
        ({"recent_refused_share": 0.05}, 0, Level.OK, "localized"),
        ({"recent_refused_share": 0.2, "last_refusal": "stale: x"}, 0, Level.WARN, "stale"),
        ({"recent_refused_share": 0.9, "last_refusal": "bad_image: x"}, 0, Level.ERROR, "90 %"),
    ],
)
def test_levels(change: dict[str, object], age_s: int, level: Level, word: str) -> None:
    found = diagnose(replace(GOOD, **change), now_ns=(100 + age_s) * SECOND)  # type: ignore[arg-type]
    assert found.level is level
    assert word in found.message


def test_a_slow_camera_has_patience_of_its_own() -> None:
    slow = DiagnosticSettings(no_frame_warn_s=20.0, no_frame_error_s=60.0)
    for age_s, level in ((9, Level.OK), (30, Level.WARN), (61, Level.ERROR)):
        assert diagnose(GOOD, slow, now_ns=(100 + age_s) * SECOND).level is level


def test_slow_is_a_warning_by_setting() -> None:
    assert diagnose(GOOD, DiagnosticSettings(latency_warn_ms=10.0)).level is Level.WARN
    assert diagnose(GOOD, DiagnosticSettings(latency_warn_ms=100.0)).level is Level.OK


def test_the_gravest_finding_comes_first() -> None:
    found = diagnose(replace(GOOD, state=LocalizationState.DEGRADED), now_ns=200 * SECOND)
    assert found.level is Level.ERROR
    assert found.message.startswith("no frame") and "degraded" in found.message


def test_a_camera_of_a_rig_that_is_left_out_is_named() -> None:
    found = diagnose(replace(GOOD, cameras={"front": "", "rear": "blank_image: all black"}))
    assert found.level is Level.WARN and "camera rear is left out (blank_image: all black)" in found.message
    assert found.values["camera_front"] == "used" and "black" in found.values["camera_rear"]
    assert "camera_" not in diagnose(replace(GOOD, cameras={"": "no_camera_info: none"})).values


def test_every_key_is_documented() -> None:
    snapshot = replace(
        GOOD,
        recent_refused_share=0.2,
        last_refusal="stale: x",
        cameras={"front": "", "rear": "dark"},
        fix_problem="no datum",
    )
    patterns = [re.sub("<.*?>", r"\\w+", key) for key in KEYS]
    values = diagnose(snapshot, now_ns=100 * SECOND).values
    for key in values:
        assert any(re.fullmatch(pattern, key) for pattern in patterns), key
    for pattern in patterns:
        assert any(re.fullmatch(pattern, key) for key in values), f"{pattern} is never written"
