"""References of every kind give the same drive; what is wrong with them is told with its place and its remedy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.convert.writer import BagWriter
from vloc_ros.datasets.bag.camera_file import is_camera_file, read_camera_file
from vloc_ros.datasets.bag.drive import BagOptions
from vloc_ros.datasets.bag.sequence import open_bag_sequence
from vloc_ros.datasets.bag.truth import ClockGap, course_of, mounting_of
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import R_BODY_OPTICAL
from vloc_ros.errors import BagError, CameraError, ConfigError, DatasetError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.rotations import euler_to_matrix, matrix_to_quaternion

DATUM = Datum(48.2, 11.5, 500.0)


def images(bag, sequence, mounting=True, info=True, late_ns=0):
    if mounting:
        frames = [("base_link", "camera_optical_frame", int(sequence.stamps_ns[0]), sequence.T_base_cam)]
        bag.transforms("/tf_static", int(sequence.stamps_ns[0]), frames)
    for index, stamp in enumerate(sequence.stamps_ns.tolist()):
        if info:
            bag.camera_info("/camera/camera_info", stamp, "camera_optical_frame", sequence.camera)
        bag.image("/camera/image", stamp + late_ns, "camera_optical_frame", sequence.image(index))


def put(bag, topic, kind, stamp, **fields):
    message = bag._make(kind, header=bag.header(stamp, fields.pop("frame_id", "map")), **fields)
    bag.write(topic, kind, stamp, message)


def fix(bag, stamp, values, status=0):
    put(
        bag, "/fix", "sensor_msgs/msg/NavSatFix", stamp, frame_id="gnss",
        status=bag._make("sensor_msgs/msg/NavSatStatus", status=status, service=1),
        latitude=float(values[0]), longitude=float(values[1]), altitude=float(values[2]),
        position_covariance=np.zeros(9), position_covariance_type=0,
    )  # fmt: skip


def vector(bag, v):
    return bag._make("geometry_msgs/msg/Vector3", **dict(zip("xyz", map(float, v), strict=True)))


def imu(bag, stamp, R, known=True):
    T = np.eye(4)
    T[:3, :3] = R
    covariance = np.zeros(9)
    covariance[0] = 0.0 if known else -1.0
    zeros = vector(bag, (0, 0, 0))
    put(
        bag, "/imu", "sensor_msgs/msg/Imu", stamp, frame_id="imu", orientation=bag._quaternion(T),
        orientation_covariance=covariance, angular_velocity=zeros, angular_velocity_covariance=np.zeros(9),
        linear_acceleration=zeros, linear_acceleration_covariance=np.zeros(9),
    )  # fmt: skip


def turning(sequence):
    """The drive with a heading that changes."""
    T = sequence.T_map_base.copy()
    yaw = np.linspace(0.3, 0.9, len(T))
    T[:, :3, :3] = euler_to_matrix(np.stack([0 * yaw, 0 * yaw, yaw], axis=1))
    T[:, 1, 3] = np.linspace(0, 4, len(T))
    return replace(sequence, T_map_cam=T @ sequence.T_base_cam)


KINDS = ["pose", "pose_with_covariance", "odometry", "transform", "tf"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pose_topic(sequence, tmp_path, kind):
    sequence = turning(sequence)
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            if kind == "pose":
                bag.pose("/where", stamp, "map", T)
            elif kind == "pose_with_covariance":
                bag.pose_with_covariance("/where", stamp, "map", T, np.eye(6))
            elif kind == "odometry":
                bag.odometry("/where", stamp, "map", "base_link", T)
            elif kind == "transform":
                made = bag._make(
                    "geometry_msgs/msg/Transform", translation=vector(bag, T[:3, 3]), rotation=bag._quaternion(T)
                )
                put(
                    bag,
                    "/where",
                    "geometry_msgs/msg/TransformStamped",
                    stamp,
                    child_frame_id="base_link",
                    transform=made,
                )
            else:
                bag.transforms("/tf", stamp, [("map", "base_link", stamp, T)])
    truth = "/tf:map.base_link" if kind == "tf" else "/where"
    found = open_bag_sequence(tmp_path / "bag", BagOptions(truth=truth))
    np.testing.assert_array_equal(found.stamps_ns, sequence.stamps_ns)
    np.testing.assert_allclose(found.T_map_cam, sequence.T_map_cam, atol=1e-9)
    assert found.datum is None


@pytest.mark.parametrize("named", [True, False])
def test_fixes_with_an_imu(sequence, tmp_path, named):
    """The antenna sits off the base, and the IMU is mounted askew: both mountings come from /tf_static."""
    sequence = turning(sequence)
    T_base_gnss, T_base_imu = np.eye(4), np.eye(4)
    T_base_gnss[:3, 3] = -0.5, 0.1, 1.8
    T_base_imu[:3, :3] = euler_to_matrix([0.1, -0.2, 1.5])
    start = int(sequence.stamps_ns[0])
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        bag.transforms("/tf_static", start, [("base_link", "gnss", start, T_base_gnss)])
        bag.transforms("/tf_static", start, [("base_link", "imu", start, T_base_imu)])
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            fix(bag, stamp, [float(v) for v in DATUM.to_geodetic((T @ T_base_gnss)[:3, 3])])
            imu(bag, stamp, (T @ T_base_imu)[:3, :3])
    datum = (DATUM.latitude_deg, DATUM.longitude_deg, DATUM.altitude_m) if named else None
    found = open_bag_sequence(tmp_path / "bag", BagOptions(truth="/fix", heading="/imu", datum=datum))
    expected = sequence.T_map_cam.copy()
    if named:
        assert found.datum == DATUM
    else:  # the first fix is the origin: the antenna's first place
        first = (sequence.T_map_base[0] @ T_base_gnss)[:3, 3]
        assert found.datum == Datum(*(float(v) for v in DATUM.to_geodetic(first)))
        expected[:, :3, 3] -= first
    np.testing.assert_allclose(found.T_map_cam, expected, atol=1e-6 if named else 1e-3)


def test_fixes_by_the_course_of_motion(sequence, tmp_path, make):
    """A straight drive to the north-east; the end stands still, where there is no course."""
    sequence = make(30)
    yaw = 0.7
    T = np.tile(np.eye(4), (30, 1, 1))
    T[:, :3, :3] = euler_to_matrix([0, 0, yaw])
    metres = np.minimum(np.arange(30), 15)
    T[:, 0, 3], T[:, 1, 3] = metres * np.cos(yaw), metres * np.sin(yaw)
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        for stamp, pose in zip(sequence.stamps_ns.tolist(), T, strict=True):
            fix(bag, stamp, [float(v) for v in DATUM.to_geodetic(pose[:3, 3])])
    datum = (DATUM.latitude_deg, DATUM.longitude_deg, DATUM.altitude_m)
    problems = Problems()
    options = BagOptions(truth="/fix", heading="course", datum=datum)
    found = open_bag_sequence(tmp_path / "bag", options, report=problems)
    count = len(found)
    assert 15 <= count <= 21
    np.testing.assert_allclose(found.T_map_base[:15], T[:15], atol=1e-6)
    assert problems.counts["slower than 1 m/s: no course"] == 30 - count
    assert found.dropped == problems.counts


def test_fixes_without_a_position_are_counted(sequence, tmp_path):
    good = sequence.T_map_base
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        for index, stamp in enumerate(sequence.stamps_ns.tolist()):
            values = [float(v) for v in DATUM.to_geodetic(good[index, :3, 3])]
            fix(bag, stamp, [np.nan] * 3 if index == 2 else values, status=-1 if index in (0, 5) else 0)
            imu(bag, stamp, good[index, :3, :3])
    found = open_bag_sequence(tmp_path / "bag", BagOptions(truth="/fix", heading="/imu"))
    assert found.dropped["receiver had no fix"] == 2
    assert found.dropped["fix with NaN for a position"] == 1
    np.testing.assert_allclose(
        found.datum.to_geodetic(np.zeros(3)), DATUM.to_geodetic(good[1, :3, 3]), rtol=0, atol=1e-6
    )  # the first good one


def test_no_fix_at_all_and_no_heading(sequence, tmp_path):
    with BagWriter(tmp_path / "none") as bag:
        images(bag, sequence)
        for stamp in sequence.stamps_ns.tolist():
            fix(bag, stamp, [np.nan] * 3)
            imu(bag, stamp, np.eye(3), known=False)
    with pytest.raises(BagError, match=r"expected fixes with a position, found none of 12 \(12 x fix with NaN"):
        open_bag_sequence(tmp_path / "none", BagOptions(truth="/fix", heading="/imu"))
    with BagWriter(tmp_path / "imu") as bag:
        images(bag, sequence)
        for stamp in sequence.stamps_ns.tolist():
            fix(bag, stamp, (48.0, 11.0, 0.0))
            imu(bag, stamp, np.eye(3), known=False)
    with pytest.raises(BagError, match="expected orientations for the positions of /fix, found none"):
        open_bag_sequence(tmp_path / "imu", BagOptions(truth="/fix", heading="/imu"))
    with pytest.raises(BagError, match="on /compass"):
        open_bag_sequence(tmp_path / "imu", BagOptions(truth="/fix", heading="/compass"))
    with pytest.raises(BagError, match=r"expected a heading for the fixes, found none \(slower"):
        open_bag_sequence(tmp_path / "imu", BagOptions(truth="/fix"))


@given(st.floats(-3.1, 3.1), st.floats(1.5, 30.0), st.sampled_from([0.05, 0.1, 1.0]))
def test_course_of_straight_motion(yaw, speed, spacing_s):
    t = np.arange(10) * spacing_s
    enu = np.stack([np.cos(yaw) * speed * t, np.sin(yaw) * speed * t, 0 * t], axis=1)
    stamps = (t * 1e9).astype(np.int64) + 1_700_000_000_000_000_000
    found, known = course_of(stamps, enu, 1.0)
    assert known.all()
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * yaw), atol=1e-6)
    assert not course_of(stamps, 0 * enu, 1.0)[1].any()


def test_time_offset(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            message = bag._make(
                "geometry_msgs/msg/PoseStamped", header=bag.header(stamp - 3_600_000_000_000, "map"), pose=bag._pose(T)
            )
            bag.write("/reference/pose", "geometry_msgs/msg/PoseStamped", stamp, message)
    with pytest.raises(BagError, match=r"3600\.000 s behind: --time-offset 3600\.000"):
        open_bag_sequence(tmp_path / "bag")
    with pytest.raises(BagError, match=r"3500\.000 s behind: --time-offset 3600\.000"):
        open_bag_sequence(tmp_path / "bag", BagOptions(time_offset_s=100.0))
    found = open_bag_sequence(tmp_path / "bag", BagOptions(time_offset_s=3600.0))
    np.testing.assert_allclose(found.T_map_cam, sequence.T_map_cam, atol=1e-9)


def test_a_clock_that_is_off_but_overlaps_is_told_of(tmp_path, make, caplog):
    sequence = make(60)
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            message = bag._make(
                "geometry_msgs/msg/PoseStamped", header=bag.header(stamp + 2 * 10**9, "map"), pose=bag._pose(T)
            )
            bag.write("/reference/pose", "geometry_msgs/msg/PoseStamped", stamp, message)
    found = open_bag_sequence(tmp_path / "bag")
    assert len(found) == 40 and found.dropped == {"image without a pose": 20}
    assert "is --time-offset -2.000 right?" in caplog.text


def test_clock_gap_without_messages():
    gap = ClockGap()
    assert gap.offset_s("a", "b") is None
    gap.add("a", 5, 5)
    assert "not one usable message of b" in gap.in_words("a", "b")
    gap.add("b", 7 * 10**9, 7 * 10**9)
    assert "--time-offset -7.000" in gap.in_words("a", "b")


def test_a_missing_topic_lists_those_with_poses(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        bag.odometry("/odometry/filtered", int(sequence.stamps_ns[0]), "odom", "base_link", np.eye(4))
        fix(bag, int(sequence.stamps_ns[0]), (1.0, 2.0, 3.0))
    listed = r"/fix \(NavSatFix\), /odometry/filtered \(Odometry\), a transform as /tf:PARENT.CHILD"
    with pytest.raises(BagError, match=listed):
        open_bag_sequence(tmp_path / "bag")
    with pytest.raises(BagError, match=rf"expected poses on /gps, found no such topic; poses are on: {listed}"):
        open_bag_sequence(tmp_path / "bag", BagOptions(truth="/gps"))
    with pytest.raises(BagError, match="found messages of type sensor_msgs/msg/Image there"):
        open_bag_sequence(tmp_path / "bag", BagOptions(truth="/camera/image"))


@pytest.mark.parametrize(("bad", "told"), [("nan", "expected a unit quaternion, found xyzw .*nan"),
                                           ("length", "of length 2"), ("position", "NaN or infinity")])  # fmt: skip
def test_poses_that_are_none(sequence, tmp_path, bad, told):
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        for index, (stamp, T) in enumerate(zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True)):
            pose = bag._pose(T)
            if index == 4:
                q, t = pose.orientation, pose.position
                if bad == "position":
                    t.x = float("nan")
                else:
                    q.w = float("nan") if bad == "nan" else 2.0
            put(bag, "/reference/pose", "geometry_msgs/msg/PoseStamped", stamp, pose=pose)
    with pytest.raises(DatasetError, match=rf"/reference/pose at {sequence.stamps_ns[4]} ns: .*{told}.*--keep-going"):
        open_bag_sequence(tmp_path / "bag")
    problems = Problems(keep_going=True)
    found = open_bag_sequence(tmp_path / "bag", report=problems)
    assert found.dropped["pose that is none"] == 1
    assert len(found) == len(sequence)  # interpolated between its neighbours, 0.2 s apart


def test_extrinsics_instead_of_static_transforms(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence, mounting=False)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            bag.pose("/reference/pose", stamp, "map", T)
    with pytest.raises(BagError, match="extrinsics"):
        open_bag_sequence(tmp_path / "bag")
    found = open_bag_sequence(tmp_path / "bag", BagOptions(extrinsics=(1.0, 0.2, 1.5, 0.0, 0.0, 0.0)))
    np.testing.assert_allclose(found.T_map_cam, sequence.T_map_cam, atol=1e-9)
    by_matrix = BagOptions(extrinsics=tuple(sequence.T_base_cam.ravel()))
    np.testing.assert_allclose(open_bag_sequence(tmp_path / "bag", by_matrix).T_map_cam, sequence.T_map_cam, atol=1e-9)


def test_mountings():
    np.testing.assert_allclose(mounting_of((1, 2, 3, 0, 0, 0))[:3, :3], R_BODY_OPTICAL, atol=1e-15)
    T = mounting_of((0, 0, 0, 0, 0, np.pi / 2))  # looks to the left
    np.testing.assert_allclose(T[:3, 2], (0, 1, 0), atol=1e-12)
    for values, told in (((1, 2), "found 2"), ((0, 0, 0, 0, 0, 90), "radians"), ([2.0] * 12, "rotation")):
        with pytest.raises(ConfigError, match=told):
            mounting_of(values)


def test_camera_file(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence, info=False)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            bag.pose("/reference/pose", stamp, "map", T)
    with pytest.raises(BagError, match="--camera-info FILE"):
        open_bag_sequence(tmp_path / "bag")
    camera = sequence.camera
    content = {
        "image_width": 8, "image_height": 6, "camera_name": "front", "distortion_model": "plumb_bob",
        "camera_matrix": {"rows": 3, "cols": 3, "data": camera.K.ravel().tolist()},
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": list(camera.distortion)},
    }  # fmt: skip
    file = tmp_path / "camera.yaml"
    file.write_text(yaml.safe_dump(content))
    found = open_bag_sequence(tmp_path / "bag", BagOptions(camera_info=str(file)))
    assert found.camera == camera
    assert is_camera_file(str(file)) and not is_camera_file("/camera/camera_info") and not is_camera_file(None)


@pytest.mark.parametrize(("change", "told"), [
    ({"image_width": None}, "image_width"), ({"camera_matrix": "x"}, "camera_matrix: expected numbers"),
    ({"camera_matrix": [0.0] * 9}, "camera.yaml"),
    ({"distortion_model": "magic", "distortion_coefficients": [0.1, 0.2]}, "magic"),
    ({"camera_matrix": [10**400] * 9}, "an integer of 401 digits"),
])  # fmt: skip
def test_bad_camera_files(tmp_path, change, told):
    content = {"image_width": 8, "image_height": 6, "camera_matrix": [7.0, 0, 4, 0, 7, 3, 0, 0, 1], **change}
    (tmp_path / "camera.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(CameraError, match=told):
        read_camera_file(tmp_path / "camera.yaml")
    with pytest.raises(CameraError, match=r"nothing\.yaml: no such file.*expected a file of camera_calibration"):
        read_camera_file(tmp_path / "nothing.yaml")


def test_images_of_another_size(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        stamp = int(sequence.stamps_ns[-1]) + 1
        bag.image("/camera/image", stamp, "camera_optical_frame", np.zeros((6, 10, 3), np.uint8))
        for at, T in zip([*sequence.stamps_ns.tolist(), stamp], [*sequence.T_map_base, np.eye(4)], strict=True):
            bag.pose("/reference/pose", at, "map", T)
    found = open_bag_sequence(tmp_path / "bag")
    with pytest.raises(
        BagError, match=rf"image 12 \(stamp {stamp} ns\): .*expected 8x6 pixels as camera_info says, found 10x6"
    ):
        found.image(12)


def test_a_selection_is_read_in_one_pass(sequence, write):
    part = open_bag_sequence(write(sequence)).select(np.array([1, 4, 9])).select(np.array([0, 2]))
    read = list(part.frames())
    assert [i for i, _ in read] == [0, 1]
    np.testing.assert_array_equal(read[1][1], sequence.image(9))
    np.testing.assert_array_equal(part.image(0), sequence.image(1))


def test_quaternion_stamped_heading(sequence, tmp_path):
    sequence = turning(sequence)
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            fix(bag, stamp, [float(v) for v in DATUM.to_geodetic(T[:3, 3] + T[:3, :3] @ (0.0, 0.0, 2.0))])
            put(bag, "/heading", "geometry_msgs/msg/QuaternionStamped", stamp, quaternion=bag._quaternion(T))
    assert np.linalg.norm(matrix_to_quaternion(sequence.T_map_base[0, :3, :3])) == pytest.approx(1.0)
    options = BagOptions(
        truth="/fix", heading="/heading", antenna=(0.0, 0.0, 2.0),
        datum=(DATUM.latitude_deg, DATUM.longitude_deg, DATUM.altitude_m),
    )  # fmt: skip
    found = open_bag_sequence(tmp_path / "bag", options)
    np.testing.assert_allclose(found.T_map_cam, sequence.T_map_cam, atol=1e-6)


def test_the_origin_in_a_bag_is_that_of_its_fixes_and_never_a_receiver(sequence, tmp_path):
    """A converted bag tells its origin on /map/datum: fixes are poses from there, wherever the first one is."""
    sequence = replace(turning(sequence), datum=DATUM)
    start = int(sequence.stamps_ns[0])
    with BagWriter(tmp_path / "bag") as bag:
        images(bag, sequence)
        bag.nav_sat_fix("/map/datum", start, "map", DATUM)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            fix(bag, stamp, [float(v) for v in DATUM.to_geodetic(T[:3, 3] + T[:3, :3] @ (0.5, 0.0, 2.0))])
            put(bag, "/heading", "geometry_msgs/msg/QuaternionStamped", stamp, quaternion=bag._quaternion(T))
    options = BagOptions(truth="/fix", heading="/heading", antenna=(0.5, 0.0, 2.0))
    found = open_bag_sequence(tmp_path / "bag", options)
    assert found.datum == DATUM and len(found.gnss.stamps_ns) == len(sequence)
    np.testing.assert_allclose(found.T_map_cam, sequence.T_map_cam, atol=1e-6)
    late = open_bag_sequence(tmp_path / "bag", replace(options, time_offset_s=0.25))
    np.testing.assert_array_equal(late.gnss.stamps_ns, sequence.stamps_ns + 250_000_000)  # with the poses made of them
    elsewhere = open_bag_sequence(tmp_path / "bag", replace(options, datum=(48.3, 11.5, 500.0)))
    assert elsewhere.datum == Datum(48.3, 11.5, 500.0) and elsewhere.T_map_cam[0, 1, 3] < -10_000
    with pytest.raises(BagError, match="no truth") as told:
        open_bag_sequence(tmp_path / "bag")
    assert "/fix (NavSatFix)" in str(told.value) and "/map/datum" not in str(told.value)
    with pytest.raises(
        BagError, match=r"expected poses on /map/datum, found the origin of the map; poses are on: /fix"
    ):
        open_bag_sequence(tmp_path / "bag", BagOptions(truth="/map/datum"))


def test_a_damaged_stamp_does_not_spoil_the_clocks():
    gap = ClockGap()
    for time_ns in (10**18, 10**18 + 10**8):
        gap.add("images", time_ns, time_ns)
        gap.add("poses", 2**63 + 10**18, time_ns)  # farther off than 64 bits say
    assert gap.offset_s("images", "poses") == pytest.approx(-(2**63) * 1e-9, rel=1e-3)
