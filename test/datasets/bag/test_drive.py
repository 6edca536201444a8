"""Bags of every storage give the same drive back, and bad bags one clear line."""

from __future__ import annotations

import shutil
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vloc_ros.convert.writer import BagWriter
from vloc_ros.datasets import is_bag, open_sequence
from vloc_ros.datasets.bag.drive import BagDrive, BagOptions
from vloc_ros.datasets.bag.reader import BagReader
from vloc_ros.datasets.bag.sequence import open_bag_sequence
from vloc_ros.errors import BagError, VlocError


def assert_same_drive(found, expected):
    np.testing.assert_array_equal(found.stamps_ns, expected.stamps_ns)
    np.testing.assert_allclose(found.T_map_cam, expected.T_map_cam, atol=1e-9)
    np.testing.assert_allclose(found.T_base_cam, expected.T_base_cam, atol=1e-9)
    assert found.camera == expected.camera
    for index in (0, 5, len(expected) - 1):
        np.testing.assert_array_equal(found.image(index), expected.image(index))
    for index, image in found.frames():
        np.testing.assert_array_equal(image, expected.image(index))
    assert index == len(expected) - 1


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_round_trip(sequence, write, storage):
    path = write(sequence, storage=storage)
    assert is_bag(path)
    found = open_sequence(path)
    assert_same_drive(found, sequence)
    np.testing.assert_allclose(found.T_odom_base, sequence.T_odom_base, atol=1e-12)
    file = next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
    assert_same_drive(open_sequence(file), sequence)  # the storage file alone


def test_png_is_lossless_and_jpeg_is_close(sequence, write):
    assert_same_drive(open_sequence(write(sequence, "png", image_format="png")), sequence)
    jpeg = open_sequence(write(sequence, "jpeg", image_format="jpeg"))
    assert jpeg.image(3).shape == (6, 8, 3)


def test_ros1_bag(ros1_bag, sequence):
    found = open_bag_sequence(ros1_bag)
    assert_same_drive(found, replace(sequence, T_odom_base=None))
    assert found.T_odom_base is None


def test_sequences_survive_pickling_into_worker_processes(sequence, write):
    found = open_sequence(write(sequence))
    found.image(0)
    other = ForkingPickler.loads(ForkingPickler.dumps(found))
    np.testing.assert_array_equal(other.image(7), sequence.image(7))


def test_select(sequence, write):
    part = open_sequence(write(sequence)).select(np.array([2, 5, 6]))
    np.testing.assert_array_equal(part.stamps_ns, sequence.stamps_ns[[2, 5, 6]])
    np.testing.assert_array_equal(part.image(1), sequence.image(5))


def test_missing(tmp_path):
    with pytest.raises(BagError, match="no such bag"):
        BagReader(tmp_path / "nothing")


def test_not_a_bag(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(BagError, match="no bag here"):
        BagReader(tmp_path / "folder")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(BagError, match=r"expected a rosbag2 directory or one of \.mcap"):
        BagReader(tmp_path / "file.txt")
    (tmp_path / "noise.mcap").write_bytes(b"not an mcap file at all" * 10)
    with pytest.raises(BagError, match="expected an MCAP file"):
        BagReader(tmp_path / "noise.mcap")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_empty(tmp_path, storage):
    with BagWriter(tmp_path / "empty", storage):
        pass
    with pytest.raises(BagError, match="empty"):
        BagReader(tmp_path / "empty")


@pytest.mark.parametrize("name", ["zero.mcap", "zero.db3", "zero.bag"])
def test_zero_bytes(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(BagError, match="empty"):
        BagReader(tmp_path / name)


def test_without_images(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.pose("/reference/pose", int(sequence.stamps_ns[0]), "map", np.eye(4))
    with pytest.raises(BagError, match="no images; its topics: /reference/pose"):
        open_bag_sequence(tmp_path / "bag")


def write_images(bag, sequence, topic="/camera/image", info=True):
    stamp0 = int(sequence.stamps_ns[0])
    bag.transforms("/tf_static", stamp0, [("base_link", "camera_optical_frame", stamp0, sequence.T_base_cam)])
    for i, stamp in enumerate(sequence.stamps_ns.tolist()):
        if info:
            bag.camera_info("/camera/camera_info", stamp, "camera_optical_frame", sequence.camera)
        bag.image(topic, stamp, "camera_optical_frame", sequence.image(i))


def test_without_truth(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        write_images(bag, sequence)
    with pytest.raises(BagError, match="images but no truth"):
        open_bag_sequence(tmp_path / "bag")
    with pytest.raises(BagError, match=r"expected poses on /nowhere, found no such topic; poses are on: .*/tf:PARENT"):
        open_bag_sequence(tmp_path / "bag", BagOptions(truth="/nowhere"))


def test_without_camera_info(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        write_images(bag, sequence, info=False)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            bag.pose("/reference/pose", stamp, "map", T)
    with pytest.raises(BagError, match="no camera_info"):
        open_bag_sequence(tmp_path / "bag")


def test_truth_and_images_apart_in_time(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        write_images(bag, sequence)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            bag.pose("/reference/pose", stamp + 3600 * 10**9, "map", T)
    with pytest.raises(BagError, match=r"images are from 17.* to .*: --time-offset -3600\.000"):
        open_bag_sequence(tmp_path / "bag")


def test_truth_is_interpolated_but_not_across_gaps(sequence, tmp_path):
    stamps = sequence.stamps_ns
    with BagWriter(tmp_path / "bag") as bag:
        write_images(bag, sequence)
        for i in (0, 2, 4, 11):  # 0.2 s apart, then a gap of 0.7 s
            bag.pose("/reference/pose", int(stamps[i]), "map", sequence.T_map_base[i])
    found = open_bag_sequence(tmp_path / "bag")
    np.testing.assert_array_equal(found.stamps_ns, stamps[[0, 1, 2, 3, 4, 11]])
    np.testing.assert_allclose(found.T_map_cam[1], sequence.T_map_cam[1], atol=1e-9)


def test_truth_from_tf_and_from_odometry_messages(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        write_images(bag, sequence)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            bag.transforms("/tf", stamp, [("world", "base_link", stamp, T)])
            # An INS that reports its camera: the mounting is undone.
            bag.odometry("/ins", stamp, "enu", "camera_optical_frame", T @ sequence.T_base_cam)
    by_tf = open_bag_sequence(tmp_path / "bag", BagOptions(truth="/tf:world.base_link"))
    assert by_tf.frame_id == "world"
    np.testing.assert_allclose(by_tf.T_map_cam, sequence.T_map_cam, atol=1e-9)
    by_topic = open_bag_sequence(tmp_path / "bag", BagOptions(truth="/ins"))
    assert by_topic.frame_id == "enu"
    np.testing.assert_allclose(by_topic.T_map_cam, sequence.T_map_cam, atol=1e-9)
    with pytest.raises(BagError, match="no transform from 'base_link' to 'nowhere'"):
        open_bag_sequence(tmp_path / "bag", BagOptions(truth="/tf:nowhere.base_link"))


def test_several_image_topics_must_be_named(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        write_images(bag, sequence, "/front/image")
        for i, stamp in enumerate(sequence.stamps_ns.tolist()):
            bag.image("/rear/image", stamp, "camera_optical_frame", sequence.image(i))
            bag.pose("/reference/pose", stamp, "map", sequence.T_map_base[i])
    with pytest.raises(BagError, match=r"/front/image, /rear/image.*--image"):
        open_bag_sequence(tmp_path / "bag")
    assert len(open_bag_sequence(tmp_path / "bag", BagOptions(image="/front/image"))) == len(sequence)


def write_without_tf(path, sequence, frame, truth):
    with BagWriter(path) as bag:
        for i, stamp in enumerate(sequence.stamps_ns.tolist()):
            bag.camera_info("/camera/camera_info", stamp, frame, sequence.camera)
            bag.image("/camera/image", stamp, frame, sequence.image(i))
            bag.pose("/reference/pose", stamp, "map", truth[i])


def test_without_tf_the_camera_can_be_the_base(sequence, tmp_path):
    write_without_tf(tmp_path / "bag", sequence, "lens", sequence.T_map_cam)
    with pytest.raises(BagError, match="--extrinsics x,y,z"):
        open_bag_sequence(tmp_path / "bag")
    found = open_bag_sequence(tmp_path / "bag", BagOptions(base_frame="lens"))
    np.testing.assert_allclose(found.T_map_cam, sequence.T_map_cam, atol=1e-9)


def test_images_and_camera_info_that_name_no_frame(sequence, tmp_path):
    write_without_tf(tmp_path / "bag", sequence, "", sequence.T_map_base)
    with pytest.raises(BagError, match="neither the images of /camera/image nor camera_info name a frame"):
        open_bag_sequence(tmp_path / "bag")
    found = open_bag_sequence(tmp_path / "bag", BagOptions(extrinsics=(1.0, 0.0, 1.5, 0.0, 0.0, 0.0)))
    np.testing.assert_allclose(found.T_base_cam[:3, 3], [1.0, 0.0, 1.5])
    np.testing.assert_allclose(found.T_base_cam[:3, 2], [1.0, 0.0, 0.0], atol=1e-12)  # it looks ahead


@pytest.mark.parametrize(("topic", "told", "lens"), [
    ("/camera/image_rect", None, "none"), ("/camera/undistorted", None, "plumb_bob"),
    ("/camera/undistorted", True, "none"), ("/camera/image_rect", False, "plumb_bob"),
])  # fmt: skip
def test_rectified_images_by_name_or_as_told(sequence, tmp_path, topic, told, lens):
    """Of a topic with an unusual name nobody can know that its images are rectified; the option says it."""
    distorted = replace(sequence.camera, distortion_model="plumb_bob", distortion=(0.1, 0.0, 0.0, 0.0, 0.0))
    seen = replace(sequence, camera=distorted)
    with BagWriter(tmp_path / "bag") as bag:
        write_images(bag, seen, topic)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            bag.pose("/reference/pose", stamp, "map", T)
    found = open_bag_sequence(tmp_path / "bag", BagOptions(image_is_rectified=told))
    assert found.camera.distortion_model == lens


def test_bad_stamps_are_left_out_of_sequences(sequence, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        write_images(bag, sequence)
        for stamp, T in zip(sequence.stamps_ns.tolist(), sequence.T_map_base, strict=True):
            bag.pose("/reference/pose", stamp, "map", T)
        bag.image("/camera/image", int(sequence.stamps_ns[-1]), "camera_optical_frame", sequence.image(0))  # repeated
        bag.image("/camera/image", 0, "camera_optical_frame", sequence.image(0))  # no stamp
    assert len(open_bag_sequence(tmp_path / "bag")) == len(sequence)


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_unfinished_mcap_gives_what_is_there(make, write, share):
    sequence = make(40)
    path = write(sequence)
    cut(path / "bag.mcap", share)
    (path / "metadata.yaml").unlink()
    with BagDrive(path) as drive:
        assert "unfinished" in drive.reader.problem
        frames = list(drive.frames())
    assert 0.5 * share * 40 < len(frames) < 40
    assert [f.stamp_ns for f in frames] == sequence.stamps_ns[: len(frames)].tolist()
    with pytest.raises(BagError, match="unfinished"):
        open_bag_sequence(path)
    partial = open_bag_sequence(path, allow_partial=True)
    np.testing.assert_array_equal(partial.image(1), sequence.image(1))


@pytest.fixture
def damaged_bags(sequence, write, ros1_bag, tmp_path):
    """A file to damage and what belongs in it, by whether it is a ROS 1 bag."""
    mcap = (write(sequence) / "bag.mcap").read_bytes()
    return {False: (tmp_path / "damaged.mcap", mcap), True: (tmp_path / "damaged.bag", ros1_bag.read_bytes())}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.booleans(),
    st.floats(0.2, 1.0),
    st.lists(st.tuples(st.floats(0.0, 0.999), st.binary(min_size=1, max_size=9)), min_size=1, max_size=6),
)
def test_a_damaged_bag_is_read_in_part_or_refused_by_name(damaged_bags, ros1, share, changes):
    file, content = damaged_bags[ros1]
    data = bytearray(content[: int(share * len(content))])
    for place, junk in changes:
        start = int(place * len(data))
        data[start : start + len(junk)] = junk[: len(data) - start]
    file.write_bytes(data)
    try:
        with BagDrive(file) as drive:
            list(drive.frames())
    except VlocError as error:
        assert "\n" not in str(error)


def test_mcap_whose_footer_alone_is_missing(sequence, write):
    path = write(sequence)
    data = (path / "bag.mcap").read_bytes()
    (path / "bag.mcap").write_bytes(data[:-30])
    with BagReader(path) as reader:
        assert reader.problem and reader.counts["/camera/image"] == len(sequence)


def test_compressed_chunks_are_salvaged(sequence, tmp_path):
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/text", "std_msgs/msg/String", typestore=store)
        for i in range(50):
            message = store.types["std_msgs/msg/String"](data="x" * 60000 + str(i))
            writer.write(connection, i, store.serialize_cdr(message, "std_msgs/msg/String"))
    file = tmp_path / "bag" / "bag.mcap"
    file.write_bytes(file.read_bytes()[:-20])
    with BagReader(file) as reader:
        texts = [m.message.data[60000:] for m in reader.messages()]
    assert texts == [str(i) for i in range(50)]


def test_sqlite_without_metadata(sequence, write):
    path = write(sequence, storage="sqlite3")
    (path / "metadata.yaml").unlink()
    with BagDrive(path) as drive:
        assert "metadata.yaml is missing" in drive.reader.problem
        assert len(list(drive.frames())) == len(sequence)


def test_truncated_sqlite_ends_early_or_says_why(make, write):
    path = write(make(60), storage="sqlite3")
    cut(path / "bag.db3", 0.5)
    try:
        with BagReader(path) as reader:
            count = sum(1 for _ in reader.messages())
            assert reader.problem and count < 5 * 60
    except BagError as error:
        assert "\n" not in str(error) and "bag" in str(error)


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_unfinished_ros1_bag(ros1_bag, sequence, share):
    cut(ros1_bag, share)
    with BagReader(ros1_bag) as reader:
        assert "unfinished" in reader.problem
        images = [m for m in reader.messages(["/cam/image_raw"])]
    assert 0 < len(images) < len(sequence)
    np.testing.assert_array_equal(np.asarray(images[0].message.data).reshape(6, 8, 3), sequence.image(0))


def test_split_bag_is_read_across_its_files(make, write, tmp_path):
    """A rosbag2 that was split into two files but never got its metadata."""
    whole = make(20)
    a = write(whole.select(np.arange(10)), "a")
    b = write(whole.select(np.arange(10, 20)), "b")
    split = tmp_path / "split"
    split.mkdir()
    shutil.copy(a / "a.mcap", split / "drive_0.mcap")
    shutil.copy(b / "b.mcap", split / "drive_1.mcap")
    with BagDrive(split) as drive:
        assert [f.stamp_ns for f in drive.frames()] == whole.stamps_ns.tolist()
