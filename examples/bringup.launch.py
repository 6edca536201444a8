"""A vehicle's bring-up: where its camera sits, its odometry, and the localizer beside them.

    ros2 launch examples/bringup.launch.py map:=/maps/campus image:=/front/image_raw

Copy it into the vehicle's own package and change what is marked. It includes vloc_ros's launch file and gives it the
vehicle's names; the driver of the camera and of the wheels start where the comments say so.
"""

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# The vehicle: change these. A camera that looks ahead, 1.2 m ahead of the rear axle and 1.5 m up; the optical frame is
# turned (x right, y down, z forward), which is roll -90 and yaw -90 degrees.
CAMERA_FRAME, CAMERA_XYZ, CAMERA_RPY = (
    "camera_optical_frame",
    ("1.2", "0.0", "1.5"),
    ("-1.5707963", "0.0", "-1.5707963"),
)


def launch_folder():
    """Of the installed package, or of the checkout that this file stands in."""
    try:
        return Path(get_package_share_directory("vloc_ros")) / "launch"
    except PackageNotFoundError:
        return Path(__file__).resolve().parent.parent / "launch"


def generate_launch_description():
    """Called by ros2 launch."""
    declared = [
        DeclareLaunchArgument("map", description="the map: a folder or a .vmap file"),
        DeclareLaunchArgument("image", default_value="/camera/image", description="the driver's image topic"),
        DeclareLaunchArgument("device", default_value="auto", description="auto, cpu, cuda or cuda:<index>"),
        DeclareLaunchArgument("backend", default_value="", description="of the map; empty takes the map's"),
        DeclareLaunchArgument(
            "pose_file",
            default_value=str(Path.home() / ".ros" / "vloc_pose.json"),
            description="where the vehicle was when it was switched off: the next search starts there",
        ),
        DeclareLaunchArgument("base_frame", default_value="base_link", description="frame of the vehicle"),
    ]
    (x, y, z), (roll, pitch, yaw) = CAMERA_XYZ, CAMERA_RPY
    # A vehicle with a URDF has robot_state_publisher here instead, which sends the same.
    mounting = Node(
        package="tf2_ros",
        executable="static_transform_publisher",
        name="camera_mounting",
        arguments=[
            "--x", x, "--y", y, "--z", z, "--roll", roll, "--pitch", pitch, "--yaw", yaw,
            "--frame-id", LaunchConfiguration("base_frame"), "--child-frame-id", CAMERA_FRAME,
        ],
    )  # fmt: skip
    # Here: the camera's driver, and what sends odom -> base_link (wheels, an IMU, robot_localization's first filter).
    names = ("map", "image", "device", "backend", "pose_file", "base_frame")
    localizer = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(launch_folder() / "localizer.launch.py")),
        launch_arguments={
            **{name: LaunchConfiguration(name) for name in names},
            "tf_mode": "map_odom",  # as Nav2 wants it
        }.items(),
    )
    return LaunchDescription([*declared, mounting, localizer])
