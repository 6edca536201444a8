"""A vehicle's side of the topics, for benchmarks: starts the node, is its camera, odometry, receiver and clock.

Needs a sourced ROS 2. With ``pace`` the vehicle has a clock of its own, on ``/clock``, that runs so fast: a busy
machine then takes longer instead of being late.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import rclpy
import tf2_ros
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, NavSatFix, NavSatStatus
from std_msgs.msg import String
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from vloc_ros.geometry.rotations import matrix_to_quaternion
from vloc_ros.messages import transform
from vloc_ros.types import Array, CameraModel

SECOND = 1_000_000_000
JPEG = "rgb8; jpeg compressed bgr8"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def stamp_ns(message: Any) -> int:
    """Of a header."""
    return message.header.stamp.sec * SECOND + message.header.stamp.nanosec


def transform_message(parent: str, child: str, T: Array, stamp: int) -> TransformStamped:
    """T_parent_child, (4, 4), as a message."""
    out = TransformStamped(child_frame_id=child)
    out.header.stamp, out.header.frame_id = _time(stamp), parent
    place, turn = out.transform.translation, out.transform.rotation
    place.x, place.y, place.z = map(float, T[:3, 3])
    turn.x, turn.y, turn.z, turn.w = map(float, matrix_to_quaternion(T[:3, :3]))
    return out


def image_messages(camera: CameraModel, stamp: int, pixels: Array) -> tuple[CameraInfo, Image]:
    """An image (H, W, 3) uint8 of a pinhole camera."""
    height, width = pixels.shape[:2]
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob")
    info.k, info.d = camera.K.ravel().tolist(), list(camera.distortion) or [0.0] * 5
    info.p, info.r = np.hstack([camera.K, np.zeros((3, 1))]).ravel().tolist(), np.eye(3).ravel().tolist()
    info.header.stamp, info.header.frame_id = _time(stamp), "camera"
    message = Image(header=info.header, height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = array("B", pixels.tobytes())
    return info, message


def jpeg(pixels: Array) -> bytes:
    """An image (H, W, 3) uint8 as a camera's driver compresses it."""
    found, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert found
    return bytes(data)


class LiveVehicle:
    """The node in a process of its own, and everything around it in this one.

    :param parameters: of the node.
    :param pace: seconds of the vehicle's clock a second; 0: the machine's own clock.
    :param log: what the node prints; None: thrown away.
    :ivar poses: (stamp in ns, time.perf_counter() of its arrival, T_map_base, covariance) of each ``~/pose``.
    :ivar states: what came on ``~/state``.
    """

    def __init__(
        self, camera: CameraModel, T_base_cam: Array, parameters: dict[str, object], pace: float = 0.0,
        log: Path | None = None,
    ) -> None:  # fmt: skip
        self.camera, self.pace = camera, pace
        command = [sys.executable, "-m", "vloc_ros.nodes.localizer", "--ros-args", "-r", "image:=/camera/image"]
        given = {"device": "cpu", "autostart": True, "use_sim_time": pace > 0.0, **parameters}
        for name, value in given.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text or repr('')}"]
        with open(log or "/dev/null", "wb") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        rclpy.init(args=[])
        self.node = node = rclpy.create_node("vehicle")
        self._compressed = parameters.get("image_transport") == "compressed"
        kind, topic = (CompressedImage, "/camera/image/compressed") if self._compressed else (Image, "/camera/image")
        self._image = node.create_publisher(kind, topic, 10)
        self._info = node.create_publisher(CameraInfo, "/camera/camera_info", 10)
        self._tf = node.create_publisher(TFMessage, "/tf", 100)
        self._static = node.create_publisher(TFMessage, "/tf_static", LATCHED)
        self._fix = node.create_publisher(NavSatFix, "/fix", 10)
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self.poses: list[tuple[int, float, Array, Array]] = []
        self.states: list[str] = []
        self.values: dict[str, str] = {}
        node.create_subscription(PoseWithCovarianceStamped, "/vloc_localizer/pose", self._hear, 50)
        node.create_subscription(String, "/vloc_localizer/state", lambda m: self.states.append(m.data), LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)
        self.buffer = tf2_ros.Buffer(cache_time=Duration(seconds=60))
        self._listener = tf2_ros.TransformListener(self.buffer, node)
        self._executor = rclpy.executors.SingleThreadedExecutor()
        self._executor.add_node(node)
        self._static.publish(TFMessage(transforms=[transform_message("base_link", "camera", T_base_cam, self.now())]))

    def __enter__(self) -> LiveVehicle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
        self._executor.shutdown(timeout_sec=1)
        self.node.destroy_node()
        rclpy.try_shutdown()

    def end(self) -> int | None:
        """Ctrl-C for the node; its exit code, None where it had to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return None
        return self.process.returncode

    # Ears

    def _hear(self, message: PoseWithCovarianceStamped) -> None:
        covariance = np.reshape(message.pose.covariance, (6, 6))
        self.poses.append((stamp_ns(message), time.perf_counter(), transform(message), covariance))

    def _diagnosed(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith("localization"):
                self.values = {item.key: item.value for item in status.values}

    def hear(self, kind: Any, topic: str) -> list[Any]:
        """A list that grows with the messages of a topic."""
        heard: list[Any] = []
        self.node.create_subscription(kind, topic, heard.append, 50)
        return heard

    def call(self, service: str) -> bool:
        """A std_srvs/Trigger of the node. :raises RuntimeError: no answer within 20 s."""
        client = self.node.create_client(Trigger, f"/vloc_localizer/{service}")
        self.until(client.service_is_ready, service, 20.0)
        future = client.call_async(Trigger.Request())
        self.until(future.done, service, 20.0)
        return bool(future.result().success)

    def spin(self, seconds: float) -> None:
        """Hear for so long."""
        until = time.monotonic() + seconds
        while True:
            self._executor.spin_once(timeout_sec=max(0.0, min(0.05, until - time.monotonic())))
            if time.monotonic() >= until:
                return

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        """Hear until a condition holds. :raises RuntimeError: it does not within so many seconds."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or self.process.poll() is not None or self.values.get("problem"):
                raise RuntimeError(f"expected {what} within {seconds:g} s, found none: {self.values}")
            self._executor.spin_once(timeout_sec=0.02)

    def ready(self, seconds: float = 120.0) -> None:
        """Wait until the node has its map and subscribes to the image."""
        self.until(lambda: self._image.get_subscription_count() and self.states, "an active node", seconds)
        self.spin(0.5)

    # Voice

    def now(self) -> int:
        """The machine's clock, ns."""
        return time.time_ns()

    def tick(self, stamp: int) -> None:
        """The vehicle's clock is at this stamp."""
        self._clock.publish(Clock(clock=_time(stamp)))

    def odometry(self, stamp: int, T_odom_base: Array) -> None:
        """odom -> base_link; whoever makes it knows it at once."""
        message = transform_message("odom", "base_link", T_odom_base, stamp)
        self._tf.publish(TFMessage(transforms=[message]))
        self.buffer.set_transform(message, "vehicle")

    def image(self, stamp: int, pixels: Array) -> float:
        """(H, W, 3) uint8, with its CameraInfo; time.perf_counter() as it is handed over, or compressed before."""
        info, message = image_messages(self.camera, stamp, pixels)
        if self._compressed:
            message = CompressedImage(header=info.header, format=JPEG, data=array("B", jpeg(pixels)))
        self._info.publish(info)
        handed = time.perf_counter()
        self._image.publish(message)
        return handed

    def fix(self, stamp: int, place: Array, sigma_m: float) -> None:
        """A satellite fix. :param place: (3,) latitude and longitude (deg), height (m)."""
        message = NavSatFix(latitude=float(place[0]), longitude=float(place[1]), altitude=float(place[2]))
        message.status.status = NavSatStatus.STATUS_FIX
        message.header.stamp, message.header.frame_id = _time(stamp), "base_link"
        message.position_covariance = np.diag(np.square([sigma_m, sigma_m, 2.0 * sigma_m])).ravel().tolist()
        message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_DIAGONAL_KNOWN
        self._fix.publish(message)


def _time(stamp: int) -> Time:
    return Time(sec=stamp // SECOND, nanosec=stamp % SECOND)
