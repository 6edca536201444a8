"""ROS messages from the package's own types, and how each topic is offered; subclasses say what becomes of them.

Message types are Humble's: the oldest distribution that has to read what is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vloc_ros.datasets.bag.truth import DATUM_TOPIC
from vloc_ros.errors import BagError
from vloc_ros.geometry.geodesy import Datum
from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.types import Array, CameraModel, RgbImage

__all__ = ["LATCHED", "BagMessages", "offered_qos"]

#: Topics whose last message a late joiner gets: recorded as transient local.
LATCHED = ("/tf_static", "/vloc/state", DATUM_TOPIC)


class BagMessages(ABC):
    """Writes messages of every kind that the package needs through one method, :meth:`write`.

    All stamps are nanoseconds and become both header stamp and record time. Poses and transforms are 4x4
    ``T_parent_child``; images are (H, W, 3) uint8 RGB.

    :raises BagError: rosbags is not installed.
    """

    def __init__(self) -> None:
        try:
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise BagError("writing bags needs the rosbags package: pip install 'vloc_ros[replay]'") from error
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._types: Mapping[str, Any] = self._store.types

    @abstractmethod
    def write(self, topic: str, msgtype: str, stamp_ns: int, message: Any) -> None:
        """Write any message made of these types."""

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

    def nav_sat_fix(
        self, topic: str, stamp_ns: int, frame_id: str, place: Datum, variance_m2: Array | None = None
    ) -> None:
        """``sensor_msgs/NavSatFix`` at a place; ``variance_m2`` (3,) of east, north, up, or unknown."""
        status = self._make("sensor_msgs/msg/NavSatStatus", status=0, service=1)  # a fix, by GPS
        covariance = np.zeros(9) if variance_m2 is None else np.diag(variance_m2).reshape(-1).astype(np.float64)
        message = self._make(
            "sensor_msgs/msg/NavSatFix",
            header=self.header(stamp_ns, frame_id),
            status=status,
            latitude=float(place.latitude_deg),
            longitude=float(place.longitude_deg),
            altitude=float(place.altitude_m),
            position_covariance=covariance,
            position_covariance_type=0 if variance_m2 is None else 2,  # unknown, or its diagonal is known
        )
        self.write(topic, "sensor_msgs/msg/NavSatFix", stamp_ns, message)

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


def offered_qos(topic: str) -> list[Any]:
    """What the recorded publisher offered; only the latched topics need to say more than the default."""
    if topic not in LATCHED:
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
