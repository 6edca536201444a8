"""Targets between references and around them: where they lie, whose they are, and where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.datasets.sequence import R_BODY_OPTICAL
from vloc_ros.errors import ConfigError, GeometryError, InterpolationError
from vloc_ros.geometry.rotations import euler_to_matrix, rotation_angle
from vloc_ros.geometry.se3 import make_transform
from vloc_ros.geometry.vectors import from_vectors, to_vectors
from vloc_ros.localizers.copr.settings import TargetSettings
from vloc_ros.localizers.copr.targets import span_of, targets_of, trajectories


def street(x, y=0.0, yaw=0.0, z=1.5) -> np.ndarray:
    """Poses (N, 7) of a camera that looks along ``yaw`` (rad), level."""
    x, y, yaw, z = np.broadcast_arrays(x, y, yaw, z)
    R = euler_to_matrix(np.stack([0 * yaw, 0 * yaw, yaw], axis=-1)) @ R_BODY_OPTICAL
    return to_vectors(make_transform(R, np.stack([x, y, z], axis=-1))).astype(np.float64)


def interpolated(poses, **settings):
    return targets_of(poses, TargetSettings(scheme="interpolate", **settings))


def extrapolated(poses, **settings):
    return targets_of(poses, TargetSettings(**settings))


# -- interpolation ------------------------------------------------------------------------------


def test_even_steps_along_the_way_with_the_orientation_in_between():
    poses = street([0.0, 10.0, 20.0], yaw=[0.0, 0.4, 0.4])
    found = interpolated(poses, step_m=2.5)
    np.testing.assert_allclose(found.poses[:, 0], [2.5, 5, 7.5, 12.5, 15, 17.5], atol=1e-6)
    np.testing.assert_allclose(
        from_vectors(found.poses),
        from_vectors(street(found.poses[:, 0], yaw=[0.1, 0.2, 0.3, 0.4, 0.4, 0.4])),
        atol=1e-6,
    )
    assert found.anchors.tolist() == [[0, 1], [0, 1], [1, 0], [1, 2], [1, 2], [2, 1]]


@given(st.lists(st.floats(0.3, 8.0), min_size=1, max_size=8), st.floats(0.1, 5.0))
def test_no_step_is_longer_than_asked_and_the_nearer_anchor_comes_first(gaps, step):
    poses = street(np.concatenate(([0.0], np.cumsum(gaps))))
    found = interpolated(poses, step_m=step, max_gap_m=100.0)
    everything = np.sort(np.concatenate((poses[:, 0], found.poses[:, 0])))
    assert np.diff(everything).max() <= step * 1.002 + 1e-5
    apart = np.abs(poses[found.anchors, 0] - found.poses[:, None, 0])
    assert (apart[:, 0] <= apart[:, 1] + 1e-5).all()
    assert len(found) == sum(int(np.ceil(g / step - 1e-3)) - 1 for g in np.diff(poses[:, 0]))


def test_nothing_is_made_across_a_gap_whether_it_is_given_or_found():
    poses = street([0.0, 1, 2, 3, 53, 54, 55])
    for settings in ({}, {"max_gap_m": 10.0}):
        found = interpolated(poses, step_m=0.5, **settings)
        assert not ((found.poses[:, 0] > 3) & (found.poses[:, 0] < 53)).any()
        assert len(found) == 5
    assert trajectories(poses, TargetSettings()).tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert len(interpolated(poses, step_m=0.5, max_gap_m=60.0)) == 5 + 99


def test_equal_positions_are_no_way():
    poses = street([0.0, 0.0, 1.0, 1.0])
    found = interpolated(poses, step_m=0.5)
    np.testing.assert_allclose(found.poses[:, 0], [0.5], atol=1e-6)


@pytest.mark.parametrize("x", [[], [0.0], [3.0, 3.0, 3.0]])
def test_a_lone_reference_cannot_be_interpolated(x):
    with pytest.raises(InterpolationError, match=r"lone reference|found none"):
        interpolated(street(np.asarray(x, dtype=float)), step_m=0.5)


def test_references_beyond_the_limit_are_named():
    with pytest.raises(InterpolationError, match="farther apart"):
        interpolated(street([0.0, 50.0]), step_m=0.5, max_gap_m=10.0)


def test_targets_at_the_references_that_were_left_out():
    full = street(np.arange(11.0), yaw=np.linspace(0, 1, 11))
    dropped = np.delete(np.arange(11), [0, 4, 8])
    given_ = np.concatenate((full[dropped], (dropped // 4)[:, None]), axis=1)
    found = targets_of(full[::4], TargetSettings(scheme="interpolate", at="dropped"), given_)
    np.testing.assert_allclose(found.poses, full[[1, 2, 3, 5, 6, 7]])  # beyond the last kept there is nothing after
    assert found.anchors.tolist() == [[0, 1], [0, 1], [1, 0], [1, 2], [1, 2], [2, 1]]


# -- extrapolation ------------------------------------------------------------------------------


def test_a_grid_around_every_reference_with_its_orientation_and_height():
    poses = street([0.0, 100.0], yaw=[0.0, 1.0], z=[1.0, 2.0])
    found = extrapolated(poses, step_m=0.5, span_m=2.0)
    assert len(found) == 2 * 48  # grid points within a circle of radius 4, without its middle
    offset = found.poses[:, :2] - poses[found.anchors[:, 0], :2]
    apart = np.linalg.norm(offset, axis=1)
    assert apart.max() == pytest.approx(2.0) and apart.min() == pytest.approx(0.5)
    np.testing.assert_allclose(offset / 0.5, np.round(offset / 0.5), atol=1e-4)
    np.testing.assert_array_equal(found.poses[:, 2:], poses[found.anchors[:, 0], 2:])


@pytest.mark.parametrize("grid", ["anchor", "global"])
def test_no_farther_to_the_side_than_the_road_is_wide(grid):
    poses = street([0.0, 100.0], yaw=[0.0, np.pi / 2])
    found = extrapolated(poses, step_m=0.5, span_m=4.0, side_m=1.0, grid=grid)
    everything = extrapolated(poses, step_m=0.5, span_m=4.0, grid=grid)
    for of, dense in ((found, 1.0), (everything, 4.0)):
        offset = of.poses[:, :2] - poses[of.anchors[:, 0], :2]
        sideways = np.where(of.anchors[:, 0] == 0, offset[:, 1], offset[:, 0])
        assert np.abs(sideways).max() == pytest.approx(dense)
        assert np.linalg.norm(offset, axis=1).max() == pytest.approx(4.0)
    kept = {tuple(p) for p in found.poses[:, :2]}
    assert kept < {tuple(p) for p in everything.poses[:, :2]} and len(kept) == 2 * (17 + 4 * 15 - 1)


def test_without_a_span_neighbouring_grids_meet():
    poses = street([0.0, 20.0, 44.0, 200.0])
    assert span_of(poses, TargetSettings()) == pytest.approx(12.0)
    assert span_of(poses, TargetSettings(span_m=3.0)) == 3.0
    with pytest.raises(ConfigError, match="--span"):
        span_of(poses[:1], TargetSettings())


def test_a_lone_reference_can_be_extrapolated_from():
    assert len(extrapolated(street([5.0]), step_m=1.0, span_m=1.0)) == 4


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.5), st.floats(0.5, 4.0))
def test_one_global_grid_has_every_point_within_reach_once_with_its_nearest_reference(seed, step, span):
    rng = np.random.default_rng(seed)
    poses = street(rng.uniform(-8, 8, 6), rng.uniform(-8, 8, 6))
    found = extrapolated(poses, step_m=step, span_m=span, grid="global")
    axis = np.arange(-int(13 / step) - 1, int(13 / step) + 2) * step
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    apart = np.linalg.norm(grid[:, None] - poses[:, :2], axis=2)
    sure = apart.min(axis=1) < span - 1e-6
    maybe = apart.min(axis=1) < span + 1e-6
    keys = {tuple(k) for k in np.round(found.poses[:, :2] / step).astype(int)}
    assert len(keys) == len(found)
    assert {tuple(k) for k in np.round(grid[sure] / step).astype(int)} <= keys
    assert keys <= {tuple(k) for k in np.round(grid[maybe] / step).astype(int)}
    own = np.linalg.norm(found.poses[:, :2] - poses[found.anchors[:, 0], :2], axis=1)
    best = np.linalg.norm(found.poses[:, None, :2] - poses[:, :2], axis=2).min(axis=1)
    np.testing.assert_allclose(own, best, atol=1e-9)


def test_a_global_grid_far_from_the_origin_and_on_both_sides_of_it():
    poses = street([-3.0e5, 3.0e5], [2.0e5, -2.0e5])
    found = extrapolated(poses, step_m=0.5, span_m=1.0, grid="global")
    assert len(found) == 24
    np.testing.assert_array_less(np.linalg.norm(found.poses[:, :2] - poses[found.anchors[:, 0], :2], axis=1), 1.001)


def test_beside_the_camera_whatever_it_looks_at():
    yaw = np.array([0.0, np.pi / 2])
    found = extrapolated(street([0.0, 10.0], yaw=yaw), grid="lateral", lateral_m=(1.8, -1.0))
    np.testing.assert_allclose(found.poses[:, :2], [[0, -1.8], [0, 1.0], [11.8, 0], [9.0, 0]], atol=1e-6)
    tilted = street([0.0])
    tilted[:, 3:] = to_vectors(make_transform(np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]), np.zeros(3)))[3:]
    with pytest.raises(GeometryError, match="level"):
        extrapolated(tilted, grid="lateral", lateral_m=(1.0,))


def test_orientation_and_height_follow_the_trajectory_where_asked():
    poses = street([0.0, 10.0, 20.0], yaw=[0.0, 0.0, 1.0], z=[1.0, 2.0, 2.0])
    found = extrapolated(poses, step_m=5.0, span_m=5.0, follow_trajectory=True)
    at = {
        (a, round(x), round(y)): p
        for a, x, y, p in zip(found.anchors[:, 0], *found.poses[:, :2].T, found.poses, strict=True)
    }
    for key, z, yaw in (((0, 5, 0), 1.5, 0.0), ((0, -5, 0), 1.0, 0.0), ((1, 15, 0), 2.0, 0.5), ((1, 5, 0), 1.5, 0.0),
                        ((2, 15, 0), 2.0, 0.5), ((1, 10, 5), 2.0, 0.0)):  # fmt: skip
        expected = from_vectors(street(key[1], key[2], yaw, z))
        np.testing.assert_allclose(from_vectors(at[key]), expected, atol=1e-5, err_msg=str(key))
    plain = extrapolated(poses, step_m=5.0, span_m=5.0)
    np.testing.assert_array_equal(plain.poses[:, 2:], poses[plain.anchors[:, 0], 2:])


def test_turned_targets_stand_at_one_place():
    poses = street([0.0, 4.0])
    found = interpolated(poses, step_m=2.0, yaw_deg=(-30.0, 0.0, 30.0))
    assert len(found) == 3 and (found.anchors == found.anchors[0]).all()
    np.testing.assert_allclose(
        from_vectors(found.poses), from_vectors(street(2.0, yaw=np.radians([-30.0, 0, 30]))), atol=1e-6
    )
    angles = rotation_angle(from_vectors(found.poses)[:, :3, :3], from_vectors(poses[:1])[0, :3, :3])
    np.testing.assert_allclose(np.degrees(angles), [30, 0, 30], atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"step_m": 0.05, "span_m": 20.0},
        {"step_m": 0.001, "span_m": 1000.0, "grid": "global"},
        {"step_m": 0.1, "span_m": 10.0, "grid": "global"},
        {"scheme": "interpolate", "step_m": 0.001},
        {"grid": "lateral", "lateral_m": tuple(float(x) for x in range(1, 600))},
    ],
)
def test_too_many_targets_are_refused_before_they_are_made(settings):
    with pytest.raises(ConfigError, match="at most max_targets = 1000"):
        targets_of(street([0.0, 2.0]), TargetSettings(max_targets=1000, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"lateral_m": (1.0,)},
        {"grid": "lateral"},
        {"grid": "lateral", "lateral_m": (0.0,)},
        {"yaw_deg": ()},
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings):
    with pytest.raises(ConfigError):
        TargetSettings(**settings)
