"""Reads what can be read of an MCAP file that was never finished: no footer, no index, a cut-off last chunk.

A recorder that loses power leaves exactly this. The file is a series of records ``opcode, length, payload``
(mcap.dev/spec); everything up to the first incomplete record is intact, and an uncompressed chunk that was cut
off still holds its first messages.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vloc_ros.errors import BagError

__all__ = ["McapSalvage"]

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x03, 0x04, 0x05, 0x06


@dataclass(frozen=True)
class _Channel:
    topic: str
    msgtype: str


class McapSalvage:
    """A sequential reader with the few methods that :class:`~vloc_ros.datasets.bag.reader.BagReader` needs.

    :raises BagError: the file does not even begin like an MCAP file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._channels: dict[int, _Channel] = {}
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self.counts: dict[str, int] = {}
        for channel, _, _ in self._scan():
            self.counts[channel.topic] = self.counts.get(channel.topic, 0) + 1
        self.topics = {c.topic: c.msgtype for c in self._channels.values()}
        self._typestore = self._types()

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, Any]]:
        """``(topic, type, log time, message)`` of the wanted topics, in file order."""
        for channel, time, data in self._scan():
            if channel.topic in topics and (start is None or time >= start) and (stop is None or time < stop):
                yield channel.topic, channel.msgtype, time, self._typestore.deserialize_cdr(data, channel.msgtype)

    def close(self) -> None:
        """Nothing is kept open between scans."""

    def _scan(self) -> Iterator[tuple[_Channel, int, bytes]]:
        if self.path.stat().st_size < len(MAGIC):
            return
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[: len(MAGIC)] != MAGIC:
                raise BagError(f"{self.path}: expected an MCAP file, found other content; is it really a bag?")
            yield from self._records(data, len(MAGIC), len(data))

    def _records(self, data: Any, position: int, end: int) -> Iterator[tuple[_Channel, int, bytes]]:
        while position + 9 <= end:
            op, length = struct.unpack_from("<BQ", data, position)
            start = position + 9
            position = start + length
            if op == CHUNK:  # also when cut off: its first messages are complete
                yield from self._records(*_chunk_content(data, start, min(position, end)))
            if position > end:
                return
            if op == SCHEMA:
                body = bytes(data[start:position])
                self._schemas[struct.unpack_from("<H", body)[0]] = _schema(body)
            elif op == CHANNEL:
                body = bytes(data[start:position])
                number, schema = struct.unpack_from("<HH", body)
                self._channels[number] = _Channel(_string(body, 4)[0], self._schemas.get(schema, ("", "", ""))[0])
            elif op == MESSAGE:
                number, _, log_time = struct.unpack_from("<HIQ", data, start)
                if number in self._channels:
                    yield self._channels[number], int(log_time), bytes(data[start + 22 : position])

    def _types(self) -> Any:
        from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

        types: dict[str, Any] = {}
        for name, encoding, text in self._schemas.values():
            if encoding == "ros2msg":
                types.update(get_types_from_msg(text, name))
            elif encoding in ("ros2idl", "omgidl"):
                types.update(get_types_from_idl(text))
        store = get_typestore(Stores.EMPTY)
        store.register(types)
        return store


def _string(data: Any, offset: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", data, offset)
    end = offset + 4 + length
    return bytes(data[offset + 4 : end]).decode("utf-8", "replace"), end


def _schema(body: bytes) -> tuple[str, str, str]:
    name, offset = _string(body, 2)
    encoding, offset = _string(body, offset)
    text, _ = _string(body, offset)
    return name, encoding, text


def _chunk_content(data: Any, start: int, end: int) -> tuple[Any, int, int]:
    """``(buffer, start, end)`` of a chunk's records; empty where a cut-off chunk cannot be decompressed."""
    if end - start < 40:
        return b"", 0, 0
    (size,) = struct.unpack_from("<Q", data, start + 16)
    compression, offset = _string(data, start + 28)
    if offset + 8 > end:
        return b"", 0, 0
    if not compression:
        return data, offset + 8, end
    try:
        from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

        decompress: Any = DECOMPRESSORS[compression]
        content = bytes(decompress(bytes(data[offset + 8 : end]), int(size)))
    except Exception:  # cut off inside a compressed block: nothing of this chunk can be had
        return b"", 0, 0
    return content, 0, len(content)
