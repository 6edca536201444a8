"""Localize a camera with a map of whatever backend.

    ros2 launch vloc_ros localizer.launch.py map:=/maps/campus image:=/camera/image

The launch files of the backends are this one with their parameter file, and accept only maps of that backend. An
argument that is left empty keeps what the parameter file says. `ros2 launch ... --show-args` lists them.
"""

import shutil
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

SHARE = Path(__file__).resolve().parent.parent
BOOLEANS = ("true", "false")
DEFAULT_FRAMES = {"map": "map", "odom": "odom", "base": "base_link"}

# Arguments that are parameters of the node: name, kind, description.
PARAMETERS = (
    ("map", str, "the map: a folder or a .vmap file"),
    ("device", str, "auto, cpu, cuda or cuda:<index>"),
    ("scene", str, "scene of a multi-scene map"),
    ("tf_mode", str, "map_odom, map_base or none"),
    ("map_frame", str, "frame of the published poses"),
    ("odom_frame", str, "frame of the odometry"),
    ("base_frame", str, "frame of the vehicle"),
    ("camera_frame", str, "optical frame; empty takes the image's"),
    ("image_transport", str, "raw or compressed"),
    ("image_qos", str, "best_effort or reliable"),
    ("image_is_rectified", bool, "the images are rectified already"),
    ("transform_tolerance", float, "seconds that map -> odom is stamped ahead"),
    ("pose_file", str, "keeps the last pose between runs"),
    ("autostart", bool, "configure and activate by itself"),
    ("use_sim_time", bool, "take the time from /clock"),
)
ARGUMENTS = (
    ("image", "/camera/image", "image topic (without /compressed)"),
    ("camera_info", "", "camera info topic; empty takes the image's sibling"),
    ("namespace", "", "namespace of the node"),
    ("name", "vloc_localizer", "name of the node"),
    ("log_level", "info", "debug, info, warn, error"),
    ("respawn", "true", "start again when the node dies"),
    ("respawn_delay", "2.0", "seconds before that"),
    ("relative_tf", "false", "use tf and tf_static in the namespace instead of /tf and /tf_static"),
    ("rviz", "false", "open RViz"),
    ("rviz_config", str(SHARE / "config" / "vloc.rviz"), "its configuration"),
    ("ekf", "false", "fuse the poses with odometry in robot_localization, which sends map -> odom (tf_mode none)"),
    ("ekf_config", str(SHARE / "config" / "robot_localization_ekf.yaml"), "its parameters; frames come from here"),
)


def program():
    """The node's program: the installed one, or the package in this checkout with the python3 in use."""
    try:
        if (Path(get_package_prefix("vloc_ros")) / "lib" / "vloc_ros" / "localizer").exists():
            return {"package": "vloc_ros", "executable": "localizer"}
    except PackageNotFoundError:
        pass
    module = ["-m", "vloc_ros.nodes.localizer"]
    return {"executable": shutil.which("python3"), "arguments": module}


def boolean(name, value):
    if value.lower() not in BOOLEANS:
        raise ValueError(f"{name}: expected true or false, found {value!r}")
    return value.lower() == "true"


def start(context):
    """The processes, from the values of the arguments."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    def flag(name):
        return boolean(name, value(name))

    given = {"backend": value("backend")}
    for name, kind, _ in PARAMETERS:
        if value(name):
            given[name] = flag(name) if kind is bool else kind(value(name))
    if flag("ekf"):
        given["tf_mode"] = "none"
    remappings = [("image", value("image"))]
    if value("camera_info"):
        remappings.append(("camera_info", value("camera_info")))
    tf = [("/tf", "tf"), ("/tf_static", "tf_static")] if flag("relative_tf") else []
    common = {"namespace": value("namespace"), "output": "screen"}
    how = program()
    arguments = how.pop("arguments", [])
    nodes = [
        LifecycleNode(
            **how,
            **common,
            name=value("name"),
            parameters=[*filter(None, [value("params_file")]), given],
            remappings=remappings + tf,
            arguments=[*arguments, "--ros-args", "--log-level", f"{value('name')}:={value('log_level')}"],
            respawn=flag("respawn"),
            respawn_delay=float(value("respawn_delay")),
        )
    ]
    map_frame, odom_frame, base_frame = (value(f"{name}_frame") or DEFAULT_FRAMES[name] for name in DEFAULT_FRAMES)
    clock = {"use_sim_time": given.get("use_sim_time", False)}
    if flag("rviz"):
        topics = [(f"vloc_localizer/{t}", f"{value('name')}/{t}") for t in ("pose", "candidates", "debug_image")]
        show = ["-d", value("rviz_config"), "-f", map_frame]
        nodes.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=show,
                remappings=topics + tf,
                parameters=[clock],
                **common,
            )
        )
    if flag("ekf"):
        frames = {"map_frame": map_frame, "world_frame": map_frame, "odom_frame": odom_frame}
        frames |= {"base_link_frame": base_frame, "pose0": f"{value('name')}/pose"}
        nodes.append(
            Node(
                package="robot_localization",
                executable="ekf_node",
                name="ekf_filter_node_map",
                parameters=[value("ekf_config"), {**frames, **clock}],
                remappings=tf,
                **common,
            )
        )
    return nodes


def launch_file_of(backend):
    """``generate_launch_description`` of a backend; of any when the name is empty."""
    params_file = str(SHARE / "config" / f"{backend}.yaml") if backend else ""
    own = (
        ("params_file", params_file, "parameter file, keyed /**:; empty for the node's own defaults"),
        ("backend", backend, "the backend that the map must be made for; empty takes the map's"),
    )

    def generate_launch_description():
        """Called by ros2 launch."""
        texts = [(n, "", text + (" (true or false)" if kind is bool else "")) for n, kind, text in PARAMETERS]
        declared = [DeclareLaunchArgument(n, default_value=v, description=t) for n, v, t in (*texts, *ARGUMENTS, *own)]
        return LaunchDescription([*declared, OpaqueFunction(function=start)])

    return generate_launch_description


generate_launch_description = launch_file_of("")
