"""Figures counted as documented: silence is an infinite error, NEES agrees with chi-square, ranks with scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.evaluation.metrics import (
    CHI2_95_6,
    CHI2_BAND_6,
    RECALL_THRESHOLDS,
    FrameRecord,
    consistency,
    evaluate,
    frame_errors,
    frame_nees,
    nearest,
    spearman,
)
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.types import LocalizationState as S


def pose(x=0.0, y=0.0, z=0.0, yaw_deg=0.0):
    T = np.eye(4)
    T[:3, :3] = so3_exp(np.array([0.0, 0.0, np.radians(yaw_deg)]))
    T[:3, 3] = x, y, z
    return T


def record(i, error_m=0.0, error_deg=0.0, state=S.LOCALIZED, covariance=None, reference=True, published=True, **more):
    return FrameRecord(
        stamp_ns=1 + i,
        state=state,
        T_map_base=pose(i + error_m, yaw_deg=error_deg) if published else None,
        covariance=np.eye(6) if covariance is None and published else covariance,
        T_reference=pose(i) if reference else None,
        **more,
    )


def test_constants_are_chi_square_quantiles():
    stats = pytest.importorskip("scipy.stats")
    assert pytest.approx(stats.chi2.ppf(0.95, 6), abs=1e-5) == CHI2_95_6
    assert pytest.approx(stats.chi2.ppf([0.025, 0.975], 6), abs=1e-5) == list(CHI2_BAND_6)


def test_errors_of_a_known_pose():
    translation, rotation = frame_errors([record(0, 0.3, 4.0), record(1, reference=False), record(2, published=False)])
    assert translation[0] == pytest.approx(0.3) and rotation[0] == pytest.approx(4.0)
    assert np.isnan(translation[1]) and np.isinf(translation[2]) and np.isinf(rotation[2])


def test_silence_counts_against_median_and_recall_but_not_the_mean():
    records = [record(i, 0.1, 1.0) for i in range(4)]
    records += [record(i, state=S.LOST, published=False) for i in range(4, 10)]
    m = evaluate(records)
    assert np.isinf(m.median_translation_m) and np.isinf(m.median_rotation_deg)
    assert m.mean_translation_m == pytest.approx(0.1) and m.mean_over == 4
    shares = {(r.translation_m, r.rotation_deg): r.share for r in m.recall}
    assert set(shares) == set(RECALL_THRESHOLDS)
    assert shares[0.25, 2.0] == pytest.approx(0.4) and shares[0.05, 5.0] == 0.0
    assert m.states == {"INITIALIZING": 0.0, "LOCALIZED": 0.4, "DEGRADED": 0.0, "LOST": 0.6}
    assert (m.frames, m.localized, m.lost, m.published) == (10, 4, 6, 4)


def test_frames_without_reference_do_not_count():
    records = [record(0, 0.1), record(1, 5.0, reference=False), record(2, 0.3)]
    m = evaluate(records)
    assert m.frames == 3 and m.frames_with_reference == 2
    assert m.median_translation_m == pytest.approx(0.2)


def test_recall_needs_both_limits():
    m = evaluate([record(0, 0.1, 3.0), record(1, 0.4, 1.0)])
    shares = {(r.translation_m, r.rotation_deg): r.share for r in m.recall}
    assert shares[0.25, 2.0] == 0.0 and shares[0.5, 5.0] == 1.0


def test_largest_error_called_localized():
    m = evaluate([record(0, 0.2), record(1, 7.0, state=S.DEGRADED), record(2, 0.9), record(3, published=False)])
    assert m.max_translation_localized_m == pytest.approx(0.9)


def test_refusals_are_counted_by_reason():
    records = [
        record(0),
        record(1, published=False, refused="bad_image"),
        record(2, published=False, refused="bad_image"),
    ]
    assert evaluate(records).refused == {"bad_image": 2}


def test_empty_and_without_reference_give_no_figures():
    assert evaluate([]).frames == 0
    m = evaluate([record(0, reference=False)])
    assert np.isnan(m.median_translation_m) and np.isnan(m.recall[0].share) and m.nees.count == 0
    assert m.states["LOCALIZED"] == 1.0


def test_nees_by_hand():
    r = record(0, 2.0, covariance=np.diag([4.0, 1, 1, 1, 1, 1]))
    assert frame_nees(r) == pytest.approx(1.0)
    with_reference = record(0, 2.0, covariance=np.diag([3.0, 1, 1, 1, 1, 1]), covariance_reference=np.eye(6))
    assert frame_nees(with_reference) == pytest.approx(1.0)
    assert np.isinf(frame_nees(record(0, 2.0, covariance=np.zeros((6, 6)))))


def sampled(count, rng, inflate=1.0):
    """Estimates whose errors are drawn from their covariance (times ``inflate``)."""
    out = []
    for i in range(count):
        sigma = np.array([rng.uniform(0.05, 0.5)] * 3 + [0.01] * 3)
        e = rng.normal(size=6) * sigma * inflate
        T = pose(i)
        estimate = T.copy()
        estimate[:3, 3] += e[:3]
        estimate[:3, :3] = so3_exp(e[3:]) @ T[:3, :3]
        out.append(FrameRecord(1 + i, S.LOCALIZED, estimate, np.diag(sigma**2), T))
    return out


def test_consistent_estimates_have_consistent_figures():
    c = consistency(sampled(3000, np.random.default_rng(0)))
    assert c.mean == pytest.approx(6.0, abs=0.3)
    assert c.share_in_95 == pytest.approx(0.95, abs=0.015)
    assert all(t == pytest.approx(0.95, abs=0.03) for t in c.thirds)
    assert c.sigma_thirds_m[0] < c.sigma_thirds_m[1] < c.sigma_thirds_m[2]
    assert c.rank_correlation > 0.5


def test_overconfidence_shows():
    c = consistency(sampled(1000, np.random.default_rng(1), inflate=2.0))
    assert c.mean == pytest.approx(24.0, abs=2.0) and c.share_in_95 < 0.4


def test_oracle_is_the_nearest_map_camera():
    mount = pose(z=1.5)
    cameras = np.stack([pose(0, 0.3, 1.5, 2.0), pose(1, 0.4, 1.5, -4.0), pose(50)])
    m = evaluate([record(0), record(1)], cameras, mount)
    assert m.oracle_median_translation_m == pytest.approx(0.35)
    assert m.oracle_median_rotation_deg == pytest.approx(3.0)


def test_what_the_localizer_said_is_shown_even_when_it_was_not_published():
    records = [record(i, published=False, T_estimated=pose(i + 0.2 * i)) for i in range(3)]
    m = evaluate(records)
    assert np.isinf(m.median_translation_m)
    assert m.localizer_median_translation_m == pytest.approx(0.2)


def test_retrieval_baseline_counts_silence_too():
    found = [record(i, T_retrieved=pose(i + 0.5, yaw_deg=6.0)) for i in range(3)]
    m = evaluate(found)
    assert m.retrieval_median_translation_m == pytest.approx(0.5)
    assert m.retrieval_median_rotation_deg == pytest.approx(6.0)
    assert np.isinf(evaluate([*found[:1], record(1), record(2)]).retrieval_median_translation_m)
    assert np.isnan(evaluate([record(0)]).retrieval_median_translation_m)


@given(st.integers(1, 700), st.integers(1, 40))
def test_nearest_is_brute_force(n, m):
    rng = np.random.default_rng([n, m])
    a, b = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    brute = np.array([min(np.linalg.norm(p - q) for q in b) for p in a[:5]])
    distances, indices = nearest(a, b)
    np.testing.assert_allclose(distances[:5], brute)
    np.testing.assert_allclose(np.linalg.norm(a - b[indices], axis=1), distances)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40))
def test_spearman_is_scipys_with_ties(pairs):
    stats = pytest.importorskip("scipy.stats")
    a, b = np.array(pairs, dtype=float).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)
