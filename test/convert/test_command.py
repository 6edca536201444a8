"""``vloc convert FORMAT SRC OUT``: exit codes, one line for what is wrong, a summary for what was done."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vloc_ros.cli.main import main
from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.formats import FORMATS

CAMERA = ["--set", "intrinsics=[7, 7, 3.5, 2.5]"]


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["convert", *(str(a) for a in arguments)])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture
def tum(tmp_path):
    folder = tmp_path / "tum"
    (folder / "rgb").mkdir(parents=True)
    for k in range(5):
        image = np.random.default_rng(k).integers(0, 255, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / "rgb" / f"13050311{k:02d}.500000.png"), image)
    lines = [f"13050311{k // 10:02d}.{k % 10}000 {k} 0 1 0 0 0 1" for k in range(60)]
    (folder / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_a_layout_by_name_and_found_out(run, tum, tmp_path):
    code, out, err = run("tum", tum, tmp_path / "a", *CAMERA)
    assert (code, out) == (0, f"{tmp_path / 'a'}\n"), err
    assert "5 frames in 4.0 s" in err and "1305031100500000000 to 1305031104500000000 ns" in err
    assert "/camera/image/compressed 5" in err
    code, out, err = run("auto", tum, tmp_path / "b", *CAMERA, "--frames", "1:3", "--odometry-noise", "0.01,0.01")
    assert code == 0 and err.startswith(f"{tum}: TUM RGB-D\n"), err
    found = open_sequence(tmp_path / "b")
    assert len(found) == 2 and found.T_odom_base is not None
    text = f"tum:{tum},intrinsics=[7,7,3.5,2.5]"
    assert run("auto", text, tmp_path / "c", "--hold-out", "1:2", "--part", "test", "--image-format", "raw")[0] == 0
    assert len(open_sequence(tmp_path / "c")) == 2
    assert (tmp_path / "a" / "a.mcap").is_file()
    assert run("tum", tum, tmp_path / "d", *CAMERA, "--storage", "sqlite3")[0] == 0
    assert (tmp_path / "d" / "d.db3").is_file()


def test_formats_lists_every_layout_with_its_options(run):
    code, out, _ = run("formats")
    assert code == 0
    for item in FORMATS.values():
        assert f"{item.name}: {item.about}" in out
    assert "  max_gap_s=0.1 (seconds, 0 or more): between the two poses" in out
    assert run("formats", "tum")[1].count("\n") == 5
    assert run("formats", "moon")[0] == 2


@pytest.mark.parametrize("name", [*FORMATS, "auto", "town"])
def test_every_command_has_help(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0 and ("--frames" in out or name == "town")
    if name not in ("auto", "town"):
        assert "Options of the layout" in out


def test_options_of_the_layout_are_options_of_the_command(run, tum, tmp_path):
    code, _, err = run("tum", tum, tmp_path / "a", "--intrinsics", "7,7,3.5,2.5", "--max-gap-s", "0.2")
    assert code == 0, err
    assert open_sequence(tmp_path / "a").camera.fx == 7.0
    for wrong in (["--intrinsics", "7,7"], ["--max-gap-s", "-1"], ["--max-gap-s", "wide"], ["--camera", "cam0"]):
        assert run("tum", tum, tmp_path / "x", *wrong)[0] == 2, wrong


def test_wrong_usage(run, tum, tmp_path):
    for arguments in (
        ["tum", tum],
        ["tum", tum, tmp_path / "x", "--set", "intrinsics"],
        ["tum", tum, tmp_path / "x", "--odometry-noise", "1"],
        ["tum", tum, tmp_path / "x", "--part", "validation"],
        ["tum", tum, tmp_path / "x", "--frame", "1:"],
    ):
        assert run(*arguments)[0] == 2, arguments


def test_what_fails_fails_in_one_line(run, tum, drive, tmp_path):
    cases = {
        "expected the intrinsics, which no file holds": ["tum", tum, tmp_path / "x"],
        "unknown field 'speed'; known: intrinsics, ": ["tum", tum, tmp_path / "x", "--set", "speed=1"],
        "no frame is left of 5": ["tum", tum, tmp_path / "x", *CAMERA, "--frames", "7:"],
        "found nothing": ["auto", tmp_path / "nothing", tmp_path / "x"],
        "found images without poses": ["auto", tmp_path / "images", tmp_path / "x"],
        "no such bag": ["bag", tmp_path / "nothing", tmp_path / "x"],
    }
    for message, arguments in cases.items():
        code, out, err = run(*arguments)
        assert code == 1 and out == "" and message in err and err.count("\n") == 1 and err.startswith("vloc: "), err
    bag = write_sequence(drive, tmp_path / "bag")
    code, _, err = run("tum", tum, bag, *CAMERA)
    assert code == 1 and "already exists" in err
    (tmp_path / "precious").mkdir()
    code, _, err = run("tum", tum, tmp_path / "precious", *CAMERA, "--overwrite")
    assert code == 1 and "not overwriting it" in err
    assert not (tmp_path / "x").exists()


def test_keep_going_skips_counts_and_says_so(run, tum, tmp_path):
    file = tum / "rgb" / "1305031102.500000.png"
    file.write_bytes(file.read_bytes()[:40])
    code, _, err = run("tum", tum, tmp_path / "bag", *CAMERA)
    assert (
        code == 1 and "1305031102.500000.png: the PNG file breaks off after 40 bytes" in err and "--keep-going" in err
    )
    assert not (tmp_path / "bag").exists()
    code, out, err = run("tum", tum, tmp_path / "bag", *CAMERA, "--keep-going")
    assert code == 0 and out.strip() == str(tmp_path / "bag")
    assert "4 of 5 frames" in err and "skipped  1 x image that cannot be read" in err
    assert len(open_sequence(tmp_path / "bag")) == 4


def test_images_of_varying_size(run, tum, tmp_path):
    cv2.imwrite(str(tum / "rgb" / "1305031103.500000.png"), np.zeros((12, 16, 3), np.uint8))
    code, _, err = run("tum", tum, tmp_path / "bag", *CAMERA)
    assert code == 1 and "frame 3 (stamp 1305031103500000000 ns): expected 8x6 pixels" in err and "found 16x12" in err
    code, _, err = run("tum", tum, tmp_path / "bag", *CAMERA, "--keep-going")
    assert code == 0 and "1 x image of another size than the camera" in err


def test_the_town_goes_on_where_it_was_interrupted(run, tmp_path, monkeypatch):
    from vloc_ros.convert import town

    arguments = ["town", tmp_path / "t", "--traversals", "2", "--loop-m", "150", "--width", "32", "--height", "18"]
    arguments += ["--frames", "0:2"]
    write, calls = town.write_drive, []

    def failing(sequence, path, **options):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(sequence, path, **options)

    monkeypatch.setattr(town, "write_drive", failing)
    assert run(*arguments)[0] == 1 and not (tmp_path / "t" / "traversal_1").exists()
    code, out, err = run(*arguments)
    assert code == 0 and calls == ["traversal_0", "traversal_1", "traversal_1"], err
    assert out.split() == [str(tmp_path / "t" / f"traversal_{k}") for k in range(2)]
    code, _, err = run(*arguments)
    assert code == 1 and "traversal_0: already exists" in err
    assert run(*arguments, "--traffic", "0")[0] == 1  # another drive of that name
