"""Writes rosbag2 bags that ``ros2 bag play`` plays on Humble and Jazzy, atomically.

Metadata version 8 (Humble refuses 9), mcap by default and sqlite3 on request (a stock Humble lacks mcap), and
``/tf_static`` recorded as transient local: without that the player offers it volatile and late joiners never
get it. The bag grows in a hidden folder beside its destination and is renamed when complete, so a crash never
leaves half a bag under the name that was asked for.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from vloc_ros.convert.messages import BagMessages, offered_qos
from vloc_ros.errors import BagError
from vloc_ros.staging import install, staging_beside, umask, unwritten

__all__ = ["BagWriter", "Storage", "check_output", "plugin"]

Storage = Literal["mcap", "sqlite3"]


def check_output(path: Path, storage: str, overwrite: bool) -> None:
    """:raises BagError: the destination exists (and may not, or is no bag), or there is no such storage."""
    if storage not in ("mcap", "sqlite3"):
        raise BagError(f"storage: expected mcap or sqlite3, found {storage!r}")
    if storage == "sqlite3" and set("#?%") & set(str(path.absolute())):  # rosbags makes a URI of it, unescaped
        raise BagError(f"{path}: expected a path without #, ? and % for sqlite3, found one; use mcap, or another path")
    if path.exists() and not overwrite:
        raise BagError(f"{path}: already exists; delete it, name another output, or --overwrite")
    if path.exists() and not (path / "metadata.yaml").exists():
        raise BagError(f"{path}: exists and is not a bag; not overwriting it")


def plugin(storage: Storage) -> Any:
    """The library's name of a storage."""
    from rosbags.rosbag2 import StoragePlugin

    return StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3


class BagWriter(BagMessages):
    """One bag of one file being written; a context manager.

    :raises BagError: the destination exists (and ``overwrite`` is not set), or rosbags is not installed.
    """

    def __init__(self, path: str | Path, storage: Storage = "mcap", overwrite: bool = False) -> None:
        super().__init__()
        self.path = Path(path)
        self.storage = storage
        check_output(self.path, storage, overwrite)
        self._connections: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def __enter__(self) -> BagWriter:
        from rosbags.rosbag2 import Writer

        self._stack = ExitStack()
        try:
            work = self._stack.enter_context(staging_beside(self.path, folder=True))
            # The storage file is named after its folder, so the inner folder already carries the final name.
            self._work = work / self.path.name
            self._writer = Writer(self._work, version=8, storage_plugin=plugin(self.storage))
            self._writer.open()
        except OSError as problem:
            self._stack.close()
            raise BagError(unwritten(self.path, problem)) from problem
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            try:
                if kind is None:
                    self._writer.close()
                    self._work.chmod(0o777 & ~umask())
                    install(self._work, self.path)
            except OSError as problem:
                raise BagError(unwritten(self.path, problem)) from problem

    def write(self, topic: str, msgtype: str, stamp_ns: int, message: Any) -> None:
        """Write any message made of this bag's types."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, msgtype, typestore=self._store, offered_qos_profiles=offered_qos(topic)
            )
        try:
            self._writer.write(self._connections[topic], stamp_ns, self._store.serialize_cdr(message, msgtype))
        except OSError as problem:
            raise BagError(unwritten(self.path, problem)) from problem
        self.counts[topic] = self.counts.get(topic, 0) + 1
