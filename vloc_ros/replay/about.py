"""What a report says about the run besides its figures: device, settings, and the poses the map was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from vloc_ros.geometry.vectors import from_vectors
from vloc_ros.localizers.base import Localizer
from vloc_ros.localizers.cascade.bundle import open_members, scene_names
from vloc_ros.maps import MapBundle
from vloc_ros.types import Array

__all__ = ["map_references", "plain_settings"]

#: Where maps keep the poses they were made from: beside what they have learned, or in a database of descriptors.
REFERENCE_FILES = ("references.safetensors", "database.safetensors")


def map_references(bundle: MapBundle) -> dict[str, Array]:
    """Camera poses ``T_map_cam`` (M, 4, 4) of each scene that the map was made from, where the map stores them.

    By convention they are the tensors ``<scene>.poses`` (M, 7: x y z qx qy qz qw) of the first of
    :data:`REFERENCE_FILES` that the map has; ``nearest_reference`` of an estimate counts their rows. In a densified
    database poses of regressed descriptors are among them. A cascade has those of its last map.
    """
    if bundle.manifest.backend == "cascade":
        members = open_members(bundle)
        last, theirs = members[-1], map_references(members[-1].bundle)
        names = {name: by_role[last.role] for name, by_role in scene_names(members).items()}
        return {name: theirs[other] for name, other in names.items() if other in theirs}
    file = next((name for name in REFERENCE_FILES if bundle.manifest.file(name) is not None), None)
    if file is None:
        return {}
    tensors = bundle.tensors(file)
    out: dict[str, Array] = {}
    for scene in bundle.manifest.scenes:
        poses = tensors.get(f"{scene.name}.poses")
        if poses is not None and poses.ndim == 2 and poses.shape[1] == 7 and len(poses):
            out[scene.name] = from_vectors(poses)
    return out


def plain_settings(localizer: Localizer) -> dict[str, Any]:
    """The backend's settings in force as plain values."""
    settings = localizer.settings
    if is_dataclass(settings) and not isinstance(settings, type):
        return asdict(settings)
    return dict(settings) if isinstance(settings, Mapping) else {}
