"""Whether the statements of a protocol hold for the figures that came out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vloc_train.evaluate.protocol import Claim

__all__ = ["check_claims"]


def check_claims(claims: Sequence[Claim], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every claim with its figures; ``holds`` is None where a row is missing or has no such number."""
    table = {(row["split"], row["method"]): row for row in rows}
    out = []
    for claim in claims:
        found = _number(table.get((claim.split, claim.method)), claim.figure)
        other = _number(table.get((claim.split, claim.against)), claim.figure) if claim.against else None
        limit = claim.at_most if claim.at_most is not None else None if other is None else claim.factor * other
        out.append({
            "text": claim.text,
            "split": claim.split,
            "method": claim.method,
            "against": claim.against,
            "figure": claim.figure,
            "found": found,
            "other": other,
            "limit": limit,
            "holds": None if found is None or limit is None else found <= limit,
        })  # fmt: skip
    return out


def _number(row: Mapping[str, Any] | None, figure: str) -> float | None:
    value = None if row is None else row.get(figure)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return float(value)
