"""Images as messages carry them, to uint8 RGB: every common encoding, Bayer mosaics, and compressed images.

Only OpenCV and numpy; no message types. Uncompressed data is never copied before the conversion, and
``rgb8`` without row padding is not copied at all: the result is then a view of the message's buffer
(read-only where that is).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vloc_ros.errors import ImageError
from vloc_ros.images.encoded import check_cost, format_of, header_of, is_whole
from vloc_ros.types import RgbImage

__all__ = ["CompressedImage", "RawImage", "decode", "image_size", "is_supported", "supported_encodings", "unused_bits"]

_U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RawImage:
    """The content of ``sensor_msgs/Image``: ``step`` is the length of a row in bytes, padding included.

    ``data`` is anything with the buffer protocol (bytes, array.array, memoryview, numpy); lists work, slowly.
    """

    encoding: str
    width: int
    height: int
    step: int
    is_bigendian: bool
    data: Any


@dataclass(frozen=True)
class CompressedImage:
    """The content of ``sensor_msgs/CompressedImage``: a whole JPEG or PNG file and the transport's format string."""

    format: str
    data: Any


@dataclass(frozen=True)
class _Layout:
    """How one encoding lies in memory, and the conversion of its 8-bit form to RGB."""

    channels: int
    code: int | None  # an OpenCV conversion to RGB; None: already RGB
    bytes_per_channel: int = 1


# OpenCV names a mosaic after the pixel at (1, 1) and (1, 2); ROS after (0, 0) and (0, 1). Hence the shift.
_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}
_COLOUR = {
    "mono": (1, cv2.COLOR_GRAY2RGB),
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
}
# OpenCV's own type names say nothing about colour: three and four channels are taken in OpenCV's order.
_OPENCV_TYPES = {"C1": "mono", "C3": "bgr", "C4": "bgra"}

_LAYOUTS: dict[str, _Layout] = {
    **{f"{name}{8 * size}": _Layout(*layout, size) for name, layout in _COLOUR.items() for size in (1, 2)},
    **{f"{8 * size}U{s}": _Layout(*_COLOUR[name], size) for s, name in _OPENCV_TYPES.items() for size in (1, 2)},
    **{f"{name}{8 * size}": _Layout(1, code, size) for name, code in _BAYER.items() for size in (1, 2)},
    **dict.fromkeys(("yuv422", "uyvy"), _Layout(2, cv2.COLOR_YUV2RGB_UYVY)),
    **dict.fromkeys(("yuv422_yuy2", "yuyv"), _Layout(2, cv2.COLOR_YUV2RGB_YUYV)),
    # A plane of brightness, then one of colour with half as many rows.
    "nv12": _Layout(1, cv2.COLOR_YUV2RGB_NV12),
    "nv21": _Layout(1, cv2.COLOR_YUV2RGB_NV21),
    # Signed words, of which 15 bits are brightness.
    "16SC1": _Layout(1, cv2.COLOR_GRAY2RGB, 2),
}
_PLANES = ("nv12", "nv21")
_ALIASES = {
    "8UC": "8UC1",
    "16UC": "16UC1",
    "16SC": "16SC1",
    "yuy2": "yuv422_yuy2",
    "mono": "mono8",
    "rgb": "rgb8",
    "bgr": "bgr8",
}


def is_supported(encoding: str) -> bool:
    """Whether :func:`decode` reads uncompressed images of this encoding, by any of its names."""
    encoding = _ALIASES.get(encoding, encoding)
    return encoding in _LAYOUTS or encoding.lower() in _LAYOUTS


def supported_encodings() -> tuple[str, ...]:
    """The encodings of uncompressed images that :func:`decode` reads."""
    return tuple(_LAYOUTS)


def decode(
    image: RawImage | CompressedImage | RgbImage, bit_depth: int = 16, size: tuple[int, int] | None = None
) -> RgbImage:
    """The image as (height, width, 3) uint8 RGB, C-contiguous.

    :param image: an uncompressed or compressed image; an RGB array is checked and passed through.
    :param bit_depth: significant bits of 16-bit encodings, 8 to 16; 12 for a 12-bit sensor in 16-bit words.
        The upper eight of them are kept.
    :param size: the camera's width and height in pixels; an image of another size is refused before it is decoded.
    :raises ImageError: unknown encoding, sizes that disagree, data that is not an image.
    """
    if not 8 <= bit_depth <= 16:
        raise ImageError(f"image: expected a bit depth of 8 to 16, found {bit_depth}")
    if isinstance(image, RawImage):
        return _decode_raw(image, bit_depth, size)
    if isinstance(image, CompressedImage):
        return _decode_compressed(image, bit_depth, size)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"image: expected uint8 RGB of shape (height, width, 3), found {what}")
    if image.size == 0:
        raise ImageError(f"image: expected pixels, found an empty image of shape {image.shape}")
    _check_size(image.shape[1], image.shape[0], size, "image")
    return np.ascontiguousarray(image)


def image_size(image: RawImage | CompressedImage) -> tuple[int, int] | None:
    """Width and height of an undecoded image, where it says so."""
    if isinstance(image, RawImage):
        return image.width, image.height
    header = header_of(image.data)
    return None if header is None else (header.width, header.height)


def unused_bits(image: RawImage | CompressedImage, bit_depth: int = 16) -> int:
    """How many of the top bits of a 16-bit image are never set, of ``bit_depth``: 4 for a 12-bit sensor.

    0 for other images, for one that uses eight bits or fewer (it is dark), and for what cannot be read.
    """
    if not isinstance(image, RawImage) or image.encoding not in _LAYOUTS:
        return 0
    if _LAYOUTS[image.encoding].bytes_per_channel != 2:
        return 0
    words = _buffer(image.data, "image")
    words = words[: words.size // 2 * 2].view(">u2" if image.is_bigendian else "<u2")
    used = int(words.max(initial=0)).bit_length()
    return bit_depth - used if 8 < used < bit_depth else 0


def _check_size(width: int, height: int, size: tuple[int, int] | None, where: str) -> None:
    if size is not None and (width, height) != size:
        raise ImageError(
            f"{where}: expected {size[0]}x{size[1]} pixels as camera_info says, found {width}x{height}; "
            "image and camera_info are of different cameras, or one of them was resized"
        )


def _buffer(data: Any, what: str) -> _U8:
    """A flat uint8 view of the data; copies only lists and non-contiguous arrays."""
    try:
        if isinstance(data, (list, tuple)):
            return np.asarray(data, dtype=np.uint8)
        if isinstance(data, np.ndarray):
            return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        return np.frombuffer(data, dtype=np.uint8) if len(data) else np.empty(0, np.uint8)
    except (TypeError, ValueError, OverflowError, BufferError) as cause:
        raise ImageError(f"{what}: expected bytes, found {type(data).__name__}: {cause}") from cause


def _decode_raw(image: RawImage, bit_depth: int, size: tuple[int, int] | None) -> RgbImage:
    encoding = _ALIASES.get(image.encoding, image.encoding)
    layout = _LAYOUTS.get(encoding) or _LAYOUTS.get(encoding.lower())
    where = f"image {image.encoding!r} {image.width}x{image.height}"
    if layout is None:
        raise ImageError(f"{where}: unknown encoding; known: {', '.join(_LAYOUTS)}; convert it in the driver")
    if image.width <= 0 or image.height <= 0:
        raise ImageError(f"{where}: expected a positive size")
    _check_size(image.width, image.height, size, where)
    row = image.width * layout.channels * layout.bytes_per_channel
    if image.step < row:
        raise ImageError(f"{where}: expected a step of at least {row} bytes, found {image.step}; check the publisher")
    data = _buffer(image.data, where)
    height = image.height * 3 // 2 if encoding.lower() in _PLANES else image.height
    # Some drivers leave out the padding after the last row.
    if data.size not in (image.step * height, image.step * (height - 1) + row):
        raise ImageError(
            f"{where}: expected {image.step * height} bytes (step {image.step} x {height} rows), found {data.size}; "
            "step, height and data disagree in the message"
        )
    if data.size < image.step * height:
        # A row view over the short buffer: the last row's padding is never read.
        rows = np.lib.stride_tricks.as_strided(data, (height, row), (image.step, 1), writeable=False)
    else:
        rows = data.reshape(height, image.step)[:, :row]
    if encoding.upper() == "16SC1":
        signed = np.ascontiguousarray(rows).view(">i2" if image.is_bigendian else "<i2")
        rows = _eight_bits(signed.clip(0).astype(np.uint16), min(bit_depth, 15))
    elif layout.bytes_per_channel == 2:
        rows = _upper_byte(rows, bool(image.is_bigendian), bit_depth)
    pixels = rows.reshape(image.height, image.width, layout.channels) if layout.channels > 1 else rows
    return _to_rgb(pixels, encoding, layout.code, where)


def _upper_byte(rows: _U8, big_endian: bool, bit_depth: int) -> _U8:
    """The upper eight of ``bit_depth`` significant bits of 16-bit words; [H, 2 n] bytes -> [H, n]."""
    if bit_depth == 16:
        return np.ascontiguousarray(rows[:, 0 if big_endian else 1 :: 2])
    words: npt.NDArray[np.uint16] = np.ascontiguousarray(rows).view(">u2" if big_endian else "<u2")
    return _eight_bits(words, bit_depth)


def _eight_bits(words: npt.NDArray[np.uint16], bit_depth: int) -> _U8:
    return np.asarray(np.minimum(words >> (bit_depth - 8), 255), dtype=np.uint8)


def _to_rgb(pixels: _U8, encoding: str, code: int | None, where: str) -> RgbImage:
    if code is None:
        return np.ascontiguousarray(pixels)
    try:
        return np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)
    except cv2.error as cause:  # e.g. a mosaic of one row, 4:2:2 of odd width
        raise ImageError(f"{where}: cannot convert {encoding} of this size to RGB: {cause.err}") from cause


def _decode_compressed(image: CompressedImage, bit_depth: int, size: tuple[int, int] | None) -> RgbImage:
    """See compressed_image_transport: "SOURCE; CODEC compressed TARGET", or just "CODEC".

    A Bayer source is stored either as the raw mosaic (one channel) or already converted to colour (three).
    """
    where = f"compressed image {image.format!r}"
    if "compresseddepth" in image.format.lower():
        raise ImageError(f"{where}: a depth image cannot be localized; subscribe to the colour camera")
    data = _buffer(image.data, where)
    if data.size == 0:
        raise ImageError(f"{where}: expected a JPEG or PNG file, found no data")
    header = header_of(data)
    if header is None:
        raise ImageError(
            f"{where}: expected a JPEG or PNG file, found {format_of(data)}; is the message cut off, or another codec?"
        )
    _check_size(header.width, header.height, size, where)
    check_cost(header, data.size, where)
    if not is_whole(data.tobytes()):
        raise ImageError(
            f"{where}: expected a whole file, found {header.kind.upper()} that breaks off after {data.size} bytes; is "
            "the message cut off?"
        )
    try:
        # UNCHANGED keeps 16 bits and ignores the EXIF orientation, which would contradict the intrinsics.
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.size == 0:
        raise ImageError(
            f"{where}: expected a JPEG or PNG file, found {data.size} bytes starting with {bytes(data[:4])!r} that "
            "OpenCV cannot read; is the message damaged, or another codec?"
        )
    if pixels.dtype == np.uint16:
        pixels = _eight_bits(np.asarray(pixels, dtype=np.uint16), bit_depth)
    elif pixels.dtype != np.uint8:
        raise ImageError(f"{where}: expected 8 or 16 bits a channel, found {pixels.dtype}")
    source = image.format.split(";")[0].strip()
    target = re.search(r"compressed\s+(\w+)", image.format)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        code: int | None = _BAYER.get(source.rstrip("0123456789"), cv2.COLOR_GRAY2RGB)
    elif pixels.shape[2] == 4:
        code = cv2.COLOR_BGRA2RGB
    else:
        # The transport says so when it stored RGB where the file format expects BGR.
        code = None if target and target.group(1).startswith("rgb") else cv2.COLOR_BGR2RGB
    return _to_rgb(np.ascontiguousarray(pixels), source, code, where)
