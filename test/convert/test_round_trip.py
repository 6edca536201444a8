"""Data set -> bag -> reader: the same stamps to the nanosecond, poses to 1e-9, images bit by bit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tiny_datasets

from vloc_ros.convert.source import Conversion, convert_source
from vloc_ros.convert.town import convert_town
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.formats import FORMATS, Source, open_source
from vloc_ros.geometry.rotations import matrix_to_quaternion, so3_exp


def write_kitti(folder):
    """The layout of KITTI odometry; the options that it needs."""
    images = folder / "sequences" / "07" / "image_2"
    images.mkdir(parents=True)
    (folder / "poses").mkdir()
    for k in range(5):
        cv2.imwrite(str(images / f"{k:06d}.png"), np.random.default_rng(k).integers(0, 255, (6, 8, 3), np.uint8))
    (images.parent / "times.txt").write_text("".join(f"{0.103 * k:.6e}\n" for k in range(5)))
    (images.parent / "calib.txt").write_text("P0: 7 0 3 0 0 7 2 0 0 0 1 0\nP2: 7 0 3 0.35 0 7 2 0.01 0 0 1 0.002\n")
    poses = []
    for k in range(5):
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = so3_exp([0.0, 0.05 * k, 0.01 * k]), (0.1 * k, 0.02, 0.9 * k)
        poses.append(" ".join(f"{v:.12e}" for v in T[:3].reshape(-1)))
    (folder / "poses" / "07.txt").write_text("\n".join(poses) + "\n")
    return {}


def write_tum(folder):
    """The layout of TUM RGB-D."""
    (folder / "rgb").mkdir(parents=True)
    for k in range(4):
        image = np.random.default_rng(k).integers(0, 255, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / "rgb" / f"1305031102.{175304 + 33_000 * k:06d}.png"), image)
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for k in range(9):
        q = matrix_to_quaternion(so3_exp([0.02 * k, 0.0, -0.1 * k]))
        lines.append(
            f"{1305031102.16 + 0.02 * k:.4f} {0.1 * k} {1.0 - 0.01 * k} 1.5 " + " ".join(f"{v:.9f}" for v in q)
        )
    (folder / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    return {"intrinsics": [7.0, 7.0, 3.5, 2.5], "distortion": [0.2, -0.9, 0.001, 0.002]}


def write_robotcar(folder):
    tiny_datasets.write_robotcar(folder.parent, [folder.name])
    return {"camera": "stereo/centre"}


def write_robotcar_seasons(folder):
    tiny_datasets.write_robotcar_seasons(folder, ["night"])
    return {"camera": "rear", "condition": "night"}


def write_fourseasons(folder):
    tiny_datasets.write_fourseasons(folder.parent, [folder.name])
    return {}


def write_seven_scenes(folder):
    tiny_datasets.write_seven_scenes(folder.parent, [folder.name])
    return {"split": "all"}


def write_cambridge(folder):
    tiny_datasets.write_cambridge(folder.parent, [folder.name])
    return {"split": "all", "focal": 10.0}


def write_apolloscape(folder):
    tiny_datasets.write_apolloscape(folder.parent, [folder.name])
    return {"camera": "Camera_5"}


def by_poses(write):
    """A writer of one drive that is told its poses."""

    def written(folder):
        write(folder, tiny_datasets.poses())
        return {}

    return written


#: A small folder in the exact layout of every format, and the options to read it with. A format that has no writer here
#: fails test_every_format_makes_the_round_trip.
WRITERS = {
    "apolloscape": write_apolloscape,
    "cambridge": write_cambridge,
    "colmap": by_poses(tiny_datasets.write_colmap),
    "euroc": by_poses(tiny_datasets.write_euroc),
    "fourseasons": write_fourseasons,
    "kapture": by_poses(tiny_datasets.write_kapture),
    "kitti": write_kitti,
    "robotcar": write_robotcar,
    "robotcar_seasons": write_robotcar_seasons,
    "seven_scenes": write_seven_scenes,
    "tum": write_tum,
}


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
