"""What is said of a table's figures: what papers print beside them, means over splits, and claims that are checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vloc_ros.errors import ConfigError
from vloc_ros.settings import is_number, ranged

__all__ = [
    "Average",
    "Claim",
    "Figures",
    "PaperRow",
    "Published",
    "averages_of",
    "check_claims",
    "paper_figures",
    "ranks",
    "share_limits",
]

#: Figures that an average is the plain mean of, as the papers' average rows are.
_MEANS = tuple(f"{kind}_{what}" for kind in ("median", "mean") for what in ("translation_m", "rotation_deg"))


@dataclass(frozen=True)
class Figures:
    """What a paper prints for one method on one split, or as an average.

    :param median: metres and degrees; either may be null, where the paper has none.
    :param mean: the same.
    :param recall: ``[metres, degrees, share]`` each, shares from 0 to 1.
    :param medians_within: share of the medians of several splits within limits (IRPNet Table VI).
    :param rank: of position and orientation among the paper's methods (IRPNet Tables III and V).
    """

    median: tuple[float | None, float | None] | None = None
    mean: tuple[float | None, float | None] | None = None
    recall: tuple[tuple[float, float, float], ...] = ()
    medians_within: float | None = None
    rank: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        shares = [share for _, _, share in self.recall]
        shares += [] if self.medians_within is None else [self.medians_within]
        if any(not 0.0 <= share <= 1.0 for share in shares):
            raise ConfigError(f"expected shares from 0 to 1, found {shares}")
        for pair in (self.median, self.mean):
            if any(value is not None and value < 0.0 for value in pair or ()):
                raise ConfigError(f"expected errors of at least 0, found {list(pair or ())}")


@dataclass(frozen=True)
class Published:
    """What a paper prints for a row.

    :param table: where: paper and number of the table.
    :param figures: by split, or by the name of an average.
    """

    table: str
    figures: dict[str, Figures]


@dataclass(frozen=True)
class PaperRow:
    """What a paper prints for a method that no row here is about.

    :param method: its name. :param table: where. :param figures: by split or average.
    """

    method: str
    table: str
    figures: dict[str, Figures]


@dataclass(frozen=True)
class Average:
    """Means over splits, for every method that has a row on all of them.

    :param over: the splits.
    :param medians_within: count the share of the splits' medians, translation and rotation each for itself, below
        these metres and degrees (IRPNet Table VI).
    :param rank: published methods among which each row is ranked on every split (IRPNet Tables III and V).
    :param about: what it is, for the table.
    """

    over: tuple[str, ...]
    medians_within: tuple[float, float] | None = None
    rank: tuple[str, ...] = ()
    about: str = ""

    def __post_init__(self) -> None:
        if len(set(self.over)) != len(self.over) or len(self.over) < 2:
            raise ConfigError(f"over: expected two splits or more, each once, found {list(self.over)}")


def paper_figures(table: str, figures: Figures) -> dict[str, Any]:
    """As ``table.json`` has them: what the paper does not say is left out."""
    out: dict[str, Any] = {"table": table}
    for name, pair in (("median", figures.median), ("mean", figures.mean)):
        for what, value in zip(("translation_m", "rotation_deg"), pair or (None, None), strict=True):
            if value is not None:
                out[f"{name}_{what}"] = value
    if figures.recall:
        out["recall"] = [
            {"translation_m": metres, "rotation_deg": degrees, "share": share}
            for metres, degrees, share in figures.recall
        ]
    if figures.medians_within is not None:
        out["medians_within"] = figures.medians_within
    if figures.rank is not None:
        out["rank_position"], out["rank_orientation"] = figures.rank
    return out


def averages_of(
    name: str, average: Average, rows: Sequence[Mapping[str, Any]], published: Mapping[str, Mapping[str, Figures]]
) -> list[dict[str, Any]]:
    """The rows of an average, in the order of the table's rows.

    :param rows: of the table. :param published: figures by method and split, for the ranks.
    """
    by_method: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["split"] in average.over:
            by_method.setdefault(row["method"], {})[row["split"]] = row
    out = []
    for method, splits in by_method.items():
        if len(splits) < len(average.over):
            continue
        own = [splits[split] for split in average.over]
        made: dict[str, Any] = {"average": name, "method": method, "over": list(average.over)}
        for figure in _MEANS:
            made[f"localizer_{figure}"] = float(np.mean([row[f"localizer_{figure}"] for row in own]))
        made["localizer_recall"] = [
            {
                "translation_m": metres,
                "rotation_deg": degrees,
                "share": float(np.mean([_share(row["localizer_recall"], (metres, degrees)) for row in own])),
            }
            for metres, degrees in _limits(own[0]["localizer_recall"])
        ]
        medians = [tuple(row[f"localizer_median_{w}"] for w in ("translation_m", "rotation_deg")) for row in own]
        if average.medians_within is not None:
            under = [
                value < limit for pair in medians for value, limit in zip(pair, average.medians_within, strict=True)
            ]
            made["medians_within"] = float(np.mean(under))
            made["medians_within_limits"] = list(average.medians_within)
        if average.rank:
            made.update(_ranks_of(average, medians, published))
        out.append(made)
    return out


def ranks(values: Sequence[float]) -> list[int]:
    """1 for the smallest; equal ones share a rank, the next one counts them all."""
    return [1 + sum(other < value for other in values) for value in values]


def _ranks_of(
    average: Average, medians: Sequence[tuple[float, ...]], published: Mapping[str, Mapping[str, Figures]]
) -> dict[str, Any]:
    """This row's ranks on each split among the named published methods, their means, and the final rank by those."""
    table: list[list[tuple[float, ...]]] = [list(medians)]
    for method in average.rank:
        given = [published.get(method, {}).get(split) for split in average.over]
        pairs = [g.median for g in given if g is not None and g.median is not None]
        whole = [(t, r) for t, r in pairs if t is not None and r is not None]
        if len(whole) == len(average.over):
            table.append(list(whole))
    by_split = [
        [ranks([row[k][what] for row in table]) for what in (0, 1)] for k in range(len(average.over))
    ]  # split, position or orientation, method
    means = np.mean(by_split, axis=0)
    return {
        "ranked_among": len(table),
        "ranks": {split: [by_split[k][0][0], by_split[k][1][0]] for k, split in enumerate(average.over)},
        "rank_position": float(means[0][0]),
        "rank_orientation": float(means[1][0]),
        "final_rank": ranks([float(v) for v in means.mean(axis=0)])[0],
    }


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
    """A figure of a row; None where there is no such number."""
    if row is None:
        return None
    limits = share_limits(figure)
    if limits is None:
        value = row.get(figure)
    else:
        value = _share(row.get("localizer_recall" if figure.startswith("localizer_") else "recall", ()), limits)
    if not is_number(value) or math.isnan(value):
        return None
    return float(value)


def _limits(recall: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(r["translation_m"], r["rotation_deg"]) for r in recall]


def _share(recall: Sequence[Mapping[str, Any]], limits: tuple[float, float]) -> float:
    """The share within limits (m, degrees); NaN where the table does not have them."""
    shares = dict(zip(_limits(recall), (r["share"] for r in recall), strict=True))
    return float(shares.get(limits, math.nan))
