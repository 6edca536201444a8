"""CoPR as a backend: retrieval over a database that holds regressed descriptors beside those of images."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from vloc_ros.localizers.base import Hypothesis
from vloc_ros.localizers.device import Clock
from vloc_ros.localizers.retrieval.database import IMAGE
from vloc_ros.localizers.retrieval.localizer import RetrievalLocalizer
from vloc_ros.types import Query

__all__ = ["CoPRLocalizer"]


class CoPRLocalizer(RetrievalLocalizer):
    """Continuous place-descriptor regression (Zaffar et al., IEEE T-RO 2023): the pose of the nearest descriptor, of an
    image or regressed. All of CoPR happens when the map is made; at run time it is retrieval with two more diagnostics.

    ``regressed`` is 1 where the nearest descriptor was regressed; ``anchor`` is the row of the image it was made from
    (of an image: its own row).
    """

    backend: ClassVar[str] = "copr"

    def find(self, query: Query, clock: Clock, keep_candidates: bool) -> Hypothesis:
        found = super().find(query, clock, keep_candidates)
        database, row = self.database(found.scene), int(found.diagnostics["nearest_reference"])
        more = {"regressed": float(database.origin[row] != IMAGE), "anchor": float(database.anchor[row])}
        return replace(found, diagnostics={**found.diagnostics, **more})
