"""Localize a camera with a cascade: a coarse map says where, a fine one refines (imposing_pixloc).

    ros2 launch vloc_ros cascade.launch.py map:=/maps/campus image:=/camera/image

All arguments are those of localizer.launch.py; `ros2 launch ... --show-args` lists them.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

BACKEND = "cascade"
SHARE = Path(__file__).resolve().parent.parent


def generate_launch_description():
    """Called by ros2 launch."""
    params_file = str(SHARE / "config" / f"{BACKEND}.yaml")
    return LaunchDescription(
        [
            DeclareLaunchArgument("params_file", default_value=params_file, description="parameter file, keyed /**:"),
            DeclareLaunchArgument("backend", default_value=BACKEND, description="the backend that the map is made for"),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(SHARE / "launch" / "localizer.launch.py"))),
        ]
    )
