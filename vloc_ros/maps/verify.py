"""Check everything about a bundle and report each check, instead of stopping at the first that fails."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vloc_ros.errors import MapError
from vloc_ros.maps.reader import MapBundle, read_map

__all__ = ["Check", "verify_map"]


@dataclass(frozen=True)
class Check:
    """One named check: whether it passed, and what was found (or why it failed)."""

    name: str
    passed: bool
    reason: str


def verify_map(path: str | os.PathLike[str]) -> list[Check]:
    """Every check of a map: manifest, then each file's presence, size, SHA-256, tensors, and strangers.

    Never raises for a bad map; a map is good when every check passed.
    """
    try:
        bundle = read_map(path)
    except MapError as problem:
        return [Check("manifest", False, str(problem))]
    manifest = bundle.manifest
    checks = [
        Check("manifest", True, f"format version {manifest.format_version}, backend {manifest.backend}, id {bundle.id}")
    ]
    checks.extend(_check_file(bundle, entry.name) for entry in manifest.files)
    strangers = bundle.unlisted_files()
    checks.append(
        Check(
            "unlisted files",
            not strangers,
            "none" if not strangers else f"not in the manifest, never read: {', '.join(strangers[:8])}",
        )
    )
    return checks


def _check_file(bundle: MapBundle, name: str) -> Check:
    try:
        if name.endswith(".safetensors"):
            count = len(bundle.tensors(name))
            reason = f"{bundle.entry(name).bytes} bytes, SHA-256 agrees, {count} finite tensors"
        else:
            bundle.read(name)
            reason = f"{bundle.entry(name).bytes} bytes, SHA-256 agrees"
    except MapError as problem:
        return Check(name, False, str(problem))
    return Check(name, True, reason)
