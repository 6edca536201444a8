"""Oxford RobotCar: layout, colours, distortion tables, which way round each sensor sits, the poses' world."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.robotcar import DATUM
from vloc_ros.datasets.robotcar_camera import BayerImages, demosaic, read_bayer
from vloc_ros.datasets.robotcar_poses import grid_convergence, map_ned
from vloc_ros.datasets.robotcar_rig import T_BASE_VEHICLE, se3_of, sensor_mountings
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.geodesy import Datum, geodetic_to_ecef
from vloc_ros.geometry.rotations import euler_to_matrix, matrix_to_euler
from vloc_ros.geometry.se3 import inverse, make_transform

START_US = 1_400_075_940_000_000
NAME = "2014-05-14-13-59-05"
W, H = 8, 6
INS_HEADER = (
    "timestamp,ins_status,latitude,longitude,altitude,northing,easting,down,utm_zone,"
    "velocity_north,velocity_east,velocity_down,roll,pitch,yaw"
)
RTK_HEADER = INS_HEADER.replace("ins_status,", "")
GPS_HEADER = (
    "timestamp,num_satellites,latitude,longitude,altitude,latitude_sigma,longitude_sigma,altitude_sigma,"
    "northing,easting,down,utm_zone"
)
VO_HEADER = "source_timestamp,destination_timestamp,x,y,z,roll,pitch,yaw"
G_LEFT = "0 -0 1 0\n1 0 -0 {}\n0 1 0 0\n0 0 0 1\n"
MODEL_NAMES = ("stereo_wide_left", "stereo_wide_right", "stereo_narrow_left", "mono_left", "mono_right", "mono_rear")
FRD = np.diag([1.0, -1.0, -1.0, 1.0])


def pose_row(stamp_us, T_map_unit, datum=None, status="INS_SOLUTION_GOOD"):
    """A line of ins.csv (or rtk.csv) for a unit (x forward, y right, z down) at ``T_map_unit`` in the map."""
    datum = datum or Datum(*DATUM)
    lat, lon, alt = (float(v) for v in datum.to_geodetic(T_map_unit[:3, 3]))
    R_ned = map_ned(datum, np.array([lat]), np.array([lon]))[0].T @ T_map_unit[:3, :3]
    rpy = ",".join(repr(float(v)) for v in matrix_to_euler(R_ned))
    head = str(stamp_us) if status is None else f"{stamp_us},{status}"
    return f"{head},{lat!r},{lon!r},{alt!r},5735841.4,620000.1,{-alt!r},30U,0.1,0.2,0.0,{rpy}"


def base_poses(count):
    """The base on a bend, at 10 m/s."""
    k = np.arange(count)
    rpy = np.stack([0.02 * np.sin(k), 0.03 * np.cos(k), 0.4 + 0.05 * k], axis=-1)
    return make_transform(euler_to_matrix(rpy), np.stack([200 + k, -100 + 0.3 * k, 3 + 0.1 * np.sin(k)], axis=-1))


def unit_poses(T_map_base):
    return T_map_base @ sensor_mountings(None)["ins"]


def write_tables(folder, table, header, rows):
    (folder / table).parent.mkdir(parents=True, exist_ok=True)
    (folder / table).write_text("\n".join([header, *rows]) + "\n")


def write_models(root, width=W, height=H):
    models = root / "models"
    models.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    for name in MODEL_NAMES:
        baseline = 0.239983 if name == "stereo_wide_right" else 0
        (models / f"{name}.txt").write_text("10.5 10.25 3.5 2.5\n" + G_LEFT.format(baseline))
        np.stack([x, y]).tofile(models / f"{name}_distortion_lut.bin")
    return models


def mosaic(pattern, rgb, height=H, width=W):
    """A Bayer image of one colour all over."""
    out = np.zeros((height, width), np.uint8)
    for place, colour in enumerate(pattern):
        out[place // 2 :: 2, place % 2 :: 2] = rgb["RGB".index(colour)]
    return out


def write_drive(root, camera="stereo/centre", count=6, chunks=None, stamps=None, tables=True):
    """A drive with images every 100 ms, and ins.csv at their stamps (``base_poses``)."""
    drive = root / NAME
    (drive / camera).mkdir(parents=True)
    stamps = stamps or [START_US + 100_000 * k for k in range(count)]
    pattern = "GBRG" if camera.startswith("stereo") else "RGGB"
    for number, stamp in enumerate(stamps):
        cv2.imwrite(str(drive / camera / f"{stamp}.png"), mosaic(pattern, (20 + number, 120, 220)))
    lines = [f"{stamp} {chunk}" for stamp, chunk in zip(stamps, chunks or [1] * len(stamps), strict=True)]
    (drive / f"{camera.split('/')[0]}.timestamps").write_text("\n".join(lines) + "\n")
    write_models(root)
    if tables:
        T = unit_poses(base_poses(count))
        rows = [pose_row(s, T[k]) for k, s in enumerate(sorted(stamps)[:count])]
        write_tables(drive, "gps/ins.csv", INS_HEADER, rows)
    return drive


def edit(path, number, change):
    lines = path.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines) + "\n")


def opened(drive, problems=None, **options):
    return open_source(f"robotcar:{drive}", problems, **options)[0]


# ---------------------------------------------------------------- layout and poses


def test_a_drive_is_found_out_and_its_poses_come_back(tmp_path):
    drive = write_drive(tmp_path)
    assert detect(drive) == "robotcar" and detect(tmp_path) == "robotcar"
    found = opened(drive)
    T = base_poses(6)
    np.testing.assert_array_equal(found.stamps_ns, [(START_US + 100_000 * k) * 1000 for k in range(6)])
    # A latitude in degrees resolves 4e-10 m, and ECEF 9e-10 m: the positions can be no better.
    np.testing.assert_allclose(found.T_map_base[:, :3, 3], T[:, :3, 3], atol=5e-9, rtol=0)
    np.testing.assert_allclose(found.T_map_base[:, :3, :3], T[:, :3, :3], atol=1e-9, rtol=0)
    assert found.datum == Datum(*DATUM) and found.camera.size == (W, H) and found.dropped == {}
    assert (found.camera.fx, found.camera.fy, found.camera.cx, found.camera.cy) == (10.5, 10.25, 3.5, 2.5)
    np.testing.assert_array_equal(found.image(2)[2:4, 2:4], np.full((2, 2, 3), (22, 120, 220)))
    assert [d.name for d in open_source(str(tmp_path))] == [NAME]


def test_a_bag_of_it_has_the_same_stamps_poses_and_images(tmp_path):
    drive = opened(write_drive(tmp_path), undistort=True)
    bag = write_sequence(drive, tmp_path / "bag")
    again = open_source(str(bag))[0]
    np.testing.assert_array_equal(again.stamps_ns, drive.stamps_ns)
    np.testing.assert_allclose(again.T_map_cam, drive.T_map_cam, atol=1e-9, rtol=0)
    for index in range(len(drive)):
        np.testing.assert_array_equal(again.image(index), drive.image(index))


def test_poses_are_interpolated_never_snapped_or_extrapolated(tmp_path):
    """The data set's own tools take the earlier pose, and NaN beyond the table."""
    drive = write_drive(tmp_path, count=5, tables=False)
    T = unit_poses(np.stack([np.eye(4), np.eye(4)]))
    T[1, 0, 3] += 8.0
    rows = [pose_row(START_US + 50_000, T[0]), pose_row(START_US + 350_000, T[1])]
    write_tables(drive, "gps/ins.csv", INS_HEADER, rows)
    problems = Problems()
    found = opened(drive, problems)
    assert len(found) == 3 and np.isfinite(found.T_map_cam).all()
    along = found.T_map_base[:, 0, 3] - found.T_map_base[0, 0, 3]
    np.testing.assert_allclose(along, [0, 8 / 3, 16 / 3], atol=1e-4)  # the Earth is round
    assert found.dropped == {"image without a pose": 2} == problems.counts
    with pytest.raises(DatasetError, match="expected images while poses were recorded"):
        opened(drive, max_gap_s=0.2)


def test_a_gap_of_the_truth_is_a_gap_of_the_drive(tmp_path):
    drive = write_drive(tmp_path, count=12, tables=False)
    T = unit_poses(base_poses(12))
    rows = [pose_row(START_US + 100_000 * k, T[k], status=None) for k in (0, 1, 2, 9, 10, 11)]
    write_tables(tmp_path / "rtk" / NAME, "rtk.csv", RTK_HEADER, rows)
    found = opened(drive, poses="rtk")
    np.testing.assert_array_equal(found.stamps_ns // 100_000_000 - START_US // 100_000, [0, 1, 2, 9, 10, 11])
    np.testing.assert_allclose(found.T_map_base[:, :3, :3], base_poses(12)[[0, 1, 2, 9, 10, 11], :3, :3], atol=1e-9)
    assert found.dropped == {"image without a pose": 6}


@pytest.mark.parametrize("place", ["gps/rtk.csv", "../rtk/" + NAME + "/rtk.csv", "elsewhere.csv"])
def test_the_ground_truth_is_a_file_of_its_own(tmp_path, place):
    drive = write_drive(tmp_path, tables=False)
    with pytest.raises(DatasetError, match=r"found none; it is a download of its own.*rtk=FILE"):
        opened(drive, poses="rtk")
    T = unit_poses(base_poses(6))
    write_tables(drive, place, RTK_HEADER, [pose_row(START_US + 100_000 * k, T[k], status=None) for k in range(6)])
    options = {"rtk": str(drive / place)} if place == "elsewhere.csv" else {}
    found = opened(drive, poses="rtk", **options)
    np.testing.assert_allclose(found.T_map_base[:, :3, 3], base_poses(6)[:, :3, 3], atol=5e-9, rtol=0)


def test_unconverged_solutions_are_left_out_and_counted(tmp_path):
    drive = write_drive(tmp_path)
    table = drive / "gps" / "ins.csv"
    # As the unit writes before it has aligned: no place at all.
    edit(table, 2, lambda line: f"{START_US},INS_ALIGNING,0,0,0,0,0,0,30U,nan,nan,nan,nan,nan,nan")
    edit(table, 3, lambda line: line.replace("INS_SOLUTION_GOOD", "INS_ALIGNMENT_COMPLETE"))
    found = opened(drive)
    assert len(found) == 4
    assert found.dropped == {
        "row of the INS that says INS_ALIGNING": 1,
        "row of the INS that says INS_ALIGNMENT_COMPLETE": 1,
        "image without a pose": 2,
    }
    both = opened(drive, ins_status=["INS_SOLUTION_GOOD", "INS_ALIGNMENT_COMPLETE"])
    assert len(both) == 5
    with pytest.raises(DatasetError, match=r"ins.csv:2: expected finite numbers, found '0 0 0 nan"):
        opened(drive, ins_status=[])


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


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("pattern", ["GBRG", "RGGB"])
def test_colours_come_out_as_they_went_in(pattern):
    """A mosaic with a colour in each quadrant; OpenCV's two-letter names of these patterns exchange red and blue."""
    colours = {(0, 0): (250, 10, 20), (0, 1): (15, 240, 30), (1, 0): (25, 35, 230), (1, 1): (200, 100, 50)}
    size = 16
    raw = np.zeros((2 * size, 2 * size), np.uint8)
    for (row, column), colour in colours.items():
        part = mosaic(pattern, colour, size, size)
        raw[row * size : (row + 1) * size, column * size : (column + 1) * size] = part
    image = demosaic(raw, pattern)
    for (row, column), colour in colours.items():
        inside = image[row * size + 3 : (row + 1) * size - 3, column * size + 3 : (column + 1) * size - 3]
        np.testing.assert_array_equal(inside, np.broadcast_to(colour, inside.shape))


def test_stereo_and_mono_have_other_mosaics(tmp_path):
    for camera in ("stereo/left", "mono_left"):
        drive = write_drive(tmp_path / camera.replace("/", "_"), camera=camera, count=2)
        np.testing.assert_array_equal(opened(drive, camera=camera).image(0)[3, 3], (20, 120, 220))


def raw_images(tmp_path, lut, height=12, width=10, count=1):
    rng = np.random.default_rng(5)
    paths = []
    for number in range(count):
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), rng.integers(0, 255, (height, width), dtype=np.uint8))
    np.asarray(lut, dtype="<f8").tofile(tmp_path / "lut.bin")
    made = BayerImages(tuple(paths), "GBRG", width, height, tmp_path / "lut.bin")
    return made, [demosaic(read_bayer(path), "GBRG") for path in paths]


def test_a_table_that_moves_nothing_changes_no_bit(tmp_path):
    y, x = np.mgrid[0:12, 0:10].astype(np.float64)
    made, plain = raw_images(tmp_path, np.stack([x, y]))
    np.testing.assert_array_equal(made.image(0), plain[0])


def test_tables_hold_x_then_y_of_the_raw_pixel(tmp_path):
    y, x = np.mgrid[0:12, 0:10].astype(np.float64)
    made, plain = raw_images(tmp_path, np.stack([x + 2, y + 1]))
    found = made.image(0)
    np.testing.assert_array_equal(found[:11, :8], plain[0][1:, 2:])
    assert (found[11] == 0).all() and (found[:, 8:] == 0).all()  # from outside: black


def test_tables_are_read_between_pixels(tmp_path):
    y, x = np.mgrid[0:12, 0:10].astype(np.float64)
    made, plain = raw_images(tmp_path, np.stack([x + 0.5, y]))
    expected = (plain[0][:, :9].astype(float) + plain[0][:, 1:]) / 2
    np.testing.assert_allclose(made.image(0)[:, :9], expected, atol=1.0)


def test_the_images_travel_to_other_processes(tmp_path):
    y, x = np.mgrid[0:12, 0:10].astype(np.float64)
    made, _ = raw_images(tmp_path, np.stack([x + 1, y]), count=3)
    made.image(0)
    data = pickle.dumps(made)
    assert len(data) < 2000  # names, not tables
    again = pickle.loads(data)
    for index in (2, 0, 1):
        np.testing.assert_array_equal(again.image(index), made.image(index))
    assert [i for i, _ in made.frames()] == [0, 1, 2] and not hasattr(made, "encoded")


def test_without_undistortion_it_says_that_the_intrinsics_do_not_fit(tmp_path, caplog):
    drive = write_drive(tmp_path)
    (tmp_path / "models" / "stereo_narrow_left_distortion_lut.bin").unlink()
    with pytest.raises(DatasetError, match=r"distortion_lut.bin: expected the table.*undistort=false"):
        opened(drive)
    found = opened(drive, undistort=False)
    assert "the intrinsics do not fit" in caplog.text
    np.testing.assert_array_equal(found.image(1), demosaic(read_bayer(found.source.paths[1]), "GBRG"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid 1\n", "found a Git LFS pointer"),
        (b"0" * 24, r"expected float64 \[2, height \* width\], found 24 bytes"),
        (np.zeros((2, 50)).tobytes(), r"expected 50 pixels as .* has, found 8x6 = 48"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, content, message):
    drive = write_drive(tmp_path)
    (tmp_path / "models" / "stereo_narrow_left_distortion_lut.bin").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        opened(drive)


def test_tables_with_nan(tmp_path):
    made, _ = raw_images(tmp_path, np.full((2, 12, 10), np.nan))
    with pytest.raises(DatasetError, match="expected finite pixels"):
        made.image(0)


def test_images_that_are_cut_short_coloured_or_of_another_size(tmp_path):
    drive = write_drive(tmp_path)
    paths = opened(drive).source.paths
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-6])
    with pytest.raises(DatasetError, match=rf"{paths[1].name}: the PNG file breaks off"):
        opened(drive).image(1)
    cv2.imwrite(str(paths[1]), np.zeros((H, W, 3), np.uint8))
    with pytest.raises(DatasetError, match="expected a raw 8-bit Bayer image of one channel"):
        opened(drive).image(1)
    cv2.imwrite(str(paths[1]), np.zeros((H + 2, W), np.uint8))
    with pytest.raises(DatasetError, match=rf"{paths[1].name}: expected 8x6 as the first image, found 8x8"):
        opened(drive).image(1)
    paths[0].write_bytes(whole[:40])
    with pytest.raises(DatasetError, match=rf"{paths[0].name}: the PNG file breaks off"):
        opened(drive)
    problems = Problems(keep_going=True)
    paths[1].write_bytes(whole)
    found = opened(drive, problems)
    assert (
        len(found) == 5 and found.dropped == {"image that cannot be decoded": 1} and found.source.paths[0] == paths[1]
    )


# ---------------------------------------------------------------- stamps and chunks


def test_a_missing_chunk_is_named(tmp_path):
    drive = write_drive(tmp_path, chunks=[1, 1, 2, 2, 2, 3])
    for number in (2, 3, 4):
        (drive / "stereo/centre" / f"{START_US + 100_000 * number}.png").unlink()
    with pytest.raises(
        DatasetError,
        match=r"stereo.timestamps:3: expected the images of chunk 2 .*found 3 of 3 missing; download chunk 2",
    ):
        opened(drive)
    problems = Problems(keep_going=True)
    found = opened(drive, problems)
    assert len(found) == 3 and found.dropped == {"image of chunk 2 that is not there": 3}
    np.testing.assert_allclose(found.T_map_base[2, :3, :3], base_poses(6)[5, :3, :3], atol=1e-9)


@pytest.mark.parametrize("camera", ["stereo/centre", "mono_rear"])
def test_stamps_lie_one_or_two_levels_above_the_images(tmp_path, camera):
    drive = write_drive(tmp_path, camera=camera)
    sensor = camera.split("/")[0]
    listed = drive / f"{sensor}.timestamps"
    other = drive / sensor / f"{sensor}.timestamps" if "/" in camera else drive.parent / f"{sensor}.timestamps"
    listed.rename(other)
    assert len(opened(drive, camera=camera)) == 6
    other.unlink()
    with pytest.raises(
        DatasetError, match=rf"expected the stamps of the images in .*{sensor}.timestamps or .*found neither"
    ):
        opened(drive, camera=camera)


def test_stamps_out_of_order_and_repeated(tmp_path):
    stamps = [START_US + 100_000 * k for k in (0, 2, 1, 3)]
    drive = write_drive(tmp_path, stamps=stamps, count=4)
    with pytest.raises(DatasetError, match=rf"stereo.timestamps:3: expected increasing stamps, found {stamps[2]}"):
        opened(drive)
    with (drive / "stereo.timestamps").open("a") as file:
        file.write(f"{stamps[3]} 1\n")
    problems = Problems(keep_going=True)
    found = opened(drive, problems)
    np.testing.assert_array_equal(found.stamps_ns, np.sort(stamps) * 1000)
    assert found.dropped == {"stamp out of order": 1, "repeated stamp": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1400075940 1", r"stereo.timestamps:2: expected a stamp in us since 1970.*in s it would be"),
        ("1400075940100000000 1", r"stereo.timestamps:2: .*in ns it would be"),
        ("x 1", r"stereo.timestamps:2: expected a stamp in us, found 'x'"),
        ("1400075940100000", r"stereo.timestamps:2: expected 2 fields, found 1"),
    ],
)
def test_bad_lines_of_stamps(tmp_path, line, message):
    drive = write_drive(tmp_path)
    edit(drive / "stereo.timestamps", 2, lambda _: line)
    with pytest.raises(DatasetError, match=message):
        opened(drive)
    problems = Problems(keep_going=True)
    assert len(opened(drive, problems)) == 5 and sum(problems.counts.values()) == 2  # the line, and its image


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: [*f[:12], "nan", *f[13:]], r"ins.csv:4: expected finite numbers"),
        (lambda f: [*f[:2], "north", *f[3:]], r"ins.csv:4: expected numbers"),
        (lambda f: f[:-1], r"ins.csv:4: expected 15 fields, found 14"),
        (lambda f: [f[0][:10], *f[1:]], r"ins.csv:4: expected a stamp in us since 1970.*in s it"),
        (lambda f: [*f[:14], "90.0"], r"ins.csv:4: expected roll, pitch, yaw in radians"),
        (lambda f: [f[0], f[1], f[3], f[2], *f[4:]], r"ins.csv:4: expected a place within 100 km"),
        (lambda f: [f[0], f[1], "5735841.4", *f[3:]], r"ins.csv:4: expected latitude and longitude in degrees"),
    ],
)
def test_bad_rows_of_poses(tmp_path, change, message):
    drive = write_drive(tmp_path)
    edit(drive / "gps" / "ins.csv", 4, lambda line: ",".join(change(line.split(","))))
    with pytest.raises(DatasetError, match=message):
        opened(drive)
    problems = Problems(keep_going=True)
    found = opened(drive, problems)
    assert len(found) == 6 and sum(problems.counts.values()) == 1  # its neighbours are 0.2 s apart
    np.testing.assert_allclose(found.T_map_base[[1, 3], :3, :3], base_poses(6)[[1, 3], :3, :3], atol=1e-9)


def test_poses_out_of_order_and_repeated(tmp_path):
    drive = write_drive(tmp_path)
    table = drive / "gps" / "ins.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:], lines[6]]) + "\n")
    with pytest.raises(DatasetError, match=r"ins.csv:3: expected increasing stamps"):
        opened(drive)
    problems = Problems(keep_going=True)
    found = opened(drive, problems)
    np.testing.assert_allclose(found.T_map_base[:, :3, :3], base_poses(6)[:, :3, :3], atol=1e-9)
    assert problems.counts == {"stamp out of order": 1, "repeated stamp": 1}


def test_tables_without_the_names_of_their_columns(tmp_path):
    drive = write_drive(tmp_path)
    edit(drive / "gps" / "ins.csv", 1, lambda line: line.replace("altitude,", ""))
    with pytest.raises(
        DatasetError, match=r"ins.csv:1: expected a first line that names the columns .*found no altitude"
    ):
        opened(drive)
    (drive / "gps" / "ins.csv").unlink()
    with pytest.raises(DatasetError, match=r"ins.csv: expected the poses, found no file; download them, or choose"):
        opened(drive)


def test_what_is_missing_is_said(tmp_path):
    drive = write_drive(tmp_path)
    with pytest.raises(DatasetError, match=r"expected the stamps .*mono_rear.timestamps"):
        opened(drive, camera="mono_rear")
    with pytest.raises(DatasetError, match=r"expected the images of stereo/left, found no folder"):
        opened(drive, camera="stereo/left")
    with pytest.raises(ConfigError, match="camera: expected one of"):
        opened(drive, camera="stereo")
    (tmp_path / "models" / "stereo_narrow_left.txt").write_text("10 10 3 2\n")
    with pytest.raises(DatasetError, match=r"stereo_narrow_left.txt: expected a line fx fy cx cy and the 4 lines"):
        opened(drive)
    (tmp_path / "models" / "stereo_narrow_left.txt").write_text("10 10 3 2\n" + "1 0 0 0\n" * 4)
    with pytest.raises(DatasetError, match=r"stereo_narrow_left.txt:2: expected"):
        opened(drive)
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"expected the cameras' models in a folder models.*models=FOLDER"):
        opened(drive)
    with pytest.raises(DatasetError, match=r"expected a drive \(a folder with stereo/left"):
        opened(tmp_path / "elsewhere")
    write_models(tmp_path / "given")
    assert len(opened(drive, models=str(tmp_path / "given/models"))) == 6
    for path in (drive / "stereo/centre").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="missing; download chunk 1"):
        opened(drive)


def test_images_that_no_list_names(tmp_path):
    drive = write_drive(tmp_path)
    extra = START_US + 55
    cv2.imwrite(str(drive / "stereo/centre" / f"{extra}.png"), np.zeros((H, W), np.uint8))
    assert opened(drive).dropped == {"image without a stamp": 1}
