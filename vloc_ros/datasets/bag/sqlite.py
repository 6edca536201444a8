"""SQLite storage files of rosbag2 (``.db3``), of every schema that has been written."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import quote

from vloc_ros.datasets.bag.message_types import Definition
from vloc_ros.errors import BagError

__all__ = ["SqliteFile"]

_FORMATS = {"ros2msg": "msg", "ros2idl": "idl"}


class SqliteFile:
    """One file. ``topics`` maps topic to type, ``counts`` topic to messages.

    :raises BagError: no database, or not one of rosbag2.
    """

    ros1 = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        # A recorder that was killed leaves its last messages in a log beside the file.
        log = path.with_name(f"{path.name}-wal")
        how = "mode=ro" if log.is_file() and log.stat().st_size else "mode=ro&immutable=1"
        self._database = sqlite3.connect(f"file:{quote(str(path.resolve()))}?{how}", uri=True, check_same_thread=False)
        self._database.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            self._read_topics()
        except (sqlite3.Error, TypeError, ValueError) as error:
            self.close()
            raise BagError(f"{path}: the bag cannot be opened: {' '.join(str(error).split())}") from error

    def _read_topics(self) -> None:
        read = self._database.execute
        tables = {row[0] for row in read("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            raise ValueError(f"expected tables topics and messages, found {', '.join(sorted(tables)) or 'none'}")
        texts: dict[str, tuple[str, str]] = {}
        if "message_definitions" in tables:
            columns = "topic_type, encoding, encoded_message_definition"
            for name, form, text in read(f"SELECT {columns} FROM message_definitions"):
                texts[str(name)] = (_FORMATS.get(str(form), str(form)), str(text))
        counts = dict(read("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
        self._channels: dict[int, tuple[str, str]] = {}
        self.topics: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.definitions: list[Definition] = []
        for number, topic, kind, form in read("SELECT id, name, type, serialization_format FROM topics ORDER BY id"):
            topic, kind = str(topic), str(kind)
            self._channels[number] = topic, kind
            self.topics[topic] = kind
            self.counts[topic] = self.counts.get(topic, 0) + int(counts.get(number, 0))
            found = texts.get(kind, ("", "")) if form == "cdr" else (f"messages encoded as {form}", "")
            self.definitions.append(Definition(kind, *found))

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """``(topic, type, time, serialized message)`` of the wanted topics, ``start <= time < stop``, by time."""
        wanted = [number for number, (topic, _) in self._channels.items() if topic in topics]
        where, values = [f"topic_id IN ({', '.join('?' * len(wanted))})"], list(wanted)
        for bound, sign in ((start, ">="), (stop, "<")):
            if bound is not None:
                where.append(f"timestamp {sign} ?")
                values.append(bound)
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE {' AND '.join(where)} ORDER BY timestamp, id"
        for number, time, data in self._database.execute(query, values):
            topic, kind = self._channels[number]
            yield topic, kind, int(time), data

    def close(self) -> None:
        """Close the file."""
        self._database.close()
