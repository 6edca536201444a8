"""What papers print, beside what comes out here: figures of a row on a split, and means over splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vloc_ros.errors import ConfigError

__all__ = ["Average", "Figures", "PaperRow", "Published", "averages_of", "paper_figures", "ranks"]

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
            {**limit, "share": float(np.mean([_share(row, limit) for row in own]))}
            for limit in own[0]["localizer_recall"]
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


def _share(row: Mapping[str, Any], limit: Mapping[str, Any]) -> float:
    for other in row["localizer_recall"]:
        if all(other[key] == limit[key] for key in ("translation_m", "rotation_deg")):
            return float(other["share"])
    return math.nan


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
