"""docs/own_backend.md, line by line: its package is installed into a fresh environment and used there."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import threading
import venv
from pathlib import Path

import pytest
import yaml
from ros_environment import sourced_environment

from vloc_ros.maps import read_map

ROOT = Path(__file__).resolve().parents[1]
ASK = """
import rclpy
from rcl_interfaces.srv import GetParameters
rclpy.init()
node = rclpy.create_node("asking")
client = node.create_client(GetParameters, "/vloc_localizer/get_parameters")
assert client.wait_for_service(20)
answer = client.call_async(GetParameters.Request(names=["thumbnail.min_score"]))
rclpy.spin_until_future_complete(node, answer, timeout_sec=20)
print(answer.result().values[0].double_value)
"""
FILES = ("pyproject.toml", "thumbnail_localizer.py", "thumbnail_trainer.py")


def block(marker: str) -> str:
    """The block of the page behind ``<!-- example: marker -->``."""
    page = (ROOT / "docs" / "own_backend.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- example: {re.escape(marker)} -->\n```\w+\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found, f"docs/own_backend.md: no example {marker!r}"
    return found[1]


class Environment:
    """A fresh one: it shares what this one has installed, and nothing that is installed into it stays."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "env", with_pip=False)
        self.folder, self.python = folder, folder / "env" / "bin" / "python"
        shared = [str(ROOT), *(path for path in sys.path if "packages" in path or path.endswith("deps"))]
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env")}))
        (site / "shared.pth").write_text("\n".join(dict.fromkeys(shared)) + "\n")

    def run(self, *arguments: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"VIRTUAL_ENV": ""}
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """The environment after every command of the page, and what each printed."""
    pytest.importorskip("rosbags", reason="bags need the extra [replay]")
    pytest.importorskip("lightning", reason="trainers need the extra [train]")
    environment = Environment(tmp_path_factory.mktemp("own"))
    package = environment.folder / "thumbnails"
    package.mkdir()
    for name in FILES:
        (package / name).write_text(block(name))
    printed = {}
    for line in block("commands").splitlines():
        words = shlex.split(line)
        if words[0] == "pip":
            words = ["-m", "pip", *words[1:2], "--no-index", *words[2:]]
        else:
            assert words[0] == "vloc"
            words = ["-m", "vloc_ros", *words[1:]]
        printed[line] = environment.run(*words)
    return environment, printed


def test_it_trains_verifies_and_replays(used):
    environment, printed = used
    bundle = read_map(environment.folder / "maps" / "thumbs")
    assert bundle.manifest.backend == "thumbnail" and bundle.manifest.validation["map"]["frames"] > 0
    provenance = bundle.manifest.provenance
    assert provenance["hold_out"] == {"map": "gaps"} and provenance["settings"]["keep_every"] == 2
    report = json.loads((environment.folder / "out" / "thumbs" / "report.json").read_text())
    assert report["backend"] == "thumbnail" and report["frames"] == 80 and report["settings"]["min_score"] == 0.2
    assert report["states"]["LOCALIZED"] > 0.5 and report["median_translation_m"] < 2.0
    assert "All checks passed" in printed["vloc map verify maps/thumbs"]


def test_its_settings_are_parameters_of_the_node(used):
    code = "from vloc_ros.nodes.parameters import backend_parameters as p; print([s.name for s in p('thumbnail')])"
    assert "thumbnail.min_score" in used[0].run("-c", code)
    assert yaml.safe_load(block("thumbnail.yaml"))["/**"]["ros__parameters"]["thumbnail"] == {"min_score": 0.2}


def test_ros2_launches_it_with_its_parameters(used):
    """The page's line as it stands, in a prefix as `make setup` makes one: it loads the map, and ends on Ctrl-C."""
    environment, _ = used
    ros = sourced_environment()
    if isinstance(ros, str):
        pytest.skip(ros)
    page = (ROOT / "docs" / "own_backend.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ros2 (launch .*)$", page, re.MULTILINE)
    (environment.folder / "thumbnail.yaml").write_text(block("thumbnail.yaml"))
    prefix = environment.python.parents[1]
    (prefix / "share" / "ament_index" / "resource_index" / "packages").mkdir(parents=True)
    (prefix / "share" / "ament_index" / "resource_index" / "packages" / "vloc_ros").touch()
    (prefix / "share" / "vloc_ros").symlink_to(ROOT)
    program = prefix / "lib" / "vloc_ros" / "localizer"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{environment.python}" -m vloc_ros.nodes.localizer "$@"\n')
    program.chmod(0o755)
    ros2 = [str(environment.python), "-c", "import sys; from ros2cli.cli import main; sys.exit(main())"]
    around = {
        **ros,
        "AMENT_PREFIX_PATH": f"{prefix}{os.pathsep}{ros['AMENT_PREFIX_PATH']}",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": "9",
        "ROS_LOG_DIR": str(environment.folder / "log"),
    }
    launched = subprocess.Popen(
        [*ros2, *line.split()],
        cwd=environment.folder,
        env=around,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    watchdog = threading.Timer(120, os.killpg, (launched.pid, signal.SIGKILL))
    watchdog.start()
    printed = ""
    try:
        for text in launched.stdout:
            printed += text
            if "loaded maps/thumbs (thumbnail on " in text:
                break
        asked = subprocess.run(
            [str(environment.python), "-c", ASK], env=around, capture_output=True, text=True, timeout=60
        )
        os.killpg(launched.pid, signal.SIGINT)
        printed += launched.stdout.read()
        assert launched.wait() == 0, printed
    finally:
        watchdog.cancel()
        if launched.poll() is None:
            os.killpg(launched.pid, signal.SIGKILL)
    assert asked.stdout.strip() == "0.2", asked
    assert "Takes effect" not in printed and "Traceback" not in printed, printed


def test_a_package_of_another_version_is_named_and_the_rest_goes_on(used):
    environment, _ = used
    module = environment.folder / "thumbnails" / "thumbnail_trainer.py"
    code = """
from vloc_train.training.registry import TRAINERS, find
print(find(TRAINERS, "imposing", "train").backend)
find(TRAINERS, "thumbnail", "train")
"""
    text = module.read_text().replace("VLOC_ROS_API = 1", "VLOC_ROS_API = 0")
    (environment.folder / module.name).write_text(text)  # found before the installed one
    try:
        done = subprocess.run(
            [str(environment.python), "-c", code], cwd=environment.folder, capture_output=True, text=True, timeout=600
        )
    finally:
        (environment.folder / module.name).unlink()
    assert done.returncode == 1 and done.stdout.strip() == "imposing"
    assert "of package thumbnails: expected VLOC_ROS_API = 1 in module thumbnail_trainer, found 0" in done.stderr
