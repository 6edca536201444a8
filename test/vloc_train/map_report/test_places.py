"""What a report says of places: those that look alike, those that are weak, and what to do about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_route import drive, line

from vloc_ros.settings import settings_from_mapping
from vloc_ros.types import LocalizationState
from vloc_train.frame_choice.measure import Measures
from vloc_train.frame_choice.route import Nearby, runs
from vloc_train.frame_choice.selection import REASONS, Choice
from vloc_train.frame_choice.settings import HoldOutSettings, OwnDriveSettings, ReportSettings
from vloc_train.frame_choice.split import split
from vloc_train.map_report.accuracy import HeldOutFrames
from vloc_train.map_report.advice import advice, one_way_share
from vloc_train.map_report.ambiguity import Ambiguity, AmbiguousPair, ambiguous_places, thumbnail_descriptors
from vloc_train.map_report.scene import SceneReport
from vloc_train.map_report.segments import segments_of, weak_segments

SETTINGS = ReportSettings()
NONE = Ambiguity((), 0.0, float("nan"), "nothing")


def descriptors(T, doubles=()):
    """Vectors that change slowly along x; at ``doubles`` (from, to, length in rows) a place copies another."""
    rng = np.random.default_rng(1)
    knots = rng.normal(size=(int(T[:, 0, 3].max() / 10) + 2, 64))
    at = T[:, 0, 3] / 10
    low = at.astype(int)
    out = knots[low] * (1 - (at - low))[:, None] + knots[low + 1] * (at - low)[:, None]
    for start, copy, length in doubles:
        out[copy : copy + length] = out[start : start + length]
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def test_two_places_that_look_alike_are_one_pair():
    T = line(200)
    found = ambiguous_places(T, descriptors(T, [(50, 300, 12)]), "vectors", SETTINGS)
    assert len(found.pairs) == 1
    pair = found.pairs[0]
    assert pair.similarity == pytest.approx(1.0) and pair.distance_m == pytest.approx(125.0)
    assert 20 <= pair.frames <= 40
    assert 24 / 400 <= found.share <= 0.1  # with the neighbours that are nearly as alike


def test_places_that_are_all_different_are_not_ambiguous():
    T = line(200)
    assert ambiguous_places(T, descriptors(T), "vectors", SETTINGS).pairs == ()


def test_too_few_frames_for_anything():
    T = line(200)[:2]
    assert ambiguous_places(T, descriptors(T), "v", SETTINGS).pairs == ()
    far = line(400, step=50.0)  # no two frames of one place
    assert ambiguous_places(far, descriptors(far), "v", SETTINGS).pairs == ()


def test_thumbnails_tell_places_apart_in_any_light():
    rng = np.random.default_rng(0)
    pictures = rng.integers(60, 200, (6, 18, 32)).astype(np.uint8)
    brighter = np.clip(pictures * 1.2 + 5, 0, 255).astype(np.uint8)
    vectors = thumbnail_descriptors(np.concatenate([pictures, brighter]))
    likeness = vectors[:6] @ vectors[6:].T
    assert (likeness.argmax(axis=1) == np.arange(6)).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0)


def choice_of(sequence, reasons=None):
    n = len(sequence)
    reason = np.zeros(n, np.uint8)
    for rows, name in (reasons or {}).items():
        reason[list(rows)] = REASONS.index(name)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(sequence.T_map_cam[:, :3, 3], axis=0), axis=1))])
    measures = Measures(
        np.ones(n), np.ones(n), np.ones(n), np.ones(n), np.zeros((n, 18, 32), np.uint8), np.zeros(n, bool)
    )
    return Choice(sequence, reason, along, measures)


def held(sequence, error, sigma=0.3):
    n = len(sequence)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(sequence.T_map_cam[:, :3, 3], axis=0), axis=1))])
    return HeldOutFrames(
        sequence, np.broadcast_to(error, n) * 1.0, np.ones(n), np.broadcast_to(sigma, n) * 1.0, np.full(n, 5.0),
        (LocalizationState.LOCALIZED,) * n, along,
    )  # fmt: skip


def scene(reasons=None, error=0.2, length=200):
    choice = choice_of(drive(line(length), "drive"), reasons)
    made = split([choice.used], HoldOutSettings(kind="every"))
    found = [held(drive(line(length, step=2.0), "drive"), error)]
    return [choice], made, found, segments_of([choice], made, found, SETTINGS)


def test_a_blurred_stretch_is_told_with_metres_and_numbers():
    choices, made, found, segments = scene({range(240, 274): "blurred"})
    weak = weak_segments(segments)
    assert len(weak) == 1
    assert (weak[0].start_m, weak[0].stop_m) == (pytest.approx(119.7, abs=0.5), pytest.approx(139.6, abs=0.5))
    words = advice(choices, made, found, segments, NONE, True)
    told = "Record again between 120 and 140 m of drive (x 130, y 0): 34 of 40 frames were blurred; drive slower"
    assert any(w.startswith(told) for w in words), words


def test_neighbouring_weak_pieces_are_one():
    segments = scene({range(200, 320): "dark"})[3]
    weak = weak_segments(segments)
    assert len(weak) == 1 and weak[0].reasons[0] == "120 of 120 frames dark"
    assert weak[0].stop_m - weak[0].start_m == pytest.approx(60, abs=1)


def test_large_errors_are_weak_places():
    error = np.full(100, 0.2)
    error[50:60] = 4.0
    choices, made, found, segments = scene(error=error)
    weak = weak_segments(segments)
    assert len(weak) == 1 and "error 4.00 m (elsewhere 0.20 m)" in weak[0].reasons
    words = advice(choices, made, found, segments, NONE, True)
    assert any("Expect little between 100 and 120 m of drive" in w for w in words), words
    assert weak_segments(scene(error=np.full(100, 0.4))[3]) == []  # large, but everywhere the same


def test_sparse_frames_and_missing_poses_are_weak():
    T = np.concatenate([line(100), line(60, offset=(160, 0))])
    choice = choice_of(drive(T, "drive"))
    made = split([choice.used], HoldOutSettings(kind="every"))
    weak = weak_segments(segments_of([choice], made, [], SETTINGS))
    assert [w.reasons[0] for w in weak] == ["no frame with a reference pose"]
    assert weak[0].start_m >= 95 and weak[0].stop_m <= 165
    slow = choice_of(drive(line(100, step=4.0), "drive"))
    weak = weak_segments(segments_of([slow], split([slow.used], HoldOutSettings(kind="every")), [], SETTINGS))
    assert len(weak) == 1 and "m apart" in weak[0].reasons[0]


def test_advice_on_the_whole():
    choices, made, found, segments = scene()
    words = " ".join(advice(choices, made, found, segments, NONE, False))
    assert "not calibrated" in words and "one direction" in words and "driven once" in words
    pair = AmbiguousPair(line(1)[0], line(1, offset=(99.0, 0.0))[0], 0.97, 99.0, 14)
    words = " ".join(advice(choices, made, found, segments, Ambiguity((pair,), 0.1, 0.9, "v"), True))
    assert "99 m apart (14 frames)" in words and "calibrated on 100" not in words
    lost = [replace(h, state=(LocalizationState.LOST,) * len(h.state)) for h in found]
    first = advice(choices, made, lost, segments, NONE, True)[0]
    assert first.startswith("The map is not good enough: 0 % of 100 held-out frames are LOCALIZED, median error 0.20 m")


def test_both_directions():
    T = np.concatenate([line(100), line(100, backwards=True, offset=(0, 3.0))])
    T[200:, :3, 2] *= -1.0
    T[200:, :3, 0] *= -1.0
    made = split([drive(T)], HoldOutSettings(kind="every"))
    assert one_way_share(made) in (0.0, 1.0)
    assert one_way_share(split([drive(line(100))], HoldOutSettings(kind="every"))) == 1.0


def test_figures_are_plain_and_complete():
    choices, made, found, segments = scene({range(240, 274): "blurred"})
    figures = SceneReport("map", tuple(choices), made, tuple(found), tuple(segments), NONE, True, ("x",)).figures()
    assert figures["accuracy"]["median_translation_m"] == pytest.approx(0.2)
    assert figures["accuracy"]["nees_share_in_95"] == 1.0
    assert figures["drives"][0]["left_out"] == {"blurred": 34}
    assert figures["weak"][0]["drive"] == "drive"


def test_route_helpers():
    assert runs(np.array([0, 1, 1, 0, 1], bool)) == [(1, 2), (4, 4)] and runs(np.zeros(0, bool)) == []
    T = line(20)
    found = Nearby(T, 2.0).of(T[10])
    expected = np.flatnonzero(np.linalg.norm(T[:, :3, 3] - T[10, :3, 3], axis=1) <= 2.0)
    np.testing.assert_array_equal(found, expected)
    away = T[10].copy()
    away[:3, 3] += 500
    assert len(Nearby(T, 2.0).of(away)) == 0


def test_a_room_is_judged_by_lengths_of_its_own():
    room = ReportSettings(segment_m=2.0, sparse_m=0.2, weak_m=0.05, far_m=2.0, near_m=0.4)
    T = line(8, step=0.1)
    error = np.full(len(T), 0.02)
    error[40:59] = 0.2
    choice = choice_of(drive(T, "room"))
    made = split([choice.used], HoldOutSettings(kind="every"))
    weak = weak_segments(segments_of([choice], made, [held(drive(T, "room"), error)], room))
    assert len(weak) == 1 and "error 0.20 m (elsewhere 0.02 m)" in weak[0].reasons
    assert not weak_segments(segments_of([choice], made, [held(drive(T, "room"), error)], SETTINGS))
    vectors = descriptors(T * np.array([10.0 if k == 3 else 1.0 for k in range(4)]), [(5, 60, 10)])
    assert len(ambiguous_places(T, vectors, "v", room).pairs) == 1
    assert not ambiguous_places(T, vectors, "v", SETTINGS).pairs


def test_settings_of_before_are_still_read(caplog):
    given = {"report": {"piece_m": 5.0, "dropped_share": 0.3, "similar": 2.0}}
    assert settings_from_mapping(OwnDriveSettings, given, "--drive-set").report.segment_m == 5.0
    assert "similar is fixed now" in caplog.text and "dropped_share is fixed" not in caplog.text
