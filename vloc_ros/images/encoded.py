"""PNG and JPEG files as bytes: how large the picture is, and whether the file is whole, without decoding it.

Decoders fill what a truncated file lacks with grey and say nothing, so a copy of the bytes is checked here. Formats:
the PNG specification (third edition, section 5) and ITU-T T.81, annex B.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from vloc_ros.errors import ImageError

__all__ = ["EncodedImage", "inspect_image"]

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
#: Start-of-frame markers; C4, C8 and CC are tables and an extension.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
#: Markers that stand alone, without a length: TEM and the restart markers.
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True)
class EncodedImage:
    """What a file says about itself: ``kind`` is ``png`` or ``jpeg``, the size is in pixels."""

    kind: str
    width: int
    height: int


def inspect_image(data: bytes, where: str) -> EncodedImage:
    """Kind and size of a whole PNG or JPEG file.

    :param where: the file, for messages.
    :raises ImageError: another format, a file that breaks off, or (PNG) a chunk whose checksum is wrong.
    """
    if data.startswith(_PNG):
        return _png(data, where)
    if data.startswith(_JPEG):
        return _jpeg(data, where)
    found = f"{len(data)} bytes that begin with {data[:4]!r}" if data else "an empty file"
    raise ImageError(f"{where}: expected a PNG or JPEG file, found {found}")


def _png(data: bytes, where: str) -> EncodedImage:
    view, position, size = memoryview(data), len(_PNG), (0, 0)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ImageError(f"{where}: the PNG file is damaged (checksum at byte {position}); copy the file again")
        if kind == b"IHDR":
            size = struct.unpack_from(">II", data, position + 8)
        if kind == b"IEND":
            return _sized("png", size[0], size[1], where)
        position = end
    raise ImageError(f"{where}: the PNG file breaks off after {len(data)} bytes; copy the file again")


def _jpeg(data: bytes, where: str) -> EncodedImage:
    position, size = len(_JPEG), (0, 0)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill bytes may stand before any marker
            position += 1
            continue
        if marker in _ALONE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _START_OF_FRAME and position + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = (width, height)
        position += 2 + length
        # Inside a scan FF is always followed by 00 or a marker: behind its header FF D9 can only be the end.
        if marker == _START_OF_SCAN and data.find(_END_OF_IMAGE, position) >= 0:
            return _sized("jpeg", size[0], size[1], where)
        if marker == _START_OF_SCAN:
            break
    raise ImageError(f"{where}: the JPEG file breaks off after {len(data)} bytes; copy the file again")


def _sized(kind: str, width: int, height: int, where: str) -> EncodedImage:
    if width <= 0 or height <= 0:
        raise ImageError(f"{where}: expected a positive size in the header, found {width}x{height}")
    return EncodedImage(kind, width, height)
