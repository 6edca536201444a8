"""Image files as bytes: size, kind, and whether they are whole."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import ImageError
from vloc_ros.images.encoded import EncodedImage, inspect_image

IMAGE = np.random.default_rng(1).integers(0, 255, (30, 44, 3), dtype=np.uint8)


def encoded(suffix, image=IMAGE, *settings):
    return cv2.imencode(suffix, image, list(settings))[1].tobytes()


FILES = {
    "png": encoded(".png"),
    "grey png": encoded(".png", IMAGE[..., 0]),
    "16 bit png": encoded(".png", IMAGE.astype(np.uint16) * 256),
    "jpeg": encoded(".jpg"),
    "grey jpeg": encoded(".jpg", IMAGE[..., 0]),
    "progressive jpeg": encoded(".jpg", IMAGE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "jpeg with restarts": encoded(".jpg", IMAGE, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
}


def test_pngs_with_an_empty_or_a_huge_header_are_told():
    head = b"\x89PNG\r\n\x1a\n"
    empty = head + struct.pack(">I4sI", 0, b"IHDR", zlib.crc32(b"IHDR")) + struct.pack(">I4sI", 0, b"IEND", 0xAE426082)
    with pytest.raises(ImageError, match="x: the PNG file breaks off after 32 bytes, or has no header"):
        inspect_image(empty, "x")
    body = b"IHDR" + struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    huge = head + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    with pytest.raises(ImageError, match="whose header says 2147483647x2147483647 pixels"):
        inspect_image(huge, "x")


@pytest.mark.parametrize("name", FILES)
def test_whole_files(name):
    assert inspect_image(FILES[name], "x") == EncodedImage(name.split()[-1] if "jpeg" not in name else "jpeg", 44, 30)
    assert inspect_image(FILES[name] + b"\0" * 20, "x").width == 44  # padded by a transfer


@pytest.mark.parametrize("name", FILES)
def test_no_beginning_of_a_file_is_whole(name):
    data = FILES[name]
    for length in {*range(0, len(data) - 1, 7), len(data) - 1, len(data) - 2}:
        with pytest.raises(ImageError, match=r"x: (the (PNG|JPEG) file breaks off after|expected a PNG or JPEG)"):
            inspect_image(data[:length], "x")


@given(st.sampled_from(sorted(FILES)), st.floats(0, 0.999), st.binary(min_size=1, max_size=9))
def test_damage_is_named_or_harmless(name, place, junk):
    data = bytearray(FILES[name])
    start = int(place * len(data))
    data[start : start + len(junk)] = junk[: len(data) - start]
    try:
        found = inspect_image(bytes(data), "x")
    except ImageError as error:
        assert str(error).startswith("x: ") and "\n" not in str(error)
    else:
        if "png" in name:
            assert (found.width, found.height) == (44, 30) and cv2.imdecode(
                np.frombuffer(data, np.uint8), 1
            ) is not None


@given(st.binary(max_size=60))
def test_anything_else_is_refused(data):
    for head in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8"):
        with pytest.raises(ImageError):
            inspect_image(head + data, "x")
