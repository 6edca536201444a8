"""ApolloScape: both forms of its folders and of its poses, swapped angles, large coordinates, stamps in names."""

from __future__ import annotations

from datetime import datetime, timezone

import cv2
import numpy as np
import pytest

from vloc_ros.convert.sequence import write_sequence
from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.apolloscape import CAMERAS, matches, name_stamp
from vloc_ros.datasets.formats import detect, open_source
from vloc_ros.datasets.posed_images import START_NS
from vloc_ros.datasets.problems import Problems
from vloc_ros.errors import DatasetError
from vloc_ros.geometry.rotations import euler_to_matrix
from vloc_ros.types import CameraModel

COUNT = 4
T0 = int(datetime(2017, 12, 6, 3, 45, 59, tzinfo=timezone.utc).timestamp()) * 10**9 + 609_000_000


def name(i: int, camera: str = "Camera_5") -> str:
    return (
        f"171206_0345{59 + i // 4:02d}{609 + 128 * i:03d}_{camera}.jpg" if i < 4 else f"171206_034600121_{camera}.jpg"
    )


def values(i: int, x: float = -12302.5947) -> list[float]:
    """roll, pitch, yaw, x, y, z as published: a camera that looks ahead, some 10 deg down."""
    return [-1.3990, -0.0347, 2.8962 + 0.001 * i, x + 0.169 * i, 4039.8733 - 0.989 * i, 38.3167]


def pose(v) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = euler_to_matrix(v[:3]), v[3:]
    return T


def write_images(folder, names, size=(8, 6)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, file in enumerate(names):
        image = np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        cv2.imwrite(str(folder / file), image)


def write_angles(file, names, rows) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{n} {','.join(repr(float(x)) for x in v)}\n" for n, v in zip(names, rows, strict=True)))


def write_matrices(file, names, poses) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(f"{x:.7f}" for x in T.reshape(-1)) + f" {n}\n" for n, T in zip(names, poses, strict=True)]
    file.write_text("".join(lines))


@pytest.fixture
def readme_form(tmp_path):
    """{split}/{scene}/{image,pose,split}/{day}/{record}/{camera}, poses of six values, lines shuffled."""
    root = tmp_path / "apolloscape"
    scene = root / "Train" / "Road11"
    for record, x in (("GZ20180310A/Record001", -12302.5947), ("GZ20180310B/Record001", -12000.25)):
        for camera in ("Camera_5", "Camera_6"):
            names = [name(i, camera) for i in range(COUNT)]
            write_images(scene / "image" / record / camera.replace("_", " "), names)
            order = [2, 0, 3, 1]
            rows = [values(i, x) for i in order]
            write_angles(scene / "pose" / record / f"{camera}.txt", [names[i] for i in order], rows)
    (scene / "split").mkdir()
    listed = [f"image/GZ20180310A/Record001/Camera 5/{name(i)}" for i in (0, 2)]
    (scene / "split" / "val.txt").write_text("\n".join([*listed, f"GZ20180310B/Record001/Camera 5/{name(1)}"]))
    return root


@pytest.fixture
def matrix_form(tmp_path):
    """{road}/{ColorImage,Pose}/RecordNNN/Camera X/pose.txt with matrices of seven digits."""
    road = tmp_path / "road03_seg"
    names = [name(i) for i in range(COUNT)]
    write_images(road / "ColorImage" / "Record018" / "Camera 5", names)
    write_matrices(
        road / "Pose" / "Record018" / "Camera 5" / "pose.txt", names, [pose(values(i)) for i in range(COUNT)]
    )
    return road


def open_all(path, problems=None, **options):
    return open_source(f"apolloscape:{path}", problems, **options)


def test_six_values_are_angles_and_a_position(readme_form):
    drives = open_all(readme_form)
    assert detect(readme_form) == "apolloscape"
    assert [d.name for d in drives] == [
        "Road11-GZ20180310A-Record001-Camera_5",
        "Road11-GZ20180310B-Record001-Camera_5",
    ]
    found = drives[0]
    np.testing.assert_array_equal(found.stamps_ns, T0 + 128_000_000 * np.arange(COUNT))  # in order again
    for i in range(COUNT):
        expected = pose(values(i))
        expected[:3, 3] -= found.origin_m
        np.testing.assert_allclose(found.T_map_cam[i], expected, atol=1e-9)
    # z is up in the world, and the camera looks along the way: optical y is down, base_link upright.
    assert found.T_map_cam[0, 2, 1] < -0.95
    way = found.T_map_cam[3, :3, 3] - found.T_map_cam[0, :3, 3]
    assert way @ found.T_map_cam[0, :3, 2] > 0.9 * np.linalg.norm(way) and found.T_map_base[0, 2, 2] > 0.95
    np.testing.assert_array_equal(found.image(2), open_all(readme_form / "Train")[0].image(2))
    assert not found.dropped


def test_large_coordinates_become_local_in_one_frame(readme_form):
    first, second = open_all(readme_form)
    assert first.origin_m == second.origin_m == (-12302.0, 4038.0, 38.0)
    assert np.abs(first.T_map_cam[:, :3, 3]).max() < 10.0
    np.testing.assert_allclose(
        second.T_map_cam[1, :3, 3] - first.T_map_cam[1, :3, 3], [12302.5947 - 12000.25, 0, 0], atol=1e-9
    )
    # Whatever is asked for: another record, another camera, the scene itself.
    for drive in (
        *open_all(readme_form, records=["GZ20180310B/Record001"]),
        *open_all(readme_form, camera=6),
        *open_all(readme_form / "Train" / "Road11"),
    ):
        assert drive.origin_m == first.origin_m
    assert first.select(np.array([1])).origin_m == first.origin_m
    given = open_all(readme_form, origin=[-12000.0, 4000.0, 0.5])[0]
    np.testing.assert_allclose(given.T_map_cam[0, :3, 3], [-302.5947, 39.8733, 37.8167], atol=1e-9)
    # float32 loses half a millimetre of the coordinates as they are, and next to nothing of the local ones.
    original = first.T_map_cam[:, :3, 3] + first.origin_m
    assert np.abs(original.astype(np.float32) - original).max() > 1e-4
    assert np.abs(first.T_map_cam.astype(np.float32) - first.T_map_cam).max() < 1e-6


def test_matrices_are_read_too_with_the_name_at_either_end(matrix_form):
    found = open_sequence(matrix_form)
    assert detect(matrix_form) == "apolloscape" and found.name == "road03_seg-Record018-Camera_5"
    for i in range(COUNT):
        expected = pose(values(i))
        expected[:3, 3] -= found.origin_m
        np.testing.assert_allclose(found.T_map_cam[i], expected, atol=2e-7)  # seven digits in the file
        np.testing.assert_allclose(found.T_map_cam[i, :3, :3] @ found.T_map_cam[i, :3, :3].T, np.eye(3), atol=1e-12)
    file = matrix_form / "Pose" / "Record018" / "Camera 5" / "pose.txt"
    lines = [line.split() for line in file.read_text().splitlines()]
    file.write_text("\n".join(" ".join([line[-1], *line[:-1]]) for line in lines))
    np.testing.assert_array_equal(open_sequence(matrix_form).T_map_cam, found.T_map_cam)


@pytest.mark.parametrize("spelled", ["Camera 5", "Camera_5", "camera_5"])
@pytest.mark.parametrize("asked", ["Camera_5", "Camera 5", "5", "camera5"])
def test_cameras_are_the_same_however_they_are_spelled(tmp_path, spelled, asked):
    write_images(tmp_path / "zpark" / "image" / "Record001" / spelled, [name(0)])
    write_angles(tmp_path / "zpark" / "pose" / "Record001" / "Camera_5.txt", [name(0)], [values(0)])
    if spelled == "camera_5":  # no spelling of the data set
        with pytest.raises(DatasetError, match="no such folder, for the poses"):
            open_all(tmp_path / "zpark", camera=asked)
    else:
        assert len(open_all(tmp_path / "zpark", camera=asked)[0]) == 1
        assert len(open_source(f"apolloscape:{tmp_path / 'zpark'},camera={asked}")[0]) == 1  # 5 is a number to YAML


def test_position_before_the_angles_is_told_and_read_when_said(readme_form):
    whole = open_all(readme_form)[0]
    for file in readme_form.rglob("Camera_5.txt"):
        rows = [line.split() for line in file.read_text().splitlines()]
        swapped = [(n, v.split(",")) for n, v in rows]
        file.write_text("".join(f"{n} {','.join([*v[3:], *v[:3]])}\n" for n, v in swapped))
    problems = Problems()
    with pytest.raises(
        DatasetError, match=r"Camera_5.txt:1: expected roll,pitch,yaw in radians, found -123.*position_first"
    ):
        open_all(readme_form, problems)
    found = open_all(readme_form, order="position_first")[0]
    np.testing.assert_array_equal(found.T_map_cam, whole.T_map_cam)
    with pytest.raises(DatasetError, match="expected poses, found none that can be used"):
        open_all(readme_form, Problems(keep_going=True))  # not one that could be right


def test_degrees_are_told(readme_form):
    file = readme_form / "Train/Road11/pose/GZ20180310A/Record001/Camera_5.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, f"{name(9)} -80.1,-2.0,166.0,-12302.6,4039.9,38.3"]))
    with pytest.raises(DatasetError, match=r"Camera_5.txt:5: expected roll,pitch,yaw in radians, .*are they degrees"):
        open_all(readme_form)
    assert open_all(readme_form, Problems(keep_going=True))[0].dropped == {"angles out of range": 1}


def test_intrinsics_are_scaled_to_the_images(readme_form, tmp_path):
    camera = open_all(readme_form)[0].camera
    assert camera.size == (8, 6)
    assert camera.fx == pytest.approx(2304.54786556982 * 8 / 3384) and camera.fy == pytest.approx(
        2305.875668062 * 6 / 2710
    )
    assert camera.cx == pytest.approx((1686.23787612802 + 0.5) * 8 / 3384 - 0.5)
    six = open_all(readme_form, camera=6)[0].camera
    assert six.fx == pytest.approx(CAMERAS["Camera_6"].fx * 8 / 3384)
    own = open_all(readme_form, intrinsics=[7.0, 7.5, 3.0, 2.0])[0].camera
    assert own == CameraModel(8, 6, 7.0, 7.5, 3.0, 2.0)
    folder = readme_form / "Train/Road11/image/GZ20180310A/Record001/Camera 5"
    write_images(folder, [name(i) for i in range(COUNT)], (8, 8))
    with pytest.raises(DatasetError, match=r"expected 3384x2710 pixels or a scaled image, found 8x8, .*cropped"):
        open_all(readme_form)
    write_images(tmp_path / "z/image/Record001/Camera_1", [name(0)])
    write_angles(tmp_path / "z/pose/Record001/Camera_1.txt", [name(0)], [values(0)])
    with pytest.raises(DatasetError, match=r"published for Camera_5 and Camera_6 alone, not for Camera_1; give"):
        open_all(tmp_path / "z", camera=1)


def test_what_is_asked_for_is_chosen_and_what_there_is_is_named(readme_form):
    assert len(open_all(readme_form, scene="Road11", split="Train", records=["Record001"])) == 2
    assert len(open_all(readme_form, records=["GZ20180310B/Record001"])) == 1
    for options in ({"scene": "Road12"}, {"split": "Test"}, {"records": ["Record002"]}, {"camera": 7}):
        with pytest.raises(
            DatasetError, match=r"expected poses of .*, found Road11 GZ20180310A/Record001 Camera_5, Road11"
        ):
            open_all(readme_form, **options)
    assert not matches(readme_form / "Train" / "Road11" / "pose") and not matches(readme_form / "no")
    with pytest.raises(DatasetError, match="expected scenes"):
        open_all(readme_form / "Train" / "Road11" / "pose")


def test_lists_of_images_choose_within_their_record(readme_form):
    first, second = open_all(readme_form, subset="val")
    np.testing.assert_array_equal(first.stamps_ns, T0 + 128_000_000 * np.array([0, 2]))
    np.testing.assert_array_equal(second.stamps_ns, [T0 + 128_000_000])
    (readme_form / "Train/Road11/split/plain.txt").write_text(f"{name(3)}\n{name(1)[:-4]}\n\n")
    assert [len(d) for d in open_all(readme_form, subset="plain")] == [2, 2]
    (readme_form / "Train/Road11/split/one.txt").write_text(f"image/GZ20180310B/Record001/Camera 5/{name(1)}")
    (only,) = open_all(readme_form, subset="one")
    assert only.name == second.name and only.origin_m == first.origin_m
    (readme_form / "Train/Road11/split/none.txt").write_text("image/Record099/Camera 5/x.jpg")
    with pytest.raises(DatasetError, match="expected drives of ApolloScape self-localization, found none"):
        open_all(readme_form, subset="none")
    with pytest.raises(DatasetError, match=r"split/train.txt: no such file; found none, one, plain, val"):
        open_all(readme_form, subset="train")


def test_stamps_of_names():
    assert name_stamp("171206_034559609_Camera_5.jpg") == T0
    assert name_stamp("170908_065218364_Camera_6.jpg") - name_stamp("170908_065218492_Camera_6.jpg") == -128_000_000
    for other in ("frame_000001.jpg", "171306_034559609_Camera_5.jpg", "171206_0345596091_Camera_5.jpg", ""):
        assert name_stamp(other) is None


def test_without_stamps_in_the_names_images_are_counted(tmp_path):
    names = [f"frame{i}.jpg" for i in range(3)]
    write_images(tmp_path / "road/image/Record001/Camera_5", names)
    file = tmp_path / "road/pose/Record001/Camera_5.txt"
    write_angles(file, names, [values(i) for i in range(3)])
    found = open_all(tmp_path / "road", rate_hz=8.0)[0]
    np.testing.assert_array_equal(found.stamps_ns, START_NS + 125_000_000 * np.arange(3))
    assert START_NS > 0
    write_images(tmp_path / "road/image/Record001/Camera_5", [name(0)])
    write_angles(file, [*names[:2], name(0)], [values(i) for i in range(3)])
    with pytest.raises(DatasetError, match=r"Camera_5.txt:1: expected a name such as 171206_.*found frame0.jpg"):
        open_all(tmp_path / "road")
    assert len(open_all(tmp_path / "road", Problems(keep_going=True))[0]) == 1


@pytest.mark.parametrize(
    ("line", "message", "kind"),
    [
        (f"{name(9)} 1,2,3", r":5: expected an image name with .*, found 3 values", "row of the wrong length"),
        (name(9), r":5: expected 2 to 17 fields, found 1", "row of the wrong length"),
        (f"{name(9)} 0,0,0,nan,0,0", r":5: expected finite numbers", "row with NaN or infinity"),
        (f"{name(9)} 0,0,0,x,0,0", r":5: expected numbers", "row with text for a number"),
        (f"{name(1)} 0, 0, 0, 1, 2, 3", r":5: expected one pose an image", "repeated image"),
        (" ".join(["2"] * 16) + f" {name(9)}", r":5: expected last row", "matrix that is no pose"),
        (f"{name(9)} 0, 0, 0, 1, 2, 3", r":5: expected the image .*, found no file", "listed image that is missing"),
    ],
)
def test_broken_poses_are_named_by_line_or_counted(readme_form, line, message, kind):
    whole = open_all(readme_form)[0]
    file = readme_form / "Train/Road11/pose/GZ20180310A/Record001/Camera_5.txt"
    file.write_text(file.read_text() + line)
    with pytest.raises(DatasetError, match=message):
        open_all(readme_form)
    first, second = open_all(readme_form, Problems(keep_going=True))
    assert first.dropped == {kind: 1} and not second.dropped
    np.testing.assert_array_equal(first.T_map_cam, whole.T_map_cam)


def test_images_without_poses_and_repeated_stamps(readme_form):
    folder = readme_form / "Train/Road11/image/GZ20180310A/Record001/Camera 5"
    twin = "171206_034559609_Camera_5b.jpg"
    write_images(folder, [twin])
    problems = Problems()
    assert open_all(readme_form, problems)[0].dropped == {"image without a pose": 1}
    file = readme_form / "Train/Road11/pose/GZ20180310A/Record001/Camera_5.txt"
    file.write_text(file.read_text() + f"{twin} 0,0,0,0,0,0\n")
    with pytest.raises(
        DatasetError, match=r"Camera_5.txt:5: expected one image a stamp, found 171206_034559609_Camera_5.jpg"
    ):
        open_all(readme_form)


def test_a_record_without_images_is_named_or_counted(readme_form):
    folder = readme_form / "Train/Road11/image/GZ20180310A/Record001/Camera 5"
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(DatasetError, match=r"Camera_5: no such folder, for the poses in .*Camera_5.txt; .*records="):
        open_all(readme_form)
    problems = Problems(keep_going=True)
    assert len(open_all(readme_form, problems)) == 1 and problems.counts == {"record without images": 1}


def test_through_a_bag_and_back(readme_form, tmp_path):
    found = open_all(readme_form)[0]
    back = open_sequence(write_sequence(found, tmp_path / "bag"))
    np.testing.assert_array_equal(back.stamps_ns, found.stamps_ns)
    np.testing.assert_allclose(back.T_map_cam, found.T_map_cam, atol=1e-9)
    for index in range(len(found)):
        np.testing.assert_array_equal(back.image(index), found.image(index))
