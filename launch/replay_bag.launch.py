"""Play a bag beside the node, on the bag's clock: what the vehicle would have seen.

    ros2 launch vloc_ros replay_bag.launch.py bag:=/bags/drive map:=/maps/campus

The bag starts when the node is active. Every argument of localizer.launch.py is an argument here too.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.event_handlers import OnStateTransition

HERE = Path(__file__).resolve().parent


def start(context):
    def value(name):
        return LaunchConfiguration(name).perform(context)

    command = ["ros2", "bag", "play", value("bag"), "--clock", value("clock_rate"), "--rate", value("rate")]
    if value("loop").lower() == "true":
        command.append("--loop")
    play = ExecuteProcess(cmd=command, output="screen")
    # handle_once: a node that respawns must not start a second player.
    when_active = OnStateTransition(goal_state="active", entities=[play], handle_once=True)
    actions = [RegisterEventHandler(when_active)]
    if value("exit").lower() == "true":
        end = OnProcessExit(target_action=play, on_exit=[EmitEvent(event=Shutdown(reason="the bag has ended"))])
        actions.append(RegisterEventHandler(end))
    return actions


def generate_launch_description():
    """Called by ros2 launch."""
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "localizer.launch.py")),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="the rosbag2 folder to play"),
            DeclareLaunchArgument("rate", default_value="1.0", description="speed of the playback"),
            DeclareLaunchArgument("clock_rate", default_value="100", description="messages on /clock per second"),
            DeclareLaunchArgument("loop", default_value="false", description="play again and again (true or false)"),
            DeclareLaunchArgument("exit", default_value="false", description="end with the bag (true or false)"),
            OpaqueFunction(function=start),
            node,
        ]
    )
