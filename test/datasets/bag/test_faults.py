"""Bags as real recorders leave them: TF of every kind, topics that cannot be read, counts that do not hold."""

from __future__ import annotations

import bz2
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.convert.writer import BagWriter
from vloc_ros.datasets import is_bag, open_sequence
from vloc_ros.datasets.bag import reader as reader_module
from vloc_ros.datasets.bag.drive import BagDrive, BagOptions
from vloc_ros.datasets.bag.mcap import inflated
from vloc_ros.datasets.bag.reader import BagReader
from vloc_ros.datasets.bag.sequence import open_bag_sequence
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import T_BODY_OPTICAL
from vloc_ros.errors import BagError
from vloc_ros.geometry.rotations import so3_exp
from vloc_ros.geometry.se3 import make_transform

LENS = "camera_optical_frame"


def frames(bag, sequence, image_frame=LENS, info_frame=LENS, topic="/camera", truth=True, info=None):
    """Images, camera_info and truth, but no TF."""
    for index, stamp in enumerate(sequence.stamps_ns.tolist()):
        if info is None:
            bag.camera_info(f"{topic}/camera_info", stamp, info_frame, sequence.camera)
        else:
            info(bag, f"{topic}/camera_info", stamp)
        bag.image(f"{topic}/image", stamp, image_frame, sequence.image(index))
        if truth:
            bag.pose("/reference/pose", stamp, "map", sequence.T_map_base[index])


def start(sequence) -> int:
    return int(sequence.stamps_ns[0])


class TestTransforms:
    def test_the_camera_is_in_the_images_frame(self, sequence, tmp_path):
        """camera_info names the body's frame: what counts is the image's, as in a node."""
        body = make_transform(np.eye(3), sequence.T_base_cam[:3, 3])
        with BagWriter(tmp_path / "bag") as bag:
            rows = [("base_link", "camera_link", start(sequence), body), ("camera_link", LENS, 0, T_BODY_OPTICAL)]
            bag.transforms("/tf_static", start(sequence), rows)
            frames(bag, sequence, info_frame="camera_link")
        np.testing.assert_allclose(open_bag_sequence(tmp_path / "bag").T_map_cam, sequence.T_map_cam, atol=1e-9)

    def test_without_a_mounting_the_way_out_is_no_wrong_map(self, sequence, tmp_path):
        with BagWriter(tmp_path / "bag") as bag:
            frames(bag, sequence)
        with pytest.raises(BagError, match=r"--extrinsics x,y,z,roll,pitch,yaw") as problem:
            open_bag_sequence(tmp_path / "bag")
        assert "--base-frame" not in str(problem.value)
        with pytest.raises(BagError, match=r"the camera looks 90 deg up while the vehicle drives level.*--extrinsics"):
            open_bag_sequence(tmp_path / "bag", BagOptions(base_frame=LENS))
        found = open_bag_sequence(tmp_path / "bag", BagOptions(extrinsics=(1.0, 0.2, 1.5, 0.0, 0.0, 0.0)))
        np.testing.assert_allclose(found.T_map_cam, sequence.T_map_cam, atol=1e-9)

    def test_a_mounting_that_tf_has_wrong_is_told(self, sequence, tmp_path, caplog):
        with BagWriter(tmp_path / "bag") as bag:
            bag.transforms("/tf_static", start(sequence), [("base_link", LENS, 0, np.eye(4))])
            frames(bag, sequence)
        with caplog.at_level(logging.WARNING):
            open_bag_sequence(tmp_path / "bag")
        assert "the camera looks 90 deg up" in caplog.text and "is its mounting" in caplog.text

    def test_poses_in_the_axes_of_a_camera_are_no_sky(self, sequence, tmp_path):
        """SLAM's world is its first camera (z forward): the camera's axis goes along the motion."""
        forward = np.tile(np.eye(4), (len(sequence), 1, 1))
        forward[:, 2, 3] = np.arange(len(sequence))
        with BagWriter(tmp_path / "bag") as bag:
            frames(bag, replace(sequence, T_map_cam=forward, T_base_cam=np.eye(4)))
        found = open_bag_sequence(tmp_path / "bag", BagOptions(base_frame=LENS))
        np.testing.assert_allclose(found.T_map_cam, forward, atol=1e-12)

    def test_a_constant_mounting_on_tf(self, sequence, tmp_path):
        with BagWriter(tmp_path / "bag") as bag:
            for stamp in sequence.stamps_ns[3:8].tolist():  # later and shorter than the images
                bag.transforms("/tf", stamp, [("base_link", LENS, stamp + 7_000_000, sequence.T_base_cam)])
            frames(bag, sequence)
        found = open_bag_sequence(tmp_path / "bag")
        np.testing.assert_allclose(found.T_map_cam, sequence.T_map_cam, atol=1e-9)

    def test_a_mounting_that_moves_is_followed_and_told(self, sequence, tmp_path, caplog):
        turned = [sequence.T_base_cam @ make_transform(so3_exp([0.0, 0.02 * k, 0.0]), np.zeros(3)) for k in range(12)]
        with BagWriter(tmp_path / "bag") as bag:
            for stamp, T in zip(sequence.stamps_ns.tolist(), turned, strict=True):
                bag.transforms("/tf", stamp, [("base_link", LENS, stamp, T)])
            frames(bag, sequence)
        with caplog.at_level(logging.WARNING):
            found = open_bag_sequence(tmp_path / "bag")
        np.testing.assert_allclose(found.T_map_cam, sequence.T_map_base @ np.stack(turned), atol=1e-9)
        assert "mounting changes during the drive, by up to 0.000 m and 12.61 deg" in caplog.text

    def test_the_newest_static_transform_counts_from_when_it_came(self, sequence, tmp_path):
        moved = sequence.T_base_cam.copy()
        moved[2, 3] += 0.5
        with BagWriter(tmp_path / "bag") as bag:
            bag.transforms("/tf_static", start(sequence) - 1, [("base_link", LENS, 0, sequence.T_base_cam)])
            bag.transforms("/tf_static", int(sequence.stamps_ns[6]) - 1, [("base_link", LENS, 0, moved)])
            frames(bag, sequence)
        found = open_bag_sequence(tmp_path / "bag")
        np.testing.assert_allclose(found.T_map_cam[:6], sequence.T_map_cam[:6], atol=1e-9)
        np.testing.assert_allclose(found.T_map_cam[6:], sequence.T_map_base[6:] @ moved, atol=1e-9)
        with BagDrive(tmp_path / "bag") as drive:
            heights = [float(frame.T_base_cam[2, 3]) for frame in drive.frames()]
        assert heights == [1.5] * 6 + [2.0] * 6

    def test_one_bad_transform_does_not_take_the_others_with_it(self, sequence, tmp_path):
        with BagWriter(tmp_path / "bag") as bag:
            rows = [("base_link", LENS, 0, sequence.T_base_cam)]
            message_of, write = None, bag.write
            bag.write = lambda *a: None
            message_of = bag._make
            items = []
            for parent, child, T in [("base_link", "lidar", None), *[(p, c, T) for p, c, _, T in rows]]:
                quaternion = (
                    message_of("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=0.0)
                    if T is None
                    else bag._quaternion(T)
                )
                x, y, z = (0.0, 0.0, 0.0) if T is None else map(float, T[:3, 3])
                items.append(
                    message_of(
                        "geometry_msgs/msg/TransformStamped",
                        header=bag.header(0, parent),
                        child_frame_id=child,
                        transform=message_of(
                            "geometry_msgs/msg/Transform",
                            translation=message_of("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
                            rotation=quaternion,
                        ),
                    )
                )
            bag.write = write
            kind = "tf2_msgs/msg/TFMessage"
            bag.write("/tf_static", kind, start(sequence), message_of(kind, transforms=items))
            frames(bag, sequence)
        np.testing.assert_allclose(open_bag_sequence(tmp_path / "bag").T_map_cam, sequence.T_map_cam, atol=1e-9)
        with BagDrive(tmp_path / "bag") as drive:
            assert len(drive.skipped) == 1 and "expected a unit quaternion" in drive.skipped[0]

    def test_tf_in_a_namespace(self, sequence, tmp_path):
        with BagWriter(tmp_path / "bag") as bag:
            bag.transforms("/car/tf_static", start(sequence), [("base_link", LENS, 0, sequence.T_base_cam)])
            bag.transforms("/truck/tf_static", start(sequence), [("base_link", LENS, 0, np.eye(4))])
            frames(bag, sequence, topic="/car/camera")
        np.testing.assert_allclose(open_bag_sequence(tmp_path / "bag").T_map_cam, sequence.T_map_cam, atol=1e-9)
        with BagWriter(tmp_path / "other") as bag:
            bag.transforms("/car/tf_static", start(sequence), [("base_link", LENS, 0, sequence.T_base_cam)])
            bag.transforms("/truck/tf_static", start(sequence), [("base_link", LENS, 0, np.eye(4))])
            frames(bag, sequence, topic="/bus/camera")
        with pytest.raises(BagError, match="TF on /car/tf_static, /truck/tf_static belongs to another namespace"):
            open_bag_sequence(tmp_path / "other")

    def test_frames_without_a_name(self, sequence, tmp_path):
        with BagWriter(tmp_path / "bag") as bag:
            frames(bag, sequence, image_frame="", info_frame="")
        with pytest.raises(
            BagError, match=r"neither the images of /camera/image nor camera_info name a frame.*--extri"
        ):
            open_bag_sequence(tmp_path / "bag")


class TestCounts:
    def test_other_qos_in_the_metadata(self, sequence, write):
        path = write(sequence)
        text = yaml.safe_load((path / "metadata.yaml").read_text())
        for row in text["rosbag2_bagfile_information"]["topics_with_message_count"]:
            row["topic_metadata"]["offered_qos_profiles"] = ""
        (path / "metadata.yaml").write_text(yaml.safe_dump(text))
        found = open_sequence(path)
        assert len(found) == len(sequence)
        np.testing.assert_array_equal(found.image(3), sequence.image(3))

    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    def test_metadata_that_counts_more_than_there_is(self, sequence, write, storage):
        path = write(sequence, storage=storage)
        text = yaml.safe_load((path / "metadata.yaml").read_text())
        for row in text["rosbag2_bagfile_information"]["topics_with_message_count"]:
            if row["topic_metadata"]["name"] == "/camera/image":
                row["message_count"] = 20
        (path / "metadata.yaml").write_text(yaml.safe_dump(text))
        with pytest.raises(BagError, match="8 of 20 messages on /camera/image could not be read"):
            open_sequence(path)
        problems = Problems(keep_going=True)
        assert len(open_bag_sequence(path, allow_partial=True, report=problems)) == len(sequence)
        assert problems.counts["part of a damaged bag"] == 1

    @pytest.fixture
    def long(self, make, write):
        """A bag of several chunks."""
        sequence = make(24)
        big = replace(sequence, source=_Big(24), camera=replace(sequence.camera, width=400, height=300))
        path = write(big)
        return big, path, (path / "bag.mcap").read_bytes()

    @pytest.mark.parametrize("damage", ["bit", "zeros"])
    @pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
    def test_a_damaged_chunk_is_said_and_the_others_are_read(self, long, damage, share):
        sequence, path, data = long
        data = bytearray(data)
        place = int(share * len(data))
        if damage == "bit":
            data[place] ^= 4  # inside pixels: no format notices
        else:
            data[place : place + 5000] = bytes(5000)
        (path / "bag.mcap").write_bytes(_with_checksums(data, long[2]))
        with BagDrive(path) as drive:
            frames = [frame.stamp_ns for frame in drive.frames()]
            lost = len(sequence) - len(frames)
            assert 0 < lost < 8 and set(frames) <= set(sequence.stamps_ns.tolist())
            assert f"{lost} of 24 messages on /camera/image" in drive.reader.problem
            assert "is damaged (its checksum is wrong)" in drive.reader.problem
        with pytest.raises(BagError, match="could not be read"):
            open_sequence(path)

    def test_an_index_full_of_zeros_does_not_hide_messages(self, long):
        sequence, path, data = long
        footer = data[-37:]
        summary = int.from_bytes(footer[9:17], "little")
        (path / "bag.mcap").write_bytes(data[:summary] + bytes(len(data) - 37 - summary) + footer)
        with BagDrive(path) as drive:
            assert "index of bag.mcap is damaged" in drive.reader.problem
            assert len(list(drive.frames())) == len(sequence)

    def test_a_chunk_that_would_unpack_to_gigabytes_is_left_out(self, long):
        _, path, data = long
        chunk = data.index(b"\x06", 8)  # the first record behind the header
        while data[chunk + 9 + 28 : chunk + 9 + 32] != b"\0\0\0\0":
            chunk = data.index(b"\x06", chunk + 1)
        altered = bytearray(data)
        altered[chunk + 9 + 16 : chunk + 9 + 24] = (1 << 40).to_bytes(8, "little")
        (path / "bag.mcap").write_bytes(altered)
        with BagReader(path) as reader:
            list(reader.messages())
            assert "it says that it unpacks to 1099511627776 bytes" in reader.problem

    def test_a_name_that_differs_in_the_index_is_told(self, ros1_bag):
        """No checksum guards the index: one byte of it gives all messages of a topic another name."""
        data = bytearray(ros1_bag.read_bytes())
        with BagReader(ros1_bag) as reader:
            assert reader.problem is None
            topic = min(reader.topics)
        name = b"topic=" + topic.encode()
        inner = data.rindex(name)  # in the connection's own header; the index's stands before it
        data[data.rindex(name, 0, inner) + 7] ^= 1
        ros1_bag.write_bytes(bytes(data))
        with BagReader(ros1_bag) as reader:
            assert f" is {topic} where its messages are" in str(reader.problem)

    def test_compressed_data_is_bounded_whatever_it_holds(self, ros1_bag, monkeypatch):
        packed = bz2.compress(bytes(1 << 22))
        assert len(inflated("bz2", packed, 1000)) == 1001
        monkeypatch.setattr(reader_module, "MAX_CHUNK_BYTES", 1000)
        with pytest.raises(BagError, match="a chunk unpacks to more than 1000 bytes"):
            reader_module._unpacked_chunk("bz2", packed)
        with BagReader(ros1_bag) as reader:
            assert len(list(reader.messages())) > 0  # what is not compressed is as long as it is


class _Big:
    def __init__(self, count):
        self.count = count

    def image(self, index):
        return np.random.default_rng(index).integers(0, 255, (300, 400, 3), dtype=np.uint8)

    def frames(self):
        return ((k, self.image(k)) for k in range(self.count))


def _with_checksums(damaged, whole):
    """The damaged file, its chunks with the checksums of the whole one, which rosbags does not write."""
    import struct
    import zlib

    out, position = bytearray(damaged), 8
    while position + 9 < len(whole):
        op, length = struct.unpack_from("<BQ", whole, position)
        if op == 0x06:
            (text,) = struct.unpack_from("<I", whole, position + 9 + 28)
            content = whole[position + 9 + 40 + text : position + 9 + length]
            out[position + 9 + 24 : position + 9 + 28] = struct.pack("<I", zlib.crc32(content))
        position += 9 + length
        if op == 0x02:
            break
    return bytes(out)


class TestFiles:
    def test_files_compressed_as_a_whole(self, sequence, write, tmp_path):
        zstd = pytest.importorskip("backports.zstd")
        path = write(sequence)
        packed = tmp_path / "packed"
        packed.mkdir()
        (packed / "bag.mcap.zstd").write_bytes(zstd.compress((path / "bag.mcap").read_bytes()))
        for broken in (packed, packed / "bag.mcap.zstd"):
            assert is_bag(broken)
            with pytest.raises(BagError, match=r"compressed as a whole.*`zstd -d bag\.mcap\.zstd`"):
                BagReader(broken)
        text = yaml.safe_load((path / "metadata.yaml").read_text())
        information = text["rosbag2_bagfile_information"]
        information.update(relative_file_paths=["bag.mcap.zstd"], compression_format="zstd", compression_mode="FILE")
        (packed / "metadata.yaml").write_text(yaml.safe_dump(text))
        np.testing.assert_array_equal(open_sequence(packed).image(4), sequence.image(4))

    @pytest.mark.parametrize("name", ["a#b", "100%", "what?", "naïve"])
    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    def test_any_name_of_a_folder(self, sequence, tmp_path, name, storage):
        write_sequence(sequence, tmp_path / "bag", storage=storage)
        (tmp_path / name).mkdir()
        path = (tmp_path / "bag").rename(tmp_path / name / "bag")
        assert len(open_sequence(path)) == len(sequence)
        assert len(open_sequence(next(p for p in path.iterdir() if p.name != "metadata.yaml"))) == len(sequence)

    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    def test_a_topic_of_an_unknown_type_is_left_out_alone(self, sequence, write, storage):
        path = write(sequence, storage=storage)
        _break_type(path, "nav_msgs/msg/Odometry")
        found = open_sequence(path)
        np.testing.assert_allclose(found.T_map_cam, sequence.T_map_cam, atol=1e-9)
        with BagReader(path) as reader:
            assert list(reader.unreadable) == ["/odometry"] and reader.problem is None
            assert {m.topic for m in reader.messages()} == set(reader.topics) - {"/odometry"}
        with pytest.raises(BagError, match="/odometry cannot be read"):
            BagDrive(path, BagOptions(odometry="/odometry"))

    def test_messages_that_are_not_what_their_type_says(self, sequence, write):
        path = write(sequence)
        file = path / "bag.mcap"
        file.write_bytes(file.read_bytes().replace(b"string distortion_model", b"string distortion_motel"))
        with pytest.raises(BagError, match="no attribute 'distortion_model'"):
            open_sequence(path)
        with BagDrive(path) as drive:
            assert (
                len(list(drive.frames())) == len(sequence) and "some messages could not be read" in drive.reader.problem
            )

    def test_a_file_that_the_metadata_names_and_is_gone(self, make, write, tmp_path):
        whole = make(20)
        path = write_sequence(whole, tmp_path / "bag")
        text = yaml.safe_load((path / "metadata.yaml").read_text())
        text["rosbag2_bagfile_information"]["relative_file_paths"].append("bag_1.mcap")
        (path / "metadata.yaml").write_text(yaml.safe_dump(text))
        with pytest.raises(BagError, match=r"metadata\.yaml names files that are not there: bag_1\.mcap"):
            open_sequence(path)

    def test_parts_are_read_in_the_order_of_their_numbers(self, make, write, tmp_path):
        whole = make(24)
        split = tmp_path / "split"
        split.mkdir()
        for k in range(12):
            part = write(whole.select(np.arange(2 * k, 2 * k + 2)), f"p{k}")
            shutil.copy(part / f"p{k}.mcap", split / f"drive_{k}.mcap")  # drive_10 is behind drive_9
        with BagDrive(split) as drive:
            assert [f.stamp_ns for f in drive.frames()] == whole.stamps_ns.tolist()


def _break_type(path, kind):
    """Take the definition of one message type away, as recorders do that do not know it."""
    import sqlite3

    files = list(path.glob("*.db3"))
    if files:
        with sqlite3.connect(files[0]) as database:
            change = "UPDATE message_definitions SET encoding = 'unknown', encoded_message_definition = ''"
            database.execute(f"{change} WHERE topic_type = ?", (kind,))
        return
    (file,) = path.glob("*.mcap")
    data = file.read_bytes()
    mark = len(kind).to_bytes(4, "little") + kind.encode() + (7).to_bytes(4, "little") + b"ros2msg"
    assert mark in data
    file.write_bytes(data.replace(mark, mark[:-7] + b"unknown"))


class TestPosesAndCameras:
    def written(self, sequence, tmp_path, **options):
        with BagWriter(tmp_path / "bag") as bag:
            bag.transforms("/tf_static", start(sequence), [("base_link", LENS, 0, sequence.T_base_cam)])
            frames(bag, sequence, **options)
        return tmp_path / "bag"

    @pytest.mark.parametrize("value", [1e308, -1.0, np.nan, np.inf])
    def test_a_covariance_that_is_none_is_unknown(self, sequence, tmp_path, value):
        with BagWriter(tmp_path / "bag") as bag:
            bag.transforms("/tf_static", start(sequence), [("base_link", LENS, 0, sequence.T_base_cam)])
            frames(bag, sequence, truth=False)
            for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
                bag.pose_with_covariance("/reference/pose", stamp, "map", T, np.diag([value] * 6))
        with BagDrive(tmp_path / "bag") as drive:
            assert drive.truth_covariance(start(sequence)) is None and not drive.skipped
        assert len(open_bag_sequence(tmp_path / "bag")) == len(sequence)

    def test_images_without_stamps(self, sequence, tmp_path):
        with BagWriter(tmp_path / "bag") as bag:
            bag.transforms("/tf_static", start(sequence), [("base_link", LENS, 0, sequence.T_base_cam)])
            for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
                bag.camera_info("/camera/camera_info", stamp, LENS, sequence.camera)
                bag.image("/camera/image", 0, LENS, sequence.image(0))
                bag.pose("/reference/pose", stamp, "map", T)
        with pytest.raises(BagError, match="all 12 messages of /camera/image have the stamp 0") as problem:
            open_bag_sequence(tmp_path / "bag")
        assert "time-offset" not in str(problem.value)

    def test_poses_that_are_too_far_apart(self, make, tmp_path):
        sequence = make(40)
        with BagWriter(tmp_path / "bag") as bag:
            bag.transforms("/tf_static", start(sequence), [("base_link", LENS, 0, sequence.T_base_cam)])
            frames(bag, sequence, truth=False)
            for k in range(0, 40, 10):
                bag.pose("/reference/pose", int(sequence.stamps_ns[k]) + 1_000_000, "map", sequence.T_map_base[k])
        with pytest.raises(BagError, match=r"the poses are 1 s apart, expected at most 0\.5 s.*max_gap_s \(1\.5\)"):
            open_bag_sequence(tmp_path / "bag")
        assert len(open_bag_sequence(tmp_path / "bag", BagOptions(max_gap_s=1.5))) == 30

    def test_coordinates_too_large_for_a_map(self, sequence, tmp_path):
        utm = sequence.T_map_cam.copy()
        utm[:, :3, 3] += (691_000.0, 5_334_000.0, 510.0)
        path = self.written(replace(sequence, T_map_cam=utm), tmp_path)
        with pytest.raises(BagError, match=r"\(UTM\?\).*--origin 6910\d\d,5334000,51\d, or"):
            open_bag_sequence(path)
        found = open_bag_sequence(path, BagOptions(origin=(691_000.0, 5_334_000.0, 510.0)))
        np.testing.assert_allclose(found.T_map_cam, sequence.T_map_cam, atol=1e-6)
        assert found.origin_m == (691_000.0, 5_334_000.0, 510.0)

    @pytest.mark.parametrize("already", [False, True])
    def test_binning(self, sequence, tmp_path, already):
        """The images are half of what the sensor has; K is the sensor's, or (some drivers) the images' already."""
        camera = sequence.camera

        def info(bag, topic, stamp):
            wide = camera if already else replace(camera, width=16, height=12, fx=14.0, fy=15.0, cx=7.5, cy=5.5)
            bag.camera_info(topic, stamp, LENS, wide)

        path = self.written(replace(sequence, camera=camera), tmp_path, info=_binned(info))
        assert open_bag_sequence(path).camera == camera

    def test_a_fisheye_with_a_fifth_coefficient_of_zero(self, sequence, tmp_path):
        camera = replace(sequence.camera, distortion_model="equidistant", distortion=(0.1, 0.0, -0.01, 0.0))

        def info(bag, topic, stamp):
            message = _info_message(bag, stamp, camera)
            message.d = np.array([*camera.distortion, 0.0])
            bag.write(topic, "sensor_msgs/msg/CameraInfo", stamp, message)

        assert open_bag_sequence(self.written(sequence, tmp_path, info=info)).camera == camera

    def test_what_is_wrong_with_camera_info_is_said(self, sequence, tmp_path):
        def info(bag, topic, stamp):
            message = _info_message(bag, stamp, sequence.camera)
            message.d = np.array([0.1, 0.2, 0.3])
            bag.write(topic, "sensor_msgs/msg/CameraInfo", stamp, message)

        with pytest.raises(BagError, match="plumb_bob takes 4 or 5 coefficients, found 3"):
            open_bag_sequence(self.written(sequence, tmp_path, info=info))


def _info_message(bag, stamp, camera):
    kept = []
    write, bag.write = bag.write, lambda *arguments: kept.append(arguments)
    bag.camera_info("x", stamp, LENS, camera)
    bag.write = write
    return kept[0][3]


def _binned(info):
    def write(bag, topic, stamp):
        kept = []
        original, bag.write = bag.write, lambda *arguments: kept.append(arguments)
        info(bag, topic, stamp)
        bag.write = original
        message = kept[0][3]
        message.binning_x = message.binning_y = 2
        bag.write(*kept[0][:3], message)

    return write
