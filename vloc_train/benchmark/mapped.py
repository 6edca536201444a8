"""What a map holds, for the table: bytes, descriptors, how many of them were regressed, where its references are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vloc_ros.geometry.vectors import from_vectors
from vloc_ros.localizers.cascade.bundle import open_members
from vloc_ros.localizers.pixloc.store import REFERENCES_FILE
from vloc_ros.maps import MapBundle
from vloc_ros.types import Array

__all__ = ["map_figures", "reference_cameras"]

#: The descriptor database of a map, and in it the poses and whether a descriptor was regressed (0: of an image).
_FILE, _POSES, _ORIGIN = "database.safetensors", ".poses", ".origin"


def reference_cameras(bundle: MapBundle) -> Array | None:
    """The (M, 4, 4) camera poses of the map's references in all scenes, of a cascade those of its fine map.

    None where it has none.
    """
    bundle = _members(bundle)[-1]
    file = next((name for name in (REFERENCES_FILE, _FILE) if bundle.manifest.file(name) is not None), None)
    if file is None:
        return None
    tensors = bundle.tensors(file)
    poses = [tensors[name] for name in sorted(tensors) if name.endswith(_POSES)]
    return np.concatenate([from_vectors(p.float()) for p in poses]) if poses else None


def map_figures(bundles: Sequence[MapBundle]) -> dict[str, Any]:
    """Means over the folds' maps: ``map_bytes``, and where there is a database ``descriptors``, ``regressed_share``."""
    sizes = [sum(b.size_bytes for b in {bundle.path: bundle for bundle in (one, *_members(one))}.values())
             for one in bundles]  # fmt: skip
    out: dict[str, Any] = {"map_bytes": round(float(np.mean(sizes)))}
    counts, regressed = [], 0
    for bundle in bundles:
        if bundle.manifest.file(_FILE) is None:
            return out
        tensors = bundle.tensors(_FILE)
        counts.append(sum(len(t) for name, t in tensors.items() if name.endswith(_POSES)))
        regressed += sum(int((t > 0).sum()) for name, t in tensors.items() if name.endswith(_ORIGIN))
    total = sum(counts)
    return {**out, "descriptors": total / len(counts), "regressed_share": regressed / total if total else 0.0}


def _members(bundle: MapBundle) -> tuple[MapBundle, ...]:
    """The maps that a cascade names, coarse and fine; of any other map itself."""
    if bundle.manifest.backend != "cascade":
        return (bundle,)
    return tuple(member.bundle for member in open_members(bundle))
