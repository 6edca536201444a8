"""Cells of the page: poses, shares, what papers print, and the sections of means over splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vloc_train.evaluate.paper import Average
from vloc_train.evaluate.runner import Table

__all__ = ["average_section", "paper_cells", "paper_columns", "percent", "pose_text", "table_line"]

_SOURCE = "paper's table"


def pose_text(metres: float | None, degrees: float | None) -> str:
    """An error, as people read it; empty where there is none."""
    if metres is None or degrees is None or math.isnan(metres):
        return ""
    if math.isinf(metres):
        return "none"
    # Centimetres need another digit than metres do.
    return f"{metres:.{3 if metres < 0.1 else 2}f} m {degrees:.{2 if degrees < 1.0 else 1}f}°"


def percent(share: float | None) -> str:
    """A share in percent; empty where there is none."""
    return "" if share is None or math.isnan(share) else f"{100 * share:.0f} %"


def table_line(cells: Sequence[Any]) -> str:
    """A row of a table."""
    return "| " + " | ".join(str(c).replace("|", "/") for c in cells) + " |"


def paper_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the papers say of these rows: titles of the columns that at least one of them fills."""
    given = [row["paper"] for row in rows if "paper" in row]
    keys = {key for paper in given for key in paper}
    pairs = {name: {f"{name}_translation_m", f"{name}_rotation_deg"} for name in ("median", "mean")}
    out = [f"paper: {name}" for name, pair in pairs.items() if pair & keys]
    limits = sorted({(r["translation_m"], r["rotation_deg"]) for paper in given for r in paper.get("recall", ())})
    out += [f"paper: within {m:g} m {deg:g}°" for m, deg in limits]
    out += ["paper: rank"] if any("rank_position" in paper for paper in given) else []
    out += ["paper: medians within"] if any("medians_within" in paper for paper in given) else []
    return [*out, _SOURCE] if given else []


def paper_cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The cells of a row in those columns, with the paper's own digits."""
    paper = row.get("paper", {})
    recall = {f"within {r['translation_m']:g} m {r['rotation_deg']:g}°": r["share"] for r in paper.get("recall", ())}
    out = []
    for column in columns:
        kind = column.removeprefix("paper: ")
        if column == _SOURCE:
            out.append(paper.get("table", ""))
        elif kind in ("median", "mean"):
            parts = ((paper.get(f"{kind}_translation_m"), " m"), (paper.get(f"{kind}_rotation_deg"), "°"))
            out.append(" ".join(f"{value:g}{unit}" for value, unit in parts if value is not None))
        elif kind == "rank":
            out.append(f"{paper['rank_position']:g}, {paper['rank_orientation']:g}" if "rank_position" in paper else "")
        else:
            share = paper.get("medians_within") if kind == "medians within" else recall.get(kind)
            out.append("" if share is None else f"{100 * share:.4g} %")
    return out


def average_section(name: str, average: Average, table: Table) -> list[str]:
    """The means over some splits, as a section of the page."""
    rows = [row for row in table.averages if row["average"] == name]
    printed = [row for row in table.published if row["split"] == name]
    if not rows:
        return []
    limits = [(r["translation_m"], r["rotation_deg"]) for r in rows[0]["localizer_recall"]]
    head = ["method", "mean of medians", "mean of means", *(f"within {m:g} m {deg:g}°" for m, deg in limits)]
    if average.medians_within is not None:
        head.append("medians below {:g} m and {:g}°".format(*average.medians_within))
    if average.rank:
        head.append("rank of position, of orientation, final")
    columns = paper_columns([*rows, *printed])
    head += columns
    lines = [f"## {name}: average over {', '.join(average.over)}", ""]
    lines += [" ".join(average.about.split()), ""] if average.about else []
    lines += [table_line(head), "|" + "---|" * len(head)]
    for row in rows:
        shares = {(r["translation_m"], r["rotation_deg"]): r["share"] for r in row["localizer_recall"]}
        errors = ((row[f"localizer_{k}_translation_m"], row[f"localizer_{k}_rotation_deg"]) for k in ("median", "mean"))
        cells = [row["method"], *(pose_text(*pair) for pair in errors), *(percent(shares[limit]) for limit in limits)]
        if average.medians_within is not None:
            cells.append(percent(row["medians_within"]))
        if average.rank:
            means = f"{row['rank_position']:.3g}, {row['rank_orientation']:.3g}"
            cells.append(f"{means}, {row['final_rank']} of {row['ranked_among']}")
        lines.append(table_line([*cells, *paper_cells(row, columns)]))
    for row in printed:
        lines.append(table_line([row["method"], *[""] * (len(head) - 1 - len(columns)), *paper_cells(row, columns)]))
    return [*lines, ""]
