from __future__ import annotations

import numpy as np
import pytest

from vloc_ros.errors import ConfigError
from vloc_ros.town import Town, Traversal
from vloc_ros.types import check_transform


def test_a_drive_covers_the_loop_once_at_ten_hertz(town: Town, drive: Traversal) -> None:
    n = len(drive)
    assert n == pytest.approx(town.loop.length / 0.5, abs=1)
    steps = np.diff(drive.stamps_ns)
    assert drive.stamps_ns.dtype == np.int64
    assert (np.abs(steps - 100_000_000) < 4_000_000).all()
    xy = drive.T_map_base[:, :2, 3]
    moved = np.linalg.norm(np.diff(xy, axis=0), axis=1)
    assert moved.mean() == pytest.approx(0.5, rel=0.12)
    assert moved.max() < 1.2
    nearest = np.min(np.linalg.norm(town.loop.points[:, None] - xy[None], axis=2), axis=1)
    assert nearest.max() < 4.0


def test_poses_are_rigid_in_the_right_lane_and_on_the_road(town: Town, drive: Traversal) -> None:
    for T in drive.T_map_base[::40]:
        check_transform(T)
    centre, tangent = town.loop.at(drive.arc_m)
    offset = drive.T_map_base[:, :2, 3] - centre
    lateral = (offset * np.stack([-tangent[:, 1], tangent[:, 0]], 1)).sum(1)
    assert -3.2 < lateral.min() and lateral.max() < -0.5
    assert lateral.std() > 0.05
    x, y, z = drive.T_map_base[:, :3, 3].T
    assert np.abs(z - town.terrain.height(x, y)).max() < 0.12
    # Forward is the way it goes; the camera looks along it, 1.6 m up.
    ahead = np.diff(drive.T_map_base[:, :3, 3], axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    assert ((ahead * drive.T_map_base[:-1, :3, 0]).sum(1)).min() > 0.99
    assert ((drive.T_map_cam[:-1, :3, 2] * ahead).sum(1)).min() > 0.98
    assert (drive.T_map_cam[:, 1, 1] ** 2).max() < 1
    height = drive.T_map_cam[:, 2, 3] - z
    assert 1.4 < height.min() and height.max() < 1.8


def test_hills_and_suspension_move_the_vehicle(drive: Traversal) -> None:
    z = drive.T_map_base[:, 2, 3]
    assert z.max() - z.min() > 0.3
    pitch = np.degrees(-np.arcsin(drive.T_map_base[:, 2, 0]))
    roll = np.degrees(np.arcsin(drive.T_map_base[:, 2, 1]))
    assert pitch.std() > 0.3 and roll.std() > 0.2
    assert np.abs(pitch).max() < 15 and np.abs(roll).max() < 15


def test_the_area_holds_every_drive(town: Town) -> None:
    lower, upper = town.area
    for index in range(4):
        t = Traversal(town, index).T_map_cam[:, :3, 3]
        assert (t > lower).all() and (t < upper).all()


def test_seed_and_index_decide_everything(town: Town, drive: Traversal) -> None:
    same, other = Traversal(town, 0), Traversal(town, 1)
    np.testing.assert_array_equal(same.T_map_base, drive.T_map_base)
    np.testing.assert_array_equal(same.stamps_ns, drive.stamps_ns)
    np.testing.assert_array_equal(same.T_odom_base, drive.T_odom_base)
    np.testing.assert_array_equal(same.static_rows, drive.static_rows)
    assert not np.allclose(other.T_map_base[0], drive.T_map_base[0], atol=0.5)
    assert other.static_rows.shape != drive.static_rows.shape or not np.allclose(other.static_rows, drive.static_rows)


def test_odometry_drifts_like_wheels(town: Town) -> None:
    ends = []
    for index in range(6):
        drive = Traversal(town, index)
        odom, T = drive.T_odom_base, drive.T_map_base
        np.testing.assert_allclose(odom[0], np.eye(4))
        check_transform(odom[-1])
        relative_true = np.linalg.inv(T[0]) @ T[-1]
        ends.append(np.linalg.norm(odom[-1][:3, 3] - relative_true[:3, 3]))
        one = np.linalg.inv(odom[10]) @ odom[11]
        true = np.linalg.inv(T[10]) @ T[11]
        assert np.linalg.norm(one[:3, 3] - true[:3, 3]) < 0.05
    assert 0.05 < np.median(ends) < 0.05 * town.loop.length


def test_settings_change_the_drive(town: Town) -> None:
    assert len(Traversal(town, 0, spacing_m=2.0)) == pytest.approx(town.loop.length / 2.0, abs=1)
    twice = Traversal(town, 0, spacing_m=2.0, laps=2.0)
    assert twice.arc_m[-1] - twice.arc_m[0] > 1.9 * town.loop.length
    assert Traversal(town, 0, light="winter").light.snow > 0
    with pytest.raises(ConfigError, match="index >= 0"):
        Traversal(town, -1)
    with pytest.raises(ConfigError, match="spacing"):
        Traversal(town, 0, spacing_m=0.0)


def test_no_traffic_means_none(town: Town) -> None:
    empty = Traversal(town, 0, traffic=0.0)
    assert len(empty.traffic.parked) == 0
    assert len(empty.moving_rows(3)) == 0
    busy = Traversal(town, 0, traffic=2.0)
    assert len(busy.traffic.parked) > 50
