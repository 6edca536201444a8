"""COLMAP models as drives: text and binary, frames, stamps, cameras, and whatever can be damaged."""

from __future__ import annotations

import re
import struct
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posed_folders import picture, poses, same_drive, text, truncate, wxyz

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.colmap import ColmapImages, matches
from vloc_ros.datasets.colmap_model import read_model
from vloc_ros.datasets.formats import Source, detect, open_source
from vloc_ros.datasets.image_files import OneLensImages
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import encoded_image
from vloc_ros.errors import CameraError, ConfigError, DatasetError, VlocError
from vloc_ros.geometry.se3 import inverse
from vloc_ros.types import CameraModel

PINHOLE = (1, "PINHOLE", 8, 6, (7.0, 7.5, 4.0, 3.0))
CAMERA = CameraModel(8, 6, 7.0, 7.5, 3.5, 2.5)
NUMBER = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "OPENCV": 4, "FOV": 7}
POINTS = {5: (1.0, 2.0, 3.0), 2: (-1.0, 0.5, 9.0)}


def write_text(folder, T, names, cameras=(PINHOLE,), owner=None):
    """Every image sees point 5 at (3, 2) and nothing at (1, 1)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{i} {kind} {w} {h} {text(values)}" for i, kind, w, h, values in cameras]
    (folder / "cameras.txt").write_text("# Camera list\n" + "\n".join(lines) + "\n")
    out = "# Image list with two lines of data per image:\n"
    for k, name in enumerate(names):
        back = inverse(T[k])
        camera = owner[k] if owner else cameras[0][0]
        out += f"{10 - k} {text(wxyz(back))} {text(back[:3, 3])} {camera} {name}\n"
        out += "3.5 2.5 5 1.5 1.5 -1\n" if k != 1 else "\n"
    (folder / "images.txt").write_text(out)
    rows = [f"{i} {text(xyz)} 1 2 3 0.5 10 0 9 1" for i, xyz in POINTS.items()]
    (folder / "points3D.txt").write_text("# points\n" + "\n".join(rows) + "\n")


def write_binary(folder, T, names, cameras=(PINHOLE,), owner=None):
    folder.mkdir(parents=True, exist_ok=True)
    out = struct.pack("<Q", len(cameras))
    for i, kind, w, h, values in cameras:
        out += struct.pack("<iiQQ", i, NUMBER[kind], w, h) + struct.pack(f"<{len(values)}d", *values)
    (folder / "cameras.bin").write_bytes(out)
    out = struct.pack("<Q", len(names))
    for k, name in enumerate(names):
        back = inverse(T[k])
        camera = owner[k] if owner else cameras[0][0]
        out += struct.pack("<I7dI", 10 - k, *wxyz(back), *back[:3, 3], camera) + name.encode() + b"\0"
        seen = [(3.5, 2.5, 5), (1.5, 1.5, 2**64 - 1)] if k != 1 else []
        out += struct.pack("<Q", len(seen)) + b"".join(struct.pack("<ddQ", *row) for row in seen)
    (folder / "images.bin").write_bytes(out)
    out = struct.pack("<Q", len(POINTS))
    for i, xyz in POINTS.items():
        out += struct.pack("<Q3d3BdQ", i, *xyz, 1, 2, 3, 0.5, 2) + struct.pack("<IIII", 10, 0, 9, 1)
    (folder / "points3D.bin").write_bytes(out)


WRITERS = pytest.mark.parametrize("write", [write_text, write_binary])
NAMES = ["b.png", "a.png", "sub/c.png"]


@pytest.fixture
def scene(tmp_path):
    """Three images and their poses, by the order of ``NAMES``, without a model."""
    for number, name in enumerate(NAMES):
        picture(tmp_path / "s" / "images" / name, number)
    return tmp_path / "s", poses(3)


@WRITERS
@pytest.mark.parametrize("below", ["", "sparse/0", "sparse", "sfm"])
def test_a_model_is_a_drive(scene, write, below):
    folder, T = scene
    write(folder / below, T, NAMES)
    assert matches(folder) and detect(folder) == "colmap"
    (drive,) = open_source(str(folder))
    order = [1, 0, 2]  # by name
    np.testing.assert_allclose(drive.T_map_cam, T[order], atol=1e-12)
    assert drive.camera == CAMERA  # pixel centres at one half become integers
    assert drive.stamps_ns.tolist() == [1_000_000_000, 1_100_000_000, 1_200_000_000] and not drive.dropped
    assert isinstance(drive.source, ColmapImages)
    assert drive.source.names == ("a.png", "b.png", "sub/c.png") and drive.source.model == folder / below
    np.testing.assert_array_equal(drive.image(1), picture(folder / "again.png", 0))
    assert drive.source.encoded(0)[1] == "png"


RIG = [0.9659258262890683, 0.0, 0.25881904510252074, 0.0, -0.5, 0.1, 0.0]  # the second camera from the rig


def write_rig(folder, suffix, T_rig_world, image_ids, known=True):
    """Two cameras on one rig, and a frame of two images for each pose of the rig (the camera 1 is its reference)."""
    poses = [[*wxyz(T), *T[:3, 3]] for T in T_rig_world]
    if suffix == ".txt":
        (folder / "rigs.txt").write_text(
            f"# Rig calib list\n7 2 CAMERA 1 CAMERA 2 {int(known)} {text(RIG) if known else ''}\n"
        )
        rows = [
            f"{k} 7 {text(p)} 2 CAMERA 1 {a} CAMERA 2 {b}"
            for k, (p, (a, b)) in enumerate(zip(poses, image_ids, strict=True))
        ]
        (folder / "frames.txt").write_text("# Frame list\n" + "\n".join(rows) + "\n")
        return
    known_pose = struct.pack("<7d", *RIG) if known else b""
    head = struct.pack("<QIIiIiIB", 1, 7, 2, 0, 1, 0, 2, known)
    (folder / "rigs.bin").write_bytes(head + known_pose)
    out = struct.pack("<Q", len(poses))
    for k, (p, (a, b)) in enumerate(zip(poses, image_ids, strict=True)):
        out += struct.pack("<II7dI", k, 7, *p, 2) + struct.pack("<iIQiIQ", 0, 1, a, 0, 2, b)
    (folder / "frames.bin").write_bytes(out)


@WRITERS
def test_poses_are_those_of_the_frames_where_there_are_some(tmp_path, write):
    """What ``images`` says, here 3 m off, does not count: as pycolmap reads the same model."""
    pycolmap = pytest.importorskip("pycolmap")
    names, T_rig_world = ["a0.png", "b0.png", "a1.png", "b1.png"], [inverse(T) for T in poses(2)]
    shifted = poses(4)
    shifted[:, 0, 3] += 3.0
    second = (2, *PINHOLE[1:])
    write(tmp_path, shifted, names, (PINHOLE, second), [1, 2, 1, 2])
    for file in tmp_path.glob("points3D*"):  # pycolmap insists on tracks that fit
        file.write_bytes(struct.pack("<Q", 0) if file.suffix == ".bin" else b"")
    images = read_model(tmp_path, points=False)
    ids = {name: 10 - k for k, name in enumerate(names)}
    suffix = ".txt" if write is write_text else ".bin"
    write_rig(tmp_path, suffix, T_rig_world, [(ids["a0.png"], ids["b0.png"]), (ids["a1.png"], ids["b1.png"])])
    found = {image.name: image.T_map_cam for image in read_model(tmp_path, points=False).images}
    assert np.abs(found["a0.png"][:3, 3] - images.images[0].T_map_cam[:3, 3]).max() > 1.0
    if suffix == ".txt":  # without observations, which our points file does not have
        file = tmp_path / "images.txt"
        file.write_text("\n".join("" if "3.5 2.5" in line else line for line in file.read_text().splitlines()) + "\n")
    else:
        pytest.importorskip("pycolmap")
        out = struct.pack("<Q", 4)
        for k, name in enumerate(names):
            out += struct.pack("<I7dI", ids[name], 1.0, *[0.0] * 6, 1 + k % 2) + name.encode() + b"\0"
            out += struct.pack("<Q", 0)
        (tmp_path / "images.bin").write_bytes(out)
    theirs = pycolmap.Reconstruction(tmp_path)
    for image in theirs.images.values():
        T = np.eye(4)
        T[:3] = image.cam_from_world().matrix()
        np.testing.assert_allclose(found[image.name], inverse(T), atol=1e-12)


@WRITERS
def test_rigs_and_frames_that_do_not_fit_are_refused(tmp_path, write):
    write(tmp_path, poses(2), ["a.png", "b.png"], (PINHOLE, (2, *PINHOLE[1:])), [1, 2])
    suffix = ".txt" if write is write_text else ".bin"
    T = [inverse(poses(1)[0])]
    write_rig(tmp_path, suffix, T, [(10, 9)], known=False)
    with pytest.raises(DatasetError, match=r"frames.*expected rig 7 with a pose of camera 2"):
        read_model(tmp_path, points=False)
    assert len(read_model(tmp_path, Problems(keep_going=True), points=False).images) == 1
    write_rig(tmp_path, suffix, T, [(10, 4)])
    with pytest.raises(DatasetError, match=r"images.*expected a frame with the image b\.png"):
        read_model(tmp_path, points=False)
    (tmp_path / f"rigs{suffix}").unlink()
    with pytest.raises(DatasetError, match=r"rigs.*expected it beside frames"):
        read_model(tmp_path, points=False)


def test_damaged_rigs_and_frames_are_told_by_their_place(tmp_path):
    for write, suffix in ((write_text, ".txt"), (write_binary, ".bin")):
        folder = tmp_path / suffix
        write(folder, poses(2), ["a.png", "b.png"], (PINHOLE, (2, *PINHOLE[1:])), [1, 2])
        write_rig(folder, suffix, [inverse(poses(1)[0])], [(10, 9)])
        for name in ("rigs", "frames"):
            file = folder / f"{name}{suffix}"
            whole = file.read_bytes()
            for cut in range(1, len(whole)):
                file.write_bytes(whole[:cut])
                try:
                    read_model(folder, points=False)
                except DatasetError as problem:
                    assert str(folder) in str(problem)
            file.write_bytes(whole)


def test_images_are_counted_in_the_order_of_the_numbers_in_their_names(tmp_path):
    names = [f"frame_{k}.png" for k in range(8, 12)]
    for k, name in enumerate(names):
        picture(tmp_path / "images" / name, k)
    write_text(tmp_path, poses(4), names)
    (drive,) = open_source(str(tmp_path))
    assert list(drive.source.names) == names
    np.testing.assert_allclose(drive.T_map_cam, poses(4), atol=1e-12)


def test_nothing_of_colmap_is_needed(scene, monkeypatch):
    folder, T = scene
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    write_binary(folder, T, NAMES)
    assert len(open_source(str(folder))[0]) == 3 and len(read_model(folder).points) == 2


@WRITERS
def test_points_and_observations_are_read_when_asked_for(scene, write):
    folder, T = scene
    write(folder, T, NAMES)
    model = read_model(folder)
    assert model.point_ids.tolist() == [2, 5]
    np.testing.assert_array_equal(model.points, [POINTS[2], POINTS[5]])
    by_name = {i.name: i for i in model.images}
    assert by_name["b.png"].point_ids.tolist() == [5] and by_name["b.png"].pixels.tolist() == [[3.0, 2.0]]
    assert len(by_name["a.png"].pixels) == 0
    assert all(len(i.pixels) == 0 for i in read_model(folder, points=False).images)


@WRITERS
def test_a_drive_needs_no_points(scene, write):
    folder, T = scene
    write(folder, T, NAMES)
    for path in folder.glob("points3D.*"):
        path.unlink()
    assert len(open_source(f"colmap:{folder}")[0]) == 3
    with pytest.raises(DatasetError, match="expected a COLMAP model"):
        read_model(folder)


def test_images_are_named_the_old_way_and_the_new(scene, tmp_path):
    folder, T = scene
    write_text(tmp_path / "model", T, NAMES)
    with pytest.raises(DatasetError, match=r"images \(a\.png, \.\.\.\).*images=FOLDER"):
        open_source(f"colmap:{tmp_path / 'model'}")
    for text_ in (f"{tmp_path / 'model'},{folder / 'images'}", f"{tmp_path / 'model'},images={folder / 'images'}"):
        assert len(open_source(f"colmap:{text_}")[0]) == 3
    (folder / "images").rename(tmp_path / "model" / "images_4")
    assert len(open_source(f"colmap:{tmp_path / 'model'},images=images_4")[0]) == 3  # as seen from the data set
    parsed = Source.parse(f"colmap:{tmp_path / 'model'},{folder},world=y_up")
    assert parsed.options == {"images": str(folder), "world": "y_up"}
    with pytest.raises(ConfigError, match="OPTION=VALUE"):
        Source.parse("colmap:/a,/b,/c")
    with pytest.raises(ConfigError, match="OPTION=VALUE"):
        Source.parse("kapture:/a,/b")


def test_the_frame_of_the_model_can_be_turned_scaled_and_moved(scene):
    folder, T = scene
    write_text(folder, T, NAMES)
    (plain,) = open_source(str(folder))
    (turned,) = open_source(f"colmap:{folder},world=y_up,scale=2,origin=[1,2,3]")
    up = 2.0 * plain.T_map_cam[:, 1, 3] - 2.0
    np.testing.assert_allclose(turned.T_map_cam[:, 2, 3], up, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turned.T_map_cam[:, :3, :3]), 1.0)
    far = T.copy()
    far[:, 0, 3] += 4e6
    write_text(folder, far, NAMES)
    with pytest.raises(DatasetError, match=r"images\.txt:\d+: expected coordinates .*origin=\[3999996,0,0\]"):
        open_source(str(folder))


def test_names_can_be_stamps(tmp_path):
    names = ["1700000000000200.png", "1700000000000100.png"]
    for number, name in enumerate(names):
        picture(tmp_path / "images" / name, number)
    T = poses(2)
    write_text(tmp_path, T, names)
    (drive,) = open_source(f"colmap:{tmp_path},stamps=us")
    assert drive.stamps_ns.tolist() == [1_700_000_000_000_100_000, 1_700_000_000_000_200_000]
    np.testing.assert_allclose(drive.T_map_cam, T[[1, 0]], atol=1e-12)
    with pytest.raises(DatasetError, match=r"images\.txt:4: .*in us it would be one of our time"):
        open_source(f"colmap:{tmp_path},stamps=ns")
    write_text(tmp_path, T, [names[0], "x.png"])
    picture(tmp_path / "images" / "x.png")
    problems = Problems(keep_going=True)
    (drive,) = open_source(f"colmap:{tmp_path},stamps=us", problems)
    assert len(drive) == 1 and problems.counts == {"name that is no stamp": 1} == drive.dropped


@WRITERS
def test_cameras_are_drives(scene, write):
    folder, T = scene
    other = (4, "OPENCV", 8, 6, (5.0, 5.5, 4.5, 3.5, 0.1, -0.2, 0.01, 0.02))
    same = (9, *PINHOLE[1:])
    write(folder, T, NAMES, (PINHOLE, other, same), [1, 4, 9])
    joined = open_source(str(folder))
    assert [len(d) for d in joined] == [1, 2] and [d.name for d in joined] == ["s", "s_1"]
    assert joined[0].camera == CameraModel(8, 6, 5.0, 5.5, 4.0, 3.0, "plumb_bob", (0.1, -0.2, 0.01, 0.02))
    assert joined[1].stamps_ns.tolist() == [1_100_000_000, 1_200_000_000]
    apart = open_source(f"colmap:{folder},join=false")
    assert [d.source.names for d in apart] == [("a.png",), ("b.png",), ("sub/c.png",)]


def test_images_with_a_camera_each_are_one_drive_of_the_lens_in_the_middle(tmp_path):
    """As COLMAP makes them unless told otherwise; after its undistortion their sizes differ by some pixels."""
    sizes, focal = [(80, 60), (80, 61), (82, 60)], [60.0, 90.0, 75.0]
    for k, size in enumerate(sizes):
        rows, columns = np.mgrid[: size[1], : size[0]]
        # What each camera sees of a world of brightness that grows along x / z and y / z.
        seen = [128 + 80 * (columns + 0.5 - size[0] / 2) / focal[k], 128 + 80 * (rows + 0.5 - size[1] / 2) / focal[k]]
        image = np.stack([*seen, 0 * rows], -1).round().astype(np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        assert cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), image[..., ::-1])
    cameras = [(k + 1, "SIMPLE_PINHOLE", *sizes[k], (focal[k], sizes[k][0] / 2, sizes[k][1] / 2)) for k in range(3)]
    write_text(tmp_path, poses(3), [f"{k}.png" for k in range(3)], cameras, [1, 2, 3])
    (drive,) = open_source(str(tmp_path))
    assert drive.camera == CameraModel(80, 60, 75.0, 75.0, 39.5, 29.5) and isinstance(drive.source, OneLensImages)
    np.testing.assert_allclose(drive.T_map_cam, poses(3), atol=1e-12)
    rows, columns = np.mgrid[:60, :80]
    for image in (drive.image(k).astype(float) for k in range(3)):
        inside = np.s_[15:45, 20:60]  # where the narrowest of the three sees
        np.testing.assert_allclose(image[..., 0][inside], (128 + 80 * (columns - 39.5) / 75)[inside], atol=1.5)
        np.testing.assert_allclose(image[..., 1][inside], (128 + 80 * (rows - 29.5) / 75)[inside], atol=1.5)
    assert encoded_image(drive.source, 0) is None  # pixels that no file holds
    assert [len(d) for d in open_source(f"colmap:{tmp_path},join=false")] == [1, 1, 1]


def test_images_that_were_all_scaled_have_the_camera_scaled(scene, tmp_path):
    folder, T = scene
    write_text(folder, T, NAMES, [(1, "PINHOLE", 33, 24, (28.0, 30.0, 16.5, 12.0))])  # a quarter, rounded down
    (drive,) = open_source(str(folder))
    assert drive.camera == CameraModel(8, 6, 28.0 * 8 / 33, 7.5, 3.5, 2.5) and isinstance(drive.source, ColmapImages)
    picture(folder / "images" / "a.png", size=(9, 6))
    with pytest.raises(DatasetError, match=r"a\.png: expected 33x24 pixels as in the calibration, found 9x6"):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("line", "model", "distortion"),
    [
        ("SIMPLE_PINHOLE 8 6 7 4 3", "none", ()),
        ("SIMPLE_RADIAL 8 6 7 4 3 0.1", "plumb_bob", (0.1, 0, 0, 0)),
        ("RADIAL 8 6 7 4 3 0.1 -0.2", "plumb_bob", (0.1, -0.2, 0, 0)),
        ("OPENCV 8 6 7 7 4 3 0.1 -0.2 0.01 0.02", "plumb_bob", (0.1, -0.2, 0.01, 0.02)),
        (
            "FULL_OPENCV 8 6 7 7 4 3 0.1 -0.2 0.01 0.02 0.3 0.4 0.5 0.6",
            "rational_polynomial",
            (0.1, -0.2, 0.01, 0.02, 0.3, 0.4, 0.5, 0.6),
        ),
        ("OPENCV_FISHEYE 8 6 7 7 4 3 0.1 -0.2 0.01 0.02", "equidistant", (0.1, -0.2, 0.01, 0.02)),
        ("SIMPLE_RADIAL_FISHEYE 8 6 7 4 3 0.1", "equidistant", (0.1, 0, 0, 0)),
        ("RADIAL_FISHEYE 8 6 7 4 3 0.1 0.2", "equidistant", (0.1, 0.2, 0, 0)),
    ],
)
def test_camera_models(tmp_path, line, model, distortion):
    (tmp_path / "cameras.txt").write_text(f"1 {line}\n")
    (tmp_path / "images.txt").write_text("")
    camera = read_model(tmp_path, points=False).cameras[1]
    assert (camera.distortion_model, camera.distortion) == (model, distortion)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (7.0, 7.0, 3.5, 2.5)


def fault(change):
    """Apply ``change`` to the lines of one file."""

    def apply(folder, file):
        path = folder / file
        path.write_text("\n".join(change(path.read_text().split("\n"))))

    return apply


def setting(row, value):
    return fault(lambda lines: [*lines[:row], value(lines[row]) if callable(value) else value, *lines[row + 1 :]])


FAULTS = {
    "camera": ("cameras.txt", setting(1, "1 PINHOLE 8 6 7 7"), r"cameras\.txt:2: expected 4 parameters of PINHOLE"),
    "camera text": ("cameras.txt", setting(1, "1 PINHOLE 8 x 7 7 4 3"), r"cameras\.txt:2: expected CAMERA_ID MODEL"),
    "short": ("images.txt", setting(1, "10 1 0 0 0"), r"images\.txt:2: expected IMAGE_ID QW"),
    "text": ("images.txt", setting(1, lambda s: s.replace(s.split()[2], "zero")), r"images\.txt:2: expected IMAGE_ID"),
    "nan": ("images.txt", setting(1, lambda s: s.replace(s.split()[5], "nan")), r"images\.txt:2: .*NaN"),
    "unit": ("images.txt", setting(1, "10 2 0 0 0 0 0 0 1 b.png"), r"images\.txt:2: b\.png: expected a unit quat.*2"),
    "no camera": ("images.txt", setting(1, "10 1 0 0 0 0 0 0 8 b.png"), r"images\.txt:2: expected camera 8"),
    "twice": ("images.txt", setting(3, "9 1 0 0 0 0 0 0 1 b.png"), r"images\.txt:4: expected one image b\.png"),
    "no image": (
        "images.txt",
        setting(1, "10 1 0 0 0 0 0 0 1 gone.png"),
        r":2: .*gone\.png, which is missing \(one of 1 of 3\)",
    ),
    "features": ("images.txt", setting(2, "3.5 2.5"), r"images\.txt:3: expected triples X Y POINT3D_ID of the image b"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_line_is_named_or_counted(scene, kind):
    folder, T = scene
    write_text(folder, T, NAMES)
    file, change, message = FAULTS[kind]
    change(folder, file)
    with pytest.raises(DatasetError, match=message):
        open_source(str(folder))
    problems = Problems(keep_going=True)
    if file == "cameras.txt":
        with pytest.raises(DatasetError, match="found none"):
            open_source(f"colmap:{folder}", problems)
        assert problems.counts["image of no camera"] == 3
    else:
        (drive,) = open_source(f"colmap:{folder}", problems)
        assert len(drive) == 2 and sum(problems.counts.values()) == 1 and drive.dropped == problems.counts


def test_a_lost_second_line_is_noticed(scene):
    folder, T = scene
    write_text(folder, T, NAMES)
    kept = [line for line in (folder / "images.txt").read_text().split("\n") if line]
    (folder / "images.txt").write_text("\n".join(kept))
    with pytest.raises(DatasetError, match=r"images\.txt:5: expected triples.*may be empty but not missing"):
        open_source(str(folder))


def test_an_unsupported_lens_is_named(scene):
    folder, T = scene
    fov = (2, "FOV", 8, 6, (7.0, 7.0, 4.0, 3.0, 0.9))
    for write in (write_text, write_binary):
        write(folder, T, NAMES, (PINHOLE, fov), [1, 2, 1])
        with pytest.raises(CameraError, match=r"cameras\.(txt:3|bin: byte \d+): camera 2: expected .*found FOV; undis"):
            open_source(str(folder))
        problems = Problems(keep_going=True)
        (drive,) = open_source(str(folder), problems)
        assert len(drive) == 2 and problems.counts == {"camera that is not supported": 1, "image of no camera": 1}
    data = bytearray((folder / "cameras.bin").read_bytes())
    data[12:16] = struct.pack("<i", 77)
    (folder / "cameras.bin").write_bytes(data)
    with pytest.raises(CameraError, match=r"cameras\.bin: byte 8: expected a camera model from 0 to 10, found 77"):
        open_source(str(folder))


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin", "points3D.bin"])
def test_truncated_and_overlong_binary_files_are_named(scene, file):
    folder, T = scene
    write_binary(folder, T, NAMES)
    whole = (folder / file).read_bytes()
    for length in range(0, len(whole), 5):
        (folder / file).write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=re.escape(file) + r": byte \d+: .*damaged"):
            read_model(folder)
    (folder / file).write_bytes(whole + b"x")
    with pytest.raises(DatasetError, match=rf"{re.escape(file)}: expected {len(whole)} bytes, found {len(whole) + 1}"):
        read_model(folder)


def test_observations_of_lost_points_are_damage(scene):
    folder, T = scene
    write_text(folder, T, NAMES)
    (folder / "points3D.txt").write_text("2 0 0 1 0 0 0 0\n")
    with pytest.raises(DatasetError, match=r"images\.txt:\d: expected the point 5 that .*damaged"):
        read_model(folder)
    problems = Problems(keep_going=True)
    model = read_model(folder, problems)
    assert all(len(i.point_ids) == 0 for i in model.images) and sum(problems.counts.values()) == 2
    (folder / "points3D.txt").write_text("2 0 zero 1 0 0 0 0\n5 0 0 1 0 0 0 0\n")
    with pytest.raises(DatasetError, match=r"points3D\.txt:1: expected POINT3D_ID"):
        read_model(folder)
    assert read_model(folder, Problems(keep_going=True)).point_ids.tolist() == [5]


def test_images_that_do_not_fit_the_camera(scene):
    folder, T = scene
    write_text(folder, T, NAMES)
    truncate(folder / "images" / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png: "):
        open_source(str(folder))
    picture(folder / "images" / "b.png", size=(4, 3))
    problems = Problems(keep_going=True)
    (drive,) = open_source(str(folder), problems)
    assert len(drive) == 1 and drive.dropped == {"image that cannot be decoded": 1, "image of another size": 1}
    picture(folder / "images" / "a.png", size=(4, 3))
    with pytest.raises(DatasetError, match=r"a\.png: expected 8x6 pixels as in the calibration, found 4x3"):
        open_source(str(folder))


def test_no_model_and_no_images(tmp_path):
    with pytest.raises(DatasetError, match=r"in sparse/0, sparse or sfm, found none"):
        open_source(f"colmap:{tmp_path}")
    assert not matches(tmp_path)
    write_text(tmp_path, np.zeros((0, 4, 4)), [])
    with pytest.raises(DatasetError, match="expected images with poses, found none"):
        open_source(f"colmap:{tmp_path}")
    (tmp_path / "poses.txt").write_text("")
    assert not matches(tmp_path)  # a drive's own poses come first


@settings(max_examples=60)
@given(
    file=st.sampled_from(["cameras.txt", "images.txt", "points3D.txt", "cameras.bin", "images.bin", "points3D.bin"]),
    data=st.data(),
)
def test_no_content_is_a_bug(tmp_path_factory, file, data):
    folder = tmp_path_factory.mktemp("m")
    T = poses(2)
    (write_binary if file.endswith("bin") else write_text)(folder, T, ["a.png", "b.png"])
    whole = (folder / file).read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.one_of(st.binary(max_size=12), st.sampled_from([b" nan ", b" 1e400 ", b"-", b"9" * 40, b"\n"])))
    (folder / file).write_bytes(whole[:at] + junk + whole[at + data.draw(st.integers(0, 12)) :])
    for problems in (Problems(), Problems(keep_going=True)):
        try:
            model = read_model(folder, problems)
        except VlocError:
            continue
        assert np.isfinite(model.points).all() and all(np.isfinite(i.T_map_cam).all() for i in model.images)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 5), binary=st.booleans())
def test_any_model_reads_back(tmp_path_factory, seed, count, binary):
    folder = tmp_path_factory.mktemp("m")
    T = poses(count, seed, 1000.0)
    names = [f"{seed}/{i} of many.jpg" for i in range(count)]
    (write_binary if binary else write_text)(folder, T, names)
    model = read_model(folder)
    assert [i.name for i in model.images] == names
    for image, t in zip(model.images, T, strict=True):
        np.testing.assert_allclose(image.T_map_cam, t, atol=1e-9)


def test_through_a_bag_and_back(scene, tmp_path):
    folder, T = scene
    write_binary(folder, T, NAMES, ((1, "OPENCV", 8, 6, (5.0, 5.5, 4.5, 3.5, 0.1, -0.2, 0.01, 0.02)),))
    (drive,) = open_source(str(folder))
    same_drive(open_sequence(write_sequence(drive, tmp_path / "bag")), drive)
