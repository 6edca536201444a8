"""Oxford RobotCar: colours and distortion tables."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler

import cv2
import numpy as np
import pytest
from robotcar_drives import H, W, mosaic, opened, write_drive

from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.robotcar.sensors import BayerImages, demosaic, read_bayer
from vloc_ros.errors import DatasetError

# ---------------------------------------------------------------- images


@pytest.mark.parametrize("pattern", ["GBRG", "RGGB"])
def test_colours_come_out_as_they_went_in(pattern):
    """A mosaic with a colour in each quadrant; OpenCV's two-letter names of these patterns exchange red and blue."""
    colours = {(0, 0): (250, 10, 20), (0, 1): (15, 240, 30), (1, 0): (25, 35, 230), (1, 1): (200, 100, 50)}
    size = 16
    raw = np.zeros((2 * size, 2 * size), np.uint8)
    for (row, column), colour in colours.items():
        part = mosaic(pattern, colour, size, size)
        raw[row * size : (row + 1) * size, column * size : (column + 1) * size] = part
    image = demosaic(raw, pattern)
    for (row, column), colour in colours.items():
        inside = image[row * size + 3 : (row + 1) * size - 3, column * size + 3 : (column + 1) * size - 3]
        np.testing.assert_array_equal(inside, np.broadcast_to(colour, inside.shape))


def test_stereo_and_mono_have_other_mosaics(tmp_path):
    for camera in ("stereo/left", "mono_left"):
        drive = write_drive(tmp_path / camera.replace("/", "_"), camera=camera, count=2)
        np.testing.assert_array_equal(opened(drive, camera=camera).image(0)[3, 3], (20, 120, 220))


def raw_images(tmp_path, lut, height=12, width=10, count=1):
    rng = np.random.default_rng(5)
    paths = []
    for number in range(count):
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), rng.integers(0, 255, (height, width), dtype=np.uint8))
    np.asarray(lut, dtype="<f8").tofile(tmp_path / "lut.bin")
    made = BayerImages(tuple(paths), "GBRG", width, height, tmp_path / "lut.bin")
    return made, [demosaic(read_bayer(path), "GBRG") for path in paths]


def test_a_table_that_moves_nothing_changes_no_bit(tmp_path):
    y, x = np.mgrid[0:12, 0:10].astype(np.float64)
    made, plain = raw_images(tmp_path, np.stack([x, y]))
    np.testing.assert_array_equal(made.image(0), plain[0])


def test_tables_hold_x_then_y_of_the_raw_pixel(tmp_path):
    y, x = np.mgrid[0:12, 0:10].astype(np.float64)
    made, plain = raw_images(tmp_path, np.stack([x + 2, y + 1]))
    found = made.image(0)
    np.testing.assert_array_equal(found[:11, :8], plain[0][1:, 2:])
    assert (found[11] == 0).all() and (found[:, 8:] == 0).all()  # from outside: black


def test_tables_are_read_between_pixels(tmp_path):
    y, x = np.mgrid[0:12, 0:10].astype(np.float64)
    made, plain = raw_images(tmp_path, np.stack([x + 0.5, y]))
    expected = (plain[0][:, :9].astype(float) + plain[0][:, 1:]) / 2
    np.testing.assert_allclose(made.image(0)[:, :9], expected, atol=1.0)


def test_the_images_travel_to_other_processes(tmp_path):
    y, x = np.mgrid[0:12, 0:10].astype(np.float64)
    made, _ = raw_images(tmp_path, np.stack([x + 1, y]), count=3)
    made.image(0)
    data = bytes(ForkingPickler.dumps(made))
    assert len(data) < 2000  # names, not tables
    again = ForkingPickler.loads(data)
    for index in (2, 0, 1):
        np.testing.assert_array_equal(again.image(index), made.image(index))
    assert [i for i, _ in made.frames()] == [0, 1, 2] and not hasattr(made, "encoded")


def test_without_undistortion_it_says_that_the_intrinsics_do_not_fit(tmp_path, caplog):
    drive = write_drive(tmp_path)
    (tmp_path / "models" / "stereo_narrow_left_distortion_lut.bin").unlink()
    with pytest.raises(DatasetError, match=r"distortion_lut.bin: expected the table.*undistort=false"):
        opened(drive)
    found = opened(drive, undistort=False)
    assert "the intrinsics do not fit" in caplog.text
    np.testing.assert_array_equal(found.image(1), demosaic(read_bayer(found.source.paths[1]), "GBRG"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid 1\n", "found a Git LFS pointer"),
        (b"0" * 24, r"expected float64 \[2, height \* width\], found 24 bytes"),
        (np.zeros((2, 50)).tobytes(), r"expected 50 pixels as .* has, found 8x6 = 48"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, content, message):
    drive = write_drive(tmp_path)
    (tmp_path / "models" / "stereo_narrow_left_distortion_lut.bin").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        opened(drive)


def test_tables_with_nan(tmp_path):
    made, _ = raw_images(tmp_path, np.full((2, 12, 10), np.nan))
    with pytest.raises(DatasetError, match="expected finite pixels"):
        made.image(0)


def test_images_that_are_cut_short_coloured_or_of_another_size(tmp_path):
    drive = write_drive(tmp_path)
    paths = opened(drive).source.paths
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-6])
    with pytest.raises(DatasetError, match=rf"{paths[1].name}: the PNG file breaks off"):
        opened(drive).image(1)
    cv2.imwrite(str(paths[1]), np.zeros((H, W, 3), np.uint8))
    with pytest.raises(DatasetError, match="expected a raw 8-bit Bayer image of one channel"):
        opened(drive).image(1)
    cv2.imwrite(str(paths[1]), np.zeros((H + 2, W), np.uint8))
    with pytest.raises(DatasetError, match=rf"{paths[1].name}: expected 8x6 as the first image, found 8x8"):
        opened(drive).image(1)
    paths[0].write_bytes(whole[:40])
    with pytest.raises(DatasetError, match=rf"{paths[0].name}: the PNG file breaks off"):
        opened(drive)
    problems = Problems(keep_going=True)
    paths[1].write_bytes(whole)
    found = opened(drive, problems)
    assert (
        len(found) == 5 and found.dropped == {"image that cannot be decoded": 1} and found.source.paths[0] == paths[1]
    )
