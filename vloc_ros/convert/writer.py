"""Writes rosbag2 bags that ``ros2 bag play`` plays on Humble and Jazzy, atomically.

Metadata version 8 (Humble refuses 9), mcap by default and sqlite3 on request (a stock Humble lacks mcap), and
``/tf_static`` recorded as transient local: without that the player offers it volatile and late joiners never
get it. The bag grows in a hidden folder beside its destination and is renamed when complete, so a crash never
leaves half a bag under the name that was asked for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from vloc_ros.errors import BagError
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["BagWriter", "Storage"]

Storage = Literal["mcap", "sqlite3"]


class BagWriter:
    """One bag being written; a context manager.

    All stamps are nanoseconds and become both header stamp and record time. Poses and transforms are 4x4
    ``T_parent_child``; images are (H, W, 3) uint8 RGB.

    :raises BagError: the destination exists (and ``overwrite`` is not set), or rosbags is not installed.
    """

    def __init__(self, path: str | Path, storage: Storage = "mcap", overwrite: bool = False) -> None:
        self.path = Path(path)
        self.storage = storage
        if storage not in ("mcap", "sqlite3"):
            raise BagError(f"storage: expected mcap or sqlite3, found {storage!r}")
        if self.path.exists() and not overwrite:
            raise BagError(f"{self.path}: already exists; delete it or name another output")
        if self.path.exists() and not (self.path / "metadata.yaml").exists():
            raise BagError(f"{self.path}: exists and is not a bag; not overwriting it")
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise BagError("writing bags needs the rosbags package: pip install 'vloc_ros[replay]'") from error
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._types: Mapping[str, Any] = self._store.types
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._work = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        self._work.chmod(0o755)
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        # The storage file is named after its folder, so the inner folder already carries the final name.
        self._writer = Writer(self._work / self.path.name, version=8, storage_plugin=plugin)
        self._connections: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._writer.close()
                if self.path.exists():
                    shutil.rmtree(self.path)
                (self._work / self.path.name).rename(self.path)
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def write(self, topic: str, msgtype: str, stamp_ns: int, message: Any) -> None:
        """Write any message made of this bag's types."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, msgtype, typestore=self._store, offered_qos_profiles=_qos(topic)
            )
        self._writer.write(self._connections[topic], stamp_ns, self._store.serialize_cdr(message, msgtype))
        self.counts[topic] = self.counts.get(topic, 0) + 1

    def image(self, topic: str, stamp_ns: int, frame_id: str, image: RgbImage) -> None:
        """``sensor_msgs/Image``, rgb8."""
        height, width = image.shape[:2]
        message = self._make(
            "sensor_msgs/msg/Image",
            header=self.header(stamp_ns, frame_id),
            height=height,
            width=width,
            encoding="rgb8",
            is_bigendian=0,
            step=3 * width,
            data=np.ascontiguousarray(image).reshape(-1),
        )
        self.write(topic, "sensor_msgs/msg/Image", stamp_ns, message)

    def compressed_image(self, topic: str, stamp_ns: int, frame_id: str, data: bytes, format: str) -> None:
        """``sensor_msgs/CompressedImage`` from encoded bytes; ``format`` as image_transport writes it."""
        message = self._make(
            "sensor_msgs/msg/CompressedImage",
            header=self.header(stamp_ns, frame_id),
            format=format,
            data=np.frombuffer(data, dtype=np.uint8),
        )
        self.write(topic, "sensor_msgs/msg/CompressedImage", stamp_ns, message)

    def camera_info(self, topic: str, stamp_ns: int, frame_id: str, camera: CameraModel) -> None:
        """``sensor_msgs/CameraInfo`` of a monocular, unrectified camera."""
        model = "plumb_bob" if camera.distortion_model == "none" else camera.distortion_model
        distortion = camera.distortion if camera.distortion_model != "none" else (0.0,) * 5
        roi = self._make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        message = self._make(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(stamp_ns, frame_id),
            height=camera.height,
            width=camera.width,
            distortion_model=model,
            d=np.array(distortion, dtype=np.float64),
            k=camera.K.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.hstack([camera.K, np.zeros((3, 1))]).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )
        self.write(topic, "sensor_msgs/msg/CameraInfo", stamp_ns, message)

    def transforms(self, topic: str, stamp_ns: int, transforms: Sequence[tuple[str, str, int, Array]]) -> None:
        """``tf2_msgs/TFMessage`` of ``(parent, child, stamp_ns, T_parent_child)``.

        Write all static ones in one message: a late joiner gets only the last message of a latched topic.
        """
        items = []
        for parent, child, stamp, T in transforms:
            translation = self._make("geometry_msgs/msg/Vector3", x=float(T[0, 3]), y=float(T[1, 3]), z=float(T[2, 3]))
            items.append(
                self._make(
                    "geometry_msgs/msg/TransformStamped",
                    header=self.header(stamp, parent),
                    child_frame_id=child,
                    transform=self._make(
                        "geometry_msgs/msg/Transform", translation=translation, rotation=self._quaternion(T)
                    ),
                )
            )
        self.write(topic, "tf2_msgs/msg/TFMessage", stamp_ns, self._make("tf2_msgs/msg/TFMessage", transforms=items))

    def pose(self, topic: str, stamp_ns: int, frame_id: str, T: Array) -> None:
        """``geometry_msgs/PoseStamped``."""
        message = self._make(
            "geometry_msgs/msg/PoseStamped", header=self.header(stamp_ns, frame_id), pose=self._pose(T)
        )
        self.write(topic, "geometry_msgs/msg/PoseStamped", stamp_ns, message)

    def pose_with_covariance(self, topic: str, stamp_ns: int, frame_id: str, T: Array, covariance: Array) -> None:
        """``geometry_msgs/PoseWithCovarianceStamped``; covariance 6x6 as in :mod:`vloc_ros.types`."""
        message = self._make(
            "geometry_msgs/msg/PoseWithCovarianceStamped",
            header=self.header(stamp_ns, frame_id),
            pose=self._pose_covariance(T, covariance),
        )
        self.write(topic, "geometry_msgs/msg/PoseWithCovarianceStamped", stamp_ns, message)

    def odometry(self, topic: str, stamp_ns: int, frame_id: str, child_frame_id: str, T: Array) -> None:
        """``nav_msgs/Odometry`` with an unknown (zero) covariance and no twist."""
        zero = self._make("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
        twist = self._make(
            "geometry_msgs/msg/TwistWithCovariance",
            twist=self._make("geometry_msgs/msg/Twist", linear=zero, angular=zero),
            covariance=np.zeros(36),
        )
        message = self._make(
            "nav_msgs/msg/Odometry",
            header=self.header(stamp_ns, frame_id),
            child_frame_id=child_frame_id,
            pose=self._pose_covariance(T, np.zeros((6, 6))),
            twist=twist,
        )
        self.write(topic, "nav_msgs/msg/Odometry", stamp_ns, message)

    def string(self, topic: str, stamp_ns: int, text: str) -> None:
        """``std_msgs/String``."""
        self.write(topic, "std_msgs/msg/String", stamp_ns, self._make("std_msgs/msg/String", data=text))

    def diagnostics(
        self, topic: str, stamp_ns: int, name: str, level: int, text: str, values: Mapping[str, str], hardware: str = ""
    ) -> None:
        """``diagnostic_msgs/DiagnosticArray`` with one status; ``level`` 0 OK, 1 WARN, 2 ERROR, 3 STALE."""
        pairs = [self._make("diagnostic_msgs/msg/KeyValue", key=k, value=v) for k, v in values.items()]
        status = self._make(
            "diagnostic_msgs/msg/DiagnosticStatus",
            level=level,
            name=name,
            message=text,
            hardware_id=hardware,
            values=pairs,
        )
        message = self._make("diagnostic_msgs/msg/DiagnosticArray", header=self.header(stamp_ns, ""), status=[status])
        self.write(topic, "diagnostic_msgs/msg/DiagnosticArray", stamp_ns, message)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """``std_msgs/Header``."""
        time = self._make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return self._make("std_msgs/msg/Header", stamp=time, frame_id=frame_id)

    def _make(self, msgtype: str, **fields: Any) -> Any:
        return self._types[msgtype](**fields)

    def _quaternion(self, T: Array) -> Any:
        x, y, z, w = (float(v) for v in matrix_to_quaternion(T[:3, :3]))
        return self._make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def _pose(self, T: Array) -> Any:
        position = self._make("geometry_msgs/msg/Point", x=float(T[0, 3]), y=float(T[1, 3]), z=float(T[2, 3]))
        return self._make("geometry_msgs/msg/Pose", position=position, orientation=self._quaternion(T))

    def _pose_covariance(self, T: Array, covariance: Array) -> Any:
        flat = np.asarray(covariance, dtype=np.float64).reshape(-1)
        return self._make("geometry_msgs/msg/PoseWithCovariance", pose=self._pose(T), covariance=flat)


def _qos(topic: str) -> list[Any]:
    """What the recorded publisher offered; only the latched topics need to say more than the default."""
    if topic not in ("/tf_static", "/vloc/state"):
        return []
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    forever = QosTime(9223372036, 854775807)  # RMW_DURATION_INFINITE
    return [
        Qos(
            QosHistory.KEEP_LAST,
            1,
            QosReliability.RELIABLE,
            QosDurability.TRANSIENT_LOCAL,
            forever,
            forever,
            QosLiveliness.AUTOMATIC,
            forever,
            False,
        )
    ]
