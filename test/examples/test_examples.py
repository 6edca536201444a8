"""The examples run as they stand."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    """A short drive through the town of the shipped map."""
    pytest.importorskip("rosbags", reason="bags need the extra [replay]")
    from vloc_ros.convert.town import convert_town

    folder = tmp_path_factory.mktemp("town")
    convert_town(folder, seed=1, loop_m=200.0, traversals=1, frames="0:30:2")
    return folder / "traversal_0"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=EXAMPLES.parent, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_listed_and_run():
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    for name in programs:
        assert f"[{name}]({name})" in listed
        assert f'"{name}"' in tests, f"{name} has no test here"


def test_library_call():
    estimate = runpy.run_path(str(EXAMPLES / "library_call.py"))["main"]()
    assert estimate.T_map_cam.shape == (4, 4) and estimate.covariance.shape == (6, 6)


def test_sequence_and_evaluate(drive):
    out = run("evaluate.py", drive)  # which runs sequence.py
    assert "LOCALIZED" in out, "sequence.py"
    assert "within 5 m 10 deg" in out and "inside the 95 % ellipsoid" in out


def test_closed_loop():
    """Some metres: the vehicle stands until it knows where it is, then stays on its path."""
    found = json.loads(run("closed_loop.py", "models/town_demo_features", "--laps", "0.04"))
    assert found["map_base_p95_m"] < 0.3 and found["path_max_m"] < 0.5 and found["stood_s"] < 2.0


def test_own_backend(drive):
    assert run("own_backend.py", drive).startswith("DEGRADED: 0.00 m off")


def test_bag_to_map(tmp_path):
    """A drive that is long enough for something to be held out of it."""
    pytest.importorskip("pycolmap", reason="points need the extra [maps]")
    pytest.importorskip("rosbags", reason="bags need the extra [replay]")
    from vloc_ros.convert.town import convert_town

    convert_town(tmp_path, seed=1, loop_m=120.0, traversals=1, width=160, height=96, frames="0:90:1")
    out = run("bag_to_map.py", tmp_path / "traversal_0", tmp_path / "map")
    assert "held-out frames" in out and (tmp_path / "map" / "map.yaml").is_file()


def test_nav2_passes_on_what_the_localizers_launch_file_takes():
    """test/ros describes it beside a package that is called as Nav2's."""
    text = (EXAMPLES / "nav2.launch.py").read_text(encoding="utf-8")
    shared = re.search(r"for name in \((\"map\".*?)\)\}", text).group(1)
    passed = {*re.findall(r'"(\w+)"', shared), "params_file", "tf_mode"}
    taken = (ROOT / "launch" / "localizer.launch.py").read_text(encoding="utf-8")
    assert passed == {"map", "image", "use_sim_time", "params_file", "tf_mode"}
    assert all(f'("{name}", ' in taken for name in passed)


def test_bringup_passes_on_what_the_localizers_launch_file_takes():
    """What it is called with is declared there; test/ros starts it."""
    text = (EXAMPLES / "bringup.launch.py").read_text(encoding="utf-8")
    passed = set(re.findall(r'"(\w+)"', re.search(r"names = \((.*)\)", text).group(1))) | {"tf_mode"}
    taken = (ROOT / "launch" / "localizer.launch.py").read_text(encoding="utf-8")
    assert passed > {"map", "image"} and all(f'("{name}", ' in taken for name in passed)
