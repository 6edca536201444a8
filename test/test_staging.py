"""Writers that are killed, run twice at once, or fill the disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vloc_ros.staging import staging_beside, unwritten

HOLD = """
import sys, time
from pathlib import Path
from vloc_ros.staging import staging_beside
with staging_beside(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as staging:
    print(staging, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_a_killed_process_leaves_goes_with_the_next(tmp_path, kind):
    target = tmp_path / "map.vmap"
    process = subprocess.Popen([sys.executable, "-c", HOLD, target, kind], stdout=subprocess.PIPE, text=True)
    left = Path(process.stdout.readline().strip())
    assert left.exists()
    with staging_beside(target, folder=True) as mine:  # the other one is alive: it keeps its own
        assert left.exists() and mine != left
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert left.exists()
    (tmp_path / ".other.x.partial").mkdir()  # another target's
    with staging_beside(target, folder=False) as mine:
        assert not left.exists() and mine.is_file()
    assert os.listdir(tmp_path) == [".other.x.partial"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), staging_beside(tmp_path / "a", folder=True) as staging:
        (staging / "b").write_text("c")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_with_the_room_that_is_left(tmp_path):
    text = unwritten(tmp_path / "not" / "there", OSError(errno.ENOSPC, "No space left on device"))
    assert text.startswith(f"{tmp_path / 'not' / 'there'}: cannot be written: No space left on device (")
    assert "MB are free" in text and "\n" not in text
    assert unwritten(tmp_path, OSError(errno.EACCES, "Permission denied")).endswith("Permission denied")


def test_two_writers_of_one_target_do_not_touch_each_other(tmp_path):
    with staging_beside(tmp_path / "a", folder=True) as first, staging_beside(tmp_path / "a", folder=True) as second:
        assert first.is_dir() and second.is_dir() and first != second
