"""ROS 1 bags of drives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.geometry.rotations import matrix_to_quaternion


def write_ros1(sequence: PosedSequence, path: Path) -> Path:
    """A drive as a ROS 1 bag, made by the rosbag1 writer: D K R P spelling, images and poses."""
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
    types = store.types

    def header(i: int, frame: str):
        stamp = int(sequence.stamps_ns[i])
        time = types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
        return types["std_msgs/msg/Header"](i, time, frame)

    def vector(kind: str, v):
        return types[f"geometry_msgs/msg/{kind}"](*(float(x) for x in v))

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
