"""Compare the live pose with a reference while driving, and write a report at the end.

    ros2 launch vloc_ros evaluator.launch.py reference:=/gnss/odometry reference_type:=odometry report:=~/drive

`ros2 launch ... --show-args` lists the arguments.
"""

import shutil
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

ARGUMENTS = (
    ("reference", "/reference/pose", "topic of the reference"),
    ("reference_type", "pose", "pose, pose_covariance, odometry, transform, fix or tf"),
    ("pose", "/vloc_localizer/pose", "topic of the poses"),
    ("state", "/vloc_localizer/state", "topic of the state"),
    ("camera_info", "/camera/camera_info", "which frames there were"),
    ("report", "", "folder for the report at the end"),
    ("datum", "", "with fix: latitude,longitude,height of the map's origin"),
    ("align", "false", "move the reference so that it meets the first pose"),
    ("use_sim_time", "false", "take the time from /clock"),
    ("namespace", "", "namespace of the node"),
)


def program():
    """The installed program, or the package in this checkout with the python3 in use."""
    try:
        if (Path(get_package_prefix("vloc_ros")) / "lib" / "vloc_ros" / "evaluator").exists():
            return {"package": "vloc_ros", "executable": "evaluator"}
    except PackageNotFoundError:
        pass
    return {"executable": shutil.which("python3"), "arguments": ["-m", "vloc_ros.nodes.evaluator"]}


def start(context):
    """The node, from the values of the arguments."""
    value = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    parameters = {"reference_type": value["reference_type"], "report": value["report"]}
    parameters |= {name: value[name].lower() == "true" for name in ("align", "use_sim_time")}
    if value["datum"]:
        parameters["datum"] = [float(v) for v in value["datum"].split(",")]
    how = program()
    return [
        Node(
            **how,
            name="vloc_evaluator",
            namespace=value["namespace"],
            parameters=[parameters],
            remappings=[(name, value[name]) for name in ("reference", "pose", "state", "camera_info")],
            output="screen",
            sigterm_timeout="10",
        )
    ]


def generate_launch_description():
    """Called by ros2 launch."""
    declared = [DeclareLaunchArgument(n, default_value=v, description=t) for n, v, t in ARGUMENTS]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
