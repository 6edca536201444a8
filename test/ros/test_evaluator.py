"""A recorded drive played by ros2 bag against the node, and the evaluator beside it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]

ROS2 = [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())"]
COUNT = 60


class Painted:
    """What the test backend reads its poses from."""

    def frames(self):
        return ((k, self.image(k)) for k in range(COUNT))

    def image(self, k):
        import vloc_fake_backend

        return vloc_fake_backend.paint(6.0 + 0.1 * k, 3.0)


def documented(live):
    """The evaluator's topics, services and parameters are those of the documentation, and the reverse."""
    plain = live.run([sys.executable, "-m", "vloc_ros.nodes.evaluator"])
    own = {"/rosout", "/parameter_events", "/clock"}
    of_rclpy = ("get_", "set_", "list_", "describe_")
    node = live.node
    live.until(lambda: "vloc_evaluator" in node.get_node_names(), "the evaluator", 60)

    def names(found):
        plain = {name.replace("/vloc_evaluator/", "~/") for name, _ in found}
        return {n for n in plain - own if not n.removeprefix("~/").startswith(of_rclpy)}

    def here():
        return {
            "in": names(node.get_subscriber_names_and_types_by_node("vloc_evaluator", "/")),
            "out": names(node.get_publisher_names_and_types_by_node("vloc_evaluator", "/")),
            "service": names(node.get_service_names_and_types_by_node("vloc_evaluator", "/")),
        }

    page = (ROOT / "docs/ros.md").read_text(encoding="utf-8")
    page = page[page.index("## Compared with a reference") : page.index("## Quality of service")]
    told = {kind: set() for kind in ("in", "out", "service")}
    for kind, cell in re.findall(r"^\| (in|out|service): ([^|]+) \|", page, re.MULTILINE):
        prefix = "/" if kind == "in" else ""
        told[kind] |= {prefix + name for name in re.findall(r"`([^`]+)`", cell)}
    live.until(lambda: here() == told, f"what the page says, {told}; there is {here()}")
    table = (ROOT / "docs/parameters.md").read_text(encoding="utf-8").partition("## Parameters of `vloc_evaluator`")[2]
    written = set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))
    declared = live.list_parameters("/vloc_evaluator")
    assert {n for n in declared if not n.startswith(("use_sim_time", "start_type", "qos_"))} == written
    plain.interrupt()
    assert plain.wait(30) == 0, plain.text


def test_a_played_bag_is_localized_and_compared_with_its_reference(live):
    from ros_harness import CAMERA_XYZ, CAMERA_XYZW, FOCAL, HEIGHT, WIDTH
    from std_msgs.msg import Float64

    from vloc_ros.convert.sequence import write_sequence
    from vloc_ros.datasets.sequence import PosedSequence
    from vloc_ros.geometry.rotations import quaternion_to_matrix
    from vloc_ros.geometry.se3 import make_transform
    from vloc_ros.types import CameraModel

    T_base_cam = make_transform(quaternion_to_matrix(np.array(CAMERA_XYZW)), np.array(CAMERA_XYZ))
    T = np.tile(np.eye(4), (COUNT, 1, 1))
    T[:, :3, 3] = np.stack([5.0 + 0.1 * np.arange(COUNT), np.full(COUNT, 3.0), np.zeros(COUNT)], 1)
    stamps = 1_700_000_000_000_000_000 + np.arange(COUNT, dtype=np.int64) * 100_000_000
    camera = CameraModel(WIDTH, HEIGHT, FOCAL, FOCAL, (WIDTH - 1) / 2, (HEIGHT - 1) / 2)
    bag = write_sequence(
        PosedSequence("drive", stamps, T @ T_base_cam, T_base_cam, camera, Painted(), T), live.tmp_path / "bag"
    )  # fmt: skip
    west, east = (live.session.make_map(name, area) for name, area in (("west", (0.0, 7.0)), ("east", (6.0, 30.0))))
    node = live.start_node(
        use_sim_time=True, map="", maps=f'["{west}", "{east}"]', map_hysteresis=0.5, map_ahead=1.5, tf_smoothing=0.3,
    )  # fmt: skip
    live.wait_state("active")
    report = live.tmp_path / "report"
    evaluator = live.launch("evaluator.launch.py", report=report, use_sim_time="true")
    errors = live.hear(Float64, "/vloc_evaluator/translation_error")
    live.until(lambda: any("comparison" in s.name for d in live.diagnostics for s in d.status), "the evaluator", 60)

    def told():
        rows = [s for d in live.diagnostics for s in d.status if "comparison" in s.name]
        return {item.key: item.value for item in rows[-1].values} if rows else {}

    assert live.run([*ROS2, "bag", "play", str(bag), "--clock", "100"]).wait(60) == 0
    live.until(lambda: int(told().get("frames", 0)) >= 35, "judged frames")
    live.until(lambda: len(errors) >= 30, "errors")
    assert max(e.data for e in errors) < 0.15  # the backend's poses are a multiple of 0.1 m, and 1.5 m up
    assert float(told()["recall_0.25m_2deg"]) > 0.5 and float(told()["nees_mean"]) < 10.0
    # On the way the map changed, and no frame was lost to it.
    assert f"map {east} is loaded ahead" in node.text and f"map {east}: fake on cpu" in node.text, node.text
    assert float(told()["published"]) >= float(told()["frames"]) - 6
    evaluator.interrupt()
    assert evaluator.wait(30) == 0 and "Traceback" not in evaluator.text, evaluator.text
    figures = json.loads((report / "report.json").read_text())
    assert figures["published"] >= 30 and figures["median_translation_m"] < 0.15
    assert figures["truth"].startswith("pose on /reference/pose")
    assert (report / "trajectory.tum").read_text().count("\n") == figures["published"]
    documented(live)
    values = live.run([sys.executable, "-m", "vloc_ros.nodes.evaluator", "--ros-args", "-p", "reference_type:=fix"])
    assert values.wait(60) == 2 and "expected the map's origin" in values.text


FAILING = """
import sys
from rclpy.node import Node
from vloc_ros.nodes.running import run_node

class Failing(Node):
    def __init__(self):
        super().__init__("failing")
        self.calls = 0
        self.create_timer(0.05, self.call)

    def call(self):
        self.calls += 1
        raise ValueError(f"call {self.calls}")

sys.exit(run_node("failing", Failing, lambda node, error: print("told:", error, flush=True), lambda node: 3))
"""


def test_a_callback_that_fails_is_told_and_the_node_goes_on(live):
    """What both nodes run by: the executor survives, and the end's exit code is that of the closing."""
    node = live.run([sys.executable, "-c", FAILING])
    live.until(lambda: "told: call 3" in node.text, "three failed calls", 30)
    node.interrupt()
    assert node.wait(10) == 3 and "Traceback" not in node.text, node.text
