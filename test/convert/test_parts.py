"""Bags in parts: an interrupted conversion goes on and ends like one that never was; nothing half done is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader

from vloc_ros.convert.parts import PartedBag, is_finished
from vloc_ros.convert.sequence import identity_of, write_drive
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.bag.drive import BagDrive
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import BagError, DatasetError


@dataclass(frozen=True)
class Failing:
    """Images until frame ``until``, then an error; counts what is asked for."""

    inner: object
    until: int
    error: type[BaseException]
    asked: list

    def encoded(self, index):
        self.asked.append(index)
        if index >= self.until:
            raise self.error("power cut")
        return self.inner.encoded(index)

    def image(self, index):
        return self.inner.image(index)


def files_of(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def hidden(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("."))


def put(drive, out, **options):
    return write_drive(drive, out, **{"part_frames": 4, "identity": identity_of(drive, {}), "resume": True, **options})


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_parts_are_one_bag(drive, tmp_path, same, storage):
    summary = put(drive, tmp_path / "bag", storage=storage)
    same(open_sequence(tmp_path / "bag"), drive)
    suffix = "mcap" if storage == "mcap" else "db3"
    assert sorted(files_of(tmp_path / "bag")) == [*(f"bag_{k}.{suffix}" for k in range(3)), "metadata.yaml"]
    info = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert info["version"] == 8 and info["relative_file_paths"] == [f"bag_{k}.{suffix}" for k in range(3)]
    assert info["message_count"] == sum(f["message_count"] for f in info["files"]) == sum(summary.topics.values())
    counts = {t["topic_metadata"]["name"]: t["message_count"] for t in info["topics_with_message_count"]}
    assert counts == dict(summary.topics) and counts["/tf_static"] == counts["/map/datum"] == 3
    assert counts["/odometry"] == len(drive) - 1 and counts["/gnss/fix"] == len(drive.gnss.stamps_ns)
    with AnyReader([tmp_path / "bag"]) as reader:
        times = [t for _, t, _ in reader.messages()]
        assert times == sorted(times) and (times[0], times[-1]) == (summary.first_ns, summary.last_ns)
        assert reader.start_time == times[0] and reader.end_time == times[-1] + 1
    assert summary.files == 3 and summary.size_bytes == sum(
        p.stat().st_size for p in (tmp_path / "bag").iterdir() if p.suffix != ".yaml"
    )
    assert hidden(tmp_path) == []


def test_any_part_alone_is_a_drive(drive, tmp_path):
    put(drive, tmp_path / "bag")
    part = open_sequence(tmp_path / "bag" / "bag_1.mcap")
    np.testing.assert_array_equal(part.stamps_ns, drive.stamps_ns[4:8])
    assert part.datum == drive.datum and set(part.rig) == {"imu", "antenna"}


def test_parts_without_metadata_are_read_in_their_order(make, tmp_path):
    drive = make(24)
    put(drive, tmp_path / "bag", part_frames=2)  # the tenth part follows the ninth, not the first
    (tmp_path / "bag" / "metadata.yaml").unlink()
    with BagDrive(tmp_path / "bag") as found:
        assert [f.stamp_ns for f in found.frames()] == drive.stamps_ns.tolist()


def test_a_part_ends_at_its_size(drive, tmp_path):
    assert put(drive, tmp_path / "bag", part_frames=10**6, part_bytes=2500).files > 2


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_an_interrupted_conversion_goes_on_and_ends_the_same(drive, tmp_path, error, storage):
    (tmp_path / "a").mkdir()
    whole = put(drive, tmp_path / "a" / "bag", storage=storage)
    broken = replace(drive, source=Failing(drive.source, 9, error, []))
    with pytest.raises(error):
        put(broken, tmp_path / "bag", storage=storage)
    assert not (tmp_path / "bag").exists() and hidden(tmp_path) == [".bag.convert"]
    asked: list[int] = []
    progress: list[int] = []
    again = replace(drive, source=Failing(drive.source, 10**9, error, asked))
    summary = put(again, tmp_path / "bag", storage=storage, progress=lambda done, _: progress.append(done))
    assert asked == [8, 9, 10, 11] and progress == [8, 9, 10, 11, 12]  # two parts of four were whole
    assert summary.resumed == 8 and summary.frames == 12
    assert replace(summary, resumed=0, path=whole.path) == whole
    if storage == "mcap":
        assert files_of(tmp_path / "bag") == files_of(tmp_path / "a" / "bag")
    assert hidden(tmp_path) == []


def test_a_killed_process_leaves_what_the_same_command_continues(make, tmp_path, same):
    """SIGKILL, twice, in the middle of a part."""
    drive = make(40)
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from conftest import make_drive\n"
        "from vloc_ros.convert.sequence import identity_of, write_drive\n"
        "out = Path(sys.argv[1]); drive = make_drive(out / 'images', 40)\n"
        "write_drive(drive, out / 'bag', part_frames=5, identity=identity_of(drive, {}), resume=True,\n"
        "            progress=lambda *_: time.sleep(0.02))\n"
    )
    here = os.path.dirname(__file__)
    journal = tmp_path / ".bag.convert" / "journal.json"
    for parts in (2, 4):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), here])
        deadline = time.monotonic() + 120
        while not journal.exists() or len(json.loads(journal.read_text())["parts"]) < parts:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "bag").exists()
    summary = put(drive, tmp_path / "bag", part_frames=5)
    assert 20 <= summary.resumed < 40
    same(open_sequence(tmp_path / "bag"), drive)


def interrupted(drive, tmp_path, until=9):
    with pytest.raises(OSError):
        put(replace(drive, source=Failing(drive.source, until, OSError, [])), tmp_path / "bag")
    return tmp_path / ".bag.convert"


def test_another_command_does_not_continue_it(drive, tmp_path, same):
    interrupted(drive, tmp_path)
    other = replace(drive, T_map_cam=np.linalg.inv(drive.T_map_cam[0]) @ drive.T_map_cam)
    with pytest.raises(BagError, match=r"other settings or data waits in \.bag\.convert; start over with --no-resume"):
        put(other, tmp_path / "bag")
    assert put(other, tmp_path / "bag", resume=False).resumed == 0
    same(open_sequence(tmp_path / "bag"), other)


def test_everything_that_matters_is_in_the_identity(drive):
    keys = {
        identity_of(drive, {}),
        identity_of(drive, {"image_format": "raw"}),
        identity_of(drive.select(np.arange(5)), {}),
        identity_of(replace(drive, T_odom_base=None), {}),
        identity_of(replace(drive, rig={}), {}),
        identity_of(replace(drive, datum=None), {}),
        identity_of(replace(drive, gnss=replace(drive.gnss, variance_m2=None)), {}),
        identity_of(replace(drive, camera=replace(drive.camera, fx=8.0)), {}),
        identity_of(replace(drive, T_base_cam=np.eye(4)), {}),
        identity_of(replace(drive, frame_id="world"), {}),
    }
    assert len(keys) == 10


def test_what_the_journal_does_not_vouch_for_is_done_again(drive, tmp_path, same):
    work = interrupted(drive, tmp_path)
    (work / "bag" / "stray.mcap").write_bytes(b"junk")
    part = work / "bag" / "bag_1.mcap"
    part.write_bytes(part.read_bytes()[:-10])
    assert put(drive, tmp_path / "bag").resumed == 4  # the second part is short: only the first counts
    same(open_sequence(tmp_path / "bag"), drive)
    shutil.rmtree(tmp_path / "bag")
    work = interrupted(drive, tmp_path)
    (work / "journal.json").write_text("{")
    assert put(drive, tmp_path / "bag").resumed == 0
    same(open_sequence(tmp_path / "bag"), drive)


def test_without_a_whole_part_or_without_resumption_nothing_stays(drive, tmp_path):
    broken = replace(drive, source=Failing(drive.source, 3, OSError, []))
    with pytest.raises(OSError):
        put(broken, tmp_path / "bag")
    with pytest.raises(OSError):
        put(replace(drive, source=Failing(drive.source, 9, OSError, [])), tmp_path / "bag", resume=False)
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_skipped_frames_are_still_counted_after_an_interruption(drive, tmp_path):
    (tmp_path / "images" / "001.png").write_bytes(b"\x89PNG")
    with pytest.raises(DatasetError, match=r"001\.png.*--keep-going"):
        put(drive, tmp_path / "bag")
    broken = replace(drive, source=Failing(drive.source, 9, OSError, []))
    with pytest.raises(OSError):
        put(broken, tmp_path / "bag", problems=Problems(keep_going=True))
    summary = put(drive, tmp_path / "bag", problems=Problems(keep_going=True))
    assert summary.resumed == 8 and summary.frames == 11 and summary.skipped == {"image that cannot be read": 1}
    assert "11 of 12 frames" in summary.lines()[0] and "1 x image that cannot be read" in summary.lines()[-1]


def test_two_at_a_time_are_one_too_many(drive, tmp_path):
    with PartedBag(tmp_path / "bag", "mcap", False) as bag:
        bag.string("/a", 1, "first")
        with (
            pytest.raises(BagError, match="another conversion is writing it"),
            PartedBag(tmp_path / "bag", "mcap", False),
        ):
            raise AssertionError
        bag.string("/a", 2, "second")
    with AnyReader([tmp_path / "bag"]) as reader:
        assert reader.message_count == 2


def test_the_old_bag_stays_until_the_new_one_is_whole(drive, tmp_path, same):
    put(drive, tmp_path / "bag")
    with pytest.raises(BagError, match="already exists"):
        put(drive, tmp_path / "bag")
    part = drive.select(np.arange(5))
    with pytest.raises(OSError):
        put(replace(part, source=Failing(part.source, 4, OSError, [])), tmp_path / "bag", overwrite=True)
    same(open_sequence(tmp_path / "bag"), drive)
    assert put(part, tmp_path / "bag", overwrite=True).resumed == 4
    same(open_sequence(tmp_path / "bag"), part)
    (tmp_path / "precious").mkdir()
    with pytest.raises(BagError, match="not a bag; not overwriting"):
        put(drive, tmp_path / "precious", overwrite=True)


def test_a_bag_knows_which_conversion_made_it(drive, tmp_path):
    put(drive, tmp_path / "bag")
    assert is_finished(tmp_path / "bag", identity_of(drive, {}))
    assert not is_finished(tmp_path / "bag", identity_of(drive, {"other": 1}))
    assert not is_finished(tmp_path / "nothing", identity_of(drive, {})) and not is_finished(tmp_path / "bag", "")


def test_nothing_to_write_is_an_error(tmp_path):
    with pytest.raises(BagError, match="found nothing"), PartedBag(tmp_path / "bag", "mcap", False):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resume", [False, True])
def test_a_full_disk_is_one_line_with_the_bags_name(make, tmp_path, monkeypatch, resume):
    import errno

    from rosbags.rosbag2 import Writer

    written, write = [], Writer.write

    def filling(self, *arguments):
        written.append(1)
        if len(written) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *arguments)

    monkeypatch.setattr(Writer, "write", filling)
    options = {"identity": "x", "resume": resume, "part_frames": 2}
    with pytest.raises(
        BagError, match=rf"{tmp_path}/bag: cannot be written: No space left on device \(\d+ MB are free"
    ):
        write_drive(make(12), tmp_path / "bag", **options)
    assert not (tmp_path / "bag").exists()
    there = {p.name for p in tmp_path.iterdir()} - {"images"}
    assert there == ({".bag.convert"} if resume else set())
    monkeypatch.undo()
    summary = write_drive(make(12), tmp_path / "bag", **options)
    assert summary.frames == 12 and (summary.resumed > 0) == resume
    assert {p.name for p in tmp_path.iterdir()} - {"images"} == {"bag"}
