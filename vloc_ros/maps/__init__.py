"""The map bundle: one format for every backend. ``docs/map_format.md`` describes it.

Reading checks before it believes: format version, sizes, SHA-256, tensor shapes and finiteness. Nothing in a
bundle is executed or unpickled.
"""

from __future__ import annotations

from vloc_ros.maps.describe import Check, verify_map
from vloc_ros.maps.reader import MapBundle, read_map
from vloc_ros.maps.schema import FORMAT_VERSION, MANIFEST_NAME, FileEntry, MapManifest, Scene
from vloc_ros.maps.tensors import expect
from vloc_ros.maps.writer import pack_map, write_map

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
