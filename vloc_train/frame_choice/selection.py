"""Which frames of a drive are used: those that moved, and that one can see something in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.types import Array
from vloc_train.frame_choice.measure import Measures
from vloc_train.frame_choice.route import metres_along, turned_deg
from vloc_train.frame_choice.settings import SelectionSettings

__all__ = ["IMAGE_REASONS", "REASONS", "Choice", "choose", "surroundings"]

#: Why a frame is not used; a frame has one reason, the first of these that holds. The empty one: it is used.
REASONS = (
    "", "damaged", "dark", "overexposed", "shows nothing", "blurred", "standing still", "closer than the spacing",
)  # fmt: skip
#: Those that say something against the recording.
IMAGE_REASONS = REASONS[1:6]
#: A vehicle that moved and turned less than this since the last frame used stands still: the noise of a reference.
STILL_M, STILL_DEG = 0.05, 0.5


@dataclass(frozen=True)
class Choice:
    """Of the N frames of a drive: ``reason`` (N,) into :data:`REASONS`, ``along_m`` (N,), and what was measured."""

    sequence: PosedSequence
    reason: npt.NDArray[np.uint8]
    along_m: Array
    measures: Measures

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """The numbers of the frames that are used."""
        return np.flatnonzero(self.reason == 0).astype(np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """Frames that are not used, by reason, those that occur."""
        return {name: int(n) for k, name in enumerate(REASONS) if k and (n := (self.reason == k).sum())}

    @property
    def used(self) -> PosedSequence:
        """The drive with the frames that are used; ``dropped`` tells of the others."""
        part = self.sequence.select(self.kept)
        dropped: Mapping[str, int] = {**self.sequence.dropped, **self.counts}
        return replace(part, dropped=dropped)

    def in_words(self) -> str:
        """One line."""
        why = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        other = ", ".join(f"{n} {name}" for name, n in self.sequence.dropped.items())
        text = f"{self.sequence.name}: {len(self.kept)} of {len(self.reason)} posed frames over {self.length_m:.0f} m"
        return text + (f"; left out: {why}" if why else "") + (f"; not readable: {other}" if other else "")

    @property
    def length_m(self) -> float:
        """Length of the route."""
        return float(self.along_m[-1]) if len(self.along_m) else 0.0


def choose(sequence: PosedSequence, measures: Measures, settings: SelectionSettings) -> Choice:
    """Judge every frame, then take a new one each time the vehicle has moved or turned enough."""
    along = metres_along(sequence.T_map_base)
    reason = np.zeros(len(sequence), dtype=np.uint8)
    code = {name: k for k, name in enumerate(REASONS)}
    reason[measures.damaged] = code["damaged"]

    def mark(bad: npt.NDArray[np.bool_], name: str) -> None:
        reason[bad & (reason == 0)] = code[name]

    mark(measures.dark_grey < settings.dark_grey, "dark")
    mark(measures.bright_share > settings.bright_share, "overexposed")
    mark(measures.spread < settings.flat, "shows nothing")
    if settings.blur > 0:
        usual = surroundings(measures.sharpness, along, reason == 0, settings.blur_window_m)
        seen = measures.sharpness[reason == 0]
        usual = np.maximum(usual, settings.blur_floor * float(np.median(seen)) if len(seen) else 0.0)
        mark(measures.sharpness < settings.blur * usual, "blurred")
    _space(sequence.T_map_cam, reason, settings, code["standing still"], code["closer than the spacing"])
    return Choice(sequence, reason, along, measures)


def _space(T: Array, reason: npt.NDArray[np.uint8], settings: SelectionSettings, still: int, close: int) -> None:
    """Mark the good frames that are too close to the last one used.

    Of two frames before and behind the wanted distance the nearer one is taken: frames that are a little closer
    together than the spacing would otherwise end up twice as far apart.
    """
    if settings.spacing_m == 0:
        return
    good = np.flatnonzero(reason == 0)
    last = -1
    for place, index in enumerate(good):
        if last >= 0:
            moved = float(np.linalg.norm(T[index, :3, 3] - T[last, :3, 3]))
            angle = float(turned_deg(T[index], T[last]))
            enough = moved >= settings.spacing_m or (settings.spacing_deg > 0 and angle >= settings.spacing_deg)
            if not enough and place + 1 < len(good) and moved >= 0.5 * settings.spacing_m:
                next_moved = float(np.linalg.norm(T[good[place + 1], :3, 3] - T[last, :3, 3]))
                enough = settings.spacing_m - moved < next_moved - settings.spacing_m
            if not enough:
                reason[index] = still if moved < STILL_M and angle < STILL_DEG else close
                continue
        last = int(index)


def surroundings(values: Array, along_m: Array, good: npt.NDArray[np.bool_], window_m: float) -> Array:
    """(N,) the median of the values within half a window of road on either side; one for each 200th of it counts.

    Frames of a standing vehicle would outvote those that moved.
    """
    out = np.full(len(values), 0.0)
    if not good.any():
        return out
    cells = np.floor(along_m / (window_m / 200.0)).astype(np.int64)
    chosen = np.flatnonzero(good)
    chosen = chosen[np.unique(cells[chosen], return_index=True)[1]]
    at = along_m[chosen]
    # The median changes slowly: at steps of a twentieth of the window, and constant in between.
    step = window_m / 20.0
    known: dict[int, float] = {}
    for index, place in enumerate(along_m):
        key = int(place / step)
        if key not in known:
            low, high = np.searchsorted(at, (key * step - window_m / 2, (key + 1) * step + window_m / 2))
            known[key] = float(np.median(values[chosen[low:high]])) if high > low else 0.0
        out[index] = known[key]
    return out
