"""PNG and JPEG files as bytes: what a header claims and whether the file is whole, without decoding it.

Decoders allocate what a header claims, fill what a truncated file lacks with grey, and say nothing: so headers are read
here first (:func:`header_of`), and copies of bytes are checked (:func:`inspect_image`). Formats: the PNG specification
(third edition, section 5) and ITU-T T.81, annex B.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vloc_ros.errors import ImageError

__all__ = ["EncodedImage", "check_cost", "format_of", "header_of", "inspect_image", "is_whole"]

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
#: Samples of a pixel by PNG's colour type (a palette becomes three).
_PNG_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
#: Start-of-frame markers; C4, C8 and CC are tables and an extension.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
#: Markers that stand alone, without a length: TEM and the restart markers.
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
#: Beginnings of what is no PNG or JPEG, for messages.
_OTHERS = (
    (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"BM", "BMP"), (b"GIF8", "GIF"), (b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"), (b"\0\0\0\x01", "H.264 or H.265"), (b"P", "a portable anymap"),
)  # fmt: skip
#: Bytes that decoding may take, pixels and their RGB copy together: for small files, and for each byte of a large one
#: (JPEG of a clear sky comes to 200).
_COST, _COST_A_BYTE = 160 << 20, 256


@dataclass(frozen=True)
class EncodedImage:
    """What a file says about itself: ``kind`` is ``png`` or ``jpeg``, the size in pixels, and bytes of a pixel."""

    kind: str
    width: int
    height: int
    pixel_bytes: int = field(default=3, compare=False)


def format_of(data: Any) -> str:
    """``png``, ``jpeg``, or for messages what else it begins like."""
    head = bytes(data[:16])
    if head.startswith(_PNG):
        return "png"
    if head.startswith(_JPEG):
        return "jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return "AVIF or HEIF"
    found = next((name for begin, name in _OTHERS if head.startswith(begin)), None)
    return found or (f"{len(data)} bytes that begin with {head[:4]!r}" if head else "an empty file")


def header_of(data: Any) -> EncodedImage | None:
    """Kind and size that the header of a PNG or JPEG file claims, whole or not; None where there is none."""
    view, kind = memoryview(data).cast("B"), format_of(data)
    if kind == "png" and len(view) >= 29 and bytes(view[8:16]) == b"\0\0\0\rIHDR":
        width, height, depth, colour = struct.unpack_from(">IIBB", view, 16)
        samples = _PNG_SAMPLES.get(colour, 4)
        return EncodedImage("png", width, height, samples * (2 if depth > 8 else 1))
    if kind == "jpeg":
        found = _jpeg_frame(view)
        return None if found is None else found[0]
    return None


def check_cost(header: EncodedImage, stored: int, where: str) -> None:
    """:raises ImageError: no size, or so large that a file of ``stored`` bytes cannot mean it."""
    if header.width <= 0 or header.height <= 0:
        raise ImageError(f"{where}: expected a positive size in the header, found {header.width}x{header.height}")
    cost = header.width * header.height * (header.pixel_bytes + 3)
    if cost > max(_COST, _COST_A_BYTE * stored):
        raise ImageError(
            f"{where}: expected an image, found a file of {stored} bytes whose header says {header.width}x"
            f"{header.height} pixels, which is not decoded"
        )


def inspect_image(data: bytes, where: str) -> EncodedImage:
    """Kind and size of a whole PNG or JPEG file.

    :param where: the file, for messages.
    :raises ImageError: another format, a size that it cannot have, a file that breaks off, or (PNG) a chunk whose
        checksum is wrong.
    """
    kind = format_of(data)
    if kind not in ("png", "jpeg"):
        raise ImageError(f"{where}: expected a PNG or JPEG file, found {kind}")
    header = header_of(data)
    if header is None:
        raise ImageError(f"{where}: the {kind.upper()} file breaks off after {len(data)} bytes, or has no header")
    check_cost(header, len(data), where)
    if not is_whole(data):
        raise ImageError(f"{where}: the {kind.upper()} file breaks off after {len(data)} bytes; copy the file again")
    for begin, end in _png_chunks(data) if kind == "png" else ():
        if zlib.crc32(memoryview(data)[begin + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ImageError(f"{where}: the PNG file is damaged (checksum at byte {begin}); copy the file again")
    return header


def is_whole(data: bytes) -> bool:
    """Whether a PNG or JPEG file reaches its end, checksums aside.

    Worth a look before decoding: a decoder takes the memory that a chunk of a PNG file claims (up to 4 GB), and some
    versions fill the missing part of a JPEG image with grey.
    """
    if format_of(data) == "png":
        *_, (begin, _) = ((-1, -1), *_png_chunks(data))
        return begin >= 0 and data[begin + 4 : begin + 8] == b"IEND"
    return _jpeg_is_whole(data)


def _png_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Where chunks begin and end, up to the last one or to the first that is longer than the rest of the file."""
    begin = len(_PNG)
    while begin + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, begin)
        end = begin + 12 + length
        if end > len(data):
            return
        yield begin, end
        if kind == b"IEND":
            return
        begin = end


def _jpeg_frame(data: Any) -> tuple[EncodedImage, int] | None:
    """The header of a JPEG file, and where its first scan's data begins (or -1, where it has none)."""
    position, header = len(_JPEG), None
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill bytes may stand before any marker
            position += 1
            continue
        if marker in _ALONE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _START_OF_FRAME and position + 10 <= len(data) and header is None:
            depth, height, width, samples = struct.unpack_from(">BHHB", data, position + 4)
            header = EncodedImage("jpeg", width, height, (3 if samples > 1 else 1) * (2 if depth > 8 else 1))
        position += 2 + length
        if marker == _START_OF_SCAN:
            return None if header is None else (header, position)
    return None if header is None else (header, -1)


def _jpeg_is_whole(data: bytes) -> bool:
    """Inside a scan FF is always followed by 00 or a marker: behind its header FF D9 can only be the end."""
    found = _jpeg_frame(data)
    return found is not None and found[1] >= 0 and data.find(_END_OF_IMAGE, found[1]) >= 0
