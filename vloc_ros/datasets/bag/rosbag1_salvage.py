"""Reads what can be read of a ROS 1 bag that was never closed (``.bag.active`` renamed, or cut off).

Format 2.0 (wiki.ros.org/Bags/Format/2.0): records ``header length, header, data length, data`` whose headers are
``name=value`` fields; chunks hold the connections and messages. The index at the end is what an unfinished bag lacks.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from vloc_ros.datasets.bag.mcap import MAX_CHUNK_BYTES, inflated
from vloc_ros.datasets.bag.message_types import Definition
from vloc_ros.errors import BagError

__all__ = ["Rosbag1Salvage", "topics_in"]

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, CHUNK, CONNECTION = 2, 5, 7


class Rosbag1Salvage:
    """A sequential reader with the few methods that :class:`~vloc_ros.datasets.bag.reader.BagReader` needs.

    :raises BagError: the file does not begin like a ROS 1 bag.
    """

    ros1 = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self._connections: dict[int, tuple[str, str, str]] = {}
        self.counts: dict[str, int] = {}
        for topic, _, _, _ in self._scan():
            self.counts[topic] = self.counts.get(topic, 0) + 1
        self.topics = {topic: kind for topic, kind, _ in self._connections.values()}
        self.definitions = [Definition(kind, "msg", text) for _, kind, text in self._connections.values()]

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """``(topic, type, record time, serialized message)`` of the wanted topics, in file order."""
        for item in self._scan():
            if item[0] in topics and (start is None or item[2] >= start) and (stop is None or item[2] < stop):
                yield item

    def close(self) -> None:
        """Nothing is kept open between scans."""

    def _scan(self) -> Iterator[tuple[str, str, int, bytes]]:
        if self.path.stat().st_size < len(MAGIC):
            return
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[: len(MAGIC)] != MAGIC:
                raise BagError(f"{self.path}: expected a ROS 1 bag (#ROSBAG V2.0), found other content")
            yield from self._records(data, len(MAGIC), len(data))

    def _records(self, data: Any, position: int, end: int) -> Iterator[tuple[str, str, int, bytes]]:
        for fields, begin, stop, whole in _raw_records(data, position, end):
            op = fields.get("op", b"\0")[0]
            if op == CHUNK:  # of one that is cut off, too, what is there
                content = _decompress(bytes(data[begin:stop]), fields.get("compression", b"none"))
                yield from self._records(content, 0, len(content))
            if not whole:
                return
            if op == CONNECTION:
                number, connection = _connection(fields, bytes(data[begin:stop]))
                self._connections.setdefault(number, connection)  # the one beside the messages, not the index's
            elif op == MESSAGE:
                (number,) = struct.unpack("<I", fields["conn"])
                sec, nanosec = struct.unpack("<II", fields["time"])
                if number in self._connections:
                    topic, kind, _ = self._connections[number]
                    yield topic, kind, sec * 1_000_000_000 + nanosec, bytes(data[begin:stop])


def topics_in(content: bytes) -> dict[int, str]:
    """Connection number to topic, as the unpacked content of a chunk has them."""
    return {
        number: topic
        for fields, begin, stop, whole in _raw_records(content, 0, len(content))
        if whole and fields.get("op", b"\0")[0] == CONNECTION
        for number, (topic, _, _) in [_connection(fields, content[begin:stop])]
    }


def _raw_records(data: Any, position: int, end: int) -> Iterator[tuple[dict[str, bytes], int, int, bool]]:
    """Header fields, where the data of a record begin and end, and whether they are all there."""
    while position + 4 <= end:
        (header_size,) = struct.unpack_from("<I", data, position)
        body = position + 8 + header_size
        if body > end:
            return
        (size,) = struct.unpack_from("<I", data, body - 4)
        yield _fields(bytes(data[position + 4 : body - 4])), body, min(body + size, end), body + size <= end
        position = body + size


def _connection(fields: dict[str, bytes], data: bytes) -> tuple[int, tuple[str, str, str]]:
    """Number; topic, type and definition of a connection record."""
    inner = _fields(data)
    package, _, name = inner["type"].decode("utf-8", "replace").partition("/")
    (number,) = struct.unpack("<I", fields["conn"])
    definition = inner["message_definition"].decode("utf-8", "replace")
    return number, (fields["topic"].decode("utf-8", "replace"), f"{package}/msg/{name}", definition)


def _fields(header: bytes) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    position = 0
    while position + 4 <= len(header):
        (length,) = struct.unpack_from("<I", header, position)
        name, _, value = header[position + 4 : position + 4 + length].partition(b"=")
        fields[name.decode("ascii", "replace")] = value
        position += 4 + length
    return fields


def _decompress(data: bytes, compression: bytes) -> bytes:
    """The content of a chunk; what a decompressor cannot give of a cut-off one is left out."""
    if compression == b"none":
        return data
    try:
        content = inflated(compression.decode("ascii", "replace"), data, MAX_CHUNK_BYTES)
    except BagError:  # damaged block: the chunks before it are still good
        return b""
    return content if len(content) <= MAX_CHUNK_BYTES else b""
