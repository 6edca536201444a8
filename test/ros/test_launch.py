"""The launch files as a user starts them. Needs a ROS 2; see conftest.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def params(live):
    """A parameter file for the test backend: the launch file names the backend that its maps have."""
    if live is None:
        return None
    path = live.tmp_path / "params.yaml"
    path.write_text("/**:\n  ros__parameters:\n    device: cpu\n    diagnostics_period: 0.2\n")
    return path


def _localizer_pid(launched) -> int:
    """The process id of the node that a launch started, from its log."""
    line = [part for part in launched.text.splitlines() if "process started with pid [" in part][-1]
    return int(line.rsplit("[", 1)[1].rstrip("]"))


def test_launch_recovers_from_kill_and_ends_on_ctrl_c(live, params):
    name = "/robot/vloc_localizer"
    launched = live.launch(
        "imposing.launch.py",
        map=live.session.map,
        backend="fake",
        namespace="robot",
        image="/camera/image",
        params_file=params,
        respawn_delay=0.1,
        transform_tolerance=0.4,
    )
    live.wait_state("active", name)
    poses, states = live.poses(name), live.states(name)
    live.drive(lambda: len(poses) >= 3, "poses in the namespace")
    assert live.get_parameter("device", name).string_value == "cpu", "the parameter file was dropped"

    pid = _localizer_pid(launched)
    os.kill(pid, signal.SIGKILL)
    live.until(lambda: _localizer_pid(launched) != pid, "a respawn")
    live.wait_state("active", name)
    before = len(poses)
    live.drive(lambda: len(poses) >= before + 3, "poses after the respawn", timeout=40)
    assert states[-1].data == "LOCALIZED"

    pid = _localizer_pid(launched)
    launched.interrupt()
    assert launched.wait(30) == 0, launched.text[-3000:]
    assert "Traceback" not in launched.text
    assert "process has finished cleanly" in launched.text, launched.text[-2500:]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_vehicles_own_launch_file_brings_the_cameras_place_and_the_localizer(live):
    from ros_harness import CAMERA_XYZ

    kept = live.tmp_path / "pose.json"
    launched = live.launch(
        "examples/bringup.launch.py", map=live.session.map, backend="fake", device="cpu", pose_file=kept
    )
    live.wait_state("active")
    poses = live.poses()
    # The camera's place is the launch file's, 1.2 m ahead of the base: the tests' own is not sent here.
    live.until(lambda: (live.frame(), live.until_soon(0.1), len(poses) >= 3)[-1], "poses", 40)
    position = poses[-1].pose.pose.position
    assert abs(position.x - (5.0 + CAMERA_XYZ[0] - 1.2)) < 0.06 and abs(position.y - 3.0) < 0.06
    assert live.get_parameter("tf_mode").string_value == "map_odom"
    live.until(lambda: any(t.header.frame_id == "map" and t.child_frame_id == "odom" for t in live.sent_tf), "TF")
    launched.interrupt()
    assert launched.wait(30) == 0, launched.text[-3000:]
    assert kept.exists() and "Traceback" not in launched.text


def test_signals_end_the_node_cleanly(live):
    # An idle rclpy node can miss its first signal; this one must not.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        node = live.start_node()
        live.wait_state("active")
        os.kill(node.popen.pid, number)
        assert node.wait(10) == 0, node.text
        assert "Traceback" not in node.text


def test_a_frame_at_work_does_not_hold_up_the_end(live):
    node = live.start_node(map=live.session.make_map("slow_town", delay_s=60.0))
    live.wait_state("active")
    live.drive(lambda: live.value("frames_dropped") > 0, "a frame at work", timeout=40)
    node.interrupt()
    assert node.wait(20) == 0, node.text
    assert "Traceback" not in node.text


def test_a_parameter_that_is_not_allowed_ends_the_start(live):
    node = live.start_node(tf_mode="sideways")
    assert node.wait(60) == 2
    assert "tf_mode: expected one of map_odom, map_base, none" in node.text
    assert "Traceback" not in node.text


def _write_bag(folder: Path, frames: int) -> list[int]:
    """A small bag of the test camera, with the topics that the converters write; returns the image stamps."""
    import numpy as np
    import vloc_fake_backend
    from ros_harness import CAMERA_XYZ, CAMERA_XYZW, FOCAL, HEIGHT, WIDTH
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    kind = store.types

    def header(stamp, frame):
        time = kind["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
        return kind["std_msgs/msg/Header"](stamp=time, frame_id=frame)

    def tf(parent, child, stamp, xyz, xyzw):
        inner = kind["geometry_msgs/msg/Transform"](
            translation=kind["geometry_msgs/msg/Vector3"](*map(float, xyz)),
            rotation=kind["geometry_msgs/msg/Quaternion"](*map(float, xyzw)),
        )
        stamped = kind["geometry_msgs/msg/TransformStamped"](
            header=header(stamp, parent), child_frame_id=child, transform=inner
        )
        return kind["tf2_msgs/msg/TFMessage"](transforms=[stamped])

    stamps = [1_700_000_000 * 10**9 + i * 10**8 for i in range(frames)]
    with Writer(folder, version=8) as writer:
        topics = {
            "/tf_static": "tf2_msgs/msg/TFMessage",
            "/tf": "tf2_msgs/msg/TFMessage",
            "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
            "/camera/image": "sensor_msgs/msg/Image",
        }
        forever = QosTime(9223372036, 854775807)
        latched = Qos(
            QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
            forever, forever, QosLiveliness.AUTOMATIC, forever, False,
        )  # fmt: skip
        connections = {
            topic: writer.add_connection(
                topic, name, typestore=store, offered_qos_profiles=[latched] if topic == "/tf_static" else []
            )
            for topic, name in topics.items()
        }

        def write(topic, stamp, message):
            writer.write(connections[topic], stamp, store.serialize_cdr(message, topics[topic]))

        write("/tf_static", stamps[0], tf("base_link", "camera_optical_frame", 0, CAMERA_XYZ, CAMERA_XYZW))
        roi = kind["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        for i, stamp in enumerate(stamps):
            x = 2.0 + 0.1 * i
            write("/tf", stamp, tf("odom", "base_link", stamp, (x - 2.0, 0, 0), (0, 0, 0, 1)))
            k = np.array([FOCAL, 0, (WIDTH - 1) / 2, 0, FOCAL, (HEIGHT - 1) / 2, 0, 0, 1], dtype=np.float64)
            p = np.insert(k, [3, 6, 9], 0.0)
            info = kind["sensor_msgs/msg/CameraInfo"](
                header=header(stamp, "camera_optical_frame"), height=HEIGHT, width=WIDTH,
                distortion_model="plumb_bob", d=np.zeros(5), k=k, r=np.eye(3).reshape(9), p=p,
                binning_x=0, binning_y=0, roi=roi,
            )  # fmt: skip
            write("/camera/camera_info", stamp, info)
            pixels = vloc_fake_backend.paint(x + CAMERA_XYZ[0], 3.0)
            image = kind["sensor_msgs/msg/Image"](
                header=header(stamp, "camera_optical_frame"), height=HEIGHT, width=WIDTH, encoding="rgb8",
                is_bigendian=0, step=3 * WIDTH, data=pixels.reshape(-1),
            )  # fmt: skip
            write("/camera/image", stamp, image)
    return stamps


def _check_drive(live, poses, stamps):
    from rclpy.time import Time
    from ros_harness import stamp_of

    heard = {stamp_of(p): p for p in poses}
    assert len(heard) == len(poses), "a stamp was published twice"
    assert set(heard) <= set(stamps)
    # All but the first frames, which the tracker needs to agree, and what the start of the transport lost.
    assert len(heard) >= 0.7 * len(stamps)
    for stamp, pose in heard.items():
        truth = 2.0 + 0.1 * stamps.index(stamp)
        assert pose.pose.pose.position.x == pytest.approx(truth, abs=0.06)
        found = live.buffer.lookup_transform("map", "base_link", Time(nanoseconds=stamp))
        assert found.transform.translation.x == pytest.approx(truth, abs=0.2)


def test_a_bag_played_by_another_process(live, params):
    from ros_harness import HERE

    stamps = _write_bag(live.tmp_path / "bag", 60)
    live.launch(
        "imposing.launch.py",
        map=live.session.map, backend="fake", image="/camera/image", params_file=params, use_sim_time="true",
    )  # fmt: skip
    live.wait_state("active")
    poses = live.poses()
    player = live.run([sys.executable, str(HERE / "play_bag.py"), str(live.tmp_path / "bag")])
    assert player.wait(60) == 0, player.text
    live.until(lambda: poses and poses[-1].header.stamp.nanosec == stamps[-1] % 10**9, "the pose of the last frame")
    _check_drive(live, poses, stamps)


def test_replay_bag_launch(live, params):
    ros2 = [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())"]
    probe = subprocess.run(
        [*ros2, "bag", "play", "--help"], env=live.environment, capture_output=True, timeout=60, check=False
    )
    if probe.returncode != 0:
        pytest.skip("this ROS 2 has no ros2 bag play")
    stamps = _write_bag(live.tmp_path / "bag", 60)
    poses = live.poses()
    launched = live.launch(
        "replay_bag.launch.py",
        bag=live.tmp_path / "bag", map=live.session.map, backend="fake", params_file=params, exit="true",
    )  # fmt: skip
    assert launched.wait(90) == 0, launched.text[-3000:]
    assert poses, launched.text
    _check_drive(live, poses, stamps)


def test_the_shipped_map_live(live):
    """The demo's map through the real backend: a drive it has never seen, played by another process."""
    import numpy as np
    import yaml
    from ros_harness import HERE, ROOT, stamp_of

    from vloc_ros.convert.town import convert_town

    plan = yaml.safe_load((ROOT / "models/demo.yaml").read_text())
    path = ROOT / "models" / plan["map"]
    if not path.exists():
        pytest.skip(f"no map at {path}")
    town = plan["town"]
    (bag,) = convert_town(
        live.tmp_path / "town", seed=town["seed"], loop_m=town["loop_m"], traversals=1, first=town["traversal"],
        lights=[town["light"]] if town.get("light") else None, frames="0:80",
    )  # fmt: skip
    params = live.tmp_path / "params.yaml"
    params.write_text("/**:\n  ros__parameters:\n    diagnostics_period: 0.2\n    max_image_age: 2.0\n")
    live.launch("imposing.launch.py", map=path, device="cpu", params_file=params, use_sim_time="true")
    live.wait_state("active", timeout=120)
    from geometry_msgs.msg import PoseStamped

    poses, reference = live.poses(), live.hear(PoseStamped, "/reference/pose")
    player = live.run([sys.executable, str(HERE / "play_bag.py"), str(bag), "0.5"])
    assert player.wait(120) == 0, player.text
    truth = {stamp_of(p): p.pose.position for p in reference}
    heard = {stamp_of(p): p.pose.pose.position for p in poses}
    assert set(heard) <= set(truth)
    worked_on = live.value("frames") - live.value("refused")
    # A pose for every frame that the localizer had time for, but the first ones, which must agree.
    assert len(heard) >= 0.8 * worked_on - 5, live.values()
    assert worked_on > 10, live.values()
    errors = [np.hypot(heard[s].x - truth[s].x, heard[s].y - truth[s].y) for s in heard]
    assert np.median(errors) < 1.0


def test_rviz_and_robot_localization_follow_namespace_name_and_frames(live):
    """What the launch file would start: neither has to be installed for that."""
    from runpy import run_path

    import rclpy
    import yaml
    from launch import LaunchContext

    shared, context = run_path(str(ROOT / "launch" / "localizer.launch.py")), LaunchContext()
    for entity in shared["generate_launch_description"]().entities[:-1]:
        entity.execute(context)  # the declared arguments
    context.launch_configurations.update(
        namespace="robot1", name="eye", map_frame="yard", relative_tf="true", ekf="true", rviz="true"
    )
    nodes = shared["start"](context)
    given = []
    for node in nodes:
        node._perform_substitutions(context)
        assert node.expanded_node_namespace == "/robot1"
        assert {("/tf", "tf"), ("/tf_static", "tf_static")} <= set(node.expanded_remapping_rules)
        files = [Path(value) for value, is_file in node._Node__expanded_parameter_arguments if is_file]
        sections = [section for file in files for section in yaml.safe_load(file.read_text()).values()]
        given.append({name: value for section in sections for name, value in section["ros__parameters"].items()})
    eye, rviz, ekf = given
    assert (nodes[0].node_name, nodes[2].node_name) == ("/robot1/eye", "/robot1/ekf_filter_node_map")
    assert eye["tf_mode"] == "none" and ekf["world_frame"] == ekf["map_frame"] == "yard" and ekf["pose0"] == "eye/pose"
    assert ("vloc_localizer/pose", "eye/pose") in nodes[1].expanded_remapping_rules and "use_sim_time" in rviz
    displays = yaml.safe_load((ROOT / "config" / "vloc.rviz").read_text())["Visualization Manager"]
    topics = [d["Topic"]["Value"] for d in [*displays["Displays"], *displays["Tools"]] if "Topic" in d]
    assert len(topics) == 4 and not any(topic.startswith("/") for topic in topics)
    # The key of the parameter file matches its node in any namespace.
    made = rclpy.create_node(
        "ekf_filter_node_map", namespace="/a/b", context=live.context,
        cli_args=["--ros-args", "--params-file", str(ROOT / "config" / "robot_localization_ekf.yaml")],
        automatically_declare_parameters_from_overrides=True,
    )  # fmt: skip
    try:
        assert made.get_parameter("initial_estimate_covariance").value[0] == 1e6
    finally:
        made.destroy_node()


def test_nav2_without_its_localization_can_be_described(live):
    """Beside a package that is called as Nav2's and declares what Nav2's navigation_launch.py does."""
    share = live.tmp_path / "share"
    (share / "nav2_bringup" / "launch").mkdir(parents=True)
    (share / "ament_index" / "resource_index" / "packages").mkdir(parents=True)
    (share / "ament_index" / "resource_index" / "packages" / "nav2_bringup").touch()
    (share / "nav2_bringup" / "launch" / "navigation_launch.py").write_text(
        "from launch import LaunchDescription\nfrom launch.actions import DeclareLaunchArgument\n"
        "def generate_launch_description():\n"
        "    names = ('namespace', 'use_sim_time', 'autostart', 'params_file', 'use_composition', 'container_name')\n"
        "    return LaunchDescription([DeclareLaunchArgument(n, default_value='') for n in names])\n"
    )
    env = {**os.environ, "AMENT_PREFIX_PATH": f"{live.tmp_path}:{os.environ['AMENT_PREFIX_PATH']}"}
    command = ["ros2", "launch", str(ROOT / "examples" / "nav2.launch.py"), "--show-args"]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert all(f"'{name}':" in found.stdout for name in ("map", "grid", "params_file", "tf_mode", "container_name"))
