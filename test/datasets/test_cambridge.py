"""Cambridge Landmarks: world-to-camera rotations beside camera centres, splits, focal lengths, outliers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posed_folders import picture, poses, same_drive, text, truncate, wxyz

from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.cambridge import matches, read_focals
from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError, VlocError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import CameraModel

HEADER = "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"
TRAIN = ("seq10/frame00002.png", "seq2/frame00001.png", "seq2/frame00012.png", "seq2/frame00003.png")
TEST = ("seq1/frame00001.png", "seq1/frame00002.png")


def line(name, T):
    """The centre, and the rotation of the inverse."""
    return f"{name} {text(T[:3, 3])} {text(wxyz(inverse(T)))}"


def write_list(path, names, T, more=()):
    path.write_text(HEADER + "\n".join([*(line(n, t) for n, t in zip(names, T, strict=True)), *more]) + "\n")


def write_model(path, focals):
    rows = [f"{name}\t{focal} 1 0 0 0 0 0 0 -0.01 0" for name, focal in focals.items()]
    path.write_text("NVM_V3 \n\n" + f"{len(rows)}\n" + "\n".join(rows) + "\n\n1\n0 0 1 0 0 0 2 0 0 1 1 1 1 2 2\n")


@pytest.fixture
def scene(tmp_path):
    folder = tmp_path / "ShopFacade"
    T = poses(6, spread_m=40.0)
    for number, name in enumerate((*TRAIN, *TEST)):
        picture(folder / name, number)
    write_list(folder / "dataset_train.txt", TRAIN, T[:4])
    write_list(folder / "dataset_test.txt", TEST, T[4:])
    return folder, T


def test_a_scene_is_a_drive_for_each_folder(scene):
    folder, T = scene
    assert matches(folder) and detect(folder) == "cambridge"
    drives = open_source(f"cambridge:{folder},focal=7")
    assert [d.name for d in drives] == ["ShopFacade-seq1", "ShopFacade-seq2", "ShopFacade-seq10"]
    for drive, rows in zip(drives, ([4, 5], [1, 3, 2], [0]), strict=True):
        np.testing.assert_allclose(drive.T_map_cam, T[rows], atol=1e-12)
        assert drive.camera == CameraModel(8, 6, 7.0, 7.0, 3.5, 2.5) and not drive.dropped
    np.testing.assert_array_equal(drives[1].image(1), picture(folder / "again.png", 3))


def test_the_rotation_is_world_to_camera_and_the_position_the_centre(scene):
    folder, _ = scene
    # Looking along +x of a z-up world from (10, 20, 2): world to camera is x_cam = -y, y_cam = -z, z_cam = x.
    write_list(folder / "dataset_test.txt", [], np.zeros((0, 4, 4)), ["seq1/frame00001.png 10 20 2 0.5 0.5 -0.5 0.5"])
    (drive,) = open_source(f"cambridge:{folder},focal=7,split=test")
    np.testing.assert_allclose(drive.T_map_cam[0, :3, 3], [10, 20, 2], atol=1e-12)
    np.testing.assert_allclose(drive.T_map_cam[0, :3, 2], [1, 0, 0], atol=1e-12)  # the optical axis
    np.testing.assert_allclose(drive.T_map_cam[0, :3, 1], [0, 0, -1], atol=1e-12)  # image down is down


def test_splits_and_stamps(scene):
    folder, T = scene
    train = open_source(f"cambridge:{folder},focal=7,split=train")
    assert [d.name for d in train] == ["ShopFacade-seq2-train", "ShopFacade-seq10-train"]
    hour = 3600 * 10**9
    assert (train[0].stamps_ns - 10**9 - 2 * hour).tolist() == [5 * 10**8, 15 * 10**8, 60 * 10**8]  # 2 Hz
    (one,) = open_source(f"cambridge:{folder},focal=7,sequence=seq10,rate_hz=1")
    assert one.stamps_ns.tolist() == [10**9 + 10 * hour + 2 * 10**9]
    np.testing.assert_allclose(one.T_map_cam, T[:1], atol=1e-12)
    with pytest.raises(DatasetError, match="sequence 'seq3' among seq1, seq2, seq10, found none"):
        open_source(f"cambridge:{folder},focal=7,sequence=seq3")


def test_folders_and_files_without_numbers_are_counted(tmp_path):
    names = ["b/left.png", "a/9b.png", "a/9a.png"]
    for name in names:
        picture(tmp_path / name)
    write_list(tmp_path / "dataset_train.txt", names, poses(3))
    drives = open_source(f"cambridge:{tmp_path},focal=7,split=train")
    hour = 3600 * 10**9
    assert [(d.stamps_ns - 10**9).tolist() for d in drives] == [[0, 5 * 10**8], [hour]]


def test_positions_kilometres_away_are_left_out_and_counted(scene):
    folder, T = scene
    far = ["seq1/frame00003.png -1.2e6 3e5 10 1 0 0 0", "seq1/frame00004.png 0 12000 0 1 0 0 0"]
    write_list(folder / "dataset_test.txt", TEST, T[4:], far)
    problems = Problems()  # no fault: it is how the data set was published
    (drive,) = open_source(f"cambridge:{folder},focal=7,split=test", problems)
    assert len(drive) == 2 and drive.dropped == problems.counts == {"position beyond the limit": 2}
    problems = Problems(keep_going=True)
    open_source(f"cambridge:{folder},focal=7,split=test,limit_m=20000", problems)
    assert problems.counts == {"position beyond the limit": 1, "missing image": 1}


def test_focal_lengths_are_those_of_the_reconstruction(scene):
    folder, _ = scene
    for name in TRAIN:
        picture(folder / name, size=(1920, 1080))
    focals = {name.replace(".png", ".jpg"): 1670.0 + i for i, name in enumerate(TRAIN)}
    write_model(folder / "reconstruction.nvm", focals)
    two, ten = open_source(f"cambridge:{folder},split=train")
    assert two.camera == CameraModel(1920, 1080, 1672.0, 1672.0, 959.5, 539.5)  # of 1671, 1672, 1673
    assert ten.camera.fx == 1670.0
    write_model(folder / "reconstruction.nvm", {"seq2/frame00001.jpg": 1671.0})
    with pytest.raises(DatasetError, match=r"nvm: expected images of seq10 \(such as seq10/frame00002\.jpg\).*focal=F"):
        open_source(f"cambridge:{folder},split=train")
    with pytest.raises(DatasetError, match=r"seq1/frame00001\.png: expected an image of 1920x1080.*focal=F"):
        open_source(f"cambridge:{folder},split=test")  # a scaled copy has no published focal length
    (folder / "reconstruction.nvm").unlink()
    with pytest.raises(DatasetError, match=r"reconstruction\.nvm: expected the reconstruction.*focal=F"):
        open_source(f"cambridge:{folder},split=train")


GOOD = "b.jpg 1670 1 0 0 0 0 0 0 0 0\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("PLY\n", r":1: expected NVM_V3"),
        ("NVM_V3\n\nseq1/frame00001.jpg 1670 1 0 0 0\n", r":3: expected the number of cameras"),
        (f"NVM_V3\n2\n{GOOD}", r":4: expected 2 cameras, found the end of the file after 1"),
        (f"NVM_V3\n2\na.jpg x 1 0 0 0 0 0 0 0 0\n{GOOD}", r":3: expected numbers"),
        (f"NVM_V3\n2\na.jpg 1670 1 0 0\n{GOOD}", r":3: expected name focal"),
        (f"NVM_V3\n2\na.jpg -5 1 0 0 0 0 0 0 0 0\n{GOOD}", r":3: expected a focal length above 0, found -5"),
        (f"NVM_V3\n2\na.jpg nan 1 0 0 0 0 0 0 0 0\n{GOOD}", r":3: expected finite numbers"),
    ],
)
def test_a_faulty_reconstruction(tmp_path, content, message):
    (tmp_path / "m.nvm").write_text(content)
    with pytest.raises(DatasetError, match=r"m\.nvm" + message):
        read_focals(tmp_path / "m.nvm", Problems())
    if "b.jpg" in content:
        problems = Problems(keep_going=True)
        assert read_focals(tmp_path / "m.nvm", problems) == {"b": 1670.0}
        assert list(problems.counts.values()) == [1]


@pytest.mark.parametrize(
    ("text_", "message"),
    [
        ("seq1/frame00003.png 1 2 3 1 0 0", r":6: expected 8 fields, found 7"),
        ("seq1/frame00003.png 1 2 3 1 0 0 0 0", r":6: expected 8 fields, found 9"),
        ("seq1/frame00003.png 1 2 3 0.5 0 0 0", r":6: expected a unit quaternion, found one of length 0\.5"),
        ("seq1/frame00003.png 1 2 nan 1 0 0 0", r":6: expected finite numbers"),
        ("seq1/frame00003.png 1 2 ? 1 0 0 0", r":6: expected numbers"),
        ("seq1/frame00003.png 1 2 3 1 0 0 0", r":6: expected the image .*frame00003\.png, which is missing"),
        ("seq1/frame00001.png 1 2 3 1 0 0 0", r":6: expected one image a stamp, .*first at .*:4"),
    ],
)
def test_a_faulty_line_is_named_or_counted(scene, text_, message):
    folder, T = scene
    write_list(folder / "dataset_test.txt", TEST, T[4:], [text_])
    with pytest.raises(DatasetError, match=r"dataset_test\.txt" + message):
        open_source(f"cambridge:{folder},focal=7")
    problems = Problems(keep_going=True)
    first = open_source(f"cambridge:{folder},focal=7", problems)[0]
    np.testing.assert_allclose(first.T_map_cam, T[4:], atol=1e-12)
    assert list(problems.counts.values()) == [1] and first.dropped == problems.counts


def test_a_lost_header_loses_no_image(scene):
    folder, T = scene
    (folder / "dataset_test.txt").write_text("\n".join(line(n, t) for n, t in zip(TEST, T[4:], strict=True)))
    with pytest.raises(DatasetError, match=r"dataset_test\.txt:1: expected 3 header lines, found a pose"):
        open_source(f"cambridge:{folder},focal=7")


@settings(max_examples=40)
@given(data=st.data())
def test_no_content_is_a_bug(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("s")
    names = ["seq1/frame00001.png", "seq1/frame00002.png"]
    for name in names:
        picture(folder / name)
    path = folder / "dataset_train.txt"
    write_list(path, names, poses(2))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.one_of(st.binary(max_size=12), st.sampled_from([b" ", b"nan", b"1e400", b"9" * 40, b"\n"])))
    path.write_bytes(whole[:at] + junk + whole[at + data.draw(st.integers(0, 12)) :])
    for problems in (Problems(), Problems(keep_going=True)):
        try:
            drives = open_source(f"cambridge:{folder},focal=7,split=train", problems)
        except VlocError:
            continue
        assert all(np.isfinite(d.T_map_cam).all() for d in drives)


def test_missing_lists_and_truncated_images(scene):
    folder, _ = scene
    truncate(folder / "seq1" / "frame00001.png")
    with pytest.raises(DatasetError, match=r"frame00001\.png: "):
        open_source(f"cambridge:{folder},focal=7,split=test")
    problems = Problems(keep_going=True)
    (drive,) = open_source(f"cambridge:{folder},focal=7,split=test", problems)
    assert len(drive) == 1 and drive.dropped == {"image that cannot be decoded": 1}
    (folder / "dataset_test.txt").write_text(HEADER)
    with pytest.raises(DatasetError, match="expected images with poses, found none"):
        open_source(f"cambridge:{folder},focal=7")
    (folder / "dataset_test.txt").unlink()
    assert matches(folder)
    with pytest.raises(DatasetError, match=r"dataset_test\.txt: no such file"):
        open_source(f"cambridge:{folder},focal=7")


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_any_pose_reads_back(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("s")
    T = poses(1, seed, 5000.0)
    picture(folder / "seq1" / "frame00001.png")
    write_list(folder / "dataset_train.txt", ["seq1/frame00001.png"], T)
    (drive,) = open_source(f"cambridge:{folder},focal=7,split=train")
    np.testing.assert_allclose(drive.T_map_cam, T, atol=1e-9)


def test_through_a_bag_and_back(scene, write):
    drive = open_source(f"cambridge:{scene[0]},focal=7")[0]
    same_drive(open_sequence(write(drive)), drive)
