"""7-Scenes: sequences and splits, the sets of poses, invented stamps, and depth that is not registered to colour."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from posed_folders import picture, poses, same_drive, text, truncate, wxyz

from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.depth_images import DepthCamera, registered
from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.seven_scenes import matches
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import CameraModel

TINY = "intrinsics=[7,7.5,4,3],depth_intrinsics=[7,7.5,4,3]"
UPRIGHT = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def write_frame(folder, number, T, size=(8, 6)):
    picture(folder / f"frame-{number:06d}.color.png", number, size)
    depth = np.full(size[::-1], 1000 + number, np.uint16)
    depth[0, 0], depth[0, 1] = 65535, 0
    assert cv2.imwrite(str(folder / f"frame-{number:06d}.depth.png"), depth)
    lines = "".join(" ".join(f"{v: .17e}" for v in row) + "\t\n" for row in T)
    (folder / f"frame-{number:06d}.pose.txt").write_text(lines)


@pytest.fixture
def scene(tmp_path):
    """Sequences 1, 2 and 10 of three frames each; 2 is the test split."""
    folder = tmp_path / "chess"
    T = poses(9).reshape(3, 3, 4, 4)
    for sequence, own in zip((1, 2, 10), T, strict=True):
        for number, pose in enumerate(own):
            write_frame(folder / f"seq-{sequence:02d}", number, pose)
    (folder / "TrainSplit.txt").write_text("sequence1\nsequence10\n")
    (folder / "TestSplit.txt").write_text("sequence2\r\n")
    return folder, T


def test_a_scene_is_a_drive_for_each_sequence(scene):
    folder, T = scene
    assert matches(folder) and matches(folder / "seq-02") and detect(folder) == "seven_scenes"
    drives = open_source(f"seven_scenes:{folder},{TINY}")
    assert [d.name for d in drives] == ["chess-seq-01", "chess-seq-02", "chess-seq-10"]
    for drive, own in zip(drives, T, strict=True):
        np.testing.assert_allclose(drive.T_map_cam[:, :3, :3], UPRIGHT @ own[:, :3, :3], atol=1e-12)
        np.testing.assert_allclose(drive.T_map_cam[:, :3, 3], own[:, :3, 3] @ UPRIGHT.T, atol=1e-12)
        assert drive.camera == CameraModel(8, 6, 7.0, 7.5, 4.0, 3.0) and not drive.dropped
    np.testing.assert_array_equal(drives[2].image(1), picture(folder / "again.png", 1))


def test_stamps_are_30_hz_and_of_no_other_sequence(scene):
    folder, _ = scene
    drives = open_source(f"seven_scenes:{folder},{TINY}")
    hour = 3600 * 10**9
    start = 10**9 + 10 * hour
    assert drives[2].stamps_ns.tolist() == [start, start + 33_333_333, start + 66_666_667]
    assert drives[0].stamps_ns[0] == 10**9 + hour
    (alone,) = open_source(f"seven_scenes:{folder / 'seq-10'},{TINY},rate_hz=10")
    assert alone.stamps_ns.tolist() == [start, start + 10**8, start + 2 * 10**8]


def test_splits_name_sequences(scene):
    folder, _ = scene
    names = {
        s: [d.name[-6:] for d in open_source(f"seven_scenes:{folder},{TINY},split={s}")] for s in ("train", "test")
    }
    assert names == {"train": ["seq-01", "seq-10"], "test": ["seq-02"]}
    (folder / "TrainSplit.txt").write_text("sequence1\nsequence4\nfour\n")
    with pytest.raises(DatasetError, match=r"TrainSplit\.txt:2: expected the folder .*seq-04"):
        open_source(f"seven_scenes:{folder},{TINY},split=train")
    problems = Problems(keep_going=True)
    assert len(open_source(f"seven_scenes:{folder},{TINY},split=train", problems)) == 1
    assert problems.counts == {"missing sequence": 1, "split that cannot be read": 1}
    (folder / "TestSplit.txt").unlink()
    with pytest.raises(DatasetError, match=r"TestSplit\.txt: no such file"):
        open_source(f"seven_scenes:{folder},{TINY},split=test")


@pytest.mark.parametrize(("world", "up"), [("camera", (0, -1, 0)), ("y_up", (0, 1, 0)), ("z_up", (0, 0, 1))])
def test_the_worlds_vertical_is_named(scene, world, up):
    folder, T = scene
    drive = open_source(f"seven_scenes:{folder / 'seq-01'},{TINY},world={world}")[0]
    np.testing.assert_allclose(drive.T_map_cam[:, 2, 3], T[0][:, :3, 3] @ up, atol=1e-12)


def test_nominal_intrinsics_are_of_the_colour_camera_at_its_size(tmp_path):
    write_frame(tmp_path / "fire" / "seq-01", 0, np.eye(4), (640, 480))
    (drive,) = open_source(str(tmp_path / "fire"))
    assert drive.camera == CameraModel(640, 480, 525.0, 525.0, 320.0, 240.0)
    write_frame(tmp_path / "fire" / "seq-02", 0, np.eye(4), (8, 6))
    with pytest.raises(DatasetError, match=r"frame-000000\.color\.png: expected an image of 640x480, found 8x6; give"):
        open_source(str(tmp_path / "fire"))


def test_depth_is_in_metres_and_unknown_where_it_is_0_or_65535(scene):
    folder, _ = scene
    (raw,) = open_source(f"seven_scenes:{folder / 'seq-01'},{TINY},depth=raw")
    found = raw.source.depth(2)
    assert found.dtype == np.float32 and found.shape == (6, 8)
    assert np.isnan(found[0, :2]).all() and np.isnan(found).sum() == 2
    np.testing.assert_allclose(found[1:], 1.002)
    (same,) = open_source(f"seven_scenes:{folder / 'seq-01'},{TINY}")  # two equal cameras at one place
    np.testing.assert_array_equal(same.source.depth(2), found)
    assert same.select(np.array([2])).source.depth(0)[3, 3] == np.float32(1.002)
    (other,) = open_source(f"seven_scenes:{folder / 'seq-01'},{TINY},depth_intrinsics=[14,14,3.5,2.5]")
    assert np.isfinite(other.source.depth(2)).sum() < np.isfinite(found).sum()  # half the view
    (none,) = open_source(f"seven_scenes:{folder / 'seq-01'},{TINY},depth=none")
    assert not hasattr(none.source, "depth")


def test_depth_of_another_camera_is_carried_over():
    colour = CameraModel(640, 480, 525.0, 525.0, 320.0, 240.0)
    nominal = (585.0, 585.0, 320.0, 240.0)
    depth = np.full((480, 640), np.nan, np.float32)
    depth[240, 320], depth[340, 420] = 2.0, 2.0
    found = registered(depth, DepthCamera(nominal, np.eye(4)), colour)
    assert [tuple(p) for p in np.argwhere(np.isfinite(found))] == [(240, 320), (330, 410)]  # 100 px * 525 / 585 = 89.7
    T = np.eye(4)
    T[0, 3] = 0.025
    moved = registered(depth, DepthCamera(nominal, T), colour)
    assert (240, 327) in [tuple(p) for p in np.argwhere(np.isfinite(moved))]  # 525 * 0.025 / 2 = 6.6
    # What is nearer hides what is behind it.
    depth[:] = np.nan
    depth[100, 100], depth[100, 101] = 3.0, 1.0
    wide = CameraModel(640, 480, 52.5, 52.5, 32.0, 24.0)
    both = registered(depth, DepthCamera(nominal, np.eye(4)), wide)
    assert both[np.isfinite(both)].tolist() == [1.0]


def test_depth_that_is_missing_or_no_depth(scene):
    folder, _ = scene
    sequence = folder / "seq-01"
    (sequence / "frame-000001.depth.png").unlink()
    with pytest.raises(DatasetError, match=r"frame-000001\.depth\.png: expected the depth of .*depth=none"):
        open_source(f"seven_scenes:{sequence},{TINY}")
    (drive,) = open_source(f"seven_scenes:{sequence},{TINY}", Problems(keep_going=True))
    assert len(drive) == 2 and drive.dropped == {"missing depth": 1} and drive.source.depth(1)[3, 3] > 1.001
    truncate(sequence / "frame-000000.depth.png")
    with pytest.raises(DatasetError, match=r"frame-000000\.depth\.png: the PNG file breaks off"):
        drive.source.depth(0)
    assert cv2.imwrite(str(sequence / "frame-000002.depth.png"), np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"uint8 of shape \(6, 8, 3\)"):
        drive.source.depth(1)
    for path in sequence.glob("*.depth.png"):
        path.unlink()
    (bare,) = open_source(f"seven_scenes:{sequence},{TINY}")
    assert len(bare) == 3 and not hasattr(bare.source, "depth")


def table(T, lines=()):
    """SfM poses of sequence 1, world to camera, w first, as published; in no order."""
    out = []
    for number in (2, 0):
        back = inverse(T[number])
        out.append(f"seq-01/frame-{number:06d}.color.png {text(wxyz(back))} {text(back[:3, 3])} 526.22")
    return "\n".join([*out, *lines]) + "\n"


def test_other_poses_are_named_in_the_drive(scene, tmp_path):
    folder, _ = scene
    T = poses(3, seed=7)
    (tmp_path / "calibrated" / "seq-01").mkdir(parents=True)
    for number in (0, 1):
        np.savetxt(tmp_path / "calibrated" / "seq-01" / f"frame-{number:06d}.pose.txt", T[number])
    (drive,) = open_source(f"seven_scenes:{folder / 'seq-01'},{TINY},world=z_up,poses={tmp_path / 'calibrated'}")
    np.testing.assert_allclose(drive.T_map_cam, T[:2], atol=1e-9)
    assert drive.name == "chess-seq-01-poses-calibrated" and drive.dropped == {"image without a pose": 1}
    (tmp_path / "sfm").mkdir()
    (tmp_path / "sfm" / "chess_train.txt").write_text(table(T))
    problems = Problems()
    (drive,) = open_source(f"seven_scenes:{folder},{TINY},world=z_up,poses={tmp_path / 'sfm'}", problems)
    np.testing.assert_allclose(drive.T_map_cam, T[[0, 2]], atol=1e-9)
    assert drive.name == "chess-seq-01-poses-sfm" and drive.dropped == {"image without a pose": 1}
    assert problems.counts == {"image without a pose": 7, "sequence without frames": 2}
    with pytest.raises(DatasetError, match=r"nowhere: expected poses=original, a folder"):
        open_source(f"seven_scenes:{folder},{TINY},poses={tmp_path / 'nowhere'}")


def test_sfm_poses_bring_their_focal_length(tmp_path):
    folder = tmp_path / "chess"
    for number in range(3):
        write_frame(folder / "seq-01", number, np.eye(4), (640, 480))
    file = tmp_path / "chess_test.txt"
    file.write_text(table(poses(3)))
    (drive,) = open_source(f"seven_scenes:{folder},poses={file}")
    assert drive.camera == CameraModel(640, 480, 526.22, 526.22, 319.5, 239.5)
    file.write_text(table(poses(3), ["seq-01/frame-000001.color.png 1 0 0 0 0 0 0 530"]))
    with pytest.raises(DatasetError, match=r"chess_test\.txt:2: expected one focal length .* found 526\.22, 530"):
        open_source(f"seven_scenes:{folder},poses={file}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seq-01/frame-000001.color.png 1 0 0 0 0 0", r":3: expected 8 or 9 fields, found 7"),
        ("seq-01/frame-000001.color.png 2 0 0 0 0 0 0 1", r":3: expected a unit quaternion"),
        ("seq-01/frame-000001.color.png 1 0 0 0 nan 0 0 1", r":3: expected finite numbers"),
        ("seq-01/frame-000001.color.png 1 0 0 0 x 0 0 1", r":3: expected numbers"),
        ("seq-01/frame-000002.color.png 1 0 0 0 0 0 0 1", r":3: expected one pose .*first at .*:1"),
        ("frame1 1 0 0 0 0 0 0 1", r":3: expected seq-XX/frame-NNNNNN"),
    ],
)
def test_faulty_lines_of_a_table(scene, tmp_path, line, message):
    folder, T = scene
    (tmp_path / "t.txt").write_text(table(T[0], [line]))
    with pytest.raises(DatasetError, match=r"t\.txt" + message):
        open_source(f"seven_scenes:{folder / 'seq-01'},{TINY},poses={tmp_path / 't.txt'}")
    problems = Problems(keep_going=True)
    (drive,) = open_source(f"seven_scenes:{folder / 'seq-01'},{TINY},poses={tmp_path / 't.txt'}", problems)
    assert len(drive) == 2 and problems.counts.pop("image without a pose") == 1
    assert list(problems.counts.values()) == [1]


FAULTS = {
    "missing": (None, r"frame-000001\.pose\.txt: expected a pose, found no file"),
    "columns": ("1 0 0 0\n0 1 0\n0 0 1 0\n0 0 0 1\n", r"pose\.txt:2: expected 4 fields, found 3"),
    "rows": ("1 0 0 0\n0 1 0 0\n0 0 1 0\n", r"pose\.txt:4: expected 4 rows of 4 values, found 3"),
    "nan": ("1 0 0 nan\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", r"pose\.txt:1: expected finite numbers"),
    "text": ("1 0 0 0\n0 1 0 0\n0 0 -1.#IND 0\n0 0 0 1\n", r"pose\.txt:3: expected 4 fields"),
    "rotation": ("2 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", r"pose\.txt:1: .*deviates from orthonormal"),
    "zeros": ("0 0 0 0\n" * 4, r"pose\.txt:1: .*last row"),
    "binary": ("\xff\xfe\x00", r"pose\.txt:1: expected 4 fields"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_pose_is_named_or_counted(scene, kind):
    folder, _ = scene
    content, message = FAULTS[kind]
    path = folder / "seq-01" / "frame-000001.pose.txt"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        open_source(f"seven_scenes:{folder},{TINY}")
    problems = Problems(keep_going=True)
    drives = open_source(f"seven_scenes:{folder},{TINY}", problems)
    assert [len(d) for d in drives] == [2, 3, 3] and list(problems.counts.values()) == [1]
    assert drives[0].dropped == problems.counts and not drives[1].dropped
    np.testing.assert_array_equal(np.diff(drives[0].stamps_ns), [66_666_667])  # the others keep their stamps


def test_missing_and_truncated_images(scene):
    folder, _ = scene
    (folder / "seq-01" / "frame-000001.color.png").unlink()
    with pytest.raises(DatasetError, match=r"frame-000001\.pose\.txt: expected the image .*which is missing"):
        open_source(f"seven_scenes:{folder},{TINY}")
    truncate(folder / "seq-01" / "frame-000000.color.png")
    problems = Problems(keep_going=True)
    first = open_source(f"seven_scenes:{folder},{TINY}", problems)[0]
    assert len(first) == 1 and first.dropped == {"missing image": 1, "image that cannot be decoded": 1}
    truncate(folder / "seq-01" / "frame-000002.color.png")
    with pytest.raises(DatasetError, match=r"frame-000002\.color\.png: "):
        first.image(0)


def test_what_is_no_scene(tmp_path):
    assert not matches(tmp_path) and not matches(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="expected folders seq-01"):
        open_source(f"seven_scenes:{tmp_path}")


def test_through_a_bag_and_back(scene, write):
    drive = open_source(f"seven_scenes:{scene[0]},{TINY}")[0]
    same_drive(open_sequence(write(drive)), drive)
