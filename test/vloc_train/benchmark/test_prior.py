"""Priors: as far off as the protocol says, in every direction, the same whenever they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import ConfigError
from vloc_ros.geometry.se3 import pose_error, se3_exp
from vloc_ros.settings import settings_from_mapping
from vloc_train.benchmark.splits import Prior, ReferencePrior

N = 4000


def truth(count: int = N) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([se3_exp(np.r_[rng.normal(0, 50, 3), rng.normal(0, 1, 3)]) for _ in range(count)])


def errors(prior: Prior, T: np.ndarray, seed: int = 0, repeat: int = 0) -> np.ndarray:
    found = prior.poses(T, np.arange(len(T)), np.zeros((0, 4, 4)), seed, repeat)
    return np.array([pose_error(a, b) for a, b in zip(found, T, strict=True)])


def test_offsets_are_uniform_and_have_the_covariance_they_state():
    prior = Prior(offset_m=(0.5, 2.0), offset_deg=(0.0, 5.0))
    e = errors(prior, truth())
    metres, degrees = np.linalg.norm(e[:, :3], axis=1), np.degrees(np.linalg.norm(e[:, 3:], axis=1))
    for values, low, high in ((metres, 0.5, 2.0), (degrees, 0.0, 5.0)):
        assert values.min() >= low - 1e-9 and values.max() <= high + 1e-9
        share = (np.sort(values) - low) / (high - low)
        assert np.abs(share - np.arange(N) / N).max() < 0.03  # Kolmogorov and Smirnov's distance; 1 % is at 0.026
    sigmas = np.sqrt(np.diag(prior.covariance))
    np.testing.assert_allclose(np.cov((e / sigmas).T), prior.covariance / np.outer(sigmas, sigmas), atol=0.07)
    # Every direction is as likely: each third of the sphere along an axis has a third of the offsets.
    z = e[:, 2] / metres
    np.testing.assert_allclose(np.histogram(z, [-1, -1 / 3, 1 / 3, 1])[0] / N, 1 / 3, atol=0.03)


def test_a_prior_depends_on_seed_stamp_and_repeat_alone():
    prior, T = Prior(offset_m=(0.0, 2.0)), truth(20)
    whole = errors(prior, T)
    some = prior.poses(T[5:9], np.arange(5, 9), np.zeros((0, 4, 4)), 0, 0)
    np.testing.assert_array_equal([pose_error(a, b) for a, b in zip(some, T[5:9], strict=True)], whole[5:9])
    assert np.linalg.norm(errors(prior, T, seed=1) - whole, axis=1).min() > 0
    assert np.linalg.norm(errors(prior, T, repeat=1) - whole, axis=1).min() > 0
    own = Prior(offset_m=(0.0, 2.0), seed=0)
    np.testing.assert_array_equal(errors(own, T, seed=1), whole)
    assert np.abs(whole[:, 3:]).max() < 1e-9  # no turn was asked for


@given(st.floats(0, 3), st.floats(0, 3), st.integers(0, 1000))
def test_references_are_map_frames_as_far_away_as_wanted(a, b, seed):
    low, high = sorted((a, b))
    references = np.tile(np.eye(4), (20, 1, 1))
    references[:, 2, 3] = 0.5 * np.arange(20)
    references[1::2, :3, :3] = np.diag([-1.0, 1.0, -1.0])  # looking back
    query = np.eye(4)
    query[:3, 3] = (0.3, 0.0, 4.1)
    distance = np.linalg.norm(references[:, :3, 3] - query[:3, 3], axis=1)
    wanted = (distance >= low) & (distance <= high)
    for within, allowed in ((180.0, wanted), (90.0, wanted & (np.arange(20) % 2 == 0))):
        prior = Prior(reference=ReferencePrior((low, high), within))
        if not allowed.any():
            with pytest.raises(ConfigError, match=r"street: prior: .* none for the query at 7 ns"):
                prior.poses(query[None], np.array([7]), references, seed, 0, "street")
            continue
        found = prior.poses(query[None], np.array([7]), references, seed, 0)[0]
        assert any((found == references[row]).all() for row in np.flatnonzero(allowed))


def test_the_covariance_is_never_singular():
    for prior in (
        Prior(offset_m=(0.0, 0.0)),
        Prior(offset_deg=(0.0, 1.0)),
        Prior(reference=ReferencePrior((0.0, 0.0))),
    ):
        assert np.linalg.eigvalsh(prior.covariance)[0] > 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "either offset_m and offset_deg, or reference"),
        ({"offset_m": [0, 2], "reference": {}}, "either offset_m and offset_deg, or reference"),
        ({"offset_m": [2, 0]}, "do not fall"),
        ({"offset_m": [0]}, "expected 2 values"),
        ({"offset_deg": [0, 200]}, "offset_deg"),
        ({"reference": {"between_m": [4, 2]}}, "do not fall"),
        ({"offset_m": [0, 1], "repeats": 0}, "repeats"),
        ({"offset_m": [0, 1], "speed": 0}, "unknown field 'speed'"),
    ],
)
def test_what_is_no_prior(bad, message):
    with pytest.raises(ConfigError, match=message):
        settings_from_mapping(Prior, bad, "here")
