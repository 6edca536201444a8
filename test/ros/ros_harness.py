"""The vehicle's side of the topics, for tests: cameras, odometry, clock, and ears on everything the node sends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import rclpy
import tf2_ros
import vloc_fake_backend
from builtin_interfaces.msg import Time as TimeMsg
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped, TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from vloc_ros.geometry.geodesy import Datum

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
START_S, WAIT_S = 60.0, 20.0
WIDTH, HEIGHT = vloc_fake_backend.WIDTH, vloc_fake_backend.HEIGHT
FOCAL = 50.0
#: Where the test map lies on the Earth.
DATUM = Datum(48.0, 11.0, 500.0)
#: The camera looks forward, 1 m ahead of the base and 1.5 m above it.
CAMERA_XYZ, CAMERA_XYZW = (1.0, 0.0, 1.5), (-0.5, 0.5, -0.5, 0.5)


def _hear_ctrl_c() -> None:
    """A shell makes the processes it starts in the background deaf to SIGINT, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Session:
    """Things made once: the test backend as an installed distribution, and a map for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Tests may run in several processes at once: a third of the domains for each of the first three.
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 3
        self.domains = range(10 + 30 * worker, 40 + 30 * worker)
        self.used = os.getpid() % len(self.domains)
        site = folder / "site"
        info = site / "vloc_fake-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "vloc_fake_backend.py").symlink_to(HERE / "vloc_fake_backend.py")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vloc_fake\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[vloc_ros.localizers]\nfake = vloc_fake_backend:FakeLocalizer\n")
        self.site = site
        self.map = self.make_map("town")

    def make_map(self, name: str, area: tuple[float, float] = (0.0, 30.0), **settings: object) -> Path:
        """A map of the test backend. :param area: from and to which x, m."""
        import torch

        from vloc_ros.maps import MapManifest, write_map
        from vloc_ros.maps.schema import Scene
        from vloc_ros.types import CameraModel

        manifest = MapManifest(
            backend="fake",
            scenes=(Scene("town", "map", (area[0], 0.0, 0.0), (area[1], 30.0, 3.0), DATUM),),
            camera=CameraModel(WIDTH, HEIGHT, FOCAL, FOCAL, (WIDTH - 1) / 2, (HEIGHT - 1) / 2),
            preprocessing={"width": WIDTH, "height": HEIGHT},
            settings=dict(settings),
        )
        write_map(self.folder / name, manifest, {"weights.safetensors": {"w": torch.full((3,), float(len(name)))}})
        return self.folder / name

    def domain(self) -> int:
        """A DDS domain that no earlier test of this run used, so that no left-over is heard."""
        self.used += 1
        return self.domains[self.used % len(self.domains)]


class Process:
    """A process of ours with its output; it and its children end with the test."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as stream:
            self.popen = subprocess.Popen(
                command,
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_ctrl_c,
            )

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Ctrl-C: the signal to the whole group, as a terminal sends it."""
        os.killpg(self.popen.pid, number)

    def wait(self, timeout: float = WAIT_S) -> int:
        """Its exit code."""
        return self.popen.wait(timeout)

    def end(self) -> None:
        """End it if it still runs, and whatever it started."""
        for number, patience in ((signal.SIGINT, 8.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self.popen.pid, number)
            except ProcessLookupError:
                break
            try:
                self.popen.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Live:
    """A driver node with its own context and executor thread, in a DDS domain of its own."""

    def __init__(self, session: Session, tmp_path: Path) -> None:
        self.session, self.tmp_path = session, tmp_path
        self.domain = session.domain()
        self.processes: list[Process] = []
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node("vehicle", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.buffer = tf2_ros.Buffer(cache_time=Duration(seconds=3600))
        self.listener = tf2_ros.TransformListener(self.buffer, self.node)
        self.sent_tf: list[TransformStamped] = []
        self.node.create_subscription(TFMessage, "/tf", lambda m: self.sent_tf.extend(m.transforms), 100)
        self.diagnostics: list[DiagnosticArray] = []
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self._tf = self.node.create_publisher(TFMessage, "/tf", 100)
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = self.node.create_publisher(TFMessage, "/tf_static", latched)
        self._publishers: dict[tuple[object, str], object] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.stamp = time.time_ns()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *unused: object) -> None:
        for process in reversed(self.processes):
            process.end()
        self._stop.set()
        self._thread.join(5)
        self.executor.shutdown(timeout_sec=1)
        self.node.destroy_node()
        self.context.try_shutdown()

    def _spin(self) -> None:
        while not self._stop.is_set():
            self.executor.spin_once(timeout_sec=0.05)

    # Processes

    @property
    def environment(self) -> dict[str, str]:
        """For processes that take part in this test's domain."""
        path = [str(ROOT), str(self.session.site), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "ROS_DOMAIN_ID": str(self.domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(self.tmp_path / "log"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def run(self, command: list[str]) -> Process:
        """Start a process."""
        log = self.tmp_path / f"process_{len(self.processes)}.log"
        process = Process(command, self.environment, log)
        self.processes.append(process)
        return process

    def start_node(self, *arguments: str, namespace: str = "", **parameters: object) -> Process:
        """Start the node by itself; ``parameters`` with the map of the session as default."""
        given = {"map": str(self.session.map), "device": "cpu", "diagnostics_period": 0.2, **parameters}
        command = [sys.executable, "-m", "vloc_ros.nodes.localizer", "--ros-args", "-r", "image:=/camera/image"]
        for name, value in given.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text or repr('')}"]
        if namespace:
            command += ["-r", f"__ns:=/{namespace}"]
        return self.run([*command, *arguments])

    def launch(self, file: str, **arguments: object) -> Process:
        """ros2 launch of a file of this checkout (of launch/ where no folder is named), with this interpreter."""
        ros2 = "import sys; from ros2cli.cli import main; sys.exit(main())"
        given = [f"{name}:={value}" for name, value in arguments.items()]
        return self.run(
            [sys.executable, "-c", ros2, "launch", str(ROOT / (file if "/" in file else f"launch/{file}")), *given]
        )

    # Waiting

    def until(self, condition: Callable[[], object], what: str, timeout: float = WAIT_S) -> object:
        """Wait for ``condition`` and return its value; fail with the processes' output."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        logs = "\n".join(f"--- {p.log.name}\n{p.text[-3000:]}" for p in self.processes)
        raise AssertionError(f"no {what} within {timeout:g} s\n{logs}")

    @staticmethod
    def until_soon(seconds: float) -> None:
        """Give the node a moment."""
        time.sleep(seconds)

    def lifecycle(self, name: str = "/vloc_localizer") -> str:
        """The node's lifecycle state, or "" when it does not answer."""
        answer = self.call(GetState, f"{name}/get_state", GetState.Request(), timeout=2.0, required=False)
        return answer.current_state.label if answer is not None else ""

    def wait_state(self, label: str, name: str = "/vloc_localizer", timeout: float = START_S) -> None:
        """Wait until the node is ``unconfigured``, ``active``, ..."""
        what = f"lifecycle state {label} of {name}"

        def reached() -> bool:
            if self.processes and all(p.popen.poll() is not None for p in self.processes):
                raise AssertionError(f"no {what}: the process has ended\n{self.processes[-1].text[-3000:]}")
            return self.lifecycle(name) == label

        self.until(reached, what, timeout)

    def change_state(self, transition: int, name: str = "/vloc_localizer") -> bool:
        """Trigger a lifecycle transition."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, f"{name}/change_state", request, timeout=START_S).success

    def call(self, kind: object, name: str, request: object, timeout: float = WAIT_S, required: bool = True):
        """Call a service; None (or a failure when ``required``) without an answer in time."""
        client = self.node.create_client(kind, name)
        try:
            if client.wait_for_service(timeout):
                done = threading.Event()
                future = client.call_async(request)
                future.add_done_callback(lambda _: done.set())
                if done.wait(timeout):
                    return future.result()
        finally:
            self.node.destroy_client(client)
        if required:
            logs = "\n".join(p.text[-3000:] for p in self.processes)
            raise AssertionError(f"{name} did not answer within {timeout:g} s\n{logs}")
        return None

    def trigger(self, name: str) -> Trigger.Response:
        """Call a std_srvs/Trigger."""
        return self.call(Trigger, name, Trigger.Request())

    def set_parameter(self, name: str, value: object, node: str = "/vloc_localizer"):
        """The SetParametersResult."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, f"{node}/set_parameters", request).results[0]

    def get_parameter(self, name: str, node: str = "/vloc_localizer"):
        """The ParameterValue."""
        return self.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=[name])).values[0]

    def describe_parameter(self, name: str, node: str = "/vloc_localizer"):
        """The ParameterDescriptor."""
        request = DescribeParameters.Request(names=[name])
        return self.call(DescribeParameters, f"{node}/describe_parameters", request).descriptors[0]

    def list_parameters(self, node: str = "/vloc_localizer") -> list[str]:
        """Names of all declared parameters."""
        answer = self.call(ListParameters, f"{node}/list_parameters", ListParameters.Request())
        return list(answer.result.names)

    # Ears

    def hear(self, kind: object, topic: str, latched: bool = False) -> list:
        """A list that grows with the messages of a topic."""
        heard: list = []
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        self.node.create_subscription(kind, topic, heard.append, QoSProfile(depth=100, durability=durability))
        return heard

    def poses(self, name: str = "/vloc_localizer") -> list[PoseWithCovarianceStamped]:
        """What comes on ``~/pose``."""
        return self.hear(PoseWithCovarianceStamped, f"{name}/pose")

    def states(self, name: str = "/vloc_localizer") -> list[String]:
        """What comes on ``~/state``."""
        return self.hear(String, f"{name}/state", latched=True)

    def candidates(self) -> list[PoseArray]:
        """What comes on ``~/candidates``."""
        return self.hear(PoseArray, "/vloc_localizer/candidates")

    def debug_images(self) -> list[Image]:
        """What comes on ``~/debug_image``."""
        return self.hear(Image, "/vloc_localizer/debug_image")

    def values(self) -> dict[str, str]:
        """Keys and values of the newest diagnostics, with ``level`` and ``message``."""
        if not self.diagnostics:
            return {}
        status = self.diagnostics[-1].status[0]
        found = {item.key: item.value for item in status.values}
        return {**found, "level": str(status.level[0]), "message": status.message, "name": status.name}

    def value(self, key: str) -> int:
        """A counter of the newest diagnostics, 0 when it is not there."""
        return int(self.values().get(key, "0") or 0)

    # Voice

    def publisher(self, kind: object, topic: str, qos: QoSProfile | int = 10):
        """A publisher, made once."""
        key = (kind, topic)
        if key not in self._publishers:
            self._publishers[key] = self.node.create_publisher(kind, topic, qos)
        return self._publishers[key]

    def static_camera(self) -> None:
        """base_link -> camera_optical_frame on /tf_static."""
        self._static.publish(
            TFMessage(transforms=[transform("base_link", "camera_optical_frame", 0, CAMERA_XYZ, CAMERA_XYZW)])
        )

    def odometry(self, stamp: int, x: float, parent: str = "odom", child: str = "base_link") -> None:
        """odom -> base_link at a stamp, along x."""
        self._tf.publish(TFMessage(transforms=[transform(parent, child, stamp, (x, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))]))

    def clock(self, stamp: int) -> None:
        """One message on /clock."""
        self.publisher(Clock, "/clock").publish(Clock(clock=time_message(stamp)))

    def camera_info(self, stamp: int, focal: float = FOCAL, width: int = WIDTH, height: int = HEIGHT, **other) -> None:
        """One CameraInfo of a pinhole camera."""
        message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
        cx, cy = (width - 1) / 2, (height - 1) / 2
        message.k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
        message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        message.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        message.header.stamp = time_message(stamp)
        message.header.frame_id = other.pop("frame", "camera_optical_frame")
        topic = other.pop("topic", "/camera/camera_info")
        for name, value in other.items():
            setattr(message, name, value)
        self.publisher(CameraInfo, topic).publish(message)

    def image(self, stamp: int, pixels: np.ndarray, **other) -> None:
        """One rgb8 image; ``other`` replaces fields of the message."""
        message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding="rgb8", step=3 * pixels.shape[1])
        message.data = array("B", pixels.tobytes())
        message.header.stamp, message.header.frame_id = time_message(stamp), "camera_optical_frame"
        for name, value in other.items():
            setattr(message, name, value)
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.publisher(Image, "/camera/image", best_effort).publish(message)

    def other_camera(
        self, name: str, stamp: int, pixels: np.ndarray, frame: str = "", info: bool = True, **other
    ) -> None:
        """One image of another camera of the rig on /<name>/image, with its CameraInfo."""
        frame = frame or f"{name}_optical_frame"
        if info:
            self.camera_info(stamp, topic=f"/{name}/camera_info", frame=frame)
        message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding="rgb8", step=3 * pixels.shape[1])
        message.data = array("B", pixels.tobytes())
        message.header.stamp, message.header.frame_id = time_message(stamp), frame
        for field, value in other.items():
            setattr(message, field, value)
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.publisher(Image, f"/{name}/image", best_effort).publish(message)

    def compressed(self, stamp: int, pixels: np.ndarray) -> None:
        """One JPEG image."""
        ok, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        assert ok
        message = CompressedImage(format="rgb8; jpeg compressed bgr8", data=array("B", data.tobytes()))
        message.header.stamp, message.header.frame_id = time_message(stamp), "camera_optical_frame"
        self.publisher(CompressedImage, "/camera/image/compressed").publish(message)

    def paint(self, x: float = 5.0, y: float = 3.0, confident: bool = True) -> np.ndarray:
        """What the camera sees when the base is at (x, y) in the map."""
        return vloc_fake_backend.paint(x + CAMERA_XYZ[0], y, confident)

    def frame(self, x: float = 5.0, y: float = 3.0, odom: float | None = 0.0, confident: bool = True, **how) -> int:
        """One consistent moment: odometry, camera info, image. The base is at (x, y) in the map. Returns the stamp."""
        stamp = how.pop("stamp", None) or max(self.stamp + 1, time.time_ns())
        self.stamp = stamp
        if odom is not None:
            self.odometry(stamp, odom)
        self.camera_info(stamp)
        pixels = self.paint(x, y, confident)
        (self.compressed if how.pop("compressed", False) else self.image)(stamp, pixels, **how)
        return stamp

    def drive(
        self, until: Callable[[], object], what: str, period: float = 0.1, timeout: float = WAIT_S, **how
    ) -> list:
        """Frames at a fixed rate until a condition holds; returns their stamps."""
        deadline, stamps = time.monotonic() + timeout, []
        self.static_camera()
        while time.monotonic() < deadline:
            if until():
                return stamps
            stamps.append(self.frame(**how))
            time.sleep(period)
        logs = "\n".join(f"--- {p.log.name}\n{p.text[-3000:]}" for p in self.processes)
        raise AssertionError(f"no {what} within {timeout:g} s; diagnostics {self.values()}\n{logs}")


def time_message(stamp: int) -> TimeMsg:
    """Nanoseconds to a message."""
    return TimeMsg(sec=stamp // 10**9, nanosec=stamp % 10**9)


def stamp_of(message: object) -> int:
    """The stamp of a message with a header, nanoseconds."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def transform(parent: str, child: str, stamp: int, xyz: tuple, xyzw: tuple) -> TransformStamped:
    """A TransformStamped from numbers."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, time_message(stamp)
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = (float(v) for v in xyz)
    q.x, q.y, q.z, q.w = (float(v) for v in xyzw)
    return message
