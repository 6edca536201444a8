"""Files for other programs (Docker, Nav2, robot_localization) say what those understand, and all that is needed."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTIONS = ("humble", "jazzy")

#: Parameters that robot_localization 3 declares for its filters, and what the name of an input may be followed by.
FILTER_PARAMETERS = {
    "frequency", "sensor_timeout", "two_d_mode", "transform_time_offset", "transform_timeout", "print_diagnostics",
    "debug", "debug_out_file", "publish_tf", "publish_acceleration", "permit_corrected_publication", "map_frame",
    "odom_frame", "base_link_frame", "base_link_frame_output", "world_frame", "smooth_lagged_data", "history_length",
    "reset_on_time_jump", "predict_to_current_time", "disabled_at_startup", "initial_state", "use_control",
    "process_noise_covariance", "dynamic_process_noise_covariance", "initial_estimate_covariance",
}  # fmt: skip
INPUT_SUFFIXES = {
    "odom": {"", "_config", "_differential", "_relative", "_queue_size", "_pose_rejection_threshold",
             "_twist_rejection_threshold"},
    "pose": {"", "_config", "_differential", "_relative", "_queue_size", "_rejection_threshold"},
    "imu": {"", "_config", "_differential", "_relative", "_queue_size", "_pose_rejection_threshold",
            "_twist_rejection_threshold", "_linear_acceleration_rejection_threshold",
            "_remove_gravitational_acceleration"},
}  # fmt: skip
#: Parameters of Nav2's nodes that concern us.
NAV2_PARAMETERS = {
    "lifecycle_manager_localization": {"autostart", "node_names", "bond_timeout"},
    "bt_navigator": {"global_frame", "robot_base_frame", "transform_tolerance"},
}


def test_the_filters_parameters_are_those_of_robot_localization():
    content = yaml.safe_load((ROOT / "config/robot_localization_ekf.yaml").read_text(encoding="utf-8"))
    (section,) = content.values()
    given = section["ros__parameters"]
    for name, value in given.items():
        found = re.fullmatch(r"(odom|pose|imu)\d+(_\w+)?", name)
        assert found[2] in (None, *INPUT_SUFFIXES[found[1]]) if found else name in FILTER_PARAMETERS, name
        if name.endswith("_config"):
            assert len(value) == 15 and all(isinstance(each, bool) for each in value), name
    # A pose is fused as it is, odometry as velocities only: the same distance must not count twice.
    assert given["pose0_config"][:6] == [True] * 6 and not any(given["pose0_config"][6:])
    assert not any(given["odom0_config"][:6]) and given["odom0_config"][6]
    assert given["world_frame"] == given["map_frame"] and given["publish_tf"]
    assert given["smooth_lagged_data"] and given["history_length"] > 0.0, "one without the other does nothing"
    # Velocities come before the first pose. A filter that is sure of the origin by then refuses every pose of the map.
    assert len(given["initial_estimate_covariance"]) == len(given["process_noise_covariance"]) == 15
    assert min(given["initial_estimate_covariance"][:3]) >= 1e6 and "pose0_rejection_threshold" not in given
    assert not any(given["imu0_config"][:9]) and given["imu0_config"][9:12] == [True] * 3


def test_nav2_is_brought_up_without_its_own_localization():
    """Its localization_launch.py starts AMCL whatever the parameter file says."""
    text = (ROOT / "examples/nav2.launch.py").read_text(encoding="utf-8")
    assert "navigation_launch.py" in text and 'bringup_launch.py")' not in text and "nav2_amcl" not in text
    content = yaml.safe_load((ROOT / "config/nav2.yaml").read_text(encoding="utf-8"))
    manager = content["lifecycle_manager_localization"]["ros__parameters"]
    # The localizer starts itself there; who lets Nav2 manage it needs a bond of it, or none of anybody.
    assert "vloc_localizer" not in manager["node_names"] and manager["bond_timeout"] > 0.0


def test_nav2s_parameters_are_those_of_its_nodes():
    content = yaml.safe_load((ROOT / "config/nav2.yaml").read_text(encoding="utf-8"))
    assert {node: set(values["ros__parameters"]) for node, values in content.items()} == NAV2_PARAMETERS


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_container_has_all_that_the_package_declares(distribution):
    text = (ROOT / f"docker/{distribution}.Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM (.*)$", text, re.MULTILINE) == [f"ros:{distribution}-ros-base"]
    installed = set(re.search(r"apt-get install (.*?)&&", text, re.DOTALL).group(1).replace("\\", " ").split())
    keys = [node.text for node in ElementTree.parse(ROOT / "package.xml").getroot().findall("exec_depend")]
    for key in keys:
        assert (key if key.startswith("python3-") else f"ros-{distribution}-{key.replace('_', '-')}") in installed, key
    # What pip brings is declared by the package itself; its extras exist.
    extras = re.search(r'pip install --no-cache-dir "/opt/vloc_ros\[([\w,]+)\]"', text).group(1).split(",")
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras) and "ros" in extras
    assert "transforms3d" in declared and "--system-site-packages" in text
    assert ".venv*" in (ROOT / ".dockerignore").read_text(encoding="utf-8").split(), "gigabytes of another Python's"


def test_every_package_of_ros_that_is_imported_is_declared():
    keys = {node.text for node in ElementTree.parse(ROOT / "package.xml").getroot().findall("exec_depend")}
    of_python = {"tf2_ros": "tf2_ros_py"}
    known = keys | {"vloc_ros", "__future__"}
    for path in [*(ROOT / "vloc_ros/nodes").glob("*.py"), *(ROOT / "launch").glob("*.py")]:
        names = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        for name in names:
            is_ros = re.search(
                r"(_msgs|_srvs|_interfaces|_py)$|^(rclpy|tf2_ros|bond|cv_bridge|launch|launch_ros)$", name
            )
            assert not is_ros or of_python.get(name, name) in known, f"{path.name} imports {name}"
