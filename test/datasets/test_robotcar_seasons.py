"""RobotCar Seasons: names and files, poses of models and lists, the world's axes, the rig."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.robotcar.sensors import sensor_mountings
from vloc_ros.datasets.robotcar_seasons import queries
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix, so3_exp
from vloc_ros.geometry.se3 import inverse

# As published; left and right are those of the whole data set, in the axes of this one.
REAR = """-0.999802, -0.011530, -0.016233, 0.060209
-0.015184, 0.968893, 0.247013, 0.153691
0.012880, 0.247210, -0.968876, -2.086142
0.000000, 0.000000, 0.000000, 1.000000
"""
START = 1_417_176_458_999_821
T_SENSOR_OPTICAL = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
T_BODY_CAR = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def car_camera(camera):
    """Camera to car, both with x right, y down, z forward, of the published mountings."""
    mounting = np.diag([1.0, -1, -1, 1]) @ sensor_mountings(None)[f"mono_{camera}"]
    return inverse(T_SENSOR_OPTICAL) @ mounting @ T_SENSOR_OPTICAL


def world_poses(count):
    """Rear cameras in a world with z down."""
    out = np.tile(np.eye(4), (count, 1, 1))
    for k in range(count):
        out[k, :3, :3] = so3_exp([0, 0, 0.1 * k]) @ so3_exp([np.pi / 2 + 0.25, 0, 0])
        out[k, :3, 3] = 20 + 2.0 * k, -30 + 0.1 * k, -1.5
    return out


def nvm_line(name, T, focal=400.0):
    x, y, z, w = matrix_to_quaternion(T[:3, :3].T)
    return f"./{name} {focal} " + " ".join(repr(float(v)) for v in (w, x, y, z, *T[:3, 3], 0, 0))


def train_line(name, T):
    return f"{name} " + " ".join(repr(float(v)) for v in T.reshape(-1))


def write_image(root, condition, camera, stamp, suffix=".jpg"):
    folder = root / "images" / condition / camera
    folder.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(stamp).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / f"{stamp}{suffix}"), image)


def write_set(root, count=3):
    """The reference drive by rear and left, and a night by all three."""
    T = world_poses(count)
    for name in ("intrinsics", "extrinsics", "3D-models/all-merged"):
        (root / name).mkdir(parents=True)
    lines = []
    for camera in ("left", "rear", "right"):
        (root / "intrinsics" / f"{camera}_intrinsics.txt").write_text("fx 4.0\nfy 4.25\ncx 3.5\ncy 2.5\n")
        matrix = car_camera(camera)
        text = "\n".join(", ".join(repr(float(v)) for v in row) for row in matrix) + "\n"
        (root / "extrinsics" / f"{camera}_extrinsics.txt").write_text(REAR if camera == "rear" else text)
        for k in range(count):
            stamp = START + 100_000 * k
            write_image(root, "overcast-reference", camera, stamp)
            write_image(root, "night", camera, stamp + 10**12)
            # Models were built from .png files; those that one downloads are .jpg.
            step = inverse(car_camera("rear")) @ car_camera(camera)
            lines.append(nvm_line(f"overcast-reference/{camera}/{stamp}.png", T[k] @ step))
    order = np.random.default_rng(0).permutation(len(lines))
    nvm = ["NVM_V3", "", str(len(lines)), *[lines[i] for i in order], "", "1", "0 0 0 9 9 9 0"]
    (root / "3D-models/all-merged/all.nvm").write_text("\n".join(nvm) + "\n")
    rows = [train_line(f"night/rear/{START + 10**12 + 100_000 * k}.jpg", T[k]) for k in reversed(range(count))]
    (root / "robotcar_v2_train.txt").write_text("\n".join(rows) + "\n")
    return T


def opened(root, problems=None, **options):
    return open_source(f"robotcar_seasons:{root}", problems, **options)


def test_the_reference_drive_comes_back(tmp_path):
    T = write_set(tmp_path)
    assert detect(tmp_path) == "robotcar_seasons"
    (found,) = opened(tmp_path)
    assert found.name == "overcast-reference_rear" and found.dropped == {}
    np.testing.assert_array_equal(found.stamps_ns, [(START + 100_000 * k) * 1000 for k in range(3)])
    np.testing.assert_allclose(found.T_map_cam, np.diag([1.0, -1, -1, 1]) @ T, atol=1e-9, rtol=0)
    assert (found.camera.size, found.camera.fx, found.camera.fy) == ((8, 6), 4.0, 4.25)
    assert found.source.paths[1].name == f"{START + 100_000}.jpg"
    np.testing.assert_array_equal(found.image(0), cv2.imread(str(found.source.paths[0]))[..., ::-1])
    assert set(found.rig) == {"left", "right"}


def test_a_bag_of_it_has_the_same_stamps_poses_and_files(tmp_path):
    write_set(tmp_path / "set")
    (drive,) = opened(tmp_path / "set")
    (again,) = open_source(str(write_sequence(drive, tmp_path / "bag")))
    np.testing.assert_array_equal(again.stamps_ns, drive.stamps_ns)
    np.testing.assert_allclose(again.T_map_cam, drive.T_map_cam, atol=1e-9, rtol=0)
    for index in range(len(drive)):
        np.testing.assert_array_equal(again.image(index), drive.image(index))


def test_the_map_is_z_up_of_poses_as_they_are_published():
    """Three poses of a published result (world to camera): the car stands on its wheels, not on its roof."""
    published = {
        "left": (0.11704475375741745, 0.03295656318232015, -0.6387011805495836, -0.759786280822208),
        "rear": (0.7276782815863018, -0.5911740329291926, -0.23252374914543117, -0.2587088853928167),
        "right": (0.6205097424969388, -0.6552427198975653, -0.20077227393455488, -0.3812022186540521),
    }
    from vloc_ros.datasets.robotcar_seasons import T_MAP_WORLD

    for camera, (w, x, y, z) in published.items():
        R_world_cam = quaternion_to_matrix(np.array([x, y, z, w])).T
        R_map_base = T_MAP_WORLD[:3, :3] @ R_world_cam @ (T_BODY_CAR @ car_camera(camera))[:3, :3].T
        assert R_map_base[2, 2] > np.cos(np.radians(6))  # up is up
        assert np.linalg.det(R_map_base) == pytest.approx(1)


def test_the_rear_camera_looks_back_and_sits_behind(tmp_path):
    write_set(tmp_path)
    (found,) = opened(tmp_path)
    np.testing.assert_allclose(found.T_base_cam[:3, 3], [-2.086142, -0.060209, -0.153691], atol=1e-5)
    assert found.T_base_cam[0, 2] < -0.95 and found.T_base_cam[2, 1] < -0.95  # optical z back, y down
    assert found.rig["left"][1, 2] > 0.9 and found.rig["left"][1, 3] > 0.5  # looks left, sits left
    assert found.rig["right"][1, 2] < -0.9 and found.rig["right"][1, 3] < -0.5


def test_other_conditions_have_the_poses_of_the_second_version(tmp_path):
    T = write_set(tmp_path)
    (found,) = opened(tmp_path, condition="night")
    assert (np.diff(found.stamps_ns) == 100_000_000).all()  # in the order of time, which the list is not in
    np.testing.assert_allclose(found.T_map_cam, np.diag([1.0, -1, -1, 1]) @ T, atol=1e-9, rtol=0)
    (left,) = opened(tmp_path, condition="night", camera="left")
    np.testing.assert_allclose(left.T_map_base, found.T_map_base, atol=1e-9, rtol=0)
    assert left.source.paths[0].parent.name == "left"
    drives = opened(tmp_path, condition="all")
    assert [d.name for d in drives] == ["overcast-reference_rear", "night_rear"]
    np.testing.assert_allclose(drives[0].T_map_cam, drives[1].T_map_cam, atol=1e-9)  # one world
    with pytest.raises(DatasetError, match="expected images with poses, found none of 0"):
        opened(tmp_path, condition="snow")
    with pytest.raises(DatasetError, match="condition: expected overcast-reference, dawn"):
        opened(tmp_path, condition="fog")


def test_poses_from_a_list_as_it_is_submitted(tmp_path):
    T = write_set(tmp_path)
    rows = []
    for k in range(3):
        T_cam_world = inverse(T[k])
        x, y, z, w = matrix_to_quaternion(T_cam_world[:3, :3])
        values = " ".join(repr(float(v)) for v in (w, x, y, z, *T_cam_world[:3, 3]))
        rows.append(f"night/rear/{START + 10**12 + 100_000 * k}.jpg {values}")
    (tmp_path / "mine.txt").write_text("\n".join(rows) + "\n")
    (found,) = opened(tmp_path, condition="night", poses=str(tmp_path / "mine.txt"))
    np.testing.assert_allclose(found.T_map_cam, opened(tmp_path, condition="night")[0].T_map_cam, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("named", "there"), [(".png", ".jpg"), (".jpg", ".png"), (".png", ".png")])
def test_names_and_files_may_end_differently(tmp_path, named, there):
    write_set(tmp_path)
    train = tmp_path / "robotcar_v2_train.txt"
    train.write_text(train.read_text().replace(".jpg", named))
    for path in (tmp_path / "images/night/rear").iterdir():
        path.rename(path.with_suffix(there))
    assert [p.suffix for p in opened(tmp_path, condition="night")[0].source.paths] == [there] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[:-1], r"train.txt:2: expected 17 or 8 fields, found 16"),
        (lambda f: [*f[:5], "nan", *f[6:]], r"train.txt:2: expected finite numbers"),
        (lambda f: [*f[:5], "x", *f[6:]], r"train.txt:2: expected numbers"),
        (lambda f: [f[0], "2.0", *f[2:]], r"train.txt:2: expected a rotation"),
        (lambda f: [*f[:-1], "0"], r"train.txt:2: expected last row \(0, 0, 0, 1\)"),
        (lambda f: ["night/1.jpg", *f[1:]], r"train.txt:2: expected a name CONDITION/left"),
        (lambda f: ["night/rear/1418176459.jpg", *f[1:]], r"train.txt:2: expected a stamp in us.*in s it would"),
        (
            lambda f: [f[0].replace("99", "98"), *f[1:]],
            r"train.txt:2: expected .*jpg, found no file; download the images",
        ),
    ],
)
def test_faulty_lines_are_named(tmp_path, change, message):
    write_set(tmp_path)
    train = tmp_path / "robotcar_v2_train.txt"
    lines = train.read_text().splitlines()
    lines[1] = " ".join(change(lines[1].split()))
    train.write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match=message):
        opened(tmp_path, condition="night")
    problems = Problems(keep_going=True)
    (found,) = opened(tmp_path, problems, condition="night")
    assert len(found) == 2 and sum(problems.counts.values()) == 1 and found.dropped == problems.counts


def test_a_pose_given_twice(tmp_path):
    write_set(tmp_path)
    train = tmp_path / "robotcar_v2_train.txt"
    train.write_text(train.read_text() + train.read_text().splitlines()[0] + "\n")
    with pytest.raises(DatasetError, match=r"train.txt:4: expected one pose an image"):
        opened(tmp_path, condition="night")


def test_calibration_that_is_missing_or_malformed(tmp_path):
    write_set(tmp_path)
    intrinsics = tmp_path / "intrinsics/rear_intrinsics.txt"
    intrinsics.write_text("fx 4\nfy 4\ncx 3.5\n")
    with pytest.raises(DatasetError, match=r"rear_intrinsics.txt:3: expected lines fx, fy, cx, cy .* found no cy"):
        opened(tmp_path)
    intrinsics.write_text("fx 400\nfy 400\ncx 508.222931\ncy 498.187378\n")
    with pytest.raises(DatasetError, match=r"expected a principal point inside the 8x6 image"):
        opened(tmp_path)
    extrinsics = tmp_path / "extrinsics/rear_extrinsics.txt"
    extrinsics.write_text(REAR.replace(",", ""))
    with pytest.raises(DatasetError, match=r"rear_extrinsics.txt:1: expected 4 fields, found 1"):
        opened(tmp_path)
    extrinsics.write_text("1,0,0,0\n0,1,0,0\n0,0,2,0\n0,0,0,1\n")
    with pytest.raises(DatasetError, match=r"rear_extrinsics.txt:1: expected a rotation"):
        opened(tmp_path)
    extrinsics.unlink()
    with pytest.raises(DatasetError, match=r"rear_extrinsics.txt: no such file"):
        opened(tmp_path)
    with pytest.raises(DatasetError, match=r"rear_extrinsics.txt: no such file; the poses of left follow from it"):
        opened(tmp_path, condition="night", camera="left")


def test_poses_that_are_missing(tmp_path):
    write_set(tmp_path)
    (tmp_path / "3D-models/all-merged/all.nvm").unlink()
    with pytest.raises(DatasetError, match=r"all.nvm: no such file; the reference poses are in it"):
        opened(tmp_path)
    (tmp_path / "robotcar_v2_train.txt").unlink()
    with pytest.raises(DatasetError, match=r"robotcar_v2_train.txt: no such file"):
        opened(tmp_path, condition="night")


def test_images_without_poses_for_a_submission(tmp_path):
    write_set(tmp_path)
    names = [f"night/{camera}/{START + 10**12 + 100_000 * k}.jpg" for k in (2, 0) for camera in ("rear", "left")]
    (tmp_path / "robotcar_v2_test.txt").write_text("\n".join(names) + "\n")
    found = queries(tmp_path, "night", "rear", Problems())
    assert found.names == (names[0], names[2]) and len(found.source.paths) == 2
    np.testing.assert_array_equal(found.stamps_ns, [(START + 10**12 + 100_000 * k) * 1000 for k in (2, 0)])
    np.testing.assert_allclose(found.T_base_cam, opened(tmp_path)[0].T_base_cam)
    with pytest.raises(DatasetError, match="expected images of snow/rear, found none"):
        queries(tmp_path, "snow", "rear", Problems())
    (tmp_path / "robotcar_v2_test.txt").write_text("night/x.jpg\n")
    with pytest.raises(DatasetError, match=r"test.txt:1: expected a name CONDITION"):
        queries(tmp_path, "night", "rear", Problems())
