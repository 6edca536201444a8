"""KITTI folders: both layouts, the frames of the result, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vloc_ros.datasets import open_sequence
from vloc_ros.datasets.formats import Source, open_source
from vloc_ros.datasets.kitti import read_poses
from vloc_ros.datasets.posed_images import START_NS
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.geometry.rotations import so3_exp

INTRINSICS = (30.0, 31.0, 15.0, 9.0)


def open_kitti(folder, **options):
    return open_source(Source("kitti", Path(folder), options))[0]


def world_poses(count: int) -> np.ndarray:
    """Camera-to-world in OpenCV axes: 1 m a frame along z while turning right (about y, which points down)."""
    T = np.tile(np.eye(4), (count, 1, 1))
    for i in range(count):
        T[i, :3, :3] = so3_exp(np.array([0.0, 0.02 * i, 0.0]))
        T[i, :3, 3] = 0.01 * i * i, -0.001 * i, i
    return T


def write_images(folder, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        image = np.random.default_rng(i).integers(0, 255, (18, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:06d}.png"), image[..., ::-1])


@pytest.fixture
def flat(tmp_path):
    write_images(tmp_path / "flat" / "rgb", 6)
    np.savetxt(tmp_path / "flat" / "poses.txt", world_poses(6)[:, :3].reshape(6, 12))
    np.savetxt(tmp_path / "flat" / "times_full.txt", 0.1 * np.arange(9))
    return tmp_path / "flat"


@pytest.fixture
def odometry(tmp_path):
    folder = tmp_path / "kitti" / "sequences" / "07"
    write_images(folder / "image_2", 5)
    (tmp_path / "kitti" / "poses").mkdir()
    np.savetxt(tmp_path / "kitti" / "poses" / "07.txt", world_poses(5)[:, :3].reshape(5, 12))
    np.savetxt(folder / "times.txt", 0.1 * np.arange(5))
    lines = []
    for name, shift in (("P0", 0.0), ("P1", -0.5), ("P2", 0.06), ("P3", -0.44)):
        P = np.array([[30.0, 0, 15, 30.0 * shift], [0, 31, 9, 0], [0, 0, 1, 0]])
        lines.append(f"{name}: " + " ".join(str(v) for v in P.reshape(-1)))
    (folder / "calib.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "kitti"


def test_map_is_z_up_and_the_base_starts_at_its_origin(flat):
    found = open_kitti(flat, intrinsics=INTRINSICS)
    np.testing.assert_allclose(found.T_map_base[0], np.eye(4), atol=1e-12)
    # KITTI z (forward) is map x, KITTI x (right) is map -y, KITTI y (down) is map -z.
    np.testing.assert_allclose(found.T_map_base[5, :3, 3], [5.0, -0.25, 0.005], atol=1e-9)
    yaw = np.arctan2(found.T_map_base[5, 1, 0], found.T_map_base[5, 0, 0])
    assert yaw == pytest.approx(-0.1)  # turning right is a negative yaw
    # The optical axis looks along the base's x.
    np.testing.assert_allclose(found.T_base_cam[:3, 2], [1, 0, 0], atol=1e-12)


def test_stamps_never_hit_zero(flat):
    found = open_kitti(flat, intrinsics=INTRINSICS)
    assert found.stamps_ns[0] == START_NS > 0
    np.testing.assert_array_equal(np.diff(found.stamps_ns), 100_000_000)


def test_without_times_the_rate_counts(flat):
    (flat / "times_full.txt").unlink()
    found = open_kitti(flat, intrinsics=INTRINSICS, rate_hz=4.0)
    np.testing.assert_array_equal(np.diff(found.stamps_ns), 250_000_000)


def test_camera_offset_moves_the_camera_in_its_own_axes(flat):
    plain = open_kitti(flat, intrinsics=INTRINSICS)
    moved = open_kitti(flat, intrinsics=INTRINSICS, camera_offset=(-0.063, 0.0, 0.0))
    difference = np.linalg.inv(plain.T_map_cam[4]) @ moved.T_map_cam[4]
    np.testing.assert_allclose(difference[:3, 3], [-0.063, 0, 0], atol=1e-12)


def test_odometry_layout_by_root_and_by_folder(odometry):
    by_root = open_kitti(odometry, sequence="07")
    by_folder = open_sequence(odometry / "sequences" / "07")
    np.testing.assert_allclose(by_root.T_map_cam, by_folder.T_map_cam)
    assert by_root.camera.fx == 30.0 and by_root.camera.fy == 31.0
    # P2 = K [I | t] with t = 0.06: the colour camera sits 0.06 m to the left of camera 0, which is map +y.
    np.testing.assert_allclose(by_root.T_map_cam[0, :3, 3], [0, 0.06, 0], atol=1e-12)
    with pytest.raises(DatasetError, match="--sequence; found 07"):
        open_kitti(odometry, sequence="01")


def test_images_and_poses_must_fit(flat):
    (flat / "rgb" / "000006.png").write_bytes((flat / "rgb" / "000005.png").read_bytes())
    with pytest.raises(DatasetError, match=r"poses.txt: 6 poses for 7 images"):
        open_kitti(flat, intrinsics=INTRINSICS)


def test_a_subset_of_images_finds_its_lines(flat):
    (flat / "rgb" / "000000.png").unlink()
    (flat / "rgb" / "000003.png").unlink()
    found = open_kitti(flat, intrinsics=INTRINSICS)
    np.testing.assert_allclose(found.T_map_base[:, 0, 3], [1, 2, 4, 5], atol=1e-12)
    assert found.stamps_ns[0] == START_NS + 100_000_000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0 0 0 0 1 0 0 0 0 1", r"poses.txt:3: expected 12 or 16 values, found 11"),
        ("1 0 0 0 0 1 0 0 0 0 1 x", r"poses.txt:3: expected numbers"),
        ("1 0 0 0 0 1 0 0 0 0 nan 0", r"poses.txt:3: expected finite values"),
        ("2 0 0 0 0 1 0 0 0 0 1 0", r"poses.txt:3: expected a rotation"),
    ],
)
def test_malformed_poses_name_file_and_line(flat, line, message):
    lines = (flat / "poses.txt").read_text().splitlines()
    lines[2] = line
    (flat / "poses.txt").write_text("\n".join(lines))
    with pytest.raises(DatasetError, match=message):
        read_poses(flat / "poses.txt")


def test_malformed_times_name_file_and_line(flat):
    (flat / "times_full.txt").write_text("0.0\n0.1\n0.1\n0.3\n0.4\n0.5\n")
    with pytest.raises(DatasetError, match=r"times_full.txt:3: expected increasing stamps"):
        open_kitti(flat, intrinsics=INTRINSICS)
    (flat / "times_full.txt").write_text("0.0\n0.1\n")
    with pytest.raises(DatasetError, match="2 stamps, too few for frame 5"):
        open_kitti(flat, intrinsics=INTRINSICS)


def test_missing_things_are_named(flat, tmp_path, odometry):
    with pytest.raises(DatasetError, match="--intrinsics"):
        open_kitti(flat)
    with pytest.raises(DatasetError, match="expected images in right"):
        open_kitti(flat, images="right", intrinsics=INTRINSICS)
    with pytest.raises(DatasetError, match="expected a folder, found nothing"):
        open_kitti(tmp_path / "no")
    (odometry / "poses" / "07.txt").unlink()
    with pytest.raises(DatasetError, match="no published poses"):
        open_kitti(odometry / "sequences" / "07")
    (flat / "rgb" / "000000.png").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match=r"000000.png: expected a PNG or JPEG file"):
        open_kitti(flat, intrinsics=INTRINSICS)


def test_values_that_are_no_camera_clock_or_text_are_refused(flat, odometry):
    (flat / "times_full.txt").unlink()
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="rate_hz: expected a"):
            open_kitti(flat, intrinsics=INTRINSICS, rate_hz=rate)
    (flat / "poses.txt").write_bytes(b"\xff\xfe\x00poses")
    with pytest.raises(DatasetError, match=r"poses.txt:1: expected numbers"):
        open_kitti(flat, intrinsics=INTRINSICS)
    (odometry / "sequences" / "07" / "calib.txt").write_text("P2: " + " ".join(["0"] * 12))
    with pytest.raises(DatasetError, match="singular"):
        open_kitti(odometry / "sequences" / "07")


def test_real_stereo_pair_has_its_baseline(shared_data):
    folder = shared_data("kitti00_full_res")
    left = open_kitti(folder, images="left")
    right = open_kitti(folder, images="right")
    assert len(left) == len(right) == 100 and left.camera == right.camera
    np.testing.assert_allclose(left.T_map_cam[:, :3, :3], right.T_map_cam[:, :3, :3], atol=1e-12)
    difference = np.linalg.inv(left.T_map_cam) @ right.T_map_cam
    np.testing.assert_allclose(difference[:, :3, 3], np.tile([0.5372, 0, 0], (100, 1)), atol=1e-3)


def test_real_drive_moves_forward_and_stays_level(shared_data):
    drive = open_kitti(shared_data("kitti00_416x128"), intrinsics=(240.97, 244.72, 203.54, 63.05))
    assert len(drive) == 1018 and drive.image(500).shape == (128, 416, 3)
    steps = np.linalg.inv(drive.T_map_base[:-1]) @ drive.T_map_base[1:]
    assert np.median(steps[:, 0, 3]) > 0.5  # forward is +x of the base
    assert np.abs(np.median(steps[:, 1:3, 3], axis=0)).max() < 0.05
    path = np.linalg.norm(np.diff(drive.T_map_base[:, :3, 3], axis=0), axis=1).sum()
    assert path == pytest.approx(731, abs=2)


@pytest.mark.parametrize(("world", "axis"), [("camera", -1), ("y_up", 1), ("z_up", 2)])
def test_the_worlds_vertical_becomes_the_maps(flat, world, axis):
    found = open_kitti(flat, intrinsics=INTRINSICS, world=world)
    up = np.zeros(3)
    up[abs(axis)] = np.sign(axis)
    original = world_poses(6)
    heights = (original[:, :3, 3] - original[0, :3, 3]) @ up
    np.testing.assert_allclose(found.T_map_cam[:, 2, 3] - found.T_map_cam[0, 2, 3], heights, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(found.T_map_cam[:, :3, :3]), 1.0)


def test_an_unknown_vertical_is_refused(flat):
    with pytest.raises(ConfigError, match="world: expected one of 'camera', 'y_up', 'z_up', found 'x_up'"):
        open_kitti(flat, intrinsics=INTRINSICS, world="x_up")


def test_head_mounted_walk_stands_upright(shared_data):
    walk = open_kitti(shared_data("hololens_indoor"), world="y_up")
    assert len(walk) == 373
    assert np.ptp(walk.T_map_cam[:, 2, 3]) < 0.2  # at head height
    assert (walk.T_map_cam[:, 2, 1] < -0.7).all()  # image down is down


def test_images_whose_names_are_numbers_are_in_their_order(flat):
    names = sorted(p.name for p in (flat / "rgb").iterdir())
    for name in names:
        (flat / "rgb" / name).rename(flat / "rgb" / f"{int(name[:6]) * 2}.png")  # 10.png sorts before 2.png
    poses = (flat / "poses.txt").read_text().splitlines()
    (flat / "times_full.txt").unlink()
    (flat / "poses.txt").write_text("\n".join(line for line in poses for _ in range(2)) + "\n")
    found = open_kitti(flat, intrinsics=INTRINSICS, images="rgb")
    assert [int(p.stem) for p in found.source.paths] == [2 * k for k in range(len(names))]
    assert (np.diff(found.stamps_ns) == 200_000_000).all()
    (flat / "rgb" / "02.png").write_bytes((flat / "rgb" / "2.png").read_bytes())
    with pytest.raises(DatasetError, match=r"expected one image for each number, found 0?2\.png, too"):
        open_kitti(flat, intrinsics=INTRINSICS, images="rgb")


def test_numbers_without_leading_zeros_count_as_numbers(flat):
    for path in sorted((flat / "rgb").iterdir()):
        path.rename(path.with_name(f"frame_{8 + int(path.stem)}.png"))  # frame_8 ... frame_13
    found = open_kitti(flat, intrinsics=INTRINSICS)
    assert [p.name for p in found.source.paths] == [f"frame_{k}.png" for k in range(8, 14)]
    np.testing.assert_array_equal(
        found.image(3), np.random.default_rng(3).integers(0, 255, (18, 32, 3), dtype=np.uint8)
    )


def test_names_that_have_two_orders_are_refused(flat):
    for path, seconds in zip(
        sorted((flat / "rgb").iterdir()), ("1.2", "1.25", "1.3", "1.4", "1.5", "1.6"), strict=True
    ):
        path.rename(path.with_name(f"{seconds}.png"))
    with pytest.raises(DatasetError, match=r"1\.6\.png and 1\.25\.png, which are in another order as decimals"):
        open_kitti(flat, intrinsics=INTRINSICS)


def test_two_times_files_are_one_too_many(flat):
    (flat / "times_b.txt").write_text((flat / "times_full.txt").read_text())
    with pytest.raises(DatasetError, match=r"expected one times\*\.txt, found times_b\.txt, times_full\.txt"):
        open_kitti(flat, intrinsics=INTRINSICS)


def test_names_in_digits_of_other_scripts_are_names(flat):
    for path in list((flat / "rgb").iterdir()):
        path.rename(path.with_name(path.name.replace("0000", "²²²²")))
    assert len(open_kitti(flat, intrinsics=INTRINSICS, images="rgb")) > 1


def test_times_are_exact_to_the_nanosecond_and_since_1970_if_they_say_so(flat):
    count = len(list((flat / "rgb").iterdir()))
    (flat / "times.txt").write_text("".join(f"{1700000000 + k}.123456789\n" for k in range(count)))
    found = open_kitti(flat, intrinsics=INTRINSICS, images="rgb")
    assert found.stamps_ns[1] == 1_700_000_001_123_456_789
    (flat / "times.txt").write_text("".join(f"{k}.036224e-01\n" for k in range(1, count + 1)))
    found = open_kitti(flat, intrinsics=INTRINSICS, images="rgb")
    assert found.stamps_ns[0] == 1_000_000_000 + 103_622_400
    (flat / "times.txt").write_text("".join(f"{1700000000 + k}000000000\n" for k in range(count)))
    with pytest.raises(DatasetError, match=r"times.txt:1: expected a stamp in s, .*in ns it would be"):
        open_kitti(flat, intrinsics=INTRINSICS, images="rgb")


def test_a_matrix_by_columns_is_not_taken_for_one_without_translation(flat):
    (flat / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0 5 6 7 1\n")
    with pytest.raises(DatasetError, match=r"poses.txt:1: expected last row"):
        read_poses(flat / "poses.txt")
