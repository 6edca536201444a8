"""Whether the statements of a protocol hold for the figures that came out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vloc_train.evaluate.protocol import Claim, share_limits

__all__ = ["check_claims"]


def check_claims(claims: Sequence[Claim], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every claim with its figures; ``holds`` is None where a row is missing or has no such number."""
    table = {(row["split"], row["method"]): row for row in rows}
    out = []
    for claim in claims:
        found = _number(table.get((claim.split, claim.method)), claim.figure)
        other = _number(table.get((claim.split, claim.against)), claim.figure) if claim.against else None
        limit = claim.at_most if claim.at_least is None else claim.at_least
        if limit is None and other is not None:
            limit = claim.factor * other
        holds = None
        if found is not None and limit is not None:
            holds = found >= limit if claim.at_least is not None else found <= limit
        out.append({
            "text": claim.text,
            "split": claim.split,
            "method": claim.method,
            "against": claim.against,
            "figure": claim.figure,
            "found": found,
            "other": other,
            "limit": limit,
            "at_least": claim.at_least is not None,
            "holds": holds,
        })  # fmt: skip
    return out


def _number(row: Mapping[str, Any] | None, figure: str) -> float | None:
    limits = share_limits(figure)
    value = None if row is None else row.get(figure) if limits is None else _share(row, figure, limits)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return float(value)


def _share(row: Mapping[str, Any], figure: str, limits: tuple[float, float]) -> Any:
    for recall in row.get("localizer_recall" if figure.startswith("localizer_") else "recall", ()):
        if (recall["translation_m"], recall["rotation_deg"]) == limits:
            return recall["share"]
    return None
