"""Localize a camera by the points of a map and what they look like.

    ros2 launch vloc_ros features.launch.py map:=/maps/campus image:=/camera/image

All arguments are those of localizer.launch.py; `ros2 launch ... --show-args` lists them.
"""

from pathlib import Path
from runpy import run_path

shared = run_path(str(Path(__file__).with_name("localizer.launch.py")))
generate_launch_description = shared["launch_file_of"]("features")
