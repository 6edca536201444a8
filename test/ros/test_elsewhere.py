"""The process with ROS is started once, and what it does not answer fails at once: tried without a ROS."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.fixture
def elsewhere(request, tmp_path, monkeypatch):
    """``elsewhere(code)``: a process that runs this code instead of tests."""
    here = Path(__file__).with_name("conftest.py")
    (module,) = {p for p in request.config.pluginmanager.get_plugins() if getattr(p, "__file__", None) == str(here)}
    monkeypatch.setattr(module, "SILENCE_S", 3.0)
    made = []

    def start(code: str):
        process = module._Elsewhere.__new__(module._Elsewhere)
        process.found, process.over, process.skip = {}, "", ""
        process.results, process.log = tmp_path / "results.jsonl", tmp_path / "log"
        process.log.write_text("the last words")
        process.child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, start_new_session=True)
        made.append(process)
        return process

    yield start
    for process in made:
        process.end()


def test_results_are_read_as_they_come_and_a_half_written_one_is_none(elsewhere):
    row = json.dumps({"nodeid": "a", "outcome": "passed", "text": ""})
    process = elsewhere(f"open('results.jsonl', 'w').write({row!r} + '\\n' + {row!r}[:9])")
    assert process.result("a")["outcome"] == "passed"
    found = process.result("b")
    assert found["outcome"] == "failed" and "exit code 0" in found["text"] and "the last words" in found["text"]


def test_a_process_that_hangs_is_waited_for_once(elsewhere):
    process = elsewhere("import time; time.sleep(600)")
    assert "no test with ROS has ended" in process.result("a")["text"]
    assert process.child.poll() is not None
    started = time.monotonic()
    assert process.result("b")["outcome"] == "failed"
    assert time.monotonic() - started < 1.0
