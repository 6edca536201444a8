"""The map of a cascade: a manifest, and a file that names two other maps by relative path and SHA-256.

``members.yaml`` says for ``coarse`` and ``fine`` a ``path``, relative to the folder that the cascade lies in, and the
``sha256`` over the member's backend and the checksums of its files: a member that was calibrated anew is the same
member, one with other tensors is not.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from vloc_ros.errors import MapChecksumError, MapFormatError
from vloc_ros.localizers.cascade.settings import SECTION, CascadeSettings
from vloc_ros.maps import MapBundle, MapManifest, Scene, read_map, write_map
from vloc_ros.maps.checksums import content_digest
from vloc_ros.settings import settings_to_mapping

__all__ = ["MEMBERS_FILE", "ROLES", "Member", "open_members", "scene_pairs", "write_cascade"]

MEMBERS_FILE = "members.yaml"
ROLES = ("coarse", "fine")
_LARGEST = 1 << 16


@dataclass(frozen=True)
class Member:
    """One map of a cascade: what it is for, and the opened map."""

    role: str
    bundle: MapBundle


def write_cascade(
    out: str | os.PathLike[str],
    coarse: str | os.PathLike[str],
    fine: str | os.PathLike[str],
    settings: CascadeSettings | None = None,
    *,
    overwrite: bool = False,
) -> MapBundle:
    """Make a cascade of two maps, which stay where they are.

    :raises MapError: a member does not open, the two have no scene in common, or their frames differ.
    """
    target = Path(out).expanduser()
    folder = target.absolute().parent
    members, entries = {}, {}
    for role, path in zip(ROLES, (coarse, fine), strict=True):
        bundle = members[role] = read_map(path)
        if bundle.manifest.backend == "cascade":
            raise MapFormatError(f"{bundle.path}: expected a map of a single backend, found another cascade")
        relative = Path(os.path.relpath(bundle.path.absolute(), folder)).as_posix()
        entries[role] = {"path": relative, "sha256": _digest(bundle)}
    pairs = scene_pairs(members["coarse"], members["fine"])
    first = members["coarse"].manifest
    manifest = MapManifest(
        backend="cascade",
        scenes=tuple(scene for scene in first.scenes if scene.name in pairs),
        camera=first.camera,
        settings={SECTION: settings_to_mapping(settings or CascadeSettings())},
        provenance={role: {"backend": members[role].manifest.backend, **entries[role]} for role in ROLES},
    )
    text = yaml.safe_dump(entries, sort_keys=True)
    return write_map(target, manifest, {}, extra_files={MEMBERS_FILE: text.encode()}, overwrite=overwrite)


def open_members(bundle: MapBundle) -> tuple[Member, Member]:
    """The coarse and the fine map of a cascade.

    :raises MapFormatError: ``members.yaml`` is not what it should be. :raises MapNotFoundError: a member is not there.
    :raises MapChecksumError: a member is another map than the one that the cascade was made of.
    """
    where = f"{bundle.path}/{MEMBERS_FILE}"
    if bundle.entry(MEMBERS_FILE).bytes > _LARGEST:
        raise MapFormatError(f"{where}: expected at most {_LARGEST} bytes")
    try:
        stored = yaml.safe_load(bundle.read(MEMBERS_FILE))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise MapFormatError(f"{where}: expected YAML: {' '.join(str(problem).split())[:200]}") from problem
    if not isinstance(stored, dict) or set(stored) != set(ROLES):
        raise MapFormatError(f"{where}: expected members {' and '.join(ROLES)}, found {str(stored)[:80]}")
    coarse, fine = (_open(bundle, role, stored[role], where) for role in ROLES)
    return coarse, fine


def scene_pairs(coarse: MapBundle, fine: MapBundle) -> dict[str, str]:
    """Scenes of the coarse map and what the fine one calls them: by name, or the only one of each.

    :raises MapFormatError: they have none in common, or the frames of a scene differ.
    """
    ours, theirs = ({s.name: s for s in b.manifest.scenes} for b in (coarse, fine))
    pairs = {name: name for name in ours if name in theirs}
    if not pairs and len(ours) == len(theirs) == 1:
        pairs = {next(iter(ours)): next(iter(theirs))}
    if not pairs:
        raise MapFormatError(
            f"cascade: expected maps with a scene in common, found {', '.join(ours)} in {coarse.path} and "
            f"{', '.join(theirs)} in {fine.path}"
        )
    for name, other in pairs.items():
        _check_frames(ours[name], theirs[other], coarse, fine)
    return pairs


def _check_frames(a: Scene, b: Scene, coarse: MapBundle, fine: MapBundle) -> None:
    if a.frame_id != b.frame_id:
        raise MapFormatError(f"cascade: expected one frame, found {a.frame_id!r} ({coarse.path}) and {b.frame_id!r}")
    if a.datum is not None and b.datum is not None and a.datum != b.datum:
        raise MapFormatError(f"cascade: expected one datum, found {a.datum} ({coarse.path}) and {b.datum}")
    low = np.maximum(np.asarray(a.area_min), np.asarray(b.area_min)) - 10.0
    high = np.minimum(np.asarray(a.area_max), np.asarray(b.area_max)) + 10.0
    if (low > high).any():
        raise MapFormatError(
            f"cascade: scene {a.name!r}: expected maps of the same place, found areas that do not touch in "
            f"{coarse.path} and {fine.path}; are they in one frame?"
        )


def _digest(bundle: MapBundle) -> str:
    return content_digest(bundle.manifest.backend, bundle.manifest.files)


def _open(bundle: MapBundle, role: str, entry: Any, where: str) -> Member:
    path, sha256 = (entry.get("path"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    plain = isinstance(path, str) and 0 < len(path) <= 1024 and not re.search(r"[\\\x00-\x1f]", path)
    if not isinstance(path, str) or not plain or PurePosixPath(path).is_absolute() or not isinstance(sha256, str):
        raise MapFormatError(f"{where}: {role}: expected a relative path and sha256, found {str(entry)[:80]}")
    member = read_map(bundle.path.absolute().parent / path)
    if member.manifest.backend == "cascade":
        raise MapFormatError(f"{where}: {role}: expected a map of a single backend, found another cascade")
    found = _digest(member)
    if found != sha256:
        raise MapChecksumError(
            f"{where}: {role}: expected the map with SHA-256 {sha256[:16]}..., found {found[:16]}... at {member.path}; "
            "it was replaced or built anew: make the cascade again (vloc map cascade)"
        )
    return Member(role, member)
