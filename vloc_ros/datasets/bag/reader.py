"""Opens any bag and says in one line what is wrong with it: rosbag2 (mcap, sqlite3; directory or file) and ROS 1.

A finished bag is read by ``rosbags``. A bag that was never finished is read as far as it goes; ``problem`` then
says so, and a caller that wants whole bags only asks :meth:`BagReader.require_complete`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from vloc_ros.datasets.tables import natural_key
from vloc_ros.errors import BagError

__all__ = ["BagMessage", "BagReader"]

SUFFIXES = (".mcap", ".db3", ".bag")


class BagMessage(NamedTuple):
    """One message: ``time_ns`` is when it was recorded, not the stamp in its header."""

    topic: str
    msgtype: str
    time_ns: int
    message: Any


class _Source(Protocol):
    topics: dict[str, str]
    counts: dict[str, int]

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, Any]]: ...

    def close(self) -> None: ...


class _Indexed:
    """A finished bag, through ``rosbags.highlevel.AnyReader``."""

    def __init__(self, path: Path) -> None:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        # Bags recorded before Iron carry no message definitions: Humble's are the ones that wrote them.
        self._reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        self._reader.open()
        self.topics = {c.topic: c.msgtype for c in self._reader.connections}
        self.counts: dict[str, int] = {}
        for connection in self._reader.connections:
            self.counts[connection.topic] = self.counts.get(connection.topic, 0) + connection.msgcount

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, Any]]:
        connections = [c for c in self._reader.connections if c.topic in topics]
        if connections:
            for connection, time, data in self._reader.messages(connections, start=start, stop=stop):
                yield connection.topic, connection.msgtype, time, self._reader.deserialize(data, connection.msgtype)

    def close(self) -> None:
        self._reader.close()


class BagReader:
    """A bag, opened. Use as a context manager.

    ``topics`` maps topic to message type, ``counts`` topic to number of messages; ``problem`` is None for a whole
    bag, or one line that says why only a part of it can be read.

    :raises BagError: missing, empty, not a bag, or the ``replay`` extra is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.problem: str | None = None
        _require_rosbags()
        if not self.path.exists():
            raise BagError(f"{self.path}: no such bag; expected a rosbag2 directory, or an .mcap, .db3 or .bag file")
        self._sources = self._open()
        self.topics: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        for source in self._sources:
            self.topics.update(source.topics)
            for topic, count in source.counts.items():
                self.counts[topic] = self.counts.get(topic, 0) + count
        if not any(self.counts.values()):
            self.close()
            why = f" ({self.problem})" if self.problem else ""
            raise BagError(f"{self.path}: the bag is empty, not one message can be read{why}")

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[BagMessage]:
        """The messages of ``topics`` (all when None) in recorded order, ``start <= time_ns < stop``.

        A bag that breaks off in the middle ends the iteration and sets ``problem``; it does not raise.
        """
        wanted = set(self.topics if topics is None else topics)
        for source in self._sources:
            iterator = source.messages(wanted, start, stop)
            while True:
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                except Exception as error:  # whatever a damaged file makes the decoders raise
                    self.problem = f"the bag is damaged and can be read only in part ({_one_line(error)})"
                    break
                yield BagMessage(*item)

    def of_type(self, *kinds: str) -> list[str]:
        """Topics with messages whose type's last part is one of ``kinds`` (``Image``, ``Odometry``, ...), sorted."""
        return sorted(t for t, kind in self.topics.items() if kind.split("/")[-1] in kinds and self.counts.get(t))

    def require_complete(self) -> None:
        """:raises BagError: the bag is unfinished or damaged."""
        if self.problem:
            raise BagError(f"{self.path}: {self.problem}")

    def close(self) -> None:
        """Close the files."""
        for source in self._sources:
            source.close()
        self._sources = []

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> list[_Source]:
        if not self.path.is_dir():
            if self.path.suffix not in SUFFIXES:
                raise BagError(f"{self.path}: expected a rosbag2 directory or one of {', '.join(SUFFIXES)}")
            return [self._open_file(self.path)]
        files = sorted((p for p in self.path.iterdir() if p.suffix in SUFFIXES), key=lambda p: natural_key(p.name))
        if (self.path / "metadata.yaml").exists():
            try:
                return [_Indexed(self.path)]
            except Exception as error:
                if not files:
                    raise BagError(f"{self.path}: the bag cannot be opened: {_one_line(error)}") from error
                self.problem = f"the bag is unfinished or damaged ({_one_line(error)})"
        elif files and files[0].suffix != ".bag":
            self.problem = "the bag is unfinished: metadata.yaml is missing (`ros2 bag reindex` rebuilds it)"
        if not files:
            raise BagError(f"{self.path}: no bag here; expected metadata.yaml with .mcap or .db3 files, or .bag files")
        return [self._open_file(path) for path in files]

    def _open_file(self, path: Path) -> _Source:
        if path.stat().st_size == 0:
            raise BagError(f"{path}: the bag is empty (0 bytes)")
        try:
            return _Indexed(path)
        except Exception as error:
            why = _one_line(error)
        if path.suffix == ".mcap":
            from vloc_ros.datasets.bag.mcap_salvage import McapSalvage

            self.problem = f"the bag is unfinished: {path.name} has no readable footer ({why})"
            return _salvaged(McapSalvage, path)
        if path.suffix == ".bag":
            from vloc_ros.datasets.bag.rosbag1_salvage import Rosbag1Salvage

            self.problem = f"the bag is unfinished: {path.name} has no readable index ({why})"
            return _salvaged(Rosbag1Salvage, path)
        raise BagError(f"{path}: the bag cannot be opened: {why}")


def _salvaged(reader: Callable[[Path], _Source], path: Path) -> _Source:
    try:
        return reader(path)
    except BagError:
        raise
    except Exception as error:  # whatever a damaged file makes the decoders raise
        raise BagError(f"{path}: the bag is damaged and cannot be read ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:160] or type(error).__name__


def _require_rosbags() -> None:
    try:
        import rosbags.highlevel  # noqa: F401
    except ImportError as error:
        raise BagError("reading bags needs the rosbags package: pip install 'vloc_ros[replay]'") from error
