"""Image files as a sequence's images: as they are stored, whole, and copied bit by bit."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from vloc_ros.datasets.image_files import FolderImages, read_image, whole_file
from vloc_ros.datasets.sequence import T_BODY_OPTICAL, PosedSequence, encoded_image
from vloc_ros.errors import DatasetError
from vloc_ros.types import CameraModel

IMAGE = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)


def test_pixels_are_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), IMAGE[..., ::-1])
    cv2.imwrite(str(tmp_path / "grey.png"), IMAGE[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), IMAGE)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(IMAGE[..., :1], 3, axis=2))
    images = FolderImages((tmp_path / "grey.png", tmp_path / "a.png"))
    assert [k for k, _ in images.frames()] == [0, 1]
    np.testing.assert_array_equal(images.image(1), IMAGE)
    assert images.encoded(1) == ((tmp_path / "a.png").read_bytes(), "png")


def test_an_orientation_mark_turns_nothing(tmp_path):
    """The intrinsics are those of the pixels as stored."""
    data = cv2.imencode(".jpg", IMAGE)[1].tobytes()
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 1) + entry + b"\0\0\0\0"
    (tmp_path / "a.jpg").write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (8, 6, 3)  # a viewer turns it
    assert read_image(tmp_path / "a.jpg").shape == (6, 8, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_file_is_never_an_image(tmp_path, suffix):
    cv2.imwrite(str(tmp_path / f"a{suffix}"), np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    data = (tmp_path / f"a{suffix}").read_bytes()
    for length in (0, 1, 20, len(data) // 2, len(data) - 2):
        (tmp_path / f"a{suffix}").write_bytes(data[:length])
        with pytest.raises(DatasetError, match=rf"a\{suffix}: (the (PNG|JPEG) file breaks off|expected a PNG or JPEG)"):
            read_image(tmp_path / f"a{suffix}")
    with pytest.raises(DatasetError, match=r"b\.png: expected an image, found no file"):
        whole_file(tmp_path / "b.png")


def test_subsets_reach_through_to_the_files(tmp_path):
    paths = []
    for k in range(6):
        paths.append(tmp_path / f"{k}.png")
        cv2.imwrite(str(paths[-1]), np.full((6, 8, 3), k, np.uint8))
    T = np.tile(np.eye(4), (6, 1, 1))
    camera = CameraModel(8, 6, 7.0, 7.0, 3.5, 2.5)
    whole = PosedSequence("x", np.arange(1, 7), T, T_BODY_OPTICAL, camera, FolderImages(tuple(paths)))
    part = whole.select(np.array([1, 3, 5])).select(np.array([1, 2]))
    assert encoded_image(part.source, 1) == (paths[5].read_bytes(), "png")

    class Rendered:
        def image(self, index):
            return IMAGE

    assert encoded_image(Rendered(), 0) is None
