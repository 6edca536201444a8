"""Localize a camera with a map of whatever backend.

    ros2 launch vloc_ros localizer.launch.py map:=/maps/campus image:=/camera/image

The launch files of the backends include this one with their parameter file, and insist on a map of theirs. An argument
that is left empty keeps what the parameter file says. `ros2 launch ... --show-args` lists them.
"""

import shutil
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

SHARE = Path(__file__).resolve().parent.parent
BOOLEANS = ("true", "false")

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
    ("params_file", "", "parameter file, keyed /**:; empty for the node's own defaults"),
    ("log_level", "info", "debug, info, warn, error"),
    ("backend", "", "the backend that the map must be made for; empty takes the map's"),
    ("respawn", "true", "start again when the node dies"),
    ("respawn_delay", "2.0", "seconds before that"),
    ("relative_tf", "false", "use tf and tf_static in the namespace instead of /tf and /tf_static"),
    ("rviz", "false", "open RViz"),
    ("rviz_config", str(SHARE / "config" / "vloc.rviz"), "its configuration"),
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
    def value(name):
        return LaunchConfiguration(name).perform(context)

    given = {"backend": value("backend")}
    for name, kind, _ in PARAMETERS:
        if value(name):
            given[name] = boolean(name, value(name)) if kind is bool else kind(value(name))
    remappings = [("image", value("image"))]
    if value("camera_info"):
        remappings.append(("camera_info", value("camera_info")))
    if boolean("relative_tf", value("relative_tf")):
        remappings += [("/tf", "tf"), ("/tf_static", "tf_static")]
    how = program()
    arguments = how.pop("arguments", [])
    return [
        LifecycleNode(
            **how,
            name=value("name"),
            namespace=value("namespace"),
            parameters=[*filter(None, [value("params_file")]), given],
            remappings=remappings,
            arguments=[*arguments, "--ros-args", "--log-level", f"{value('name')}:={value('log_level')}"],
            output="screen",
            respawn=boolean("respawn", value("respawn")),
            respawn_delay=float(value("respawn_delay")),
        )
    ]


def generate_launch_description():
    """Called by ros2 launch."""
    declared = [
        DeclareLaunchArgument(name, default_value="", description=text + (" (true or false)" if kind is bool else ""))
        for name, kind, text in PARAMETERS
    ] + [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", LaunchConfiguration("rviz_config")],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return LaunchDescription([*declared, OpaqueFunction(function=start), rviz])
