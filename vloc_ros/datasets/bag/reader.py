"""Opens any bag and says in one line what is wrong with it: rosbag2 (mcap, sqlite3; directory or file) and ROS 1.

Every message is counted: by ``metadata.yaml``, by the storage file, and as it is read. What was counted and cannot be
read is said in ``problem``; a caller that wants whole bags only asks :meth:`BagReader.require_complete`. A topic whose
type is unknown or broken is left out alone (``unreadable``). The storage files: :mod:`~vloc_ros.datasets.bag.mcap`,
:mod:`~vloc_ros.datasets.bag.sqlite`; ROS 1 bags are read by ``rosbags``, unfinished ones by
:mod:`~vloc_ros.datasets.bag.rosbag1_salvage`. Messages of all are decoded by ``rosbags``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from vloc_ros.datasets.bag.mcap import MAX_CHUNK_BYTES, McapFile, _zstd, inflated
from vloc_ros.datasets.bag.message_types import Definition, typestore_of
from vloc_ros.datasets.bag.metadata import FILE_NAME, Metadata, read_metadata
from vloc_ros.datasets.bag.rosbag1_salvage import Rosbag1Salvage, topics_in
from vloc_ros.datasets.bag.sqlite import SqliteFile
from vloc_ros.datasets.tables import natural_key
from vloc_ros.errors import BagError

__all__ = ["BagMessage", "BagReader"]

SUFFIXES = (".mcap", ".db3", ".bag")
#: Kept of what went wrong: one is told, the rest is a number.
_REASONS = 3


class BagMessage(NamedTuple):
    """One message: ``time_ns`` is when it was recorded, not the stamp in its header."""

    topic: str
    msgtype: str
    time_ns: int
    message: Any


class _Source(Protocol):
    """A storage file: messages are serialized, in the order of their times."""

    topics: dict[str, str]
    counts: dict[str, int]
    definitions: list[Definition]
    problems: list[str]
    ros1: bool

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]: ...

    def close(self) -> None: ...


class _FinishedRos1:
    """A ROS 1 bag with its index, through ``rosbags``."""

    ros1 = True

    def __init__(self, path: Path) -> None:
        from rosbags.rosbag1 import Reader

        self.path = path
        self.problems: list[str] = []
        self._reader = Reader(path)
        self._reader.open()
        # The library unpacks whatever a chunk holds; here it is as much as a chunk may.
        for position, chunk in self._reader.chunks.items():
            kind = getattr(chunk.decompressor, "__module__", "").partition(".")[0].lstrip("_")
            if kind in ("bz2", "lz4"):
                self._reader.chunks[position] = chunk._replace(decompressor=partial(_unpacked_chunk, kind))
        self._connections = list(self._reader.connections)
        self.topics = {c.topic: c.msgtype for c in self._connections}
        self.definitions = [Definition(c.msgtype, "msg", c.msgdef.data) for c in self._connections]
        self.counts: dict[str, int] = {}
        for connection in self._connections:
            self.counts[connection.topic] = self.counts.get(connection.topic, 0) + int(connection.msgcount)
        self._compare_names()

    def _compare_names(self) -> None:
        """Says which topics have one name in the index and another in the chunks: no checksum guards either."""
        names = {c.id: c.topic for c in self._connections}
        with self.path.open("rb") as file:
            for info in self._reader.chunk_infos:
                if not names.keys() & info.connection_counts.keys():  # all connections are met in the first chunks
                    continue
                chunk = self._reader.chunks[info.pos]
                file.seek(chunk.datapos)
                try:
                    found = topics_in(chunk.decompressor(file.read(chunk.datasize)))
                except Exception:  # a damaged chunk is told when its messages are read
                    found = {}
                for number in info.connection_counts:
                    name = names.pop(number, None)
                    if name is not None and found.get(number, name) != name:
                        self.problems.append(
                            f"the index is damaged: the topic {name} is {found[number]} where its messages are"
                        )

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        connections = [c for c in self._connections if c.topic in topics]
        if connections:
            for connection, time, data in self._reader.messages(connections, start=start, stop=stop):
                yield connection.topic, connection.msgtype, time, data

    def close(self) -> None:
        self._reader.close()


def _unpacked_chunk(compression: str, data: bytes) -> bytes:
    content = inflated(compression, data, MAX_CHUNK_BYTES)
    if len(content) > MAX_CHUNK_BYTES:
        raise BagError(f"a chunk unpacks to more than {MAX_CHUNK_BYTES} bytes")
    return content


class BagReader:
    """A bag, opened. Use as a context manager.

    ``topics`` maps topic to message type, ``counts`` topic to the number of messages that the bag says it has, and
    ``unreadable`` those topics to a reason that cannot be read at all.

    :raises BagError: missing, empty, not a bag, or the ``replay`` extra is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._problems: list[str] = []
        self._missing: dict[str, int] = {}
        self._reasons: list[str] = []
        _require_rosbags()
        if not self.path.exists():
            raise BagError(f"{self.path}: no such bag; expected a rosbag2 directory, or an .mcap, .db3 or .bag file")
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        self._compression = ""
        self._sources: list[_Source] = []
        try:
            self._sources, counted = self._open()
            self.topics: dict[str, str] = {}
            self.counts: dict[str, int] = {}
            for source in self._sources:
                self.topics.update(source.topics)
                for topic, count in source.counts.items():
                    self.counts[topic] = self.counts.get(topic, 0) + count
            for source in self._sources:
                self._say(*source.problems)
            for topic, count in counted.items():
                if topic in self.topics:
                    self.counts[topic] = max(self.counts.get(topic, 0), count)
                elif count:
                    self._say(f"{FILE_NAME} counts {count} messages on {topic}, the files have no such topic")
            if not any(self.counts.values()):
                why = f" ({self.problem})" if self.problem else ""
                raise BagError(f"{self.path}: the bag is empty, not one message can be read{why}")
            self._decode = self._decoders()
        except BaseException:
            self.close()
            raise

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[BagMessage]:
        """The messages of ``topics`` (all that can be read when None) in recorded order, ``start <= time_ns < stop``.

        What cannot be read does not raise: it is left out, and at the end of the iteration ``problem`` says how much.
        """
        wanted = set(self.topics if topics is None else topics) - set(self.unreadable)
        read: Counter[str] = Counter()
        lost: list[str] = []
        for source in self._sources:
            last = start
            iterator = source.messages(wanted, start, stop)
            while True:
                try:
                    topic, msgtype, time, data = next(iterator)
                except StopIteration:
                    break
                except Exception as error:  # whatever a damaged file makes the decoders raise
                    lost.append(_one_line(error))
                    salvage = _salvage(source)
                    if salvage is None:
                        break
                    source, iterator = salvage, salvage.messages(wanted, None if last is None else last + 1, stop)
                    continue
                last = time
                try:
                    message = self._decode(data, msgtype)
                except Exception as error:  # whatever a damaged message makes the decoders raise
                    lost.append(f"{topic} at {time} ns: {_one_line(error)}")
                    continue
                read[topic] += 1
                yield BagMessage(topic, msgtype, time, message)
        for source in self._sources:
            self._say(*source.problems)
        self._reasons += [reason for reason in lost if reason not in self._reasons]
        if start is None and stop is None:
            self._missing.update({t: self.counts[t] - read[t] for t in wanted if read[t] < self.counts.get(t, 0)})

    @property
    def problem(self) -> str | None:
        """What is wrong, as far as the bag has been read: one line, or None."""
        parts = list(self._problems)
        if self._missing or self._reasons:
            numbers = [f"{count} of {self.counts[t]} messages on {t}" for t, count in sorted(self._missing.items())]
            what = f"{', '.join(numbers)} could not be read" if numbers else "some messages could not be read"
            why = f" ({'; '.join(self._reasons[:_REASONS])})" if self._reasons else ""
            parts.append(f"the bag is damaged and can be read only in part: {what}{why}")
        return "; ".join(parts) or None

    def of_type(self, *kinds: str) -> list[str]:
        """Topics with messages whose type's last part is one of ``kinds`` (``Image``, ``Odometry``, ...), sorted."""
        return sorted(
            topic
            for topic, kind in self.topics.items()
            if kind.split("/")[-1] in kinds and self.counts.get(topic) and topic not in self.unreadable
        )

    def cannot_use(self, item: BagMessage, error: Exception) -> None:
        """A message that could be decoded and is not what its type's name promises (fields of other names)."""
        self._reasons.append(f"{item.topic} at {item.time_ns} ns: {_one_line(error)}")

    def require_complete(self) -> None:
        """:raises BagError: the bag is unfinished or damaged."""
        if self.problem:
            raise BagError(f"{self.path}: {self.problem}")

    def close(self) -> None:
        """Close the files."""
        for source in self._sources:
            source.close()
        self._sources = []
        if self._unpacked is not None:
            self._unpacked.cleanup()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _say(self, *problems: str) -> None:
        self._problems += [problem for problem in problems if problem not in self._problems]

    def _open(self) -> tuple[list[_Source], Mapping[str, int]]:
        if not self.path.is_dir():
            _refuse_packed([self.path])
            if self.path.suffix not in SUFFIXES:
                raise BagError(f"{self.path}: expected a rosbag2 directory or one of {', '.join(SUFFIXES)}")
            return [_open_file(self.path)], {}
        there = sorted(self.path.iterdir(), key=lambda p: natural_key(p.name))
        files = [p for p in there if p.suffix in SUFFIXES]
        metadata: Metadata | None = None
        if (self.path / FILE_NAME).exists():
            try:
                metadata = read_metadata(self.path)
            except BagError as error:
                if not files:
                    raise BagError(f"{self.path}: the bag cannot be opened: {error}") from error
                self._say(f"the bag is unfinished or damaged ({str(error).removeprefix(str(self.path) + chr(47))})")
        elif files and files[0].suffix != ".bag":
            self._say(f"the bag is unfinished: {FILE_NAME} is missing (`ros2 bag reindex` rebuilds it)")
        if metadata is not None:
            files = [self.path / name for name in metadata.files]
            absent = [p.name for p in files if not p.is_file()]
            if absent:
                self._say(f"{FILE_NAME} names files that are not there: {', '.join(absent[:5])}")
            files = [p for p in files if p.is_file()]
            self._compression = metadata.compression
            if metadata.compression == "file":
                files = self._unpack(files)
        if not files:
            _refuse_packed(there)
            raise BagError(f"{self.path}: no bag here; expected {FILE_NAME} with .mcap or .db3 files, or .bag files")
        sources = []
        for file in files:
            try:
                sources.append(_open_file(file))
            except BagError as error:
                if len(files) == 1:
                    raise
                self._say(str(error).removeprefix(f"{self.path}/"))
        return sources, {} if metadata is None else metadata.counts

    def _unpack(self, files: list[Path]) -> list[Path]:
        """Files that were compressed as a whole, in a temporary folder until the bag is closed."""
        self._unpacked = tempfile.TemporaryDirectory(prefix="vloc_bag_")
        out = []
        for file in files:
            target = Path(self._unpacked.name) / file.name.removesuffix(".zstd")
            try:
                with file.open("rb") as packed, _zstd().open(packed, "rb") as content, target.open("wb") as copy:
                    shutil.copyfileobj(content, copy, 1 << 20)
            except Exception as error:  # a damaged or cut file: what could be unpacked is read
                self._say(f"{file.name} cannot be unpacked as a whole ({_one_line(error)})")
            if target.is_file() and target.stat().st_size:
                out.append(target)
        return out

    def _decoders(self) -> Any:
        """How a serialized message of a type becomes one; fills ``unreadable``."""
        from rosbags.typesys import Stores, get_typestore

        ros1 = any(source.ros1 for source in self._sources)
        # Bags recorded before Iron carry no message definitions: Humble's are the ones that wrote them.
        definitions = [d for source in self._sources for d in source.definitions]
        store, broken = typestore_of(definitions, None if ros1 else get_typestore(Stores.ROS2_HUMBLE))
        self.unreadable = {topic: broken[kind] for topic, kind in self.topics.items() if kind in broken}
        read = store.deserialize_ros1 if ros1 else store.deserialize_cdr

        def decode(data: bytes, msgtype: str) -> Any:
            if self._compression == "message":
                data = inflated("zstd", data, MAX_CHUNK_BYTES)
            return read(data, msgtype)

        return decode


def _open_file(path: Path) -> _Source:
    if path.stat().st_size == 0:
        raise BagError(f"{path}: the bag is empty (0 bytes)")
    try:
        if path.suffix == ".mcap":
            return McapFile(path)
        if path.suffix != ".bag":
            return SqliteFile(path)
        try:
            return _FinishedRos1(path)
        except Exception as error:
            salvage = Rosbag1Salvage(path)
            salvage.problems.append(f"the bag is unfinished: {path.name} has no readable index ({_one_line(error)})")
            return salvage
    except BagError:
        raise
    except Exception as error:  # whatever a damaged file makes the decoders raise
        raise BagError(f"{path}: the bag is damaged and cannot be read ({_one_line(error)})") from error


def _salvage(source: _Source) -> _Source | None:
    """A reader that goes on behind a damaged place, where there is one."""
    try:
        return Rosbag1Salvage(source.path) if isinstance(source, _FinishedRos1) else None
    except Exception:
        return None


def _refuse_packed(paths: list[Path]) -> None:
    """:raises BagError: a storage file that was compressed as a whole; only metadata.yaml says that this is a bag."""
    packed = next((p for p in paths if p.suffix in (".zstd", ".zst", ".gz", ".xz", ".bz2")), None)
    if packed is not None:
        tool = {".gz": "gunzip", ".xz": "unxz", ".bz2": "bunzip2"}.get(packed.suffix, "zstd -d")
        raise BagError(
            f"{packed}: expected a storage file, found one that was compressed as a whole, without {FILE_NAME}; "
            f"unpack it (`{tool} {packed.name}`), then `ros2 bag reindex` the folder"
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:160] or type(error).__name__


def _require_rosbags() -> None:
    try:
        import rosbags.highlevel  # noqa: F401
    except ImportError as error:
        raise BagError("reading bags needs the rosbags package: pip install 'vloc_ros[replay]'") from error
