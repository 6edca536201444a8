"""Tiny drives as bags, whole and broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence
from vloc_ros.types import CameraModel

START = 1_700_000_000_000_000_000


class Images:
    def __init__(self, count: int) -> None:
        self.count = count

    def image(self, index: int):
        return np.random.default_rng(index).integers(0, 255, (6, 8, 3), dtype=np.uint8)

    def frames(self):
        return ((i, self.image(i)) for i in range(self.count))


def make_sequence(count: int = 12) -> PosedSequence:
    """A straight drive along x at 1 m a frame, 10 Hz; odometry starts at its own origin."""
    T_base_cam = T_BODY_OPTICAL.copy()
    T_base_cam[:3, 3] = 1.0, 0.2, 1.5
    T_map_base = np.tile(np.eye(4), (count, 1, 1))
    T_map_base[:, 0, 3] = 5.0 + np.arange(count)
    T_odom_base = np.tile(np.eye(4), (count, 1, 1))
    T_odom_base[:, 0, 3] = np.arange(count)
    stamps = START + np.arange(count, dtype=np.int64) * 100_000_000
    camera = CameraModel(8, 6, 7.0, 7.5, 3.5, 2.5, "plumb_bob", (0.1, -0.2, 0.001, 0.002, 0.0))
    return PosedSequence("tiny", stamps, T_map_base @ T_base_cam, T_base_cam, camera, Images(count), T_odom_base)


@pytest.fixture
def sequence() -> PosedSequence:
    return make_sequence()


@pytest.fixture
def make():
    return make_sequence


@pytest.fixture
def write(tmp_path: Path):
    def write_bag(sequence: PosedSequence, name: str = "bag", **options) -> Path:
        return write_sequence(sequence, tmp_path / name, **options)

    return write_bag


@pytest.fixture
def ros1_bag(tmp_path: Path, sequence: PosedSequence) -> Path:
    """The tiny drive as a ROS 1 bag, made by the rosbag1 writer: D K R P spelling, images and poses."""
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
    types = store.types
    path = tmp_path / "drive.bag"

    def header(i: int, frame: str):
        stamp = int(sequence.stamps_ns[i])
        time = types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
        return types["std_msgs/msg/Header"](i, time, frame)

    def vector(kind: str, v):
        return types[f"geometry_msgs/msg/{kind}"](*(float(x) for x in v))

    from vloc_ros.geometry.rotations import matrix_to_quaternion

    def quaternion(T):
        return types["geometry_msgs/msg/Quaternion"](*(float(x) for x in matrix_to_quaternion(T[:3, :3])))

    camera = sequence.camera
    roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    P = np.hstack([camera.K, np.zeros((3, 1))]).reshape(-1)
    with Writer(path) as writer:
        kinds = {
            "/tf_static": "tf2_msgs/msg/TFMessage",
            "/cam/camera_info": "sensor_msgs/msg/CameraInfo",
            "/cam/image_raw": "sensor_msgs/msg/Image",
            "/pose": "geometry_msgs/msg/PoseStamped",
        }
        made = {topic: writer.add_connection(topic, kind, typestore=store) for topic, kind in kinds.items()}

        def put(topic: str, i: int, message) -> None:
            writer.write(made[topic], int(sequence.stamps_ns[i]), store.serialize_ros1(message, kinds[topic]))

        T = sequence.T_base_cam
        transform = types["geometry_msgs/msg/Transform"](vector("Vector3", T[:3, 3]), quaternion(T))
        stamped = types["geometry_msgs/msg/TransformStamped"](header(0, "/base_link"), "/cam_optical", transform)
        put("/tf_static", 0, types["tf2_msgs/msg/TFMessage"]([stamped]))
        for i in range(len(sequence)):
            T = sequence.T_map_base[i]
            pose = types["geometry_msgs/msg/Pose"](vector("Point", T[:3, 3]), quaternion(T))
            put("/pose", i, types["geometry_msgs/msg/PoseStamped"](header(i, "map"), pose))
            info = types["sensor_msgs/msg/CameraInfo"](
                header(i, "cam_optical"), 6, 8, "plumb_bob", np.array(camera.distortion), camera.K.reshape(-1),
                np.eye(3).reshape(-1), P, 0, 0, roi,
            )  # fmt: skip
            put("/cam/camera_info", i, info)
            image = sequence.image(i)
            message = types["sensor_msgs/msg/Image"](header(i, "cam_optical"), 6, 8, "rgb8", 0, 24, image.reshape(-1))
            put("/cam/image_raw", i, message)
    return path
