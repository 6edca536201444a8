"""The route in pieces, and which of them are weak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vloc_train.frame_choice.route import Nearby
from vloc_train.frame_choice.selection import IMAGE_REASONS, REASONS, Choice
from vloc_train.frame_choice.settings import ReportSettings
from vloc_train.frame_choice.split import GUARD, USED, Split
from vloc_train.map_report.held_out import HeldOut

__all__ = ["Piece", "median", "pieces_of", "place_in_words", "weak_pieces"]


@dataclass(frozen=True)
class Piece:
    """A piece of a drive's route: figures, and ``reasons`` for which it is weak (none: it is not)."""

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


def pieces_of(
    choices: Sequence[Choice], split: Split, held: Sequence[HeldOut], settings: ReportSettings
) -> list[Piece]:
    """The routes of the drives in pieces, each with its figures and for which of them it is weak.

    Errors of all held-out frames near a piece count for it, whichever drive they are of.
    """
    places = [h.sequence.T_map_cam for h in held]
    error = np.concatenate([h.error_m for h in held]) if held else np.zeros(0)
    sigma = np.concatenate([h.sigma_m for h in held]) if held else np.zeros(0)
    nearby = Nearby(np.concatenate(places), settings.near_m + 1.0, 90.0) if held else None
    usual_error, usual_sigma = median(error), median(sigma)
    out: list[Piece] = []
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
        count = max(1, round(choice.length_m / settings.piece_m))
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
            piece = Piece(
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
            out.append(_judged(piece, settings, usual_error, usual_sigma))
    return out


def _judged(piece: Piece, settings: ReportSettings, usual_error: float, usual_sigma: float) -> Piece:
    reasons = []
    bad = {n: m for n, m in piece.dropped.items() if n in IMAGE_REASONS}
    looked_at = piece.posed - sum(m for n, m in piece.dropped.items() if n not in IMAGE_REASONS)
    if bad and sum(bad.values()) > settings.dropped_share * max(looked_at, 1):
        worst = max(bad, key=lambda n: bad[n])
        reasons.append(f"{bad[worst]} of {piece.posed} frames {worst}")
    if not piece.posed:
        reasons.append("no frame with a reference pose")
    elif piece.spacing_m > settings.sparse_m:
        reasons.append(f"frames {piece.spacing_m:.1f} m apart")
    for value, usual, name in ((piece.error_m, usual_error, "error"), (piece.sigma_m, usual_sigma, "sigma")):
        if np.isfinite(value) and value > max(settings.weak_times * usual, settings.weak_m):
            reasons.append(f"{name} {value:.2f} m (elsewhere {usual:.2f} m)")
    return replace(piece, reasons=tuple(reasons))


def weak_pieces(pieces: Sequence[Piece]) -> list[Piece]:
    """Weak pieces, neighbours of one drive with the same kinds of reason joined, their counts added up."""
    out: list[list[Piece]] = []
    for piece in pieces:
        if not piece.reasons:
            continue
        last = out[-1][-1] if out else None
        joined = last is not None and last.drive == piece.drive and abs(last.stop_m - piece.start_m) < 1e-6
        if joined and last is not None and [_kind(r) for r in last.reasons] == [_kind(r) for r in piece.reasons]:
            out[-1].append(piece)
        else:
            out.append([piece])
    return [_joined(group) for group in out]


def _kind(reason: str) -> str:
    return "".join(c for c in reason.split("(")[0] if not (c.isdigit() or c == "."))


def _joined(group: Sequence[Piece]) -> Piece:
    if len(group) == 1:
        return group[0]
    dropped: dict[str, int] = {}
    for piece in group:
        for name, count in piece.dropped.items():
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
    return Piece(
        group[0].drive, group[0].start_m, group[-1].stop_m, middle, posed, used, dropped, spacing, error,
        sigma, tuple(reasons),
    )  # fmt: skip


def place_in_words(piece: Piece) -> str:
    """``between 120 and 180 m of drive_1 (x 12, y -40)``."""
    x, y, _ = piece.position
    return f"between {piece.start_m:.0f} and {piece.stop_m:.0f} m of {piece.drive} (x {x:.0f}, y {y:.0f})"


def median(values: npt.ArrayLike) -> float:
    """Of the finite ones; NaN without any."""
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    return float(np.median(found)) if len(found) else float("nan")


def _worst(values: Sequence[float]) -> float:
    found = [v for v in values if np.isfinite(v)]
    return max(found) if found else float("nan")
