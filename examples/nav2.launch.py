"""Nav2 on the localizer's map -> odom: everything of it but its own localization.

    ros2 launch examples/nav2.launch.py map:=/maps/campus grid:=/maps/campus_grid.yaml params_file:=/robot/nav2.yaml

`params_file` is the robot's Nav2 file with vloc_ros's `config/nav2.yaml` merged into it. Nav2's `bringup_launch.py`
always starts AMCL, and its lifecycle manager of the localization takes no parameters from a file: so that part is here,
a map server and its manager, beside Nav2's `navigation_launch.py` and the localizer.
"""

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def launch_folder():
    """Of the installed package, or of the checkout that this file stands in."""
    try:
        return Path(get_package_share_directory("vloc_ros")) / "launch"
    except PackageNotFoundError:
        return Path(__file__).resolve().parent.parent / "launch"


def generate_launch_description():
    """Called by ros2 launch."""
    given = LaunchConfiguration
    declared = [
        DeclareLaunchArgument("map", description="the localizer's map: a folder or a .vmap file"),
        DeclareLaunchArgument("image", default_value="/camera/image", description="the driver's image topic"),
        DeclareLaunchArgument("grid", description="Nav2's map of free space, a YAML file, in the same frame"),
        DeclareLaunchArgument("params_file", description="Nav2's parameters, with config/nav2.yaml merged into them"),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="take the time from /clock"),
    ]
    clock = {"use_sim_time": ParameterValue(given("use_sim_time"), value_type=bool)}
    localizer = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(launch_folder() / "localizer.launch.py")),
        launch_arguments={
            **{name: given(name) for name in ("map", "image", "use_sim_time")},
            # Nav2's parameters are not the node's.
            "params_file": "",
            "tf_mode": "map_odom",
        }.items(),
    )
    grid = Node(
        package="nav2_map_server",
        executable="map_server",
        name="map_server",
        parameters=[given("params_file"), {"yaml_filename": given("grid")}, clock],
    )
    manager = Node(
        package="nav2_lifecycle_manager",
        executable="lifecycle_manager",
        name="lifecycle_manager_localization",
        parameters=[given("params_file"), clock],
    )
    navigation = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([FindPackageShare("nav2_bringup"), "launch", "navigation_launch.py"])
        ),
        launch_arguments={name: given(name) for name in ("params_file", "use_sim_time")}.items(),
    )
    # In groups: the arguments of an included file would hold for all that comes after it.
    return LaunchDescription([*declared, grid, manager, GroupAction([navigation]), GroupAction([localizer])])
