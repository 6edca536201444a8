"""The map bundle: one format for every backend. ``docs/map_format.md`` describes it.

Reading checks before it believes: format version, sizes, SHA-256, tensor shapes and finiteness. Nothing in a
bundle is executed or unpickled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vloc_ros.maps.describe import Check, verify_map
from vloc_ros.maps.reader import MapBundle, read_map
from vloc_ros.maps.schema import FORMAT_VERSION, MANIFEST_NAME, FileEntry, MapManifest, Scene
from vloc_ros.maps.writer import pack_map, write_map

if TYPE_CHECKING:
    from vloc_ros.maps.tensors import expect

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "Check",
    "FileEntry",
    "MapBundle",
    "MapManifest",
    "Scene",
    "expect",
    "pack_map",
    "read_map",
    "verify_map",
    "write_map",
]


def __getattr__(name: str) -> Any:
    # Tensors need torch, which takes seconds to import; `vloc map info` does without.
    if name == "expect":
        from vloc_ros.maps.tensors import expect

        return expect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
