"""A first pose by image retrieval (Section 4, "Initialization"): that of the most similar image of the same map."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vloc_ros.localizers.retrieval.database import DATABASE_FILE, read_databases
from vloc_ros.localizers.retrieval.descriptor import Descriptor
from vloc_ros.localizers.retrieval.index import Index, build_index
from vloc_ros.maps import MapBundle
from vloc_ros.transfer import read_back
from vloc_ros.types import Array, RgbImage

__all__ = ["RetrievalPrior", "Retrieved"]


@dataclass(frozen=True)
class Retrieved:
    """The most similar image: its scene, its row in the database, ``T_map_cam``, and its distance."""

    scene: str
    row: int
    T_map_cam: Array
    distance: float


class RetrievalPrior:
    """Extractor and databases of a map."""

    def __init__(self, bundle: MapBundle, device: torch.device) -> None:
        self._descriptor = Descriptor.from_bundle(bundle, device)
        databases = read_databases(bundle)
        for scene, database in databases.items():
            self._descriptor.check_database(database, f"{bundle.path}: scene {scene!r}")
        self._poses = {scene: database.T_map_cam for scene, database in databases.items()}
        self._indices: dict[str, Index] = {s: build_index(d, device, "torch", 1.0) for s, d in databases.items()}

    @staticmethod
    def is_in(bundle: MapBundle) -> bool:
        """Whether a map has what it takes."""
        return bundle.manifest.file(DATABASE_FILE) is not None

    def find(self, image_rgb: RgbImage, scene: str | None = None) -> Retrieved:
        """The most similar image in a scene, or in all.

        :param image_rgb: rectified.
        """
        vector = self._descriptor.describe(image_rgb)[None]
        names = [name for name in self._indices if scene is None or name == scene]
        found = [self._indices[name].search(vector, 1) for name in names]
        host = read_back(*(x[0, 0] for pair in found for x in pair))  # of all scenes at once
        distances, rows = [float(x) for x in host[::2]], [int(x) for x in host[1::2]]
        best = min(range(len(names)), key=distances.__getitem__)  # the scene was checked, and no database is empty
        return Retrieved(names[best], rows[best], self._poses[names[best]][rows[best]], distances[best])
