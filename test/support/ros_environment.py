"""The environment of a ROS 2: the sourced one, or that of the installation in its usual place."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path


@functools.cache
def sourced_environment() -> dict[str, str] | str:
    """The environment of a ROS 2 for this interpreter, or why there is none."""
    if os.environ.get("AMENT_PREFIX_PATH") and importlib.util.find_spec("rclpy"):
        return dict(os.environ)
    setups = sorted(Path("/opt/ros").glob("*/setup.bash"))
    if not setups:
        return "no ROS 2: none is sourced and there is no /opt/ros/<distro>/setup.bash"
    reasons = []
    for setup in reversed(setups):
        try:
            sourced = subprocess.run(
                ["bash", "-c", f'source "{setup}" >/dev/null && env -0'], capture_output=True, timeout=60, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{setup} did not end within a minute"
        environment = dict(line.split("=", 1) for line in sourced.stdout.decode().split("\0") if "=" in line)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
        probe = "import rclpy, tf2_ros, launch_ros, sensor_msgs.msg, std_srvs.srv, diagnostic_msgs.msg"
        tried = subprocess.run(
            [sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=False
        )
        if tried.returncode == 0:
            return environment
        last = tried.stderr.strip().splitlines()[-1:] or ["no message"]
        reasons.append(
            f"{setup.parent} does not work with Python {sys.version_info.major}.{sys.version_info.minor} ({last[0]})"
        )
    return "no usable ROS 2: " + "; ".join(reasons)
