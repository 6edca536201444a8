"""More images for a map that exists: its database grows, everything else stays."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.datasets import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError, MapBackendError
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import select_device
from vloc_ros.localizers.retrieval.database import DATABASE_FILE, Database
from vloc_ros.localizers.retrieval.descriptor import EXTRACTOR_FILE, Descriptor
from vloc_ros.maps import MapBundle, read_map, write_map
from vloc_ros.maps.writer import check_target
from vloc_ros.staging import staging_beside, writing
from vloc_train.retrieval.database import database_of
from vloc_train.training.frames import DatabaseChoice, FrameSet, cache_drives
from vloc_train.training.provenance import commit

__all__ = ["add_images"]

_log = logging.getLogger(__name__)

#: Frames of equal stamps whose positions differ by less (m) are the same frame.
SAME_M = 1e-3


def add_images(
    map_path: Path,
    scenes: Mapping[str, Sequence[PosedSequence]],
    out: Path | None = None,
    device: str = "auto",
    choice: DatabaseChoice | None = None,
) -> MapBundle:
    """Add the images of drives to a map's database; nothing else is made again, and the covariance stays as it was.

    Frames that are in the database already are left out, with a warning. The map is replaced by one exchange.

    :param scenes: drives by scene of the map; in a map of one scene the name ``map`` means that one.
    :param out: another map to write instead of changing this one.
    :raises MapBackendError: the map has no descriptor database.
    :raises ConfigError: no such scene.
    :raises CameraMismatchError: a drive of another camera than the map's.
    :raises DatasetError: no frame that is not in the map.
    """
    bundle = read_map(map_path)
    target = out or bundle.path
    check_target(target, overwrite=True)
    manifest = bundle.manifest
    if manifest.file(DATABASE_FILE) is None or manifest.file(EXTRACTOR_FILE) is None:
        raise MapBackendError(
            f"{bundle.path}: expected a map with an extractor and a descriptor database, found one of backend "
            f"{manifest.backend!r} without; images can be added to retrieval and copr maps"
        )
    names = [scene.name for scene in manifest.scenes]
    named = {names[0] if name == "map" and len(names) == 1 else name: value for name, value in scenes.items()}
    unknown = [name for name in named if name not in names]
    if unknown:
        raise ConfigError(f"scene: expected one of {', '.join(names)}, found {unknown[0]!r}; write SCENE=PATH")
    descriptor = Descriptor.from_bundle(bundle, select_device(device))
    tensors = bundle.stored_tensors(DATABASE_FILE)
    areas = {scene.name: scene for scene in manifest.scenes}
    added: dict[str, Any] = {}
    with writing(target), staging_beside(target, folder=True) as folder:
        for name, sequences in named.items():
            for sequence in sequences:
                descriptor.preprocess.check(Rectifier(sequence.camera).target, manifest.camera)
            old = Database.read(bundle, name)
            drives = cache_drives(sequences, descriptor.preprocess, folder, name)
            drives = [_new_frames(d, old, s.name) for d, s in zip(drives, sequences, strict=True)]
            drives = [d for d in drives if len(d)]
            if not drives:
                raise DatasetError(f"scene {name!r}: expected frames that the map does not hold, found none")
            new = database_of(descriptor, drives, choice)
            tensors.update(old.append(new).tensors(name))
            scene = areas[name]
            low, high = new.poses[:, :3].amin(dim=0).tolist(), new.poses[:, :3].amax(dim=0).tolist()
            areas[name] = replace(
                scene,
                area_min=tuple(map(min, scene.area_min, low)),
                area_max=tuple(map(max, scene.area_max, high)),
            )
            added[name] = {"data": [s.name for s in sequences], "frames": len(new)}
    note = {**added, "commit": commit(), "date": datetime.now(timezone.utc).date().isoformat()}
    earlier = manifest.provenance.get("added", [])
    changed = replace(
        manifest,
        scenes=tuple(areas[name] for name in names),
        provenance={**manifest.provenance, "added": [*(earlier if isinstance(earlier, list) else []), note]},
    )
    others = {entry.name: bundle.read(entry.name) for entry in manifest.files if entry.name != DATABASE_FILE}
    return write_map(target, changed, {DATABASE_FILE: tensors}, extra_files=others, overwrite=target.exists())


def _new_frames(drive: FrameSet, database: Database, name: str) -> FrameSet:
    """The frames of a drive that a database does not hold."""
    stamps, positions = np.asarray(database.stamps), np.asarray(database.poses[:, :3], dtype=np.float64)
    order = np.argsort(stamps, kind="stable")
    left = np.searchsorted(stamps[order], drive.stamps_ns, side="left")
    right = np.searchsorted(stamps[order], drive.stamps_ns, side="right")
    known = np.array(
        [
            bool((np.linalg.norm(positions[order[a:b]] - T[:3, 3], axis=1) < SAME_M).any())
            for a, b, T in zip(left, right, drive.T_map_cam, strict=True)
        ],
        dtype=bool,
    )
    if known.any():
        _log.warning("%s: %d of %d frames are in the map already and are left out", name, known.sum(), len(drive))
    return drive.select(np.flatnonzero(~known))
