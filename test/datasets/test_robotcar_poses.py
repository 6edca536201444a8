"""Oxford RobotCar: the poses' world, visual odometry, fixes, and which way round each sensor sits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robotcar_drives import (
    FRD,
    GPS_HEADER,
    INS_HEADER,
    START_US,
    VO_HEADER,
    base_poses,
    edit,
    opened,
    pose_row,
    write_drive,
    write_tables,
)

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.robotcar import DATUM
from vloc_ros.datasets.robotcar.poses import grid_convergence, heading_off, map_ned
from vloc_ros.datasets.robotcar.sensors import T_BASE_VEHICLE, se3_of, sensor_mountings
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.geodesy import Datum, geodetic_to_ecef
from vloc_ros.geometry.rotations import euler_to_matrix, matrix_to_euler
from vloc_ros.geometry.se3 import inverse, make_transform

# ---------------------------------------------------------------- the world of the poses


def test_the_map_is_east_north_up_and_yaw_counts_from_north(tmp_path):
    """A unit that looks north-east: 45 deg clockwise from north."""
    drive = write_drive(tmp_path, count=2, tables=False)
    lat, lon, alt = DATUM
    rows = [
        f"{START_US + 100_000 * k},INS_SOLUTION_GOOD,{lat + 1e-5 * k},{lon},{alt},0,0,0,30U,0,0,0,0.0,0.0,{np.pi / 4!r}"
        for k in range(2)
    ]
    write_tables(drive, "gps/ins.csv", INS_HEADER, rows)
    extrinsics = drive / "extrinsics"
    extrinsics.mkdir()
    (extrinsics / "ins.txt").write_text("0 0 0 0 0 0\n")
    found = opened(drive)
    T = found.T_map_base[0]
    np.testing.assert_allclose(T[:3, 0], [np.sqrt(0.5), np.sqrt(0.5), 0], atol=1e-9)  # forward: east and north
    np.testing.assert_allclose(T[:3, 1], [-np.sqrt(0.5), np.sqrt(0.5), 0], atol=1e-9)  # left: north-west
    np.testing.assert_allclose(T[:3, 2], [0, 0, 1], atol=1e-9)
    north = found.T_map_base[1, :3, 3] - T[:3, 3]
    np.testing.assert_allclose(north, [0, 1.1126, 0], atol=1e-4)
    np.testing.assert_allclose(found.T_map_cam[0, :3, 2], T[:3, 0], atol=1e-9)  # the camera looks ahead
    np.testing.assert_allclose(found.T_map_cam[0, :3, 1], [0, 0, -1], atol=1e-9)


def test_yaw_from_the_grids_north_is_turned_by_the_convergence(tmp_path):
    drive = write_drive(tmp_path)
    true, grid = opened(drive), opened(drive, north="grid")
    # The publishers' own example: 51.7606 N, 1.2612 W, 620 km east in zone 30 (central meridian 3 W).
    expected = np.arctan(np.tan(np.radians(3 - 1.26)) * np.sin(np.radians(51.76)))
    assert np.degrees(expected) == pytest.approx(1.366, abs=2e-3)
    turned = true.T_map_base[:, :3, :3].transpose(0, 2, 1) @ grid.T_map_base[:, :3, :3]
    # The grid's north lies east of true north, so headings turn right: clockwise, seen from above.
    forward_true, forward_grid = true.T_map_base[:, :2, 0], grid.T_map_base[:, :2, 0]
    cross = forward_true[:, 0] * forward_grid[:, 1] - forward_true[:, 1] * forward_grid[:, 0]
    assert (cross < 0).all()
    angle = np.arccos((np.trace(turned, axis1=1, axis2=2) - 1) / 2)
    np.testing.assert_allclose(angle, expected, atol=1e-4)
    edit(drive / "gps" / "ins.csv", 3, lambda line: line.replace("30U", "U"))
    with pytest.raises(DatasetError, match=r"ins.csv:3: expected a UTM zone such as 30U, found 'U'"):
        opened(drive, north="grid")
    problems = Problems(keep_going=True)
    opened(drive, problems, north="grid")
    assert problems.counts == {"UTM zone that is none": 1}


def test_a_yaw_that_is_off_the_direction_of_travel_is_told(tmp_path, caplog):
    drive = write_drive(tmp_path, tables=False)
    k = np.arange(150)
    heading, between = 0.3 + 0.3 * np.sin(k / 20), 0.3 + 0.3 * np.sin((k - 0.5) / 20)
    T = make_transform(
        euler_to_matrix(np.stack([np.full(150, np.pi), 0 * k, heading], axis=-1)),  # z down
        np.stack([np.cumsum(np.cos(between)), np.cumsum(np.sin(between)), 0.0 * k], axis=-1) * 1.2,
    )
    gamma = np.arctan(np.tan(np.radians(3 - 1.26)) * np.sin(np.radians(51.76)))
    rows = []
    for number in range(150):
        fields = pose_row(START_US + 100_000 * number, T[number]).split(",")
        rows.append(",".join([*fields[:-1], repr(float(fields[-1]) - float(gamma))]))  # from the grid's north
    write_tables(drive, "gps/ins.csv", INS_HEADER, rows)
    opened(drive, north="grid")
    assert "direction of travel" not in caplog.text
    opened(drive)
    assert "yaw lies 1.3" in caplog.text and "about 1.37 deg would mean" in caplog.text


@given(st.floats(-70, 70), st.floats(-2.9, 2.9))
def test_convergence_is_that_of_the_projection(latitude, from_centre):
    """Against a transverse Mercator projection of the sphere, differentiated along the meridian."""

    def project(lat, lon):
        lat, lon = np.radians(lat), np.radians(lon)
        b = np.cos(lat) * np.sin(lon)
        return np.arctanh(b), np.arctan2(np.tan(lat), np.cos(lon))

    step = 1e-5
    (e0, n0), (e1, n1) = project(latitude - step, from_centre), project(latitude + step, from_centre)
    bearing_of_true_north = np.arctan2(e1 - e0, n1 - n0)
    found = grid_convergence(np.array([latitude]), np.array([-3 + from_centre]), np.array([30.0]))[0]
    assert found == pytest.approx(-bearing_of_true_north, abs=1e-7)


@given(st.floats(-80, 80), st.floats(-179, 179))
def test_north_east_down_are_the_directions_in_which_the_coordinates_grow(latitude, longitude):
    datum = Datum(latitude, longitude, 10.0)
    far = (latitude + 0.01, longitude + 0.01)
    here = geodetic_to_ecef(*far, 0.0)
    step = 1e-6
    grown = [(far[0] + step, far[1], 0.0), (far[0], far[1] + step, 0.0), (*far, -1.0)]
    directions = np.stack([geodetic_to_ecef(*g) - here for g in grown])
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    R = map_ned(datum, np.array([far[0]]), np.array([far[1]]))[0]
    np.testing.assert_allclose((datum.R_enu_ecef.T @ R).T, directions, atol=1e-6)


def test_a_datum_of_ones_own(tmp_path):
    drive = write_drive(tmp_path)
    moved = opened(drive, datum=[51.7602, -1.262, 60.0])
    assert moved.datum == Datum(51.7602, -1.262, 60.0)
    places = [d.datum.to_geodetic(d.T_map_base[:, :3, 3]) for d in (moved, opened(drive))]
    for one, other, tolerance in zip(*places, (1e-13, 1e-13, 1e-8), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14, atol=tolerance)
    apart = np.abs(moved.T_map_base[:, :3, 3] - opened(drive).T_map_base[:, :3, 3]).max(axis=0)
    np.testing.assert_allclose(apart, [138.1, 22.3, 50], atol=0.5)
    with pytest.raises(DatasetError, match=r"ins.csv:2: expected a place within 100 km.*datum=\[lat,lon,alt\]"):
        opened(drive, datum=[48.1, 11.6, 500.0])


# ---------------------------------------------------------------- visual odometry and GNSS


def vo_rows(T_base, stamps, later_first=True):
    rows = []
    for k in range(1, len(stamps)):
        step = FRD @ inverse(T_base[k - 1]) @ T_base[k] @ FRD
        numbers = ",".join(repr(float(v)) for v in (*step[:3, 3], *matrix_to_euler(step[:3, :3])))
        ends = (stamps[k], stamps[k - 1]) if later_first else (stamps[k - 1], stamps[k])
        rows.append(f"{ends[0]},{ends[1]},{numbers}")
    return rows


@pytest.mark.parametrize("later_first", [True, False])
def test_visual_odometry_is_chained(tmp_path, later_first):
    drive = write_drive(tmp_path, tables=False)
    T = base_poses(6)
    stamps = [START_US + 100_000 * k for k in range(6)]
    write_tables(drive, "vo/vo.csv", VO_HEADER, vo_rows(T, stamps, later_first))
    found = opened(drive, poses="vo")
    np.testing.assert_allclose(found.T_map_base, inverse(T[0]) @ T, atol=1e-9, rtol=0)
    assert found.datum is None and found.T_odom_base is None
    assert found.T_map_base[5, 0, 3] > 4  # ahead


def test_visual_odometry_beside_the_ins_is_odometry(tmp_path):
    drive = write_drive(tmp_path)
    T = base_poses(6)
    stamps = [START_US + 100_000 * k for k in range(6)]
    write_tables(drive, "vo/vo.csv", VO_HEADER, vo_rows(T[1:5], stamps[1:5]))
    found = opened(drive)
    assert len(found) == 6
    np.testing.assert_allclose(found.T_odom_base[1:5], inverse(T[1]) @ T[1:5], atol=1e-9, rtol=0)
    assert np.isnan(found.T_odom_base[[0, 5]]).all()


def test_a_break_in_the_odometry(tmp_path):
    drive = write_drive(tmp_path)
    T = base_poses(6)
    stamps = [START_US + 100_000 * k for k in range(6)]
    rows = vo_rows(T, stamps)
    write_tables(drive, "vo/vo.csv", VO_HEADER, [rows[0], *rows[2:]])
    with pytest.raises(
        DatasetError, match=rf"vo.csv:3: expected a step from {stamps[1]} us.*found one from {stamps[2]}"
    ):
        opened(drive)
    problems = Problems(keep_going=True)
    found = opened(drive, problems)
    np.testing.assert_allclose(found.T_odom_base[2:], inverse(T[2]) @ T[2:], atol=1e-9, rtol=0)
    assert np.isnan(found.T_odom_base[:2]).all()
    assert problems.counts == {"break in the visual odometry": 1, "step of odometry beyond a break": 1}


def test_fixes_of_the_receiver(tmp_path):
    drive = write_drive(tmp_path)
    rows = [f"{START_US + k},9,51.7{k},-1.2{k},110.{k},1.5,2.5,4.0,0,0,0,30U" for k in range(3)]
    write_tables(drive, "gps/gps.csv", GPS_HEADER, rows)
    fixes = opened(drive).gnss
    np.testing.assert_array_equal(fixes.stamps_ns, [(START_US + k) * 1000 for k in range(3)])
    np.testing.assert_array_equal(fixes.latitude_deg, [51.70, 51.71, 51.72])
    np.testing.assert_array_equal(fixes.variance_m2[0], [6.25, 2.25, 16.0])  # east, north, up
    assert fixes.frame_id in opened(drive).rig
    table = drive / "gps" / "gps.csv"
    edit(table, 3, lambda line: line.replace("51.71", "5171"))
    edit(table, 4, lambda line: line.replace(str(START_US + 2), str(START_US)))
    with pytest.raises(DatasetError, match=r"gps.csv:3: expected latitude and longitude in degrees, found 5171"):
        opened(drive)
    problems = Problems(keep_going=True)
    assert len(opened(drive, problems).gnss.stamps_ns) == 1
    assert problems.counts == {"place that is none": 1, "stamp out of order": 1}


# ---------------------------------------------------------------- which way round the sensors sit


def test_mono_cameras_hold_the_vehicle_in_the_camera_and_are_turned_round():
    """Where the cameras sit on the car, from the pictures of it: left of it looking left, and so on."""
    T = sensor_mountings(None)
    place = {name: mounting[:3, 3] for name, mounting in T.items()}
    looks = {name: mounting[:3, 0] for name, mounting in T.items()}
    np.testing.assert_allclose(place["mono_left"], [-1.538, 0.600, -0.207], atol=1e-3)  # behind, left, below
    np.testing.assert_allclose(place["mono_right"], [-1.560, -0.723, -0.205], atol=1e-3)
    np.testing.assert_allclose(place["mono_rear"], [-2.086, -0.060, -0.154], atol=1e-3)
    assert looks["mono_left"][1] > 0.9 and looks["mono_right"][1] < -0.9 and looks["mono_rear"][0] < -0.9
    for name in ("mono_left", "mono_right", "mono_rear"):
        assert -0.3 < looks[name][2] < -0.1  # all look down a little
        assert T[name][2, 2] < -0.9  # the sensor's z is down
    # The INS is in the boot: its file is the right way round.
    np.testing.assert_allclose(place["ins"], [-1.7132, -0.1181, -1.1948], atol=1e-12)
    np.testing.assert_array_equal(T["stereo"], T_BASE_VEHICLE)


def test_mono_rear_agrees_with_the_one_of_robotcar_seasons():
    """``rear_extrinsics.txt`` of RobotCar Seasons: camera to car, both with x right, y down, z forward."""
    seasons = np.array(
        [
            [-0.999802, -0.011530, -0.016233, 0.060209],
            [-0.015184, 0.968893, 0.247013, 0.153691],
            [0.012880, 0.247210, -0.968876, -2.086142],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    T_sensor_optical = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    T_vehicle_sensor = FRD @ sensor_mountings(None)["mono_rear"]
    np.testing.assert_allclose(inverse(T_sensor_optical) @ T_vehicle_sensor @ T_sensor_optical, seasons, atol=2e-6)


def test_extrinsics_of_ones_own_and_other_sensors(tmp_path):
    drive = write_drive(tmp_path, camera="mono_rear")
    folder = tmp_path / "extrinsics"
    folder.mkdir()
    values = (-2.0, 0.1, 0.4, 0.01, -0.2, 3.0)
    (folder / "mono_rear.txt").write_text(" ".join(map(str, values)))
    (folder / "ldmrs.txt").write_text("1.5349 0.0090 1.3777 0.0205 0.0767 -0.0299")
    found = opened(drive, camera="mono_rear")
    T_sensor_optical = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    expected = FRD @ inverse(se3_of(np.array(values))) @ T_sensor_optical
    np.testing.assert_allclose(found.T_base_cam, expected, atol=1e-12)
    np.testing.assert_allclose(
        found.rig["ldmrs"], FRD @ se3_of(np.array([1.5349, 0.009, 1.3777, 0.0205, 0.0767, -0.0299]))
    )
    assert set(found.rig) == {"ins", "ldmrs", "mono_left", "mono_right", "stereo_left", "stereo_centre", "stereo_right"}
    np.testing.assert_allclose(found.rig["stereo_right"][:3, 3], [0, -0.239983, 0], atol=1e-12)  # right of the left
    np.testing.assert_allclose(found.T_map_base[:, :3, :3], base_poses(6)[:, :3, :3], atol=1e-9)
    (folder / "mono_rear.txt").write_text("1 2 3 0 0 180\n")
    with pytest.raises(DatasetError, match=r"mono_rear.txt:1: expected roll, pitch and yaw in radians"):
        opened(drive, camera="mono_rear")
    (folder / "mono_rear.txt").write_text("1 2 3 0 0\n")
    with pytest.raises(DatasetError, match=r"mono_rear.txt:1: expected 6 fields, found 5"):
        opened(drive, camera="mono_rear")


def test_the_direction_of_travel_survives_a_jump_of_any_size():
    """A damaged position: steps of a metre over 10^13 of them are not laid out one by one."""
    T = np.tile(np.eye(4), (400, 1, 1))
    T[:, 0, 3] = np.arange(400.0)
    assert heading_off(T) == 0.0
    T[200:, 0, 3] += 1e13
    assert heading_off(T) == 0.0
