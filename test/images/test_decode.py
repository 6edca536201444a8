"""Every encoding against a known picture: odd steps, padding, both byte orders, and the ways messages hold bytes."""

from __future__ import annotations

import array
import resource

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vloc_ros.errors import ImageError
from vloc_ros.images.decode import CompressedImage, RawImage, decode, supported_encodings, unused_bits

H, W = 6, 8
RGB = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def raw(encoding: str, rows: np.ndarray, padding: int = 0, big_endian: bool = False, width: int = W) -> RawImage:
    """A message of [H, ...] pixels, each row followed by padding bytes of rubbish."""
    if rows.dtype == np.uint16:
        rows = rows.astype(">u2" if big_endian else "<u2")
    lines = np.ascontiguousarray(rows).view(np.uint8).reshape(rows.shape[0], -1)
    rubbish = np.full((rows.shape[0], padding), 0xAB, dtype=np.uint8)
    data = np.concatenate([lines, rubbish], axis=1)
    return RawImage(encoding, width, rows.shape[0], data.shape[1], big_endian, data.tobytes())


def wide(pixels: np.ndarray) -> np.ndarray:
    """The same picture in 16 bits, with lower bytes that must not matter."""
    return (pixels.astype(np.uint16) << 8) | 0x37


ALPHA = np.concatenate([RGB, np.full((H, W, 1), 9, np.uint8)], axis=2)
GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)
EIGHT_BIT = {
    "rgb8": (RGB, RGB),
    "bgr8": (RGB[..., ::-1], RGB),
    "rgba8": (ALPHA, RGB),
    "bgra8": (ALPHA[..., [2, 1, 0, 3]], RGB),
    "mono8": (GREY, GREY_RGB),
    "8UC1": (GREY, GREY_RGB),
    "8UC3": (RGB[..., ::-1], RGB),
    "8UC4": (ALPHA[..., [2, 1, 0, 3]], RGB),
}
SIXTEEN_BIT = {
    "rgb16": "rgb8", "bgr16": "bgr8", "rgba16": "rgba8", "bgra16": "bgra8", "mono16": "mono8",
    "16UC1": "8UC1", "16UC3": "8UC3", "16UC4": "8UC4",
}  # fmt: skip


@pytest.mark.parametrize("padding", [0, 1, 5, 16])
@pytest.mark.parametrize("encoding", EIGHT_BIT)
def test_eight_bit_encodings(encoding, padding):
    stored, expected = EIGHT_BIT[encoding]
    out = decode(raw(encoding, stored, padding))
    np.testing.assert_array_equal(out, expected)
    assert out.dtype == np.uint8 and out.flags.c_contiguous


@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", SIXTEEN_BIT)
def test_sixteen_bit_encodings_keep_the_upper_byte(encoding, big_endian, padding):
    stored, expected = EIGHT_BIT[SIXTEEN_BIT[encoding]]
    np.testing.assert_array_equal(decode(raw(encoding, wide(stored), padding, big_endian)), expected)


@pytest.mark.parametrize("big_endian", [False, True])
def test_twelve_bit_sensor_in_sixteen_bit_words(big_endian):
    words = (GREY.astype(np.uint16) << 4) | 0x3
    np.testing.assert_array_equal(decode(raw("mono16", words, 3, big_endian), bit_depth=12), GREY_RGB)
    saturated = decode(raw("mono16", np.full((H, W), 0x1FFF, np.uint16), 0, big_endian), bit_depth=12)
    assert (saturated == 255).all(), "values beyond the stated depth must not wrap"
    with pytest.raises(ImageError, match="bit depth"):
        decode(raw("mono16", words), bit_depth=7)


# Where each colour's pixel lies in the 2x2 cell, by definition of the ROS name read row by row.
PATTERNS = ["rggb", "bggr", "gbrg", "grbg"]


def mosaic(pattern: str, colour: tuple[int, int, int], height: int = 12, width: int = 16) -> np.ndarray:
    out = np.zeros((height, width), np.uint8)
    for k, letter in enumerate(pattern):
        out[k // 2 :: 2, k % 2 :: 2] = colour["rgb".index(letter)]
    return out


@pytest.mark.parametrize("colour", [(200, 30, 90), (10, 220, 40), (5, 60, 250)])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_mosaics_of_known_colours(pattern, colour):
    cells = mosaic(pattern, colour)
    expected = np.broadcast_to(np.array(colour, np.uint8), (12, 16, 3))
    np.testing.assert_array_equal(decode(raw(f"bayer_{pattern}8", cells, 3, width=16)), expected)
    for big_endian in (False, True):
        out = decode(raw(f"bayer_{pattern}16", wide(cells), 2, big_endian, width=16))
        np.testing.assert_array_equal(out, expected)


def test_bayer_keeps_the_picture_in_place():
    # A ramp in every channel: a mosaic shifted by a pixel would be off by the slope.
    ramp = np.tile(np.arange(16, dtype=np.uint8) * 10, (12, 1))
    for pattern in PATTERNS:
        out = decode(raw(f"bayer_{pattern}8", ramp, width=16))
        np.testing.assert_allclose(out[2:-2, 2:-2], np.repeat(ramp[2:-2, 2:-2, None], 3, axis=2), atol=1)


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_yuv422(encoding, order):
    # ITU-R BT.601, limited range: pure colours and their published (Y, U, V).
    known = {(235, (128, 128)): (255, 255, 255), (16, (128, 128)): (0, 0, 0), (81, (90, 240)): (255, 0, 0),
             (145, (54, 34)): (0, 255, 0), (41, (240, 110)): (0, 0, 255)}  # fmt: skip
    for (y, (u, v)), rgb in known.items():
        cell = [u, y, v, y] if order == "uyvy" else [y, u, y, v]
        rows = np.tile(np.array(cell, np.uint8), (H, W // 2))
        out = decode(raw(encoding, rows, 5))
        assert out.shape == (H, W, 3)
        np.testing.assert_allclose(out.astype(int), np.broadcast_to(rgb, out.shape), atol=3)


def test_every_supported_encoding_is_tested_here():
    tested = {*EIGHT_BIT, *SIXTEEN_BIT, "yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21", "16SC1"}
    tested |= {f"bayer_{p}{b}" for p in PATTERNS for b in (8, 16)}
    assert set(supported_encodings()) == tested


CARRIERS = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "array": lambda b: array.array("B", b),
    "numpy": lambda b: np.frombuffer(b, np.uint8),
    "list": list,
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("padding", [0, 5])
def test_every_carrier_of_bytes(carrier, padding):
    message = raw("bgr8", RGB[..., ::-1], padding)
    data = CARRIERS[carrier](message.data)
    np.testing.assert_array_equal(decode(RawImage("bgr8", W, H, message.step, False, data)), RGB)


@pytest.mark.parametrize("carrier", sorted(set(CARRIERS) - {"list"}))
def test_rgb8_is_a_view_of_the_message(carrier):
    data = CARRIERS[carrier](RGB.tobytes())
    out = decode(RawImage("rgb8", W, H, W * 3, False, data))
    assert np.shares_memory(out, np.frombuffer(data, np.uint8))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 7), st.sampled_from(sorted(EIGHT_BIT)), st.booleans())
def test_any_size_and_step(height, width, padding, encoding, trimmed):
    channels = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "8UC4": 4}.get(encoding, 1)
    stored = np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)
    message = raw(encoding, stored, padding, width=width)
    data = message.data[: len(message.data) - padding] if trimmed else message.data
    out = decode(RawImage(encoding, width, height, message.step, False, data))
    order = {"r": [0, 1, 2], "b": [2, 1, 0], "8": [2, 1, 0]}[encoding[0]] if channels > 1 else [0, 0, 0]
    np.testing.assert_array_equal(out, stored[..., order])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "rgb9"}, "unknown encoding.*bayer_rggb8"),
        ({"encoding": "32FC1"}, "unknown encoding"),
        ({"width": 0}, "positive size"),
        ({"height": 0}, "positive size"),
        ({"height": -3}, "positive size"),
        ({"step": 0}, "step of at least 24 bytes, found 0"),
        ({"step": 23}, "step of at least 24"),
        ({"step": 30}, "expected 180 bytes.*found 144"),
        ({"data": b""}, "found 0"),
        ({"data": RGB.tobytes()[:-1]}, "found 143"),
        ({"data": RGB.tobytes() + b"x"}, "found 145"),
        ({"data": "text"}, "expected bytes"),
        ({"data": None}, "expected bytes"),
        ({"data": [300] * 144}, "expected bytes"),
    ],
)
def test_bad_messages_are_refused(change, message):
    good = {"encoding": "rgb8", "width": W, "height": H, "step": 3 * W, "is_bigendian": False, "data": RGB.tobytes()}
    with pytest.raises(ImageError, match=message):
        decode(RawImage(**{**good, **change}))


def test_odd_width_of_yuv422_is_refused():
    with pytest.raises(ImageError, match="yuv422"):
        decode(RawImage("yuv422", 7, 2, 14, False, bytes(28)))


# Compressed

SMOOTH = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_CUBIC)


def encoded(codec: str, pixels: np.ndarray) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 98] if codec == ".jpg" else []
    ok, data = cv2.imencode(codec, pixels, options)
    assert ok
    return bytes(data)


BGR = np.ascontiguousarray(SMOOTH[..., ::-1])


@pytest.mark.parametrize(
    "format_", ["jpeg", "jpg", "bgr8; jpeg compressed bgr8", "rgb8; jpeg compressed bgr8", "", "rgb8; jpeg"]
)
def test_jpeg_colours(format_):
    out = decode(CompressedImage(format_, encoded(".jpg", BGR)))
    assert np.abs(out.astype(int) - SMOOTH).mean() < 3


@pytest.mark.parametrize(
    "format_", ["png", "bgr8; png compressed bgr8", "rgb8; png compressed bgr8", "rgba8; png compressed bgr8"]
)
def test_png_colours(format_):
    np.testing.assert_array_equal(decode(CompressedImage(format_, encoded(".png", BGR))), SMOOTH)


def test_png_with_alpha():
    pixels = np.concatenate([BGR, np.full((48, 64, 1), 7, np.uint8)], axis=2)
    np.testing.assert_array_equal(decode(CompressedImage("bgra8; png compressed ", encoded(".png", pixels))), SMOOTH)


def test_channels_that_the_transport_stored_swapped():
    np.testing.assert_array_equal(decode(CompressedImage("rgb8; png compressed rgb8", encoded(".png", SMOOTH))), SMOOTH)


def test_grey_and_sixteen_bit_png():
    grey = SMOOTH[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(CompressedImage("mono8; png compressed ", encoded(".png", grey))), expected)
    for format_ in ("mono16; png compressed ", "16UC1; png compressed ", "png"):
        np.testing.assert_array_equal(decode(CompressedImage(format_, encoded(".png", wide(grey)))), expected)
    twelve = grey.astype(np.uint16) << 4
    np.testing.assert_array_equal(
        decode(CompressedImage("mono16; png", encoded(".png", twelve)), bit_depth=12), expected
    )
    colour = decode(CompressedImage("bgr16; png compressed bgr16", encoded(".png", wide(BGR))))
    np.testing.assert_array_equal(colour, SMOOTH)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_in_compressed(pattern):
    colour = (200, 30, 90)
    cells = mosaic(pattern, colour, 32, 48)
    expected = np.broadcast_to(np.array(colour, np.uint8), (32, 48, 3))
    stored = encoded(".png", cells)
    np.testing.assert_array_equal(decode(CompressedImage(f"bayer_{pattern}8; png compressed ", stored)), expected)
    stored = encoded(".png", wide(cells))
    np.testing.assert_array_equal(decode(CompressedImage(f"bayer_{pattern}16; png compressed ", stored)), expected)
    # Already converted by the publisher: three channels are colours whatever the sensor was.
    converted = encoded(".jpg", np.ascontiguousarray(expected[..., ::-1]))
    out = decode(CompressedImage(f"bayer_{pattern}8; jpeg compressed bgr8", converted))
    np.testing.assert_allclose(out.astype(int), expected, atol=4)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_every_carrier_of_a_compressed_file(carrier):
    data = CARRIERS[carrier](encoded(".png", BGR))
    np.testing.assert_array_equal(decode(CompressedImage("png", data)), SMOOTH)


def test_orientation_tags_do_not_turn_the_image():
    # An EXIF segment with orientation 6 (rotate by 90 degrees), as phones write it.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    file = encoded(".jpg", BGR)
    tagged = file[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + file[2:]
    assert cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR).shape == (64, 48, 3), "the tag works"
    assert decode(CompressedImage("jpeg", tagged)).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (CompressedImage("jpeg", b""), "no data"),
        (CompressedImage("jpeg", b"\x00" * 100), "found 100 bytes that begin with"),
        (CompressedImage("tiff", b"II*\0" + bytes(50)), "found TIFF"),
        (CompressedImage("jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50)), "found JPEG 2000"),
        (CompressedImage("avif", b"\0\0\0\x20ftypavif" + bytes(50)), "found AVIF"),
        (CompressedImage("webp", b"RIFF\x40\0\0\0WEBPVP8 " + bytes(50)), "found WebP"),
        (CompressedImage("h264", b"\x00\x00\x00\x01\x67" + bytes(50)), "another codec"),
        (CompressedImage("16UC1; compressedDepth png", encoded(".png", wide(SMOOTH[..., 0]))), "depth"),
    ],
)
def test_bad_compressed_messages_are_refused(image, message):
    with pytest.raises(ImageError, match=message):
        decode(image)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_file_that_breaks_off_is_refused(suffix):
    data = encoded(suffix, BGR)
    for length in (len(data) // 50, len(data) // 2, len(data) - 1):
        with pytest.raises(ImageError):
            decode(CompressedImage("", data[:length]))
    assert decode(CompressedImage("", data + bytes(20))).shape == (48, 64, 3)  # padded by a transfer


def test_a_chunk_that_claims_gigabytes_takes_none():
    """A decoder makes room for what the length of a PNG's chunk says, before it looks for the bytes."""
    data = bytearray(encoded(".png", BGR))
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = (2**31 - 1).to_bytes(4, "big")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="breaks off after"):
        decode(CompressedImage("png", bytes(data)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_rgb_arrays_pass_and_others_do_not():
    assert decode(RGB) is RGB
    for bad in (RGB.astype(np.float32), RGB[..., 0], ALPHA, np.zeros((0, 4, 3), np.uint8), "image"):
        with pytest.raises(ImageError, match="expected"):
            decode(bad)


@pytest.mark.parametrize(("encoding", "swapped"), [("nv12", False), ("nv21", True)])
@pytest.mark.parametrize("padding", [0, 5])
def test_planes_of_half_the_colour(encoding, swapped, padding):
    """A plane of Y, then U and V in turns for every two by two pixels (nv21: V first)."""
    rgb = np.repeat(np.repeat(np.array([[[200, 30, 30], [20, 180, 40]]], np.uint8), 4, 0), 4, 1)  # 4x8, two colours
    i420 = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    y, u, v = i420[:4], i420[4:5].reshape(2, 4), i420[5:].reshape(2, 4)
    pairs = np.stack([v, u] if swapped else [u, v], axis=-1).reshape(2, 8)
    message = raw(encoding, np.concatenate([y, pairs]), padding)
    out = decode(RawImage(encoding, 8, 4, message.step, False, message.data))
    np.testing.assert_allclose(out.astype(int), rgb, atol=4)
    with pytest.raises(ImageError, match=r"expected \d+ bytes \(step \d+ x 6 rows\)"):
        decode(RawImage(encoding, 8, 4, message.step, False, message.data[: message.step * 4]))


@pytest.mark.parametrize("big_endian", [False, True])
def test_signed_words(big_endian):
    words = np.array([[-5, 0, 128, 32767]], dtype=np.int16)
    data = words.astype(">i2" if big_endian else "<i2").tobytes()
    out = decode(RawImage("16SC1", 4, 1, 8, big_endian, data))
    np.testing.assert_array_equal(out[0, :, 0], [0, 0, 1, 255])


def test_a_sensor_of_twelve_bits_in_sixteen_is_noticed():
    words = np.random.default_rng(0).integers(0, 4096, (H, W), dtype=np.uint16)
    words[0, 0] = 4095
    for big_endian in (False, True):
        image = raw("mono16", words, big_endian=big_endian)
        assert unused_bits(image) == 4 and unused_bits(image, 12) == 0
        np.testing.assert_array_equal(decode(image, 12)[..., 0], words >> 4)
    assert unused_bits(raw("mono16", words // 64)) == 0  # dark, and no sign of a sensor
    assert unused_bits(raw("rgb8", RGB)) == 0 and unused_bits(CompressedImage("png", b"")) == 0


def test_an_image_of_another_size_than_the_cameras_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)  # must not be called
    for image in (raw("rgb8", RGB), CompressedImage("png", encoded(".png", BGR)), RGB):
        with pytest.raises(ImageError, match=r"expected 7x5 pixels as camera_info says, found \d+x\d+"):
            decode(image, size=(7, 5))


def test_files_that_claim_more_than_they_can_hold_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    jpeg = bytearray(encoded(".jpg", BGR))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (30000).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match=r"a file of \d+ bytes whose header says 30000x30000 pixels"):
        decode(CompressedImage("jpeg", bytes(jpeg)))
    png = bytearray(encoded(".png", BGR))
    png[16:24] = (32000).to_bytes(4, "big") * 2
    with pytest.raises(ImageError, match="32000x32000"):
        decode(CompressedImage("png", bytes(png)))
    png[16:20] = bytes(4)
    with pytest.raises(ImageError, match="positive size"):
        decode(CompressedImage("png", bytes(png)))
