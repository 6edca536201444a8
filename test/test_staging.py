"""Writers that are killed, run twice at once, or fill the disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vloc_ros.errors import WriteError
from vloc_ros.staging import install, replacing, sole_writer, staging_beside, sweep, unwritten, write_text, writing

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


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deeper" / "a.json"
    write_text(file, "old")
    with pytest.raises(RuntimeError), replacing(file) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert file.read_text() == "old" and os.listdir(file.parent) == ["a.json"]
    with replacing(file) as stream:
        stream.write(b"new")
    assert file.read_text() == "new" and file.stat().st_mode & 0o044 == 0o044 & ~os.umask(os.umask(0))


def test_a_write_that_fails_names_its_file(tmp_path):
    with (
        pytest.raises(WriteError, match=r"a\.json: cannot be written: No space left .* MB are free"),
        writing(tmp_path / "a.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), writing(tmp_path / "a.json"):  # of a file that was to be read
        open("/nowhere/b")
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file/c"):
        write_text(tmp_path / "file" / "c", "text")


def test_one_writer_at_a_time(tmp_path):
    hold = "import sys, time\nfrom pathlib import Path\nfrom vloc_ros.staging import sole_writer\n"
    hold += "with sole_writer(Path(sys.argv[1])):\n    print('there', flush=True)\n    time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", hold, tmp_path / "map"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n"
    with pytest.raises(WriteError, match=rf"another process \({process.pid}\)"), sole_writer(tmp_path / "map"):
        pass
    with sole_writer(tmp_path / "other"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert os.listdir(tmp_path) == [".map.writer.partial"]
    with sole_writer(tmp_path / "map"):
        pass
    assert not os.listdir(tmp_path)


def test_a_sweep_takes_what_is_dead_and_nothing_else(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".frames.npy.x.partial").write_text("")
    (tmp_path / ".map.y.partial" / "in").mkdir(parents=True)
    (tmp_path / "deep" / "frames.npy").write_text("")
    with staging_beside(tmp_path / "deep" / "alive", folder=False) as alive:
        sweep(tmp_path)
        assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(["deep", alive.name, "frames.npy"])


def test_folders_change_places(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    install(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path / "old") == ["new"] and os.listdir(tmp_path / "new") == ["old"]
    install(tmp_path / "new", tmp_path / "third")
    assert sorted(os.listdir(tmp_path)) == ["old", "third"]
