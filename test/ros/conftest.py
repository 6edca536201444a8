"""Runs the tests of this folder with a ROS 2, or skips them with the reason.

Most people start pytest without a sourced ROS 2. Then the tests run in a second pytest with the environment of
the installation that is in its usual place (/opt/ros/<distro>), the tests of a file in one process, and their results
are reported here. The interpreter is the same; it must be the one that ROS was built for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ros_environment import sourced_environment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = "VLOC_ROS_TEST_RESULTS"
#: A test takes a minute at most where nothing else runs; with nothing ended for so long the process hangs.
SILENCE_S = 600


@pytest.fixture(scope="session")
def ros_environment():
    """The environment for processes that use ROS, with the package's checkout importable."""
    environment = sourced_environment()
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


class _Elsewhere:
    """The process with ROS for a file's tests: started once, whatever comes of it, and read as its tests end."""

    def __init__(self, session: pytest.Session, file: Path) -> None:
        self.found: dict[str, dict[str, str]] = {}
        self.over = ""  # why no more results come
        mine = [item for item in session.items if item.path == file]
        wanted = [item.nodeid for item in mine if "live" in getattr(item, "fixturenames", ())]
        base = Path(session.config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]
        self.results, self.log = base / f"{file.stem}_results.jsonl", base / f"{file.stem}.log"
        environment = sourced_environment()
        self.skip = environment if isinstance(environment, str) else ""
        if isinstance(environment, str):
            return
        environment = {**environment}
        environment.update(
            {
                RESULTS: str(self.results),
                # Sourcing ROS brings pytest plugins along that not every pytest survives.
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
                "PYTHONPATH": f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}",
            }
        )
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
        command += ["-o", "addopts=", *wanted]
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                command, cwd=session.config.rootpath, env=environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        session.config.add_cleanup(self.end)

    def result(self, nodeid: str) -> dict[str, str]:
        """How a test ended, as soon as it has; a failure when nothing has ended for :data:`SILENCE_S`."""
        deadline = time.monotonic() + SILENCE_S
        while nodeid not in self.found and not self.over:
            ended = self.child.poll() is not None
            if self._read():
                deadline = time.monotonic() + SILENCE_S
            elif ended:
                self.over = f"the tests with ROS ended with exit code {self.child.returncode}"
            elif time.monotonic() > deadline:
                self.over = f"no test with ROS has ended for {SILENCE_S} s"
                self.end()
            else:
                time.sleep(0.2)
        if nodeid in self.found:
            return self.found[nodeid]
        output = self.log.read_text(encoding="utf-8", errors="replace")[-4000:]
        return {"outcome": "failed", "text": f"no result: {self.over}\n{output}"}

    def _read(self) -> bool:
        """Whether there are new results."""
        known = len(self.found)
        if self.results.exists():
            text = self.results.read_text(encoding="utf-8", errors="replace")
            for line in text[: text.rfind("\n") + 1].splitlines():  # the last one may still be written
                row = json.loads(line)
                self.found[row["nodeid"]] = row
        return len(self.found) > known

    def end(self) -> None:
        """End the process and what it started."""
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()


def pytest_collection_modifyitems(items):
    """Every test of this folder carries the marker ``ros``."""
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker("ros")


ELSEWHERE: pytest.StashKey[dict[Path, _Elsewhere]] = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """In the outer process, replace the test's body by its result in the process with ROS."""
    if _in_child() or "live" not in pyfuncitem.fixturenames or HERE not in Path(pyfuncitem.path).parents:
        return None
    processes = pyfuncitem.config.stash.setdefault(ELSEWHERE, {})
    file = Path(pyfuncitem.path)
    if file not in processes:
        processes[file] = _Elsewhere(pyfuncitem.session, file)
    if processes[file].skip:
        pytest.skip(processes[file].skip)
    row = processes[file].result(pyfuncitem.nodeid)
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
