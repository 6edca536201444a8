"""What a report says about the run besides its figures: device, settings, and the poses the map was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import torch

from vloc_ros.geometry.rotations import quaternion_to_matrix
from vloc_ros.localizers.base import Localizer
from vloc_ros.maps import MapBundle
from vloc_ros.types import Array

__all__ = ["map_references", "plain_settings"]

REFERENCES_FILE = "references.safetensors"


def map_references(bundle: MapBundle) -> dict[str, Array]:
    """Camera poses ``T_map_cam`` (M, 4, 4) of each scene that the map was made from, where the map stores them.

    By convention they are the tensors ``<scene>.poses`` (M, 7: x y z qx qy qz qw) of :data:`REFERENCES_FILE`.
    """
    if bundle.manifest.file(REFERENCES_FILE) is None:
        return {}
    tensors = bundle.tensors(REFERENCES_FILE)
    out: dict[str, Array] = {}
    for scene in bundle.manifest.scenes:
        poses = tensors.get(f"{scene.name}.poses")
        if poses is not None and poses.ndim == 2 and poses.shape[1] == 7 and len(poses):
            vectors = poses.to(torch.float64).numpy()
            T = np.tile(np.eye(4), (len(vectors), 1, 1))
            T[:, :3, :3] = quaternion_to_matrix(vectors[:, 3:])
            T[:, :3, 3] = vectors[:, :3]
            out[scene.name] = T
    return out


def plain_settings(localizer: Localizer) -> dict[str, Any]:
    """The backend's settings in force as plain values."""
    settings = localizer.settings
    if is_dataclass(settings) and not isinstance(settings, type):
        return asdict(settings)
    return dict(settings) if isinstance(settings, Mapping) else {}
