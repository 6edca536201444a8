"""The route in segments, and which of them are weak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vloc_train.frame_choice.route import Nearby
from vloc_train.frame_choice.selection import IMAGE_REASONS, REASONS, Choice
from vloc_train.frame_choice.settings import ReportSettings
from vloc_train.frame_choice.split import GUARD, USED, Split
from vloc_train.map_report.accuracy import HeldOutFrames

__all__ = ["Segment", "median", "place_in_words", "segments_of", "weak_segments"]


#: A segment is weak when more than this share of its frames had to be dropped for the image: what is left is then
#: further apart than frames were chosen for, and looks like what was dropped.
_DROPPED_SHARE = 0.3
#: And when its median error or sigma is this many times the median of the route: every route has places that are twice
#: as good or bad as its middle.
_WEAK_TIMES = 3.0


@dataclass(frozen=True)
class Segment:
    """A segment of a drive's route: figures, and ``reasons`` for which it is weak (none: it is not)."""

    drive: str
    start_m: float
    stop_m: float
    position: tuple[float, float, float]
    posed: int
    used: int
    dropped: dict[str, int]
    spacing_m: float
    error_m: float
    sigma_m: float
    reasons: tuple[str, ...] = ()


def segments_of(
    choices: Sequence[Choice], split: Split, held: Sequence[HeldOutFrames], settings: ReportSettings
) -> list[Segment]:
    """The routes of the drives in segments, each with its figures and for which of them it is weak.

    Errors of all held-out frames near a segment count for it, whichever drive they are of.
    """
    places = [h.sequence.T_map_cam for h in held]
    error = np.concatenate([h.error_m for h in held]) if held else np.zeros(0)
    sigma = np.concatenate([h.sigma_m for h in held]) if held else np.zeros(0)
    nearby = Nearby(np.concatenate(places), 1.25 * settings.near_m, 90.0) if held else None
    usual_error, usual_sigma = median(error), median(sigma)
    out: list[Segment] = []
    parts = {d.name: p for d, p in zip(split.drives, split.part, strict=True)}
    in_map = [d.T_map_cam for d in split.training]
    mapped = Nearby(np.concatenate(in_map), settings.near_m, 45.0) if in_map else None
    for choice in choices:
        T, along = choice.sequence.T_map_cam, choice.along_m
        part = np.full(len(T), GUARD, dtype=np.uint8)
        if choice.sequence.name in parts:
            part[choice.kept] = parts[choice.sequence.name]
        used_here = part == USED
        # A frame that is not in the map for whatever reason misses nothing where another passage is.
        there = used_here.copy()
        aside = (part != USED) & (choice.reason <= len(IMAGE_REASONS))
        for row in np.flatnonzero(aside):
            there[row] = mapped is not None and len(mapped.of(T[row])) > 0
        count = max(1, round(choice.length_m / settings.segment_m))
        edges = np.linspace(0.0, choice.length_m + 1e-9, count + 1)
        number = np.clip(np.searchsorted(edges, along, side="right") - 1, 0, count - 1)
        for k in range(count):
            rows = np.flatnonzero(number == k)
            middle = rows[len(rows) // 2] if len(rows) else int(np.abs(along - edges[k : k + 2].mean()).argmin())
            dropped = {n: int(m) for r, n in enumerate(REASONS) if r and (m := (choice.reason[rows] == r).sum())}
            mine: set[int] = set()
            if nearby is not None:
                for row in rows[:: max(1, len(rows) // 10)]:
                    mine.update(nearby.of(T[row]).tolist())
            chosen = sorted(mine)
            used = int(used_here[rows].sum())
            segment = Segment(
                choice.sequence.name,
                float(edges[k]),
                float(edges[k + 1]),
                tuple(float(v) for v in choice.sequence.T_map_base[middle, :3, 3]),  # type: ignore[arg-type]
                len(rows),
                used,
                dropped,
                float((edges[k + 1] - edges[k]) / max(int(there[rows].sum()), 1)),
                median(error[chosen]),
                median(sigma[chosen]),
            )
            out.append(_judged(segment, settings, usual_error, usual_sigma))
    return out


def _judged(segment: Segment, settings: ReportSettings, usual_error: float, usual_sigma: float) -> Segment:
    reasons = []
    bad = {n: m for n, m in segment.dropped.items() if n in IMAGE_REASONS}
    looked_at = segment.posed - sum(m for n, m in segment.dropped.items() if n not in IMAGE_REASONS)
    if bad and sum(bad.values()) > _DROPPED_SHARE * max(looked_at, 1):
        worst = max(bad, key=lambda n: bad[n])
        reasons.append(f"{bad[worst]} of {segment.posed} frames {worst}")
    if not segment.posed:
        reasons.append("no frame with a reference pose")
    elif segment.spacing_m > settings.sparse_m:
        reasons.append(f"frames {segment.spacing_m:.1f} m apart")
    for value, usual, name in ((segment.error_m, usual_error, "error"), (segment.sigma_m, usual_sigma, "sigma")):
        if np.isfinite(value) and value > max(_WEAK_TIMES * usual, settings.weak_m):
            reasons.append(f"{name} {value:.2f} m (elsewhere {usual:.2f} m)")
    return replace(segment, reasons=tuple(reasons))


def weak_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Weak segments, neighbours of one drive with the same kinds of reason joined, their counts added up."""
    out: list[list[Segment]] = []
    for segment in segments:
        if not segment.reasons:
            continue
        last = out[-1][-1] if out else None
        joined = last is not None and last.drive == segment.drive and abs(last.stop_m - segment.start_m) < 1e-6
        if joined and last is not None and [_kind(r) for r in last.reasons] == [_kind(r) for r in segment.reasons]:
            out[-1].append(segment)
        else:
            out.append([segment])
    return [_joined(group) for group in out]


def _kind(reason: str) -> str:
    return "".join(c for c in reason.split("(")[0] if not (c.isdigit() or c == "."))


def _joined(group: Sequence[Segment]) -> Segment:
    if len(group) == 1:
        return group[0]
    dropped: dict[str, int] = {}
    for segment in group:
        for name, count in segment.dropped.items():
            dropped[name] = dropped.get(name, 0) + count
    posed, used = sum(p.posed for p in group), sum(p.used for p in group)
    length = group[-1].stop_m - group[0].start_m
    spacing = length / sum((p.stop_m - p.start_m) / p.spacing_m for p in group)
    error, sigma = (_worst([getattr(p, n) for p in group]) for n in ("error_m", "sigma_m"))
    reasons = []
    for reason in group[0].reasons:
        bad = next((n for n in IMAGE_REASONS if reason.endswith(f"frames {n}")), None)
        if bad is not None:
            reasons.append(f"{dropped.get(bad, 0)} of {posed} frames {bad}")
        elif reason.startswith("frames "):
            reasons.append(f"frames {spacing:.1f} m apart")
        elif reason.startswith(("error", "sigma")):
            value = error if reason.startswith("error") else sigma
            reasons.append(f"{reason.split()[0]} up to {value:.2f} m ({reason.split('(')[1]}")
        else:
            reasons.append(reason)
    middle = group[len(group) // 2].position
    return Segment(
        group[0].drive, group[0].start_m, group[-1].stop_m, middle, posed, used, dropped, spacing, error,
        sigma, tuple(reasons),
    )  # fmt: skip


def place_in_words(segment: Segment) -> str:
    """``between 120 and 180 m of drive_1 (x 12, y -40)``."""
    x, y, _ = segment.position
    return f"between {segment.start_m:.0f} and {segment.stop_m:.0f} m of {segment.drive} (x {x:.0f}, y {y:.0f})"


def median(values: npt.ArrayLike) -> float:
    """Of the finite ones; NaN without any."""
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    return float(np.median(found)) if len(found) else float("nan")


def _worst(values: Sequence[float]) -> float:
    found = [v for v in values if np.isfinite(v)]
    return max(found) if found else float("nan")
