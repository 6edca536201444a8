"""What goes into a bag, and what is refused before it does."""

from __future__ import annotations

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml

from vloc_ros.convert.sequence import identity_of, write_drive, write_sequence
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.bag.drive import BagDrive
from vloc_ros.datasets.bag.reader import BagReader
from vloc_ros.datasets.bag.sequence import open_bag_sequence
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import GnssTrack
from vloc_ros.errors import BagError, DatasetError
from vloc_ros.geometry.rotations import so3_exp


def messages(path, topic):
    with BagReader(path) as reader:
        return [m.message for m in reader.messages([topic])]


def test_the_rig_and_the_datum_are_latched_and_in_one_message(drive, tmp_path):
    path = write_sequence(drive, tmp_path / "bag")
    (static,) = messages(path, "/tf_static")
    assert [t.child_frame_id for t in static.transforms] == ["camera_optical_frame", "antenna", "imu"]
    assert {t.header.frame_id for t in static.transforms} == {"base_link"}
    (datum,) = messages(path, "/map/datum")
    assert (datum.header.frame_id, datum.latitude, datum.altitude) == ("map", 48.1000001, 519.123456789)
    info = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    rows = {
        t["topic_metadata"]["name"]: t["topic_metadata"]["offered_qos_profiles"]
        for t in info["topics_with_message_count"]
    }
    for topic in ("/tf_static", "/map/datum"):
        assert yaml.safe_load(rows[topic])[0]["durability"] == 1, topic  # transient local


def test_fixes_say_how_far_they_can_be_trusted(drive, tmp_path):
    fix = messages(write_sequence(drive, tmp_path / "a"), "/gnss/fix")[3]
    assert (fix.header.frame_id, fix.status.status, fix.position_covariance_type) == ("antenna", 0, 2)
    np.testing.assert_array_equal(np.reshape(fix.position_covariance, (3, 3)), np.diag(drive.gnss.variance_m2[3]))
    silent = replace(drive, gnss=replace(drive.gnss, variance_m2=None))
    path = write_sequence(silent, tmp_path / "b")
    assert messages(path, "/gnss/fix")[0].position_covariance_type == 0
    assert open_sequence(path).gnss.variance_m2 is None


def test_a_drive_that_knows_less_gets_fewer_topics(plain, tmp_path):
    summary = write_drive(plain, tmp_path / "bag")
    assert set(summary.topics) == {"/tf_static", "/reference/pose", "/camera/camera_info", "/camera/image/compressed"}
    found = open_sequence(tmp_path / "bag")
    assert found.datum is None and found.gnss is None and found.rig == {} and found.T_odom_base is None


def test_what_describes_a_frame_comes_before_its_image(plain, tmp_path):
    write_drive(plain.select(np.arange(1)), tmp_path / "bag")
    with BagReader(tmp_path / "bag") as reader:
        topics = [m.topic for m in reader.messages()]
    assert topics == ["/tf_static", "/reference/pose", "/camera/camera_info", "/camera/image/compressed"]


def test_summary(drive, tmp_path):
    done: list[tuple[int, int]] = []
    summary = write_drive(
        replace(drive, dropped={"image without a pose": 3}), tmp_path / "bag", progress=lambda *x: done.append(x)
    )
    assert done[0] == (0, 12) and done[-1] == (12, 12) and len(done) == 13
    text = "\n".join(summary.lines())
    assert f"{tmp_path / 'bag'}: 12 frames in" in text and "1 file" in text and "3 x image without a pose" in text
    assert f"{min(drive.gnss.stamps_ns[0], drive.stamps_ns[0])} to " in text and "/gnss/fix 24" in text


def faulty(folder, kind):
    file = folder / "004.png"
    data = file.read_bytes()
    if kind == "missing":
        file.unlink()
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "truncated":
        file.write_bytes(data[:-20])
    elif kind == "no image":
        file.write_text("<html>404</html>")
    elif kind == "damaged":
        file.write_bytes(data[:50] + b"\x00\xff" + data[52:])
    else:
        cv2.imwrite(str(file), np.zeros((7, 8, 3), np.uint8))


@pytest.mark.parametrize("image_format", [None, "raw", "png"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"004\.png: expected an image, found no file"),
        ("empty", r"004\.png: expected a PNG or JPEG file, found an empty file"),
        ("truncated", r"004\.png: the PNG file breaks off after \d+ bytes; copy the file again"),
        ("no image", r"004\.png: expected a PNG or JPEG file, found 16 bytes that begin with b'<htm'"),
        ("damaged", r"004\.png: the PNG file is damaged"),
        ("size", r"frame 4 .*: expected 8x6 pixels as the calibration says, found 8x7"),
    ],
)
def test_faulty_images_are_named_or_skipped_and_counted(plain, tmp_path, kind, message, image_format):
    faulty(tmp_path / "images", kind)
    with pytest.raises(
        DatasetError, match=rf"(?s)tiny, frame 4 \(stamp {plain.stamps_ns[4]} ns\).*--keep-going"
    ) as found:
        write_drive(plain, tmp_path / "bag", image_format=image_format)
    assert re.search(message, str(found.value)), found.value
    assert [p.name for p in tmp_path.iterdir()] == ["images"]
    problems = Problems(keep_going=True)
    summary = write_drive(plain, tmp_path / "bag", image_format=image_format, problems=problems)
    assert summary.frames == 11 and sum(summary.skipped.values()) == 1 == sum(problems.counts.values())
    assert open_sequence(tmp_path / "bag").stamps_ns.tolist() == np.delete(plain.stamps_ns, 4).tolist()
    assert not any(count == 12 for count in summary.topics.values())  # nothing of the frame is left


def test_not_one_good_image_is_an_error_all_the_same(plain, tmp_path):
    for file in (tmp_path / "images").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"not one of 12 frames could be written \(12 x image that cannot be read\)"):
        write_drive(plain, tmp_path / "bag", problems=Problems(keep_going=True))
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_names_that_lie_about_their_files(plain, tmp_path):
    """RobotCar Seasons names .png where files are JPEG."""
    for file in (tmp_path / "images").iterdir():
        image = cv2.imread(str(file))
        file.write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    path = write_sequence(plain, tmp_path / "bag")
    assert {m.format for m in messages(path, "/camera/image/compressed")} == {"jpeg"}
    np.testing.assert_array_equal(open_sequence(path).image(3), plain.image(3))


@pytest.mark.parametrize("offset", [-2 * 10**18, 10**18])
def test_stamps_that_ros_cannot_hold(plain, tmp_path, offset):
    with pytest.raises(DatasetError, match=r"expected a stamp after 0 and before 2038 in ns.*another unit"):
        write_drive(replace(plain, stamps_ns=plain.stamps_ns + offset), tmp_path / "bag")


def test_values_that_are_no_poses(drive, tmp_path):
    T = drive.T_map_cam.copy()
    T[5, 0, 3] = np.nan
    with pytest.raises(DatasetError, match="frame 5: expected a pose"):
        write_drive(replace(drive, T_map_cam=T), tmp_path / "bag")
    T = drive.T_map_cam.copy()
    T[7, :3, :3] *= 1.01
    with pytest.raises(DatasetError, match="frame 7: expected a pose"):
        write_drive(replace(drive, T_map_cam=T), tmp_path / "bag")
    with pytest.raises(DatasetError, match="mounting of lidar"):
        write_drive(replace(drive, rig={"lidar": np.zeros((4, 4))}), tmp_path / "bag")
    with pytest.raises(DatasetError, match="expected GNSS fixes in the order"):
        gnss = replace(drive.gnss, stamps_ns=drive.gnss.stamps_ns[::-1])
        write_drive(replace(drive, gnss=gnss), tmp_path / "bag")
    with pytest.raises(DatasetError, match="expected frames, found none"):
        write_drive(drive.select(np.arange(0)), tmp_path / "bag")
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_fixes_of_other_bags(drive, tmp_path):
    """No fix, no place, or two receivers: nothing is invented, and nothing else suffers."""
    from vloc_ros.convert.parts import PartedBag
    from vloc_ros.datasets.bag.truth import read_places
    from vloc_ros.geometry.geodesy import Datum

    class Bag(PartedBag):
        def fix(self, topic, stamp, latitude, status=0, kind=3):
            place = Datum(0.0, 1.0, 2.0)  # the latitude is set below: a datum would refuse some
            self._changes = (latitude, status, kind)
            self.nav_sat_fix(topic, stamp, "gps", place, np.array([1.0, 2.0, 3.0]))

        def write(self, topic, msgtype, stamp, message):
            message.latitude, message.status.status, message.position_covariance_type = self._changes
            super().write(topic, msgtype, stamp, message)

    with Bag(tmp_path / "one", "mcap", False) as bag:
        for stamp, (latitude, status) in enumerate([(50.0, 0), (51.0, -1), (np.nan, 0), (91.0, 0), (52.0, 2)], 1):
            bag.fix("/ublox/fix", stamp, latitude, status)
    with BagReader(tmp_path / "one") as reader:
        datum, track = read_places(reader)
    assert datum is None and isinstance(track, GnssTrack) and track.frame_id == "gps"
    assert track.stamps_ns.tolist() == [1, 5] and track.latitude_deg.tolist() == [50.0, 52.0]
    np.testing.assert_array_equal(track.variance_m2, [[1, 2, 3]] * 2)
    with Bag(tmp_path / "two", "mcap", False) as bag:
        bag.fix("/front/fix", 1, 50.0)
        bag.fix("/rear/fix", 1, 50.0, kind=0)
    with BagReader(tmp_path / "two") as reader:
        assert read_places(reader) == (None, None)


def test_replay_opens_it(drive, tmp_path):
    write_drive(drive, tmp_path / "bag", part_frames=5)
    with BagDrive(tmp_path / "bag") as found:
        assert found.frame_count == 12 and found.has_truth and found.has_odometry and found.reader.problem is None
        frames = list(found.frames())
        assert [f.stamp_ns for f in frames] == drive.stamps_ns.tolist()
        assert all(found.T_map_base(f.stamp_ns) is not None and f.camera == drive.camera for f in frames)


def test_a_sensor_does_not_take_the_name_of_the_base(drive, tmp_path):
    """As in a bag that was read with its camera as the base: there, base_link is a sensor's frame."""
    problems = Problems()
    write_drive(replace(drive, rig={"base_link": np.eye(4), **drive.rig}), tmp_path / "bag", problems=problems)
    assert problems.counts == {"sensor whose frame's name is taken": 1}
    assert set(open_sequence(tmp_path / "bag").rig) == set(drive.rig)


def test_where_the_map_lies_in_the_coordinates_of_the_data_set(plain, tmp_path, same):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = so3_exp([0.1, 0.2, 0.3]), (1.0, 1 / 3, 0.0)
    drive = replace(plain, origin_m=(431_000.0, -2500.125, 1 / 3), T_world_map=T)
    summary = write_drive(drive, tmp_path / "bag", part_frames=5, resume=True, identity="x")
    assert "origin   of the map: 431000, -2500.125, 0.333333333333333 m" in "\n".join(summary.lines())
    found = open_bag_sequence(tmp_path / "bag")
    same(found, drive)
    write_drive(found, tmp_path / "again")  # and from bag to bag
    assert open_bag_sequence(tmp_path / "again").origin_m == drive.origin_m
    assert identity_of(drive, {}) != identity_of(plain, {})
    assert "origin" not in "\n".join(write_drive(plain, tmp_path / "plain").lines())
    file = tmp_path / "again" / "metadata.yaml"
    file.write_text(file.read_text().replace("-2500.125", "here"))
    with pytest.raises(BagError, match=r"vloc_origin_m: expected 3 numbers, found '431000.0 here"):
        open_bag_sequence(tmp_path / "again")
