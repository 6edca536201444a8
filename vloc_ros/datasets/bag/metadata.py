"""``metadata.yaml`` of a rosbag2 folder: which files, how they are packed, and how many messages each topic has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from vloc_ros.errors import BagError
from vloc_ros.yaml_text import parse_yaml

__all__ = ["FILE_NAME", "INFORMATION", "Metadata", "custom_data", "read_metadata"]

FILE_NAME = "metadata.yaml"
INFORMATION = "rosbag2_bagfile_information"
#: A bag split into ten thousand files has some MB of it.
_MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class Metadata:
    """What the file says: names of files beside it, ``file``, ``message`` or no compression, messages by topic."""

    files: tuple[str, ...]
    compression: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def read_metadata(folder: Path) -> Metadata:
    """:raises BagError: no such file, or not what rosbag2 writes; one line that says why."""
    path = folder / FILE_NAME
    found = _information(path)
    try:
        names = tuple(PurePath(str(name)).name for name in found["relative_file_paths"])
        counts: dict[str, int] = {}
        for row in found.get("topics_with_message_count") or []:
            topic = str(row["topic_metadata"]["name"])
            counts[topic] = counts.get(topic, 0) + int(row["message_count"])
        mode, form = str(found.get("compression_mode") or "").lower(), str(found.get("compression_format") or "")
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise BagError(f"{path}: expected what rosbag2 writes, found no {problem}") from problem
    compression = "" if mode == "none" else mode
    if compression not in ("", "file", "message") or (compression and form != "zstd"):
        raise BagError(f"{path}: expected no compression or zstd of files or messages, found {form} of {mode}")
    return Metadata(names, compression, counts)


def custom_data(folder: Path) -> dict[str, Any]:
    """What whoever wrote the bag adds to it; empty where there is nothing that can be read."""
    try:
        found = _information(folder / FILE_NAME).get("custom_data")
    except BagError:  # whether the bag is one is for its reader to say
        return {}
    return found if isinstance(found, dict) else {}


def _information(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BagError(f"{path}: expected at most {_MAX_BYTES} bytes, found {path.stat().st_size}")
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise BagError(f"{path}: expected YAML, found {' '.join(str(problem).split())[:160]}") from problem
    found = content.get(INFORMATION) if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise BagError(f"{path}: expected {INFORMATION}, found none")
    return found
