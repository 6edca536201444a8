"""The statements of a protocol, and whether they hold for the figures that came out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vloc_ros.errors import ConfigError
from vloc_ros.settings import ranged

__all__ = ["Claim", "check_claims", "share_limits"]

_SHARE = re.compile(r"(?:localizer_)?recall_(\d+(?:\.\d+)?)m_(\d+(?:\.\d+)?)deg")


def share_limits(figure: str) -> tuple[float, float] | None:
    """The limits (m, degrees) of a figure that is a share of frames; None for another figure."""
    found = _SHARE.fullmatch(figure)
    return None if found is None else (float(found[1]), float(found[2]))


@dataclass(frozen=True)
class Claim:
    """A statement about figures of the table, checked and printed with them.

    It holds where ``figure`` of the row is at most ``at_most``, at least ``at_least``, or at most ``factor`` times that
    of ``against``.

    :param text: the claim in words.
    :param split: name of a split. :param method: the row. :param against: the row to compare with.
    :param figure: a number of the rows, or a share: ``localizer_recall_0.05m_0.2deg`` of all queries, and
        ``recall_0.05m_0.2deg`` of published poses.
    :param factor: see above. :param at_most: see above. :param at_least: see above.
    """

    text: str
    split: str
    method: str
    figure: str = "localizer_median_translation_m"
    against: str = ""
    factor: float = ranged(1.0, minimum=0.0)
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is not None) + (self.at_least is not None) + bool(self.against) != 1:
            raise ConfigError("expected either at_most, or at_least, or against with a factor")


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
