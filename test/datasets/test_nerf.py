"""NeRF captures: axes, lenses, where the images lie, and whatever can be wrong in the file."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from posed_folders import picture, poses, truncate

from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.image_files import FolderImages, OneLensImages
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import CameraError, DatasetError
from vloc_ros.types import CameraModel

LENS = {"fl_x": 7.0, "fl_y": 7.5, "cx": 4.0, "cy": 3.0, "w": 8, "h": 6}
CAMERA = CameraModel(8, 6, 7.0, 7.5, 3.5, 2.5)
NAMES = ["images/10.png", "images/9.png", "images/11.png"]


def gl(T):
    """As an OpenGL camera: x right, y up, z backward."""
    return (T @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist()


def write(folder, T, names=NAMES, lens=LENS, file="transforms.json", **more):
    frames = [{"file_path": n, "transform_matrix": gl(t), **more} for n, t in zip(names, T, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps({**lens, "frames": frames}))
    return frames


@pytest.fixture
def capture(tmp_path):
    """Three images, and their poses in the order of ``NAMES``."""
    for number, name in enumerate(NAMES):
        picture(tmp_path / "c" / name, number)
    return tmp_path / "c", poses(3)


def test_a_capture_is_a_drive(capture):
    folder, T = capture
    write(folder, T)
    assert detect(folder) == "nerf"
    (drive,) = open_source(str(folder))
    np.testing.assert_allclose(drive.T_map_cam, T[[1, 0, 2]], atol=1e-12)  # 9 before 10
    assert drive.camera == CAMERA  # pixel centres at one half become integers
    assert drive.name == "c" and isinstance(drive.source, FolderImages)
    np.testing.assert_array_equal(drive.image(1), picture(folder / "again.png", 0))
    (large,) = open_source(f"nerf:{folder},scale=2,world=y_up")
    np.testing.assert_allclose(large.T_map_cam[:, 2, 3], 2.0 * T[[1, 0, 2], 1, 3], atol=1e-12)


def test_a_point_ahead_of_an_opengl_camera_is_ahead_of_ours(capture):
    """-z of an OpenGL camera is forward, +y up: by the matrices as the file has them, not by ``gl``."""
    folder, _ = capture
    (folder / "transforms.json").write_text(
        json.dumps({**LENS, "frames": [{"file_path": NAMES[0], "transform_matrix": np.eye(4).tolist()}]})
    )
    (drive,) = open_source(str(folder))
    ahead, below = drive.T_map_cam[0, :3, :3] @ [0, 0, 1.0], drive.T_map_cam[0, :3, :3] @ [0, 1.0, 0]
    np.testing.assert_allclose([ahead, below], [[0, 0, -1], [0, -1, 0]])
    np.testing.assert_array_equal(open_source(f"nerf:{folder},axes=opencv")[0].T_map_cam, [np.eye(4)])


@pytest.mark.parametrize(
    ("lens", "expected"),
    [
        ({"k1": 0.1, "k2": -0.2, "p1": 0.01, "p2": 0.02}, ("plumb_bob", (0.1, -0.2, 0.01, 0.02, 0.0))),
        ({"k1": 0.1, "k3": 0.3, "camera_model": "OPENCV"}, ("plumb_bob", (0.1, 0.0, 0.0, 0.0, 0.3))),
        ({"k1": 0.1, "k4": 0.4, "camera_model": "OPENCV_FISHEYE"}, ("equidistant", (0.1, 0.0, 0.0, 0.4))),
        ({"k1": 0.1, "is_fisheye": True}, ("equidistant", (0.1, 0.0, 0.0, 0.0))),
        ({"k1": 0, "p1": 0.0, "is_fisheye": False}, ("none", ())),
    ],
)
def test_distortion(capture, lens, expected):
    folder, T = capture
    write(folder, T, lens={**LENS, **lens})
    camera = open_source(str(folder))[0].camera
    assert (camera.distortion_model, camera.distortion) == expected
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (7.0, 7.5, 3.5, 2.5)


def test_the_field_of_view_alone_is_a_lens(capture):
    folder, T = capture
    write(folder, T, lens={"camera_angle_x": math.pi / 2})
    camera = open_source(str(folder))[0].camera
    np.testing.assert_allclose(camera.K, [[4.0, 0, 3.5], [0, 4.0, 2.5], [0, 0, 1]], atol=1e-12)  # 8 / (2 tan 45 deg)
    assert camera.size == (8, 6)


def test_images_that_were_scaled_down_have_the_lens_scaled(capture):
    folder, T = capture
    write(folder, T, lens={"fl_x": 28.0, "fl_y": 30.0, "cx": 16.0, "cy": 12.0, "w": 32, "h": 24})
    assert open_source(str(folder))[0].camera == CAMERA
    write(folder, T, lens={**LENS, "w": 32, "h": 6})
    with pytest.raises(DatasetError, match=r"expected 32x6 pixels as in the calibration, found 8x6"):
        open_source(str(folder))


def test_parts_are_drives_and_names_need_no_suffix(tmp_path):
    T = poses(4)
    for k in range(4):
        picture(tmp_path / ("train" if k < 3 else "test") / f"r_{k}.png", k)
    write(tmp_path, T[:3], [f"./train/r_{k}" for k in range(3)], file="transforms_train.json")
    write(tmp_path, T[3:], ["./test/r_3"], file="transforms_test.json")
    train, test = open_source(str(tmp_path))
    assert train.name.endswith("-train") and test.name.endswith("-test") and (len(train), len(test)) == (3, 1)
    np.testing.assert_allclose(test.T_map_cam, T[3:], atol=1e-12)


@pytest.mark.parametrize("said", ["../raw\\{}", "C:\\me\\raw\\{}", "/home/me/raw/{}", "./{}"])
def test_images_are_found_by_their_names_where_the_paths_are_of_another_machine(capture, said):
    folder, T = capture
    write(folder, T, [said.format(name.removeprefix("images/")) for name in NAMES])
    assert len(open_source(str(folder))[0]) == 3
    (folder / "images").rename(folder / "elsewhere")
    with pytest.raises(
        DatasetError, match=r"frame \d: expected the image .*10\.png, which is missing as are all 3; name"
    ):
        open_source(str(folder))
    assert len(open_source(f"nerf:{folder},{folder / 'elsewhere'}")[0]) == 3
    with pytest.raises(DatasetError, match=r"found none of 3; name their folder: nerf:.*,images=FOLDER"):
        open_source(str(folder), Problems(keep_going=True))


def test_a_lens_for_every_image_becomes_one(capture):
    folder, T = capture
    frames = write(folder, T, lens={})
    for k, frame in enumerate(frames):
        frame.update({**LENS, "fl_x": 7.0 + k})
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    (drive,) = open_source(str(folder))
    assert drive.camera == CameraModel(8, 6, 8.0, 7.5, 3.5, 2.5) and isinstance(drive.source, OneLensImages)
    # Image 9.png, of fx 8, is as it was; the others are zoomed about the principal point.
    np.testing.assert_array_equal(drive.image(0), picture(folder / "again.png", 1))
    assert not np.array_equal(drive.image(1), picture(folder / "again.png", 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera_model": "EQUIRECTANGULAR"}, "expected a camera model out of .*found EQUIRECTANGULAR"),
        ({"k4": 0.1}, "'k4' of a lens that is no fisheye"),
        ({"fl_x": "wide"}, "expected 'fl_x' to be a number, found 'wide'"),
        ({"fl_x": float("nan")}, "expected 'fl_x' to be a number"),
        ({"fl_x": -7.0}, "expected positive focal lengths"),
        ({"fl_x": None}, "expected 'camera_angle_x' of the frame or of the capture, found none"),
        ({"fl_x": None, "camera_angle_x": 4.0}, "between 0 and pi, found 4"),
    ],
)
def test_lenses_that_are_none(capture, change, message):
    folder, T = capture
    write(folder, T, lens={**LENS, **change})
    with pytest.raises((CameraError, DatasetError), match=rf"transforms\.json: frame \d: .*{message}"):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("frame", "kind", "message"),
    [
        ({"file_path": None}, "frame without an image", "frame 1: expected 'file_path'"),
        ({"transform_matrix": [[1, 2], [3, 4]]}, "pose that is no transform", r"frame 1: .*found \(2, 2\)"),
        ({"transform_matrix": [["a"] * 4] * 4}, "pose that is no transform", "frame 1: expected 'transform_matrix'"),
        ({"transform_matrix": (2 * np.eye(4)).tolist()}, "pose that is no transform", "frame 1"),
        ({"file_path": "gone.png"}, "missing image", "frame 1: expected the image .*gone.png"),
    ],
)
def test_faulty_frames_are_told_or_counted(capture, frame, kind, message):
    folder, T = capture
    frames = write(folder, T)
    frames[1].update(frame)
    (folder / "transforms.json").write_text(json.dumps({**LENS, "frames": frames}))
    with pytest.raises(DatasetError, match=message):
        open_source(str(folder))
    (drive,) = open_source(str(folder), Problems(keep_going=True))
    assert len(drive) == 2 and drive.dropped == {kind: 1}


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"frames": []}', '{"frames": 3}', "[" * 100_000])
def test_a_file_that_is_none_is_told(capture, content):
    folder, _ = capture
    (folder / "transforms.json").write_text(content)
    with pytest.raises(DatasetError, match=r"transforms\.json: expected "):
        open_source(str(folder))
    with pytest.raises(DatasetError, match=r"expected transforms\.json, or"):
        open_source(f"nerf:{folder / 'images'}")


def test_an_image_that_breaks_off_is_told(capture):
    folder, T = capture
    write(folder, T)
    truncate(folder / NAMES[1])
    with pytest.raises(DatasetError, match=r"9\.png: "):
        open_source(str(folder))
