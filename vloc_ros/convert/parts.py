"""A bag that is written part by part, so that memory stays flat and an interrupted conversion can go on.

The bag grows in a hidden folder ``.<name>.convert`` beside its destination. Each part is a storage file of its own; a
finished one is flushed to the disk and then entered into ``journal.json``, together with where to go on. What is not in
the journal is thrown away and written again. At the end one ``metadata.yaml`` names all parts, as rosbag2 does for
bags that it splits, and the folder gets its name.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from vloc_ros.convert.messages import BagMessages, offered_qos
from vloc_ros.convert.writer import Storage, check_output, plugin
from vloc_ros.datasets.bag.metadata import INFORMATION, custom_data
from vloc_ros.errors import BagError
from vloc_ros.staging import unwritten

__all__ = ["IDENTITY", "PART_BYTES", "PART_FRAMES", "PartedBag", "is_finished"]

_log = logging.getLogger(__name__)

#: A part ends after so much payload or so many frames: what is written again after an interruption, and the limit of
#: what the library's index of a storage file takes in memory.
PART_BYTES, PART_FRAMES = 2 * 1024**3, 5000
#: Where metadata.yaml says which conversion made the bag.
IDENTITY = "vloc_convert"


class PartedBag(BagMessages):
    """One bag being written in parts; a context manager that names the bag when it is left without an error.

    :param identity: a digest of everything that the content follows from; only the same conversion is continued.
    :param resume: continue an interrupted conversion, and stay continuable; else what is there is thrown away, and
        nothing is left of a conversion that fails.
    :param about: more text for ``custom_data`` in metadata.yaml, for what no message type can say.
    :ivar state: what :meth:`end_part` was last told, empty at the start.
    :raises BagError: the destination exists, another conversion of another identity waits there, or one is running.
    """

    def __init__(
        self,
        path: str | Path,
        storage: Storage,
        overwrite: bool,
        *,
        identity: str = "",
        resume: bool = False,
        about: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.path = Path(path)
        self.storage = storage
        self.identity = identity
        self._custom = {**({IDENTITY: identity} if identity else {}), **(about or {})}
        check_output(self.path, storage, overwrite)
        self._work = self.path.with_name(f".{self.path.name}.convert")
        self._resume = resume
        self._parts: list[dict[str, Any]] = []
        self._writer: Any = None
        self._connections: dict[str, Any] = {}
        self._lock: int | None = None
        self.state: dict[str, Any] = {}
        self.part_bytes = 0

    @property
    def part_is_open(self) -> bool:
        """Whether something was written since the last part ended."""
        return self._writer is not None

    @property
    def size_bytes(self) -> int:
        """Of all finished parts."""
        return sum(int(part["bytes"]) for part in self._parts)

    def __enter__(self) -> PartedBag:
        with self._naming():
            self._work.mkdir(parents=True, exist_ok=True)
            self._claim()
        try:
            self._recover()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        keep = False
        try:
            if kind is None:
                self._finish()
            else:
                keep = self._resume and bool(self._parts)
        except BaseException:  # a full disk, say: what is whole stays
            keep = self._resume and bool(self._parts)
            raise
        finally:
            self._abort_part()
            if keep:
                _log.warning("%s: interrupted; the same command goes on behind part %d", self.path, len(self._parts))
            else:
                shutil.rmtree(self._work, ignore_errors=True)
            self._release()

    def write(self, topic: str, msgtype: str, stamp_ns: int, message: Any) -> None:
        """Write a message into the current part, beginning one where there is none."""
        if self._writer is None:
            self._begin_part()
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, msgtype, typestore=self._store, offered_qos_profiles=offered_qos(topic)
            )
        data = self._store.serialize_cdr(message, msgtype)
        with self._naming():
            self._writer.write(self._connections[topic], stamp_ns, data)
        self.part_bytes += len(data)

    def end_part(self, state: Mapping[str, Any]) -> None:
        """Close the current part; a continued conversion goes on from ``state`` (anything that JSON holds)."""
        if self._writer is None:
            return
        with self._naming():
            self._end_part(state)

    def _end_part(self, state: Mapping[str, Any]) -> None:
        writer, self._writer = self._writer, None
        writer.close()
        folder = Path(writer.path)
        (file,) = (p for p in folder.iterdir() if p.name != "metadata.yaml")
        metadata = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))
        self._flush(file)
        target = self._bag / file.name
        file.replace(target)
        shutil.rmtree(folder)
        self.state = dict(state)
        self._parts.append(
            {
                "file": target.name,
                "bytes": target.stat().st_size,
                "information": metadata[INFORMATION],
                "state": self.state,
            }
        )
        self._write_journal()

    @property
    def information(self) -> dict[str, Any]:
        """``rosbag2_bagfile_information`` of all finished parts together, as metadata.yaml holds it."""
        found = [part["information"] for part in self._parts]
        first = {**found[0]}
        topics: dict[str, dict[str, Any]] = {}
        for part in found:
            for row in part["topics_with_message_count"]:
                name = row["topic_metadata"]["name"]
                before = topics[name]["message_count"] if name in topics else 0
                topics[name] = {**row, "message_count": before + row["message_count"]}
        starts = [part["starting_time"]["nanoseconds_since_epoch"] for part in found]
        ends = [s + part["duration"]["nanoseconds"] for s, part in zip(starts, found, strict=True)]
        files = [
            {**part["information"]["files"][0], "path": self._name(k, part["file"])}
            for k, part in enumerate(self._parts)
        ]
        first.update(
            relative_file_paths=[row["path"] for row in files],
            files=files,
            starting_time={"nanoseconds_since_epoch": min(starts)},
            duration={"nanoseconds": max(ends) - min(starts)},
            message_count=sum(part["message_count"] for part in found),
            topics_with_message_count=list(topics.values()),
            custom_data=self._custom or None,
        )
        return first

    @property
    def _bag(self) -> Path:
        return self._work / "bag"

    def _name(self, number: int, file: str) -> str:
        """A bag of one part is named after its folder alone; several are numbered as rosbag2 numbers them."""
        suffix = Path(file).suffix
        return f"{self.path.name}{suffix}" if len(self._parts) == 1 else f"{self.path.name}_{number}{suffix}"

    def _claim(self) -> None:
        """One process at a time; the lock goes with the process, however it ends."""
        self._lock = os.open(self._work / "lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._release()
            raise BagError(
                f"{self.path}: another conversion is writing it; wait for it, or name another output"
            ) from error

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _recover(self) -> None:
        """Take over the parts that the journal and the folder agree on."""
        replaced = self._work / "replaced"
        if replaced.exists() and not self.path.exists():  # ended between the two renamings of _finish
            replaced.rename(self.path)
        journal = _journal(self._work / "journal.json") if self._resume else {}
        if journal and journal["identity"] != self.identity:
            raise BagError(
                f"{self.path}: an interrupted conversion with other settings or data waits in {self._work.name}; "
                "start over with --no-resume, or name another output"
            )
        for part in journal.get("parts", []):
            file = self._bag / part["file"]
            if not file.is_file() or file.stat().st_size != part["bytes"]:
                break
            self._parts.append(part)
            self.state = dict(part["state"])
        kept = {part["file"] for part in self._parts}
        self._bag.mkdir(exist_ok=True)
        for file in self._bag.iterdir():
            if file.name not in kept:
                file.unlink()
        shutil.rmtree(self._work / "part", ignore_errors=True)
        self._write_journal()

    def _begin_part(self) -> None:
        from rosbags.rosbag2 import Writer

        # The storage file is named after its folder.
        name = self.path.name if not self._parts else f"{self.path.name}_{len(self._parts)}"
        with self._naming():
            (self._work / "part").mkdir(exist_ok=True)
            self._writer = Writer(self._work / "part" / name, version=8, storage_plugin=plugin(self.storage))
            self._writer.open()
        self._connections = {}
        self.part_bytes = 0

    def _abort_part(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()
        shutil.rmtree(self._work / "part", ignore_errors=True)

    def _write_journal(self) -> None:
        file = self._work / "journal.json"
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps({"identity": self.identity, "parts": self._parts}), encoding="utf-8")
        self._flush(temporary)
        temporary.replace(file)

    def _flush(self, path: Path) -> None:
        """To the disk, so that the journal never knows of a part that a power cut took."""
        if self._resume:
            with path.open("rb") as file:
                os.fsync(file.fileno())

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """What the system says of a full disk names no file."""
        try:
            yield
        except OSError as problem:
            raise BagError(unwritten(self.path, problem)) from problem

    def _finish(self) -> None:
        self.end_part(self.state)
        if not self._parts:
            raise BagError(f"{self.path}: expected something to write, found nothing")
        with self._naming():
            self._name_bag()

    def _name_bag(self) -> None:
        information = self.information
        for part, name in zip(self._parts, information["relative_file_paths"], strict=True):
            (self._bag / part["file"]).replace(self._bag / name)
            part["file"] = name  # should the renaming below fail, the journal still fits
        text = yaml.safe_dump({INFORMATION: information}, sort_keys=False)
        self._write_journal()
        (self._bag / "metadata.yaml").write_text(text, encoding="utf-8")
        self._flush(self._bag / "metadata.yaml")
        if self.path.exists():
            self.path.rename(self._work / "replaced")
        self._bag.rename(self.path)


def is_finished(path: Path, identity: str) -> bool:
    """Whether a bag is there that this very conversion made."""
    return bool(identity) and custom_data(path).get(IDENTITY) == identity


def _journal(path: Path) -> dict[str, Any]:
    """What the journal says; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and isinstance(found.get("parts"), list) and "identity" in found
    return found if whole and found["parts"] else {}
