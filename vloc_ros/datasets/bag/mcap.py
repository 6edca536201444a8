"""MCAP files, finished or not: every message that is there, and what is not there said.

The file is a series of records ``opcode, length, payload`` (mcap.dev/spec). A finished one ends with an index of its
chunks and with the number of messages of each channel. Without that index (a recorder that lost power) the records are
walked from the front; a chunk that was cut off still holds its first messages. A chunk whose checksum, size or content
is wrong is left out as a whole, and named in ``problems``; the others are read.
"""

from __future__ import annotations

import heapq
import mmap
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vloc_ros.datasets.bag.message_types import Definition
from vloc_ros.errors import BagError

__all__ = ["MAX_CHUNK_BYTES", "McapFile", "inflated"]

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, CHUNK_INDEX, STATISTICS = 0x02, 0x03, 0x04, 0x05, 0x06, 0x08, 0x0B
#: What a chunk may unpack to: recorders write some MB, or one large message.
MAX_CHUNK_BYTES = 1 << 29
_FOOTER_BYTES = 9 + 20 + len(MAGIC)
_FORMATS = {"ros2msg": "msg", "ros2idl": "idl", "omgidl": "idl"}


class _Damaged(Exception):
    """Something in the file is not what the format says."""


class _Chunk(NamedTuple):
    """Where a chunk's record begins, and between which log times (ns) its messages are."""

    position: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True)
class _Channel:
    topic: str
    definition: Definition


class McapFile:
    """One file. ``topics`` maps topic to type, ``counts`` topic to messages, ``problems`` says what is wrong with it.

    :raises BagError: the file does not even begin like an MCAP file.
    """

    ros1 = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, _Channel] = {}
        self._chunks: list[_Chunk] = []
        self._loose: list[tuple[int, int, int]] = []  # (log time, start, end) of messages outside chunks
        self._counted: dict[int, int] | None = None
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._data[: len(MAGIC)] != MAGIC:
            self.close()
            raise BagError(f"{path}: expected an MCAP file, found other content; is it really a bag?")
        if not self._read_index():
            self._walk()
        self.topics = {c.topic: c.definition.name for c in self._channels.values()}
        self.definitions = [c.definition for c in self._channels.values()]
        self.counts: dict[str, int] = {}
        counted: dict[int, int] = self._counted or {}
        for number, count in counted.items():
            if number in self._channels:
                topic = self._channels[number].topic
                self.counts[topic] = self.counts.get(topic, 0) + count

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """``(topic, type, time, serialized message)`` of the wanted topics, ``start <= log time < stop``, by time."""
        low, high = (0 if start is None else start), (1 << 64 if stop is None else stop)
        wanted = {number for number, channel in self._channels.items() if channel.topic in topics}
        waiting = sorted(
            (c for c in self._chunks if c.first_ns < high and c.last_ns >= low), key=lambda c: (c.first_ns, c.position)
        )[::-1]
        heap: list[tuple[int, int, int, bytes]] = []
        serial = 0
        for time, first, end in self._loose:
            number = struct.unpack_from("<H", self._data, first)[0]
            if number in wanted and low <= time < high:
                heap.append((time, serial, number, bytes(self._data[first + 22 : end])))
                serial += 1
        heapq.heapify(heap)
        while heap or waiting:
            while waiting and (not heap or waiting[-1].first_ns <= heap[0][0]):  # it may hold an earlier message
                for number, time, data in self._chunk_messages(waiting.pop().position):
                    if number in wanted and low <= time < high:
                        heapq.heappush(heap, (time, serial, number, data))
                        serial += 1
            if heap:
                time, _, number, data = heapq.heappop(heap)
                channel = self._channels[number]
                yield channel.topic, channel.definition.name, time, data

    def close(self) -> None:
        """Close the file."""
        self._data.close()

    def _read_index(self) -> bool:
        """Take chunks, channels and counts from the index at the end; whether there is a usable one."""
        data, size = self._data, len(self._data)
        position = size - _FOOTER_BYTES
        if position < len(MAGIC) or data[-len(MAGIC) :] != MAGIC or data[position] != FOOTER:
            self.problems.append(f"the bag is unfinished: {self.path.name} has no readable footer")
            return False
        (summary,) = struct.unpack_from("<Q", data, position + 9)
        if not summary:
            return False
        try:
            statistics = self._summary(summary, position)
        except (_Damaged, struct.error, UnicodeDecodeError) as problem:
            self.problems.append(f"the index of {self.path.name} is damaged ({problem})")
            self._forget()
            return False
        if statistics is None or not self._channels or statistics != len(self._chunks) or not self._chunks:
            self._forget()
            return False
        return True

    def _forget(self) -> None:
        self._chunks, self._counted = [], None

    def _summary(self, position: int, end: int) -> int | None:
        """Records of the summary; returns the number of chunks that the statistics know of."""
        chunks = None
        while position < end:
            op, first, position = self._record(position, end)
            if op == CHUNK_INDEX:
                low, high, offset = struct.unpack_from("<QQQ", self._data, first)
                if not len(MAGIC) <= offset < end:
                    raise _Damaged(f"a chunk at byte {offset}")
                self._chunks.append(_Chunk(offset, low, high))
            elif op == STATISTICS:
                chunks = struct.unpack_from("<I", self._data, first + 22)[0]
                (length,) = struct.unpack_from("<I", self._data, first + 42)
                if first + 46 + length > position:
                    raise _Damaged("statistics that are longer than their record")
                self._counted = dict(struct.iter_unpack("<HQ", self._data[first + 46 : first + 46 + length]))
            else:
                self._describe(op, self._data, first, position)
        return chunks

    def _walk(self) -> None:
        """Every record from the front, and what the chunks hold: the counts of a file without an index."""
        counted: dict[int, int] = {}
        position, size = len(MAGIC), len(self._data)
        while position + 9 <= size:
            try:
                op, first, position = self._record(position, size)
            except _Damaged:
                first, op, after = position + 9, self._data[position], size
                if op != CHUNK:
                    break
                position = after  # the last chunk was cut off: its first messages are complete
            if op == FOOTER:
                break
            if op == CHUNK and first + 40 <= size:
                low, high = struct.unpack_from("<QQ", self._data, first)
                self._chunks.append(_Chunk(first - 9, low, high))
                for number, _, _ in self._chunk_messages(first - 9):
                    counted[number] = counted.get(number, 0) + 1
            elif op == MESSAGE and position - first >= 22:
                number, _, time = struct.unpack_from("<HIQ", self._data, first)
                self._loose.append((time, first, position))
                counted[number] = counted.get(number, 0) + 1
            else:
                self._describe(op, self._data, first, position)
        if self._counted is None:
            self._counted = counted

    def _record(self, position: int, end: int) -> tuple[int, int, int]:
        """Opcode, and where the payload begins and ends. :raises _Damaged: it ends beyond ``end``, or is none."""
        if position + 9 > end:
            raise _Damaged(f"half a record at byte {position}")
        op, length = struct.unpack_from("<BQ", self._data, position)
        if op == 0 or position + 9 + length > end:
            raise _Damaged(f"no whole record at byte {position}")
        return op, position + 9, position + 9 + length

    def _describe(self, op: int, data: Any, first: int, end: int) -> None:
        """Take over a schema or a channel, wherever it stands. :raises _Damaged: it breaks off."""
        if op == SCHEMA:
            (number,) = struct.unpack_from("<H", data, first)
            name, at = _string(data, first + 2, end)
            encoding, at = _string(data, at, end)
            text, _ = _string(data, at, end)
            self._schemas.setdefault(number, (name, encoding, text))
        elif op == CHANNEL:
            number, schema = struct.unpack_from("<HH", data, first)
            topic, at = _string(data, first + 4, end)
            encoding, _ = _string(data, at, end)
            name, form, text = self._schemas.get(schema, ("", "", ""))
            form = _FORMATS.get(form, form) if encoding == "cdr" else f"messages encoded as {encoding}"
            self._channels.setdefault(number, _Channel(topic, Definition(name, form, text)))

    def _chunk_messages(self, position: int) -> list[tuple[int, int, bytes]]:
        """``(channel, log time, data)`` of a chunk; a damaged one is told once and gives what is certain (nothing)."""
        try:
            content, whole = self._content(position)
        except (_Damaged, struct.error) as problem:
            self._tell(f"the chunk at byte {position} of {self.path.name} is damaged ({problem})")
            return []
        out: list[tuple[int, int, bytes]] = []
        at, size = 0, len(content)
        while at + 9 <= size:
            op, length = struct.unpack_from("<BQ", content, at)
            first, end = at + 9, at + 9 + length
            if op == 0 or end > size or (op == MESSAGE and length < 22):
                if whole:
                    self._tell(
                        f"the chunk at byte {position} of {self.path.name} is damaged (byte {at} of its content)"
                    )
                break
            if op == MESSAGE:
                number, _, time = struct.unpack_from("<HIQ", content, first)
                out.append((number, time, bytes(content[first + 22 : end])))
            else:
                try:
                    self._describe(op, content, first, end)
                except (_Damaged, struct.error, UnicodeDecodeError):
                    self._tell(f"the chunk at byte {position} of {self.path.name} is damaged (a channel's description)")
            at = end
        return out

    def _content(self, position: int) -> tuple[Any, bool]:
        """The unpacked records of a chunk, and whether the chunk is all there."""
        data, size = self._data, len(self._data)
        op, length = struct.unpack_from("<BQ", data, position)
        if op != CHUNK or length < 40:
            raise _Damaged("no chunk where the index says")
        first, end = position + 9, position + 9 + length
        (unpacked, crc) = struct.unpack_from("<QI", data, first + 16)
        compression, at = _string(data, first + 28, min(end, size))
        (stored,) = struct.unpack_from("<Q", data, at)
        whole = end <= size
        if whole and at + 8 + stored > end:
            raise _Damaged("its records end beyond it")
        if unpacked > MAX_CHUNK_BYTES:
            raise _Damaged(f"it says that it unpacks to {unpacked} bytes, expected at most {MAX_CHUNK_BYTES}")
        packed = data[at + 8 : min(at + 8 + stored, size)]
        content = packed if not compression else inflated(compression, packed, unpacked, _Damaged)
        if whole and len(content) != unpacked:
            raise _Damaged(f"expected {unpacked} bytes of records, found {len(content)}")
        if whole and crc and zlib.crc32(content) != crc:
            raise _Damaged("its checksum is wrong")
        return content, whole

    def _tell(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _string(data: Any, at: int, end: int) -> tuple[str, int]:
    if at + 4 > end:
        raise _Damaged(f"no text at byte {at}")
    (length,) = struct.unpack_from("<I", data, at)
    if at + 4 + length > end:
        raise _Damaged(f"a text of {length} bytes at byte {at}")
    return bytes(data[at + 4 : at + 4 + length]).decode("utf-8", "replace"), at + 4 + length


def inflated(compression: str, packed: bytes, limit: int, error: Callable[[str], Exception] = BagError) -> bytes:
    """What was packed by ``zstd``, ``lz4`` or ``bz2``, but never more than ``limit`` bytes and one.

    What breaks off gives what can be had of it.

    :raises error: another compression, or no such data.
    """
    try:
        if compression == "zstd":
            return bytes(_zstd().ZstdDecompressor().decompress(packed, limit + 1))
        if compression == "lz4":
            from lz4.frame import LZ4FrameDecompressor

            return bytes(LZ4FrameDecompressor().decompress(packed, limit + 1))
        if compression == "bz2":
            import bz2

            return bz2.BZ2Decompressor().decompress(packed, limit + 1)
    except Exception as problem:  # each library has errors of its own
        raise error(f"it cannot be unpacked: {problem}") from problem
    raise error(f"expected zstd, lz4 or bz2, found the compression {compression[:20]!r}")


def _zstd() -> Any:
    """The library's own choice: the standard library's from Python 3.14 on, before that the same as a package."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd  # type: ignore[no-redef,import-not-found,unused-ignore]
    return zstd
