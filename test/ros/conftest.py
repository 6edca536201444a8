"""Runs the tests of this folder with a ROS 2, or skips them with the reason.

Most people start pytest without a sourced ROS 2. Then the tests run in a second pytest with the environment of
the installation that is in its usual place (/opt/ros/<distro>), all in one process, and their results are
reported here. The interpreter is the same; it must be the one that ROS was built for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = "VLOC_ROS_TEST_RESULTS"
WHOLE_RUN_S = 900


def _sourced_environment() -> dict[str, str] | str:
    """The environment of a ROS 2 for this interpreter, or why there is none."""
    if os.environ.get("AMENT_PREFIX_PATH") and importlib.util.find_spec("rclpy"):
        return dict(os.environ)
    setups = sorted(Path("/opt/ros").glob("*/setup.bash"))
    if not setups:
        return "no ROS 2: none is sourced and there is no /opt/ros/<distro>/setup.bash"
    reasons = []
    for setup in reversed(setups):
        sourced = subprocess.run(
            ["bash", "-c", f'source "{setup}" >/dev/null && env -0'], capture_output=True, timeout=60, check=False
        )
        environment = dict(line.split("=", 1) for line in sourced.stdout.decode().split("\0") if "=" in line)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
        probe = "import rclpy, tf2_ros, launch_ros, sensor_msgs.msg, std_srvs.srv, diagnostic_msgs.msg"
        tried = subprocess.run(
            [sys.executable, "-c", probe], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        if tried.returncode == 0:
            return environment
        last = tried.stderr.strip().splitlines()[-1:] or ["no message"]
        reasons.append(
            f"{setup.parent} does not work with Python {sys.version_info.major}.{sys.version_info.minor} ({last[0]})"
        )
    return "no usable ROS 2: " + "; ".join(reasons)


@pytest.fixture(scope="session")
def ros_environment():
    """The environment for processes that use ROS, with the package's checkout importable."""
    environment = _sourced_environment()
    if isinstance(environment, str):
        pytest.skip(environment)
    return environment


def _in_child() -> bool:
    return RESULTS in os.environ


@pytest.fixture(scope="session")
def ros_session(tmp_path_factory):
    """What all tests share: a map of the test backend. None where the tests themselves run elsewhere."""
    if not _in_child():
        return None
    sys.path.insert(0, str(HERE))
    import ros_harness

    return ros_harness.Session(tmp_path_factory.mktemp("ros"))


@pytest.fixture
def live(ros_session, tmp_path):
    """A vehicle's side of the topics, and the means to start the node; everything ends with the test."""
    if not _in_child():
        yield None
        return
    import ros_harness

    with ros_harness.Live(ros_session, tmp_path) as harness:
        yield harness


def _run_elsewhere(session: pytest.Session) -> dict[str, dict[str, str]] | str:
    """Results of all selected tests of this folder by node id, or why they cannot run."""
    environment = _sourced_environment()
    if isinstance(environment, str):
        return environment
    wanted = [item.nodeid for item in session.items if "live" in getattr(item, "fixturenames", ())]
    results = Path(session.config._tmp_path_factory.getbasetemp()) / "ros_results.jsonl"  # type: ignore[attr-defined]
    environment.update(
        {
            RESULTS: str(results),
            # Sourcing ROS brings pytest plugins along that not every pytest survives.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}",
        }
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *wanted]
    child = subprocess.Popen(
        command, cwd=session.config.rootpath, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = child.communicate(timeout=WHOLE_RUN_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output = f"the tests with ROS did not end within {WHOLE_RUN_S} s\n" + (child.communicate()[0] or "")
    found: dict[str, dict[str, str]] = {}
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["nodeid"]] = row
    missing = {"outcome": "failed", "text": f"no result from the process with ROS:\n{output[-4000:]}"}
    return {nodeid: found.get(nodeid, missing) for nodeid in wanted}


def pytest_collection_modifyitems(items):
    """Every test of this folder carries the marker ``ros``."""
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker("ros")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """In the outer process, replace the test's body by its result in the process with ROS."""
    if _in_child() or "live" not in pyfuncitem.fixturenames or HERE not in Path(pyfuncitem.path).parents:
        return None
    session = pyfuncitem.session
    if not hasattr(session, "_vloc_ros_results"):
        session._vloc_ros_results = _run_elsewhere(session)
    results = session._vloc_ros_results
    if isinstance(results, str):
        pytest.skip(results)
    row = results[pyfuncitem.nodeid]
    if row["outcome"] == "skipped":
        pytest.skip(row["text"])
    if row["outcome"] != "passed":
        pytest.fail(row["text"], pytrace=False)
    return True


def pytest_runtest_logreport(report):
    """In the process with ROS, write down how each test ended."""
    if not _in_child() or (report.when != "call" and report.outcome == "passed"):
        return
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
    with open(os.environ[RESULTS], "a", encoding="utf-8") as stream:
        stream.write(json.dumps({"nodeid": report.nodeid, "outcome": report.outcome, "text": text}) + "\n")
