"""Data set -> bag -> reader: the same stamps to the nanosecond, poses to 1e-9, images bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from layouts import WRITERS

from vloc_ros.convert.source import Conversion, convert_source
from vloc_ros.convert.town import convert_town
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.formats import FORMATS, Source, open_source


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_frame_comes_back(name, tmp_path, same):
    source = Source(name, tmp_path / "data", WRITERS[name](tmp_path / "data"))
    expected = open_source(source)
    summaries = convert_source(source, tmp_path / "out")
    assert len(summaries) == len(expected)
    for summary, drive in zip(summaries, expected, strict=True):
        same(open_sequence(summary.path), drive)
        assert summary.frames == len(drive) and not summary.resumed
        assert summary.topics["/camera/camera_info"] == summary.topics["/reference/pose"] == len(drive)


def test_every_format_makes_the_round_trip():
    assert set(FORMATS) - {"bag"} == set(WRITERS)  # bags: test_a_bag_becomes_the_same_bag


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_everything_that_a_drive_knows(drive, tmp_path, same, storage):
    from vloc_ros.convert.sequence import write_sequence

    same(open_sequence(write_sequence(drive, tmp_path / "bag", storage=storage)), drive)


@pytest.mark.parametrize("image_format", [None, "png", "raw"])
def test_a_bag_becomes_the_same_bag(drive, tmp_path, same, image_format):
    """Also of a bag whose images are files, from a topic of that kind, and of a part of it."""
    from vloc_ros.convert.sequence import write_sequence

    first = write_sequence(drive, tmp_path / "first")
    (again,) = convert_source(Source("bag", first, {}), tmp_path / "again", Conversion(image_format=image_format))
    same(open_sequence(again.path), drive)
    kept = "/camera/image" if image_format == "raw" else "/camera/image/compressed"
    assert again.topics[kept] == len(drive)


def test_files_are_copied_as_they_are(drive, tmp_path):
    from vloc_ros.convert.sequence import write_sequence
    from vloc_ros.datasets.bag.reader import BagReader

    path = write_sequence(drive.select(np.array([2, 5])), tmp_path / "bag")
    with BagReader(path) as reader:
        found = [bytes(m.message.data) for m in reader.messages(["/camera/image/compressed"])]
    assert found == [(tmp_path / "images" / f"{k:03d}.png").read_bytes() for k in (2, 5)]


def test_the_town(tmp_path, same):
    """Rendered frames, converted twice: in two steps with an interruption, and at once (test_parts has the rest)."""
    (path,) = convert_town(tmp_path, seed=3, loop_m=150.0, traversals=1, width=48, height=27, frames="0:3")
    summary = convert_source(Source("bag", path, {}), tmp_path / "copy")[0]
    same(open_sequence(summary.path), open_sequence(path))


def test_a_selection_takes_its_fixes_along(drive, tmp_path):
    chosen = Conversion(frames="4:6").of(drive)
    assert 0 < len(chosen.gnss.stamps_ns) < len(drive.gnss.stamps_ns) or len(drive) < 30
    assert chosen.gnss.stamps_ns[0] >= chosen.stamps_ns[0] - 10**9
    assert len(chosen.gnss.variance_m2) == len(chosen.gnss.altitude_m) == len(chosen.gnss.stamps_ns)


def test_several_drives_become_several_bags(drive, tmp_path, same, monkeypatch):
    from dataclasses import replace

    from vloc_ros.convert.source import convert_drives
    from vloc_ros.errors import BagError

    drives = [replace(drive, name="day/1"), replace(drive.select(np.arange(3)), name="night 2")]
    summaries = convert_drives(drives, tmp_path / "out", None, {})
    assert [s.path for s in summaries] == [tmp_path / "out" / "day_1", tmp_path / "out" / "night_2"]
    same(open_sequence(summaries[1].path), drives[1])
    with pytest.raises(BagError, match="all 2 drives are already there"):
        convert_drives(drives, tmp_path / "out", None, {})
    import shutil

    shutil.rmtree(tmp_path / "out" / "night_2")
    (again,) = convert_drives(drives, tmp_path / "out", None, {})  # the other is whole, and this command's
    assert again.path.name == "night_2"
    with pytest.raises(BagError, match="day_1: already exists"):
        convert_drives(drives, tmp_path / "out", Conversion(image_format="raw"), {})
