"""A few frames looked at more closely: what the candidates did on the way to the pose."""

from __future__ import annotations

from dataclasses import dataclass, field

from vloc_ros.errors import VlocError
from vloc_ros.images.decode import decode
from vloc_ros.images.rectify import Rectifier
from vloc_ros.localizers.base import Localizer
from vloc_ros.pipeline import Frame
from vloc_ros.types import Array, Estimate, Query

__all__ = ["CandidateSamples"]

#: Where in the drive, as shares of its length.
PLACES = (0.25, 0.75)


@dataclass
class CandidateSamples:
    """Localizes a few frames once more with ``keep_candidates``, which backends with candidates offer.

    Without prior, so that every sample shows the search of the whole map; outside the pipeline, so that neither the
    track nor the measured times know of it.
    """

    localizer: Localizer
    frames: int
    kept: list[tuple[Estimate, Array | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._offered = self.localizer.offers_candidates and not self.localizer.needs_prior
        self._wanted = [int(place * self.frames) for place in PLACES]

    def offer(self, index: int, frame: Frame, T_map_cam: Array | None) -> None:
        """Sample this frame if it is its turn; ``T_map_cam`` is the truth where known."""
        if not self._offered or not self._wanted or index < self._wanted[0] or frame.camera is None:
            return
        try:
            image, camera = Rectifier(frame.camera).rectify(decode(frame.image))
            query = Query(image, camera, frame.stamp_ns, scene=frame.scene)
            estimate: Estimate = self.localizer.localize(query, keep_candidates=True)
        except VlocError:
            return  # the next frame will do
        self._wanted.pop(0)
        if estimate.candidates:
            self.kept.append((estimate, T_map_cam))
