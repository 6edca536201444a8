"""The map of a cascade: a manifest, and a file that names two or three other maps by where they are and SHA-256.

``members.yaml`` says for each of ``coarse``, ``features`` and ``fine`` that the chain has a ``path``, relative to the
folder that the cascade lies in, or ``inside``, a folder of the cascade itself, and the ``sha256`` over the member's
backend and the checksums of its files: a member that was calibrated anew is the same member, one with other tensors is
not.
"""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from vloc_ros.errors import MapChecksumError, MapFormatError, MapNotFoundError
from vloc_ros.localizers.cascade.settings import SECTION, CascadeSettings
from vloc_ros.maps import MapBundle, MapManifest, Scene, read_map, write_map
from vloc_ros.maps.checksums import content_digest
from vloc_ros.maps.reader import LazyFiles, files_as_part
from vloc_ros.settings import settings_to_mapping
from vloc_ros.yaml_text import parse_yaml

__all__ = [
    "JUDGE",
    "MEMBERS_FILE",
    "ROLES",
    "Member",
    "calibration_of",
    "open_members",
    "scene_names",
    "validation_of",
    "whole_size",
    "write_cascade",
]

MEMBERS_FILE = "members.yaml"
#: Members that lie in the cascade are in folders of this one.
MEMBERS_FOLDER = "members"
#: In the order of the chain. What each backend can be: ``features`` judges, anything else proposes or refines.
ROLES = ("coarse", "features", "fine")
#: The backend whose maps judge poses by matched points.
JUDGE = "features"
_LARGEST = 1 << 16


@dataclass(frozen=True)
class Member:
    """One map of a cascade: what it is for, the opened map, and whether it lies in the cascade."""

    role: str
    bundle: MapBundle
    inside: bool = False


def write_cascade(
    out: str | os.PathLike[str],
    members: Sequence[str | os.PathLike[str]],
    settings: CascadeSettings | None = None,
    *,
    inside: bool = False,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> MapBundle:
    """Make a cascade of two or three maps, which stay where they are.

    :param members: in the order of the chain. A map of ``features`` judges; the one before it proposes, the one behind
        it refines. Two maps without one are the coarse and the fine one.
    :param inside: the cascade gets copies of them: one folder or file to pass on, checked as a whole.
    :param about: more for its provenance.
    :raises MapError: a member does not open, they have no scene in common, or their frames differ.
    """
    target = Path(out).expanduser()
    folder = target.absolute().parent
    chain = _roles([read_map(path) for path in members])
    entries: dict[str, dict[str, str]] = {}
    files: dict[str, LazyFiles] = {}
    for m in chain:
        if inside:
            place = {"inside": f"{MEMBERS_FOLDER}/{m.role}"}
            files[m.role] = files_as_part(m.bundle, place["inside"])
        else:
            place = {"path": Path(os.path.relpath(m.bundle.path.absolute(), folder)).as_posix()}
        entries[m.role] = {**place, "sha256": _digest(m.bundle)}
    names = scene_names(chain)
    first = chain[0].bundle.manifest
    manifest = MapManifest(
        backend="cascade",
        scenes=tuple(scene for scene in first.scenes if scene.name in names),
        camera=first.camera,
        settings={SECTION: settings_to_mapping(settings or CascadeSettings())},
        provenance={
            **{m.role: {"backend": m.bundle.manifest.backend, **entries[m.role]} for m in chain},
            **(about or {}),
        },
    )
    text = yaml.safe_dump(entries, sort_keys=True).encode()
    extra = ChainMap({MEMBERS_FILE: text}, *files.values())  # type: ignore[arg-type]
    return write_map(target, manifest, {}, extra_files=extra, overwrite=overwrite)


def whole_size(bundle: MapBundle) -> int:
    """Bytes of a map; of a cascade with the members that lie beside it."""
    if bundle.manifest.backend != "cascade":
        return bundle.size_bytes
    inner = [m.bundle for m in open_members(bundle) if not m.inside]
    return bundle.size_bytes + sum({m.path: m.size_bytes for m in inner}.values())


def calibration_of(bundle: MapBundle) -> dict[str, Any]:
    """What makes a map's covariances, by scene; empty where nothing does. Of a cascade that of its judge, else of its
    first member: that member decides about the state."""
    return _of_the_decider(bundle, lambda manifest: manifest.calibration)


def validation_of(bundle: MapBundle) -> dict[str, Any]:
    """What a map was found to be worth when it was made, by scene; of a cascade as in :func:`calibration_of`."""
    return _of_the_decider(bundle, lambda manifest: manifest.validation)


def _of_the_decider(bundle: MapBundle, section: Callable[[MapManifest], Mapping[str, Any]]) -> dict[str, Any]:
    if bundle.manifest.backend != "cascade":
        return dict(section(bundle.manifest))
    members = open_members(bundle)
    decides = next((m for m in members if m.role == JUDGE), members[0])
    theirs = section(decides.bundle.manifest)
    names = {name: by_role[decides.role] for name, by_role in scene_names(members).items()}
    return {name: theirs[other] for name, other in names.items() if other in theirs}


def _roles(bundles: Sequence[MapBundle]) -> tuple[Member, ...]:
    """The members by what their backends can be. :raises MapFormatError: no chain can be made of them."""
    for bundle in bundles:
        _check_single(bundle, "cascade")
    kinds = [bundle.manifest.backend for bundle in bundles]
    judges = kinds.count(JUDGE)
    where = kinds.index(JUDGE) if judges else 1
    # Without a judge the second map refines; with one there is at most one map on either side.
    roles = ("coarse",) * (where if judges else 1) + ((JUDGE,) if judges else ())
    roles += ("fine",) * (len(kinds) - len(roles))
    if len(kinds) < 2 or judges > 1 or len(set(roles)) < len(roles):
        raise MapFormatError(
            f"cascade: expected a coarse map, one of {JUDGE}, and a fine one, or two of these in this order; found "
            f"{', '.join(kinds) or 'none'}"
        )
    return tuple(Member(role, bundle) for role, bundle in zip(roles, bundles, strict=True))


def open_members(bundle: MapBundle) -> tuple[Member, ...]:
    """The maps of a cascade, in the order of the chain.

    :raises MapFormatError: ``members.yaml`` is not what it should be. :raises MapNotFoundError: a member is not there.
    :raises MapChecksumError: a member is another map than the one that the cascade was made of.
    """
    where = f"{bundle.path}/{MEMBERS_FILE}"
    if bundle.entry(MEMBERS_FILE).bytes > _LARGEST:
        raise MapFormatError(f"{where}: expected at most {_LARGEST} bytes")
    try:
        stored = parse_yaml(bundle.read(MEMBERS_FILE), strict=True)
    except ValueError as problem:
        raise MapFormatError(f"{where}: expected YAML: {problem}") from problem
    if not isinstance(stored, dict) or len(stored) < 2 or not set(stored) <= set(ROLES):
        raise MapFormatError(f"{where}: expected two or more members of {', '.join(ROLES)}, found {stored!r:.80}")
    return tuple(_open(bundle, role, stored[role], where) for role in ROLES if role in stored)


def scene_names(members: Sequence[Member]) -> dict[str, dict[str, str]]:
    """Scenes of the first member that all have, and what each calls them (by role): by name, or the only one of each.

    :raises MapFormatError: they have none in common, or the frames of a scene differ.
    """
    scenes = [{s.name: s for s in m.bundle.manifest.scenes} for m in members]
    common = [name for name in scenes[0] if all(name in other for other in scenes)]
    names: dict[str, dict[str, str]] = {name: {m.role: name for m in members} for name in common}
    if not names and all(len(other) == 1 for other in scenes):
        names = {next(iter(scenes[0])): {m.role: next(iter(o)) for m, o in zip(members, scenes, strict=True)}}
    if not names:
        told = "; ".join(f"{', '.join(o)} in {m.bundle.path}" for m, o in zip(members, scenes, strict=True))
        raise MapFormatError(f"cascade: expected maps with a scene in common, found {told}")
    for by_role in names.values():
        _check_chain(members, scenes, by_role)
    return names


def _check_chain(members: Sequence[Member], scenes: Sequence[Mapping[str, Scene]], by_role: Mapping[str, str]) -> None:
    places = [(m.bundle, own[by_role[m.role]]) for m, own in zip(members, scenes, strict=True)]
    # A map without a datum stands between two that have one: all of them are compared with the first that does.
    for (a, one), (b, other) in pairwise(places):
        _check_frames(one, other, a, b)
    known = [(bundle, scene) for bundle, scene in places if scene.datum is not None]
    for bundle, scene in known[1:]:
        if scene.datum != known[0][1].datum:
            raise MapFormatError(
                f"cascade: expected one datum, found {known[0][1].datum} ({known[0][0].path}) and {scene.datum} "
                f"({bundle.path})"
            )


def _check_frames(a: Scene, b: Scene, coarse: MapBundle, fine: MapBundle) -> None:
    if a.frame_id != b.frame_id:
        raise MapFormatError(
            f"cascade: expected one frame, found {a.frame_id!r} ({coarse.path}) and {b.frame_id!r} ({fine.path})"
        )
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
    known = entry if isinstance(entry, dict) else {}
    inside, path, sha256 = known.get("inside"), known.get("path"), known.get("sha256")
    place = path if inside is None else inside
    plain = isinstance(place, str) and 0 < len(place) <= 1024 and not re.search(r"[\\\x00-\x1f]", place)
    one = (inside is None) != (path is None)
    if (
        not isinstance(place, str)
        or not plain
        or PurePosixPath(place).is_absolute()
        or not isinstance(sha256, str)
        or not re.fullmatch(r"[0-9a-f]{64}", sha256)
        or not one
    ):
        raise MapFormatError(f"{where}: {role}: expected a relative path (or inside) and sha256, found {entry!r:.80}")
    if inside is not None:
        member = bundle.part(place)
    else:
        member = _beside(bundle, role, place, where)
    _check_single(member, f"{where}: {role}")
    if (role == JUDGE) != (member.manifest.backend == JUDGE):
        raise MapFormatError(
            f"{where}: {role}: expected {'a map of ' + JUDGE if role == JUDGE else 'no map of ' + JUDGE}, found one of "
            f"{member.manifest.backend!r} at {member.path}"
        )
    found = _digest(member)
    if found != sha256:
        raise MapChecksumError(
            f"{where}: {role}: expected the map with SHA-256 {sha256[:16]}..., found {found[:16]}... at {member.path}; "
            "it was replaced or built anew: make the cascade again (vloc map cascade)"
        )
    return Member(role, member, inside is not None)


def _beside(bundle: MapBundle, role: str, path: str, where: str) -> MapBundle:
    """The map at a path relative to the cascade's folder."""
    try:
        return read_map(bundle.path.absolute().parent / path)
    except MapNotFoundError as problem:
        raise MapNotFoundError(
            f"{where}: {role}: expected a map at {path}, as seen from the cascade's folder, found none; put it back, "
            f"or make the cascade again (vloc map cascade): {problem}"
        ) from problem


def _check_single(bundle: MapBundle, where: str) -> None:
    if bundle.manifest.backend == "cascade":
        raise MapFormatError(f"{where}: expected a map of a single backend, found another cascade at {bundle.path}")
