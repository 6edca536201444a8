"""Bags that `ros2 bag play` plays: metadata, QoS, message content; and that are whole or not there at all."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader

from vloc_ros.convert.writer import BagWriter
from vloc_ros.errors import BagError
from vloc_ros.messages import camera_model, pose_covariance, stamp_ns, transform
from vloc_ros.types import CameraModel

STAMP = 1_700_000_000_123_456_789


def everything(bag):
    camera = CameraModel(4, 2, 3.0, 3.5, 1.5, 0.5, "equidistant", (0.1, 0.2, 0.3, 0.4))
    T = np.eye(4)
    T[:3, 3] = 1, 2, 3
    bag.transforms("/tf_static", STAMP, [("base_link", "camera", STAMP, T), ("base_link", "imu", STAMP, np.eye(4))])
    bag.image("/image", STAMP, "camera", np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    bag.compressed_image("/image/compressed", STAMP, "camera", b"\x89PNG", "bgr8; png compressed bgr8")
    bag.camera_info("/camera_info", STAMP, "camera", camera)
    bag.pose("/pose", STAMP, "map", T)
    bag.pose_with_covariance("/posec", STAMP, "map", T, np.diag([1.0, 2, 3, 4, 5, 6]))
    bag.odometry("/odometry", STAMP, "odom", "base_link", T)
    bag.string("/vloc/state", STAMP, "LOCALIZED")
    bag.diagnostics("/diagnostics", STAMP, "vloc", 2, "lost", {"score": "0.1"}, "map")
    return camera, T


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_all_messages_come_back(tmp_path, storage):
    with BagWriter(tmp_path / "bag", storage) as bag:
        camera, T = everything(bag)
    with AnyReader([tmp_path / "bag"]) as reader:
        messages = {c.topic: reader.deserialize(d, c.msgtype) for c, _, d in reader.messages()}
        assert all(t == STAMP for _, t, _ in reader.messages())
    assert len(messages) == 9
    assert camera_model(messages["/camera_info"]) == camera
    image = messages["/image"]
    assert (image.encoding, image.step, image.height, image.width) == ("rgb8", 12, 2, 4)
    np.testing.assert_array_equal(image.data, np.arange(24))
    np.testing.assert_allclose(transform(messages["/pose"]), T)
    np.testing.assert_allclose(transform(messages["/odometry"]), T)
    np.testing.assert_allclose(pose_covariance(messages["/posec"]), np.diag([1.0, 2, 3, 4, 5, 6]))
    assert pose_covariance(messages["/odometry"]) is None  # zeros mean unknown
    status = messages["/diagnostics"].status[0]
    assert (status.level, status.message, status.values[0].key) == (2, "lost", "score")
    assert stamp_ns(messages["/diagnostics"]) == STAMP
    static = messages["/tf_static"].transforms
    assert [t.child_frame_id for t in static] == ["camera", "imu"]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_metadata_opens_on_humble_and_tf_static_is_latched(tmp_path, storage):
    with BagWriter(tmp_path / "bag", storage) as bag:
        everything(bag)
    info = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert info["version"] <= 8 and info["storage_identifier"] == storage
    assert all((tmp_path / "bag" / name).is_file() for name in info["relative_file_paths"])
    profiles = {
        t["topic_metadata"]["name"]: yaml.safe_load(t["topic_metadata"]["offered_qos_profiles"] or "[]")
        for t in info["topics_with_message_count"]
    }
    # Up to version 8 profiles are a YAML string of rmw enums: durability 1 is transient local, reliability 1 reliable.
    assert profiles["/tf_static"][0]["durability"] == 1 and profiles["/tf_static"][0]["reliability"] == 1
    assert profiles["/vloc/state"][0]["durability"] == 1
    assert profiles["/image"] == []


def test_existing_output_is_refused_or_replaced_whole(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.string("/a", 1, "first")
    with pytest.raises(BagError, match="already exists"):
        BagWriter(tmp_path / "bag")
    with BagWriter(tmp_path / "bag", overwrite=True) as bag:
        bag.string("/b", 1, "second")
    with AnyReader([tmp_path / "bag"]) as reader:
        assert set(reader.topics) == {"/b"}
    (tmp_path / "precious").mkdir()
    with pytest.raises(BagError, match="not a bag; not overwriting"):
        BagWriter(tmp_path / "precious", overwrite=True)


def test_a_crash_leaves_the_old_bag_and_no_debris(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.string("/a", 1, "first")
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "bag", overwrite=True) as bag:
        bag.string("/b", 1, "second")
        raise RuntimeError("power cut")
    with AnyReader([tmp_path / "bag"]) as reader:
        assert set(reader.topics) == {"/a"}
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


def test_unknown_storage(tmp_path):
    with pytest.raises(BagError, match="mcap or sqlite3"):
        BagWriter(tmp_path / "bag", "hdf5")
