"""What is held out of a drive, so that accuracy and covariance are those that a user meets.

A user comes to the same places at another time. So, in this order:

* ``drive``: of several drives over the same route a whole one is held out. Its light, its traffic and its lane are its
  own: figures and covariance are those of a drive on another day.
* ``pass``: a route that was driven more than once in one recording loses stretches of later passages; the earlier
  passage of the same places stays. This tests another time, if only minutes later.
* ``gaps``: of a single passage no frame is of another time. Every n-th frame would lie between two neighbours a tenth
  of a second away and promise too much; long stretches would test places that the map has never seen, which no map
  that has learned its places can know (metres where it errs by decimetres), and promise too little. Short gaps with
  guards are in between: the nearest frame of the map is as far away as a user's lane or stop is from the mapped poses,
  but the light is the same. The report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import ConfigError, DatasetError
from vloc_ros.types import Array
from vloc_train.frame_choice.route import Nearby, metres_along, nearest_in_time, recordings, runs
from vloc_train.frame_choice.settings import HoldOutSettings

__all__ = ["GUARD", "HELD", "MEANING", "USED", "Split", "held_apart", "split"]

USED, HELD, GUARD = 0, 1, 2

#: What the figures of each kind mean to a reader.
MEANING = {
    "drive": "a whole other drive: other light, traffic and lane. What the next drive in such conditions may expect.",
    "pass": (
        "later passages of places that the map knows from an earlier one. What the next passage may expect on the same "
        "day; another day or season is harder."
    ),
    "gaps": (
        "short gaps of the same passage, in the same light. It shows what the map knows between its frames and nothing "
        "of other light, weather or traffic: expect worse on another day. Record a second drive and calibrate on it: "
        "vloc map calibrate MAP --data DRIVE."
    ),
    "stretches": (
        "places that the map has never seen. A lower bound, which tells how far beyond the mapped route it can be used."
    ),
    "every": (
        "every n-th frame, as was asked for, whose neighbours a moment before and after are in the map. It shows that "
        "the training worked and promises more than another drive will keep; the covariance is too small for it."
    ),
    "folds": (
        "nothing for good: the map has every frame. Covariance and figures come from maps that lack a part of them "
        "each (blocks of a drive, or whole drives) and are asked for that part. Of one drive they show nothing of "
        "other light, weather or traffic: calibrate on a second one (vloc map calibrate MAP --data DRIVE)."
    ),
    "none": "nothing: accuracy and covariance are unknown.",
    "other drives": "the drives of --calibration-data, of which the map has seen nothing.",
}
#: Fewer frames than this calibrate nothing.
_MINIMUM = 30
#: Routes that are shorter than so many gaps get shorter ones, in proportion: 200 m with gaps of 3 m.
_FULL_LENGTH = 200.0 / 3.0


@dataclass(frozen=True)
class Split:
    """Frames of a scene's drives: ``part`` of each drive (N,) is USED, HELD or GUARD.

    ``nearest_m`` and ``nearest_s`` are the median distances, in space and time, of held-out frames to the nearest frame
    of the map.
    """

    kind: str
    drives: tuple[PosedSequence, ...]
    part: tuple[npt.NDArray[np.uint8], ...]
    nearest_m: float = float("nan")
    nearest_s: float = float("nan")

    @property
    def training(self) -> list[PosedSequence]:
        """What the map is made of; drives without a frame are left out."""
        both = zip(self.drives, self.part, strict=True)
        return [d.select(np.flatnonzero(p == USED)) for d, p in both if (p == USED).any()]

    @property
    def held_out(self) -> list[PosedSequence]:
        """What it is calibrated on."""
        mark = "" if self.kind == "other drives" else " (held out)"
        return [
            replace(d.select(np.flatnonzero(p == HELD)), name=f"{d.name}{mark}")
            for d, p in zip(self.drives, self.part, strict=True)
            if (p == HELD).any()
        ]

    @property
    def taken_from(self) -> list[int | None]:
        """For each drive of :attr:`held_out` the one of :attr:`training` that it was taken out of, if any."""
        number = np.cumsum([bool((p == USED).any()) for p in self.part]) - 1
        return [
            int(k) if (p == USED).any() else None for k, p in zip(number, self.part, strict=True) if (p == HELD).any()
        ]

    def figures(self) -> dict[str, float]:
        """``nearest_m`` and ``nearest_s`` where they are known, rounded for a manifest."""
        values = {"nearest_m": self.nearest_m, "nearest_s": self.nearest_s}
        return {name: round(value, 3) for name, value in values.items() if np.isfinite(value)}

    def in_words(self) -> str:
        """One or two sentences."""
        held, guard = (sum(int((p == k).sum()) for p in self.part) for k in (HELD, GUARD))
        total = sum(len(p) for p in self.part)
        text = f"Held out: {MEANING[self.kind]}"
        if not held:
            return text
        text += f" {held} of {total} frames are held out"
        if guard:
            text += f", {guard} beside them are not used (guard)"
        if np.isfinite(self.nearest_m):
            text += f"; the nearest frame of the map is {self.nearest_m:.{1 if self.nearest_m >= 1.0 else 2}f} m away"
            text += f" and {_seconds(self.nearest_s)} apart (medians)" if np.isfinite(self.nearest_s) else " (median)"
        return text + "."


def split(drives: Sequence[PosedSequence], settings: HoldOutSettings) -> Split:
    """Hold out frames of a scene's drives.

    :raises DatasetError: no frames, or nothing is left to make a map of.
    :raises ConfigError: the kind that was asked for is not possible with these drives.
    """
    drives = tuple(drives)
    if not sum(len(d) for d in drives):
        raise DatasetError("expected frames to make a map of, found none")
    first = recordings(drives)
    if first != list(range(len(drives))):
        return _of_rigs(drives, first, settings)
    used = [np.zeros(len(d), dtype=np.uint8) for d in drives]
    kinds = ("drive", "pass", "gaps") if settings.kind == "auto" else (settings.kind,)
    if kinds[0] in ("none", "folds"):
        return Split(kinds[0], drives, tuple(used))
    if kinds[0] == "every":
        for one in used:
            one[settings.every // 2 :: settings.every] = HELD
        return _finished("every", drives, used)
    ways = {"drive": _by_drive, "pass": _by_pass, "gaps": _by_gaps, "stretches": _by_stretches}
    for kind in kinds:
        part = ways[kind](drives, settings)
        if part is not None:
            return _finished(kind, drives, _thinned(part, settings.frames))
    raise ConfigError(
        f"--hold-out {settings.kind}: the drives do not allow it: "
        + {
            "drive": f"no drive has {100 * settings.coverage:.0f} % of its frames near those of others",
            "pass": "fewer than 30 frames are of places that were passed before",
        }.get(settings.kind, "the route is too short")
        + (
            "; give --calibration-data DRIVE, or take every n-th frame (--hold-out every:10), which promises too much"
            if settings.kind == "auto"
            else "; take --hold-out auto"
        )
    )


def _of_rigs(drives: tuple[PosedSequence, ...], first: list[int], settings: HoldOutSettings) -> Split:
    """As the first cameras of the rigs are parted: another camera at a held-out moment is no other passage."""
    leading = sorted(set(first))
    found = split([drives[k] for k in leading], settings)
    parts = []
    for k, drive in zip(first, drives, strict=True):
        part = found.part[leading.index(k)]
        same = drive is drives[k] or not len(drive)
        parts.append(part if same else part[nearest_in_time(drives[k].stamps_ns, drive.stamps_ns)])
    return _finished(found.kind, drives, parts) if found.held_out else Split(found.kind, drives, tuple(parts))


def held_apart(used: Sequence[PosedSequence], others: Sequence[PosedSequence]) -> Split:
    """Drives to make a map of, and other drives to calibrate it on."""
    parts = [np.full(len(d), USED, dtype=np.uint8) for d in used]
    parts += [np.full(len(d), HELD, dtype=np.uint8) for d in others]
    return Split("other drives", (*used, *others), tuple(parts))


Parts = list[npt.NDArray[np.uint8]]

#: Guards as shares of what they guard: 5 m beside 30 m of road, 1.5 m beside a gap of 3 m. The next frame used is then
#: as far away as the map's frames are from a vehicle that comes by another time.
_GUARD_OF_PASS, _GUARD_OF_GAP = 1 / 6, 1 / 2
#: Passages of a place lie this far apart in time: a vehicle that turns at a junction comes back sooner. It is of
#: passages of 30 m; a room is walked through slower than a street is driven, for its size.
_APART_S, _APART_PASS_M = 20.0, 30.0


def _by_drive(drives: tuple[PosedSequence, ...], settings: HoldOutSettings) -> Parts | None:
    """The last drive whose places the others cover; what only it has seen stays in the map."""
    for number in range(len(drives) - 1, -1, -1):
        others = [d.T_map_cam for k, d in enumerate(drives) if k != number and len(d)]
        if not others or len(drives[number]) < _MINIMUM:
            continue
        nearby = Nearby(np.concatenate(others), settings.near_m, settings.near_deg)
        covered = np.array([len(nearby.of(T)) > 0 for T in drives[number].T_map_cam], dtype=bool)
        if covered.mean() < settings.coverage:
            continue
        parts = [np.full(len(d), USED, dtype=np.uint8) for d in drives]
        parts[number][covered] = HELD
        _guard_along(drives[number], parts[number], _GUARD_OF_PASS * settings.pass_m)
        return parts
    return None


def _by_pass(drives: tuple[PosedSequence, ...], settings: HoldOutSettings) -> Parts | None:
    """Pieces of later passages, evenly over all that there are; the first passage of a place always stays."""
    T = np.concatenate([d.T_map_cam for d in drives])
    number = np.concatenate([np.full(len(d), k) for k, d in enumerate(drives)])
    stamps = np.concatenate([d.stamps_ns for d in drives])
    along = np.concatenate([metres_along(d.T_map_cam) for d in drives])
    nearby = Nearby(T, settings.near_m, settings.near_deg)
    apart_s = _APART_S * min(1.0, settings.pass_m / _APART_PASS_M) ** 0.5
    before = np.zeros(len(T), dtype=bool)
    for index in range(len(T)):
        rows = nearby.of(T[index])
        same = number[rows] == number[index]
        gone = np.where(
            same,
            (stamps[index] - stamps[rows] >= apart_s * 1e9) & (along[index] - along[rows] >= settings.pass_m),
            number[rows] < number[index],
        )
        before[index] = bool(gone.any())
    pieces: list[npt.NDArray[np.int64]] = []
    for k in range(len(drives)):
        mine = np.flatnonzero(number == k)
        for first, last in runs(before[mine]):
            rows = mine[first : last + 1]
            length = along[rows[-1]] - along[rows[0]]
            count = max(1, round(length / settings.pass_m))
            edges = along[rows[0]] + length * np.arange(1, count) / count
            pieces += [p for p in np.split(rows, np.searchsorted(along[rows], edges)) if len(p)]
    found = sum(len(p) for p in pieces)
    if found < _MINIMUM:
        return None
    wanted = max(settings.share * len(T), _MINIMUM)
    first = min(len(pieces), max(1, round(wanted / (found / len(pieces)))))
    for count in range(first, len(pieces) + 1):  # more where those that were met are short; all are enough
        flat = np.full(len(T), USED, dtype=np.uint8)
        for k in ((np.arange(count) + 0.5) * len(pieces) / count).astype(np.int64):
            flat[pieces[k]] = HELD
        if (flat == HELD).sum() >= _MINIMUM:
            break
    parts = [flat[number == k].copy() for k in range(len(drives))]
    for drive, part in zip(drives, parts, strict=True):
        _guard_along(drive, part, _GUARD_OF_PASS * settings.pass_m)
    return parts


def _by_gaps(drives: tuple[PosedSequence, ...], settings: HoldOutSettings) -> Parts | None:
    along = [metres_along(d.T_map_cam) for d in drives if len(d)]
    scale = min(1.0, sum(float(metres[-1]) for metres in along) / (_FULL_LENGTH * settings.gap_m))
    steps = np.concatenate([np.diff(metres) for metres in along])
    # Where frames are farther apart than a gap is long, it must still hold one.
    spacing = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    return _cut(
        drives, max(scale * settings.gap_m, 1.01 * spacing), _GUARD_OF_GAP * scale * settings.gap_m, settings.share
    )


def _by_stretches(drives: tuple[PosedSequence, ...], settings: HoldOutSettings) -> Parts | None:
    return _cut(drives, settings.stretch_m, _GUARD_OF_PASS * settings.stretch_m, settings.share)


def _cut(drives: tuple[PosedSequence, ...], length_m: float, guard_m: float, share: float) -> Parts | None:
    """Stretches at even distances; frames within the guard of a held-out one are not used, whenever they were taken."""
    period = (length_m + 2 * guard_m) / share
    if length_m <= 0:
        return None
    parts = []
    for drive in drives:
        along = _without_holes(metres_along(drive.T_map_cam), length_m)
        total = float(along[-1]) if len(along) else 0.0
        count = max(1, round(total / period)) if total > 2 * length_m else 0
        part = np.full(len(drive), USED, dtype=np.uint8)
        for k in range(count):
            centre = (k + 0.5) * total / count
            part[np.abs(along - centre) <= length_m / 2] = HELD
        parts.append(part)
    if not any((p == HELD).any() for p in parts):
        return None
    held = np.concatenate([d.T_map_cam[p == HELD] for d, p in zip(drives, parts, strict=True)])
    if guard_m > 0:
        nearby = Nearby(held, guard_m)
        for drive, part in zip(drives, parts, strict=True):
            for index in np.flatnonzero(part == USED):
                if len(nearby.of(drive.T_map_cam[index])):
                    part[index] = GUARD
    if not any((p == USED).any() for p in parts):
        return None
    return parts


def _without_holes(along: Array, length_m: float) -> Array:
    """Metres along a drive (N,) on which a hole is one usual step.

    A drive out of which gaps were taken before is cut in what is left of it: new gaps do not fall into the old ones.
    """
    steps = np.diff(along)
    if not (steps > length_m).any():  # no sum twice: a frame on a gap's edge would change sides by rounding
        return along
    whole = np.where(steps > length_m, np.minimum(steps, np.median(steps)), steps)
    return np.concatenate([along[:1], along[0] + np.cumsum(whole)])


def _guard_along(drive: PosedSequence, part: npt.NDArray[np.uint8], guard_m: float) -> None:
    """Frames of the same passage within the guard of held-out ones are not used."""
    along = metres_along(drive.T_map_cam)
    held = along[part == HELD]
    if not len(held):
        return
    at = np.searchsorted(held, along)
    behind = np.abs(held[np.minimum(at, len(held) - 1)] - along)
    before = np.abs(held[np.maximum(at - 1, 0)] - along)
    part[(part == USED) & (np.minimum(behind, before) < guard_m)] = GUARD


def _thinned(parts: Parts, most: int) -> Parts:
    """At most so many held-out frames, evenly; the others become guard."""
    total = sum(int((p == HELD).sum()) for p in parts)
    if total <= most:
        return parts
    kept = np.zeros(total, dtype=bool)
    kept[np.linspace(0, total - 1, most).round().astype(np.int64)] = True
    start = 0
    for part in parts:
        rows = np.flatnonzero(part == HELD)
        part[rows[~kept[start : start + len(rows)]]] = GUARD
        start += len(rows)
    return parts


def _finished(kind: str, drives: tuple[PosedSequence, ...], parts: Parts) -> Split:
    used = [(d.T_map_cam[p == USED], d.stamps_ns[p == USED]) for d, p in zip(drives, parts, strict=True)]
    positions: Array = np.concatenate([T[:, :3, 3] for T, _ in used])
    stamps = np.concatenate([s for _, s in used])
    if not len(positions):
        raise DatasetError("expected frames besides those held out, found none; take --hold-out every")
    metres, seconds = [], []
    for drive, part in zip(drives, parts, strict=True):
        for index in np.flatnonzero(part == HELD):
            distance = np.linalg.norm(positions - drive.T_map_cam[index, :3, 3], axis=1)
            nearest = int(distance.argmin())
            metres.append(float(distance[nearest]))
            seconds.append(abs(int(stamps[nearest]) - int(drive.stamps_ns[index])) * 1e-9)
    if not metres:  # fewer frames than the n of every n-th
        return Split(kind, drives, tuple(parts))
    return Split(kind, drives, tuple(parts), float(np.median(metres)), float(np.median(seconds)))


def _seconds(value: float) -> str:
    if value < 120:
        return f"{value:.1f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.0f} h" if value < 172_800 else f"{value / 86_400:.0f} days"
