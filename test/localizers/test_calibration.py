from __future__ import annotations

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vloc_ros.errors import CalibrationError
from vloc_ros.localizers.calibration import CHI2_95_6DOF, CovarianceModel, fit_covariance, independent

NAMES = ("blur", "spread", "noise")
#: Errors across, down and along in the camera's axes, relative to the frame's size of error.
SHAPE = np.array([0.3, 0.1, 1.0, 0.02, 0.05, 0.02])


def simulate(count: int, seed: int, spread: float = 1.0):
    """Frames whose size of error varies tenfold and is visible in two of three statistics."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.normal(-1.0, 0.7 * spread, count))
    statistics = np.stack(
        (
            np.log(size) + rng.normal(0, 0.3, count),
            2 * np.log(size) + rng.normal(0, 1.0, count),
            rng.normal(size=count),
        ),
        axis=1,
    )
    R = Rotation.random(count, random_state=seed).as_matrix()
    local = rng.normal(size=(count, 6)) * SHAPE * size[:, None]
    errors = np.concatenate(
        [np.einsum("nij,nj->ni", R, local[:, :3]), np.einsum("nij,nj->ni", R, local[:, 3:])], axis=1
    )
    return statistics, errors, R


def nees(model: CovarianceModel, statistics, errors, R):
    covariances = np.stack([model.covariance(s, r) for s, r in zip(statistics, R, strict=True)])
    sigma = np.sqrt([np.linalg.eigvalsh(c[:3, :3])[-1] for c in covariances])
    return np.einsum("ni,nij,nj->n", errors, np.linalg.inv(covariances), errors), sigma


@pytest.fixture(scope="module")
def model() -> CovarianceModel:
    return fit_covariance(NAMES, *simulate(600, 0))


@pytest.mark.parametrize("frames", [300, 600])
@pytest.mark.parametrize("seed", range(3))
def test_the_share_inside_is_right_overall_and_in_each_third(frames, seed):
    fitted = fit_covariance(NAMES, *simulate(frames, 100 + seed))
    values, sigma = nees(fitted, *simulate(3000, 200 + seed))
    inside = values <= CHI2_95_6DOF
    assert 0.90 <= inside.mean() <= 0.99
    for third in np.array_split(np.argsort(sigma), 3):
        assert 0.88 <= inside[third].mean()


def test_sigma_follows_the_error(model):
    statistics, errors, R = simulate(2000, 7)
    _, sigma = nees(model, statistics, errors, R)
    distance = np.linalg.norm(errors[:, :3], axis=1)
    ranks = [np.argsort(np.argsort(v)) for v in (sigma, distance)]
    assert np.corrcoef(*ranks)[0, 1] > 0.4
    assert sigma.max() > 3 * sigma.min()


def test_heavy_tails_do_not_break_the_fit():
    statistics, errors, R = simulate(400, 3)
    errors[::40, :3] *= 60.0  # a frame in forty is somewhere else
    fitted = fit_covariance(NAMES, statistics, errors, R)
    values, sigma = nees(fitted, *simulate(2000, 4))
    assert (values <= CHI2_95_6DOF).mean() > 0.93
    clean = nees(fit_covariance(NAMES, *simulate(400, 3)), *simulate(2000, 4))[1]
    assert np.median(sigma) < 6 * np.median(clean)


@pytest.mark.parametrize("every", [100, 40, 12])
def test_gross_errors_do_not_shape_the_covariance(every):
    """Few frames put far along one axis say nothing of how all others err along it."""
    statistics, errors, _ = simulate(400, 3)
    R = np.tile(np.eye(3), (400, 1, 1))
    gross = errors.copy()
    gross[::every, 1] += 50.0
    shapes = [fit_covariance(NAMES, statistics, e, R).shape for e in (errors, gross)]
    ratio = np.diag(shapes[1]) / np.diag(shapes[0])
    assert ratio[1] / np.median(ratio) < 3.0


def test_few_frames_are_cautious():
    shares = [(nees(fit_covariance(NAMES, *simulate(40, s)), *simulate(1000, 50 + s))[0] <= CHI2_95_6DOF).mean()
              for s in range(5)]  # fmt: skip
    assert np.mean(shares) > 0.9


@given(
    st.lists(st.floats(-50, 50), min_size=3, max_size=3),
    st.integers(0, 1000),
)
def test_covariance_is_symmetric_positive_and_turns_with_the_camera(statistics, seed):
    model = fit_covariance(NAMES, *simulate(100, 1))
    R = Rotation.random(random_state=seed).as_matrix()
    found = model.covariance(statistics, R)
    np.testing.assert_array_equal(found, found.T)
    assert np.linalg.eigvalsh(found)[0] > 0
    turn = np.kron(np.eye(2), R)
    np.testing.assert_allclose(found, turn @ model.covariance(statistics, np.eye(3)) @ turn.T, rtol=1e-9, atol=1e-15)


def test_the_shape_of_the_error_is_kept(model):
    found = np.sqrt(np.diag(model.covariance(model.center, np.eye(3))))
    np.testing.assert_allclose(found[:3] / found[2], SHAPE[:3], rtol=0.25)
    np.testing.assert_allclose(found[3:] / found[4], SHAPE[3:] / SHAPE[4], rtol=0.25)


def test_correlations_of_the_error_are_kept():
    statistics, errors, _ = simulate(2000, 5)
    R = np.tile(np.eye(3), (2000, 1, 1))
    errors[:, 4] = 0.05 * errors[:, 0] + 0.2 * errors[:, 4]
    found = fit_covariance(NAMES, statistics, errors, R).covariance(statistics[0], np.eye(3))
    assert found[0, 4] / np.sqrt(found[0, 0] * found[4, 4]) > 0.6


def test_stranger_than_all_frames_is_never_better(model):
    sigma = {k: model.covariance(np.full(3, v), np.eye(3))[2, 2] for k, v in
             {"low": -1e6, "high": 1e6, "nan": np.nan, "infinite": np.inf}.items()}  # fmt: skip
    statistics, _, _ = simulate(600, 0)
    ordinary = [model.covariance(s, np.eye(3))[2, 2] for s in statistics]
    assert sigma["low"] >= 0.5 * min(ordinary)
    assert sigma["nan"] == sigma["infinite"] >= max(ordinary)
    assert np.isfinite(list(sigma.values())).all()


def test_through_a_manifest_and_back(model):
    plain = yaml.safe_load(yaml.safe_dump(model.to_mapping()))
    again = CovarianceModel.from_mapping(plain)
    assert again.names == model.names and again.frames == 600
    statistics, _, R = simulate(5, 9)
    for s, r in zip(statistics, R, strict=True):
        np.testing.assert_array_equal(again.covariance(s, r), model.covariance(s, r))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("names", ["blur", "spread"]),
        ("center", [0.0, 0.0]),
        ("translation", [0.0, 1.0, 2.0]),
        ("shape", [[1.0] * 6] * 5),
        ("shape", np.zeros((6, 6)).tolist()),
        ("spread", [1.0, 0.0, 1.0]),
        ("limits", [[0.0, float("nan")], [0.0, 1.0]]),
        ("factors", []),
        ("factors", "many"),
        ("frames", None),
        ("rotation", None),
    ],
)
def test_a_damaged_calibration_is_named(model, field, value):
    damaged = {**model.to_mapping(), field: value}
    with pytest.raises(CalibrationError, match="some map"):
        CovarianceModel.from_mapping(damaged, "some map")


def test_knots_that_do_not_increase_or_negative_factors_are_refused(model):
    data = model.to_mapping()
    with pytest.raises(CalibrationError, match="knots"):
        CovarianceModel.from_mapping({**data, "knots": data["knots"][::-1]})
    with pytest.raises(CalibrationError, match="factors"):
        CovarianceModel.from_mapping({**data, "factors": [-f for f in data["factors"]]})
    with pytest.raises(CalibrationError):
        CovarianceModel.from_mapping({k: v for k, v in data.items() if k != "knots"})


def test_too_few_frames_are_refused():
    with pytest.raises(CalibrationError, match="at least 20 frames"):
        fit_covariance(NAMES, *simulate(19, 0))
    fit_covariance(NAMES, *simulate(20, 0))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(which, value):
    data = simulate(50, 0)
    data[which][7, 2] = value
    with pytest.raises(CalibrationError, match="finite"):
        fit_covariance(NAMES, *data)


def test_statistics_that_never_change_are_no_trouble():
    statistics, errors, R = simulate(100, 0)
    fitted = fit_covariance(NAMES, np.zeros_like(statistics), errors, R)
    values, _ = nees(fitted, np.zeros_like(statistics), errors, R)
    assert 0.90 <= (values <= CHI2_95_6DOF).mean() <= 1.0


def test_errors_of_zero_are_refused():
    statistics, errors, R = simulate(60, 0)
    with pytest.raises(CalibrationError, match="zero"):
        fit_covariance(NAMES, statistics, np.zeros_like(errors), R)


def test_errors_in_one_direction_only_still_give_a_covariance():
    statistics, errors, R = simulate(60, 0)
    R[:] = np.eye(3)
    errors[:, [0, 1, 3, 5]] = 0.0
    found = fit_covariance(NAMES, statistics, errors, R).covariance(statistics[0], R[0])
    assert np.linalg.eigvalsh(found)[0] > 0


def _correlated_drive(rng, count, correlation=0.93):
    """Statistics and errors of a drive whose neighbouring frames err alike, and of which the statistics tell little."""
    steps = rng.standard_normal((count, 8))
    walk = np.zeros((count, 8))
    for k in range(count):
        walk[k] = correlation * walk[k - 1] + np.sqrt(1 - correlation**2) * steps[k] if k else steps[k]
    size = np.exp(0.4 * walk[:, :1])
    errors = np.concatenate([0.5 * size * walk[:, 2:5], 0.02 * size * walk[:, 5:8]], axis=1)
    return np.column_stack([walk[:, 0] + rng.standard_normal(count), rng.standard_normal((count, 4))]), errors


def test_neighbours_that_err_alike_count_less():
    """Frames of a drive are not independent: the covariance must hold on other drives, not on their neighbours."""
    rng = np.random.default_rng(5)
    names, inside = tuple("abcde"), []
    for _ in range(30):
        (statistics, errors), (others, theirs) = _correlated_drive(rng, 240), _correlated_drive(rng, 240)
        model = fit_covariance(names, statistics, errors, np.tile(np.eye(3), (240, 1, 1)))
        covariance = np.stack([model.covariance(row, np.eye(3)) for row in others])
        nees = np.einsum("ni,nij,nj->n", theirs, np.linalg.inv(covariance), theirs)
        inside.append(float((nees <= CHI2_95_6DOF).mean()))
    assert 0.9 < np.mean(inside) < 0.99, np.mean(inside)


def test_independent_numbers_are_counted():
    rng = np.random.default_rng(0)
    plain = rng.standard_normal(2000)
    assert independent(plain) > 1500
    walk = np.zeros(2000)
    for k in range(1, 2000):
        walk[k] = 0.9 * walk[k - 1] + plain[k]
    assert 60 < independent(walk) < 200  # an autoregression of 0.9 has a time of 19
    assert independent(np.ones(30)) == 30.0
