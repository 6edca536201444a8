"""Layouts by name or found out, and source texts."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.formats import FORMATS, Source, detect, open_source
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.settings import describe_settings, settings_from_mapping


@pytest.fixture
def flat(tmp_path):
    folder = tmp_path / "flat, of:images"
    (folder / "rgb").mkdir(parents=True)
    for k in range(3):
        cv2.imwrite(str(folder / "rgb" / f"{k}.png"), np.full((6, 8, 3), k, np.uint8))
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 3)
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_every_reader_keeps_the_contract(name, tmp_path):
    reader = importlib.import_module(f"vloc_ros.datasets.{FORMATS[name].module}")
    assert callable(reader.open_drives) and not reader.matches(tmp_path)  # an empty folder is no data set
    assert not reader.matches(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("not a data set")
    assert not reader.matches(tmp_path / "notes.txt")
    settings_from_mapping(reader.Options, {}, name)  # every option has a default
    assert describe_settings(reader.Options)
    assert FORMATS[name].name == name and FORMATS[name].about


def test_detection(sequence, write, flat, tmp_path):
    assert detect(write(sequence)) == "bag" and detect(flat) == "kitti"
    with pytest.raises(DatasetError, match="found nothing"):
        detect(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"known layouts \(bag, .*kitti\), found none of them.*FORMAT:PATH"):
        detect(tmp_path / "empty")


def test_what_lies_there_instead_is_told(flat, tmp_path):
    (tmp_path / "clip.MP4").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.JPG").touch()
    for path, told in {
        tmp_path / "clip.MP4": "a video, which has no poses.*own_drive",
        tmp_path / "photos": "images without poses.*own_drive",
        flat.parent: rf"folder of data sets; give one of them: .*{flat.name} \(kitti\)",
        flat / "poses.txt": r"a file of a data set; give its folder \(kitti\)",
        next(p for p in flat.iterdir() if p.is_dir()): r"the images of a data set; give the folder above \(kitti\)",
    }.items():
        with pytest.raises(DatasetError, match=told) as error:
            detect(path)
        assert "\n" not in str(error.value)


def test_source_texts(flat):
    source = Source.parse("tum:/data/x,intrinsics=[1, 2,3,4],images=colour,max_gap_s=0.2")
    assert (source.format, source.path) == ("tum", Path("/data/x"))
    assert source.options == {"intrinsics": [1, 2, 3, 4], "images": "colour", "max_gap_s": 0.2}
    assert Source.parse("/data/a:b,c") == Source(None, Path("/data/a:b,c"), {})
    assert Source.parse(str(flat)) == Source(None, flat, {})  # what exists is a path, whatever its letters
    with pytest.raises(ConfigError, match="expected OPTION=VALUE between commas, found 'images'"):
        Source.parse("tum:/data/x,images")
    with pytest.raises(ConfigError, match="intrinsics: expected a plain value"):
        Source.parse("tum:/data/x,intrinsics=[1")


@given(st.text(max_size=30))
def test_any_text_is_a_source_or_one_line(text):
    if "\0" in text:
        return
    for start in ("", "tum:", "kitti:/x,"):
        try:
            source = Source.parse(start + text)
        except ConfigError:
            continue
        assert source.format in (None, *FORMATS)


def test_options_without_a_layout_go_with_the_one_that_is_found(flat, tmp_path):
    flat = flat.rename(tmp_path / "plain")
    parsed = Source.parse(f"{flat},rate_hz=5,world=y_up")
    assert parsed == Source(None, flat, {"rate_hz": 5, "world": "y_up"})
    first, second = open_source(f"{flat},intrinsics=[5,5,3,2],rate_hz=5")[0].stamps_ns[:2]
    assert second - first == 200_000_000
    with pytest.raises(ConfigError, match=r"one of the layouts bag, .*found 'kity'"):
        Source.parse(f"kity:{flat},rate_hz=5")
    with pytest.raises(ConfigError, match="no_such"):
        open_source(f"{flat},no_such=1")


def test_options_are_checked_before_anything_is_read(flat):
    with pytest.raises(ConfigError, match=r"tum:/nowhere: unknown field 'speed'; known: intrinsics"):
        open_source("tum:/nowhere,speed=3")
    with pytest.raises(ConfigError, match="intrinsics: expected 4 values, found 2"):
        open_source("tum:/nowhere,intrinsics=[1,2]")
    with pytest.raises(ConfigError, match="world: expected one of 'camera'"):
        open_source(Source("kitti", flat, {}), world="down")


def test_options_of_the_call_come_on_top(flat):
    drives = open_source(Source("kitti", flat, {"intrinsics": [1, 2, 3, 4]}), intrinsics=[7, 7, 3, 2], rate_hz=None)
    assert len(drives) == 1 and drives[0].camera.fx == 7.0


def test_one_drive_or_a_list_of_their_names(flat, monkeypatch):
    (drive,) = open_source(Source("kitti", flat, {"intrinsics": [7, 7, 3, 2]}))
    reader = FORMATS["kitti"].reader()
    monkeypatch.setattr(reader, "open_drives", lambda *_: [drive, drive])
    with pytest.raises(DatasetError, match="expected one drive, found 2"):
        open_sequence(flat)
    monkeypatch.setattr(reader, "open_drives", lambda *_: [])
    with pytest.raises(DatasetError, match=r"expected drives of KITTI.*found none"):
        open_source(str(flat))


def test_a_check_on_the_whole_drive_names_its_path(flat, monkeypatch):
    def far(*_):
        raise DatasetError("drive: expected positions within 1e+08 m")

    monkeypatch.setattr(FORMATS["kitti"].reader(), "open_drives", far)
    with pytest.raises(DatasetError, match=re.escape(f"{flat}: drive: expected")):
        open_source(Source("kitti", flat, {"intrinsics": [7, 7, 3, 2]}))
