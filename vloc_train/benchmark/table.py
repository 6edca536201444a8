"""``table.json`` for programs, ``table.md`` and a plot for people; what a clock measured stands in ``timings.*``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vloc_ros.evaluation.figure import new_figure, save
from vloc_train.benchmark.paper import Average
from vloc_train.benchmark.protocol import ORACLE, PRIOR, Protocol
from vloc_train.benchmark.runner import Table

__all__ = [
    "average_section",
    "markdown",
    "paper_cells",
    "paper_columns",
    "percent",
    "plot",
    "pose_text",
    "table_line",
    "write_table",
]

# Cells of the page: poses, shares, what papers print, and the sections of means over splits.


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


_COUNTED = (
    "Errors are of the base. *Localizer* columns are over every query whatever its state, as the papers count. "
    "*Published* columns count a frame whose verdict is LOST as an infinite error. *Change* is of the localizer's "
    "median translation against the method named under *against*. *Oracle* is the median of always answering with the "
    "reference pose of the same map that is nearest to the truth (where a map has none, of the split's images); the "
    "row *oracle* the same for the images of the split's map. The row *prior* is always answering with what the query "
    "was told, where a split tells it something. *Paper* columns are what the paper prints for the row of its own that "
    "is named with them; rows with nothing else are of the paper alone."
)


def write_table(table: Table, protocol: Protocol, about: Mapping[str, Any], out: Path, plots: bool = True) -> Path:
    """Write the files and return the path of ``table.md``.

    :param about: seed, device, version: what the run was.
    :raises ConfigError: plots are wanted and matplotlib is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    head = {"protocol": protocol.name, "title": protocol.title, "about": protocol.about, **about}
    body = {"splits": table.splits, "rows": table.rows, "claims": table.claims, "strays": table.strays}
    body |= {"averages": table.averages, "published": table.published}
    body |= {"not_stated": list(protocol.not_stated), "not_covered": list(protocol.not_covered)}
    _write_json(out / "table.json", {**head, "baseline": protocol.baseline, **body, "failed": table.failed})
    _write_json(out / "timings.json", {"rows": table.timings})
    (out / "timings.md").write_text(_timings(table.timings), encoding="utf-8")
    pictures = [plot(table, split, out / f"{split}.png") for split in table.splits] if plots else []
    path = out / "table.md"
    path.write_text(markdown(table, protocol, about, pictures), encoding="utf-8")
    return path


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def markdown(table: Table, protocol: Protocol, about: Mapping[str, Any], pictures: Sequence[Path] = ()) -> str:
    """The table as a page."""
    lines = [f"# {protocol.title or protocol.name}", ""]
    if protocol.about:
        lines += [" ".join(protocol.about.split()), ""]
    lines += ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in about.items()), "", _COUNTED, ""]
    for name, split in table.splits.items():
        frames = split["map_frames"]
        folds = f" in {split['folds']} folds" if split["folds"] > 1 else ""
        size = f"{min(frames)}" if min(frames) == max(frames) else f"{min(frames)} to {max(frames)}"
        title = f"## {name}: {size} map frames, {split['queries']} queries{folds}"
        lines += [title, "", " ".join(split["about"].split()), ""]
        lines += _prior(split.get("prior"))
        printed = [row for row in table.published if row["split"] == name]
        lines += _rows([row for row in table.rows if row["split"] == name], protocol.recall, printed)
        lines += [f"![{name}]({name}.png)", ""] if any(p.stem == name for p in pictures) else []
    for name, average in protocol.averages.items():
        lines += average_section(name, average, table)
    lines += _claims(table.claims) + _strays(table.strays)
    lines += _said("Not stated in the paper: our choice", protocol.not_stated)
    lines += _said("Not covered", protocol.not_covered)
    if table.failed:
        lines += ["## Rows that failed", ""]
        lines += [f"- {f['split']} / {f['method']}: {f['problem']}" for f in table.failed] + [""]
    return "\n".join(lines)


def _said(title: str, texts: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {' '.join(text.split())}" for text in texts), ""] if texts else []


def _prior(prior: Mapping[str, Any] | None) -> list[str]:
    """What the queries of a split are told, in words."""
    if prior is None:
        return []
    reference = prior["reference"]
    if reference is not None:
        low, high = reference["between_m"]
        text = f"the pose of a frame of the map's drives {low:g} to {high:g} m away"
    else:
        moved = [
            f"{limits[0]:g} to {limits[1]:g} {unit}"
            for limits, unit in ((prior["offset_m"], "m"), (prior["offset_deg"], "degrees"))
            if limits is not None
        ]
        text = f"the truth moved and turned at random, uniformly {' and '.join(moved)}"
    times = f", {prior['repeats']} times each" if prior["repeats"] > 1 else ""
    return [f"Prior: {text}{times}; rows without one say so.", ""]


def _rows(
    rows: Sequence[Mapping[str, Any]],
    more: Sequence[tuple[float, float]] = (),
    printed: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    limits = sorted({*more, (0.25, 2.0), (0.5, 5.0), (2.0, 5.0), (5.0, 10.0)})
    head = (
        "method", "localizer median", "localizer mean", *(f"within {m:g} m {deg:g}°" for m, deg in limits),
        "oracle", "change", "against", "published median", "LOCALIZED / DEGRADED / LOST", "NEES in 95 %", "map",
        "descriptors",
    )  # fmt: skip
    columns = paper_columns([*rows, *printed])
    head = (*head, *columns)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    asked_prior = any(row["method"] == PRIOR for row in rows)
    for row in rows:
        recall = {(r["translation_m"], r["rotation_deg"]): r["share"] for r in row["localizer_recall"]}
        nearest = row["method"] in (ORACLE, PRIOR)
        cells = [
            row["method"]
            + (" (no prior)" if asked_prior and not (nearest or "prior_median_translation_m" in row) else ""),
            pose_text(row["localizer_median_translation_m"], row["localizer_median_rotation_deg"]),
            pose_text(row["localizer_mean_translation_m"], row["localizer_mean_rotation_deg"]),
            *(percent(recall[limit]) for limit in limits),
            pose_text(row.get("oracle_median_translation_m"), row.get("oracle_median_rotation_deg")),
            _change(row.get("change_median_translation_m")),
            row.get("against", "") if row.get("change_median_translation_m") is not None else "",
            "" if nearest else pose_text(row["median_translation_m"], row["median_rotation_deg"]),
            "" if nearest else " / ".join(percent(row["states"][s]) for s in ("LOCALIZED", "DEGRADED", "LOST")),
            "" if nearest else percent(row["nees_share_in_95"]),
            f"{row['map_bytes'] / 1e6:.2f} MB" if "map_bytes" in row else "",
            _descriptors(row),
            *paper_cells(row, columns),
        ]
        lines.append(table_line(cells))
    for row in printed:
        lines.append(table_line([row["method"], *[""] * (len(head) - 1 - len(columns)), *paper_cells(row, columns)]))
    return [*lines, ""]


def _timings(timings: Sequence[Mapping[str, Any]]) -> str:
    """What a clock measured: no two runs have it equal, so it is not in the table."""
    head = ("split", "method", "all its steps", "its map", "a frame, median", "a frame, 95 %")
    lines = [table_line(head), "|" + "---|" * len(head)]
    for t in timings:
        times = [f"{t[k]:.0f} s" for k in ("train_seconds", "map_seconds")]
        lines.append(table_line([t["split"], t["method"], *times, *(f"{t[k]:.1f} ms" for k in ("ms_p50", "ms_p95"))]))
    return "\n".join([*lines, ""])


def _claims(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    if not claims:
        return []
    lines = ["## Claims", "", "| claim | split | found | limit | holds |", "|---|---|---|---|---|"]
    for claim in claims:
        verdict = {True: "yes", False: "**no**", None: "not computed"}[claim["holds"]]
        found, limit = ("" if claim[k] is None else f"{claim[k]:.3g}" for k in ("found", "limit"))
        limit = f"at least {limit}" if claim["at_least"] and limit else limit
        lines.append(f"| {' '.join(claim['text'].split())} | {claim['split']} | {found} | {limit} | {verdict} |")
    return [*lines, ""]


def _strays(strays: Sequence[Mapping[str, Any]]) -> list[str]:
    if not strays:
        return []
    head = (
        "map", "split", "queries", "stray image chosen without", "with the regressed descriptor",
        "of the former, cured", "regressed one chosen",
    )  # fmt: skip
    lines = ["## Stray images", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for s in strays:
        shares = (percent(s[k]) for k in ("stray_first_without", "stray_first_with", "cured", "regressed_first"))
        lines.append(f"| {s['map']} | {s['split']} | {s['queries']} | " + " | ".join(shares) + " |")
    return [*lines, ""]


def _change(change: float | None) -> str:
    return "" if change is None or math.isnan(change) else f"{100 * change:+.0f} %"


def _descriptors(row: Mapping[str, Any]) -> str:
    if "descriptors" not in row:
        return ""
    share = row["regressed_share"]
    return f"{row['descriptors']:.0f}" + (f" ({100 * share:.1f} % regressed)" if share else "")


def plot(table: Table, split: str, path: Path) -> Path:
    """Bars of the localizer's median translation on one split, the oracle of each map inside the bar."""
    rows = [row for row in table.rows if row["split"] == split and row["method"] not in (ORACLE, PRIOR)]
    own = [row for row in table.rows if row["split"] == split and row["method"] == ORACLE]
    figure = new_figure(8.0, 1.2 + 0.28 * max(len(rows), 1))
    axes = figure.subplots()
    values = [row["localizer_median_translation_m"] for row in rows]
    limit = max([v for v in values if math.isfinite(v)], default=1.0)
    places = list(range(len(rows)))
    axes.barh(places, [v if math.isfinite(v) else limit for v in values], color="#0072B2", height=0.7)
    oracles = [row["oracle_median_translation_m"] for row in rows]
    axes.scatter(oracles, places, marker="|", s=120, color="#E69F00", label="oracle of the row's map", zorder=3)
    for row in own:
        axes.axvline(row["localizer_median_translation_m"], color="#999999", lw=1, label="oracle of the split's images")
    for row in table.rows:
        if row["split"] == split and row["method"] == PRIOR:
            axes.axvline(row["localizer_median_translation_m"], color="#009E73", lw=1, ls="--", label="the priors")
    axes.set_yticks(places, [row["method"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("median translation error (m), every query")
    axes.set_title(split)
    axes.legend(fontsize=7)
    return save(figure, path)
