"""A table on disk: ``table.json`` for programs, pages and plots for people; what a clock measured in ``timings.*``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vloc_ros.evaluation.document import Document, require_jinja2, write_json
from vloc_ros.evaluation.figure import BLUE, GREEN, GREY, ORANGE, new_figure, save
from vloc_ros.evaluation.metrics import RECALL_THRESHOLDS
from vloc_ros.staging import write_text
from vloc_train.benchmark.papers import Average
from vloc_train.benchmark.protocol import ORACLE, PRIOR, Protocol
from vloc_train.benchmark.runner import Table

__all__ = ["document_of", "percent", "plot", "pose_text", "write_table"]

Row = Mapping[str, Any]
#: Columns of a table: title, and the cell of a row.
Columns = dict[str, Callable[[Row], str]]

_COUNTED = (
    "Errors are of the base. The columns of the localizer are over every query whatever its state, as the papers "
    "count. Published: a frame whose own state is LOST counts as an infinite error. Change is of the localizer's "
    "median translation against the method named beside it. Oracle is the median of always answering with the "
    "reference pose of the same map that is nearest to the truth (where a map has none, of the split's images); the "
    "row oracle is the same for the images of the split's map. The row prior is always answering with what the query "
    "was told, where a split tells it something. Figures of LOCALIZED are over the frames of that state: the share "
    "inside the 95 % ellipsoid, the same in each third of predicted sigma, smallest first, and Spearman's rank "
    "correlation of sigma with the error. Awaits a track: a map without points has nothing but the method's own word; "
    "these frames are DEGRADED here, and LOCALIZED on a vehicle once its track agrees over real motion. Columns of a "
    "paper are what it prints for the row of its own that is named with them; rows with nothing else are of the paper "
    "alone."
)


def write_table(table: Table, protocol: Protocol, about: Row, out: Path, plots: bool = True) -> Path:
    """Write the files and return the path of ``table.md``.

    :param about: seed, device, version: what the run was.
    :raises ConfigError: jinja2 is not installed, or plots are wanted and matplotlib is not.
    """
    require_jinja2()
    out.mkdir(parents=True, exist_ok=True)
    head = {"protocol": protocol.name, "title": protocol.title, "about": protocol.about, **about}
    body = {name: getattr(table, name) for name in ("splits", "rows", "claims", "strays", "averages", "published")}
    said = {"not_stated": list(protocol.not_stated), "not_covered": list(protocol.not_covered)}
    write_json(out / "table.json", {**head, "baseline": protocol.baseline, **body, **said, "failed": table.failed})
    write_json(out / "timings.json", {"rows": table.timings})
    timings = Document(f"Times: {protocol.title or protocol.name}")
    _add(timings, _TIMING_COLUMNS, table.timings)
    write_text(out / "timings.md", timings.markdown(out))
    pictures = {split: plot(table, split, out / f"{split}.png") for split in table.splits} if plots else {}
    return document_of(table, protocol, about, pictures).write(out, "table")


def document_of(table: Table, protocol: Protocol, about: Row, pictures: Mapping[str, Path] | None = None) -> Document:
    """The table as a page. :param pictures: plots by split."""
    document = Document(protocol.title or protocol.name)
    document.paragraph(protocol.about)
    document.facts(list(about.items()))
    document.paragraph(_COUNTED)
    for name, split in table.splits.items():
        frames = split["map_frames"]
        folds = f" in {split['folds']} folds" if split["folds"] > 1 else ""
        size = f"{min(frames)}" if min(frames) == max(frames) else f"{min(frames)} to {max(frames)}"
        document.heading(f"{name}: {size} map frames, {split['queries']} queries{folds}")
        document.paragraph(split["about"])
        document.paragraph(_prior_in_words(split.get("prior")))
        rows = [row for row in table.rows if row["split"] == name]
        printed = [row for row in table.published if row["split"] == name]
        _add(document, _accuracy_columns(rows, protocol.recall) | _paper_columns([*rows, *printed]), [*rows, *printed])
        _add(document, _CONFIDENCE_COLUMNS, [row for row in rows if row["method"] not in (ORACLE, PRIOR)])
        if name in (pictures or {}):
            document.picture((pictures or {})[name], name)
    for name, average in protocol.averages.items():
        _average(document, name, average, table)
    if table.claims:
        document.heading("Claims")
        _add(document, _CLAIM_COLUMNS, table.claims)
    if table.strays:
        document.heading("Stray images")
        _add(document, _STRAY_COLUMNS, table.strays)
    failed = [f"{f['split']} / {f['method']}: {f['problem']}" for f in table.failed]
    for title, texts in (
        ("Not stated in the paper: our choice", protocol.not_stated),
        ("Not covered", protocol.not_covered),
        ("Rows that failed", failed),
    ):
        if texts:
            document.heading(title)
            document.items([" ".join(text.split()) for text in texts])
    return document


def _add(document: Document, columns: Columns, rows: Sequence[Row]) -> None:
    document.table(list(columns), [[cell(row) for cell in columns.values()] for row in rows])


# Cells: empty where a row has no such figure.


def pose_text(metres: float | None, degrees: float | None) -> str:
    """An error, as people read it."""
    if metres is None or degrees is None or math.isnan(metres):
        return ""
    if math.isinf(metres):
        return "none"
    # Centimetres need another digit than metres do.
    return f"{metres:.{3 if metres < 0.1 else 2}f} m {degrees:.{2 if degrees < 1.0 else 1}f}°"


def percent(share: float | None) -> str:
    """A share in percent."""
    return "" if share is None or math.isnan(share) else f"{100 * share:.0f} %"


def _pose(name: str) -> Callable[[Row], str]:
    return lambda row: pose_text(row.get(f"{name}_translation_m"), row.get(f"{name}_rotation_deg"))


def _share(name: str) -> Callable[[Row], str]:
    return lambda row: percent(row.get(name))


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name, ""))


def _number(name: str, form: str, unit: str) -> Callable[[Row], str]:
    return lambda row: f"{row[name]:{form}} {unit}" if name in row else ""


def _within(limits: tuple[float, float], recall: str = "localizer_recall") -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        shares = {(r["translation_m"], r["rotation_deg"]): r["share"] for r in row.get(recall, ())}
        return percent(shares.get(limits))

    return cell


def _limits(limits: tuple[float, float]) -> str:
    return f"within {limits[0]:g} m {limits[1]:g}°"


def _accuracy_columns(rows: Sequence[Row], more: Sequence[tuple[float, float]]) -> Columns:
    """Of a split: what the localizer says, whatever its state."""
    told = any(row["method"] == PRIOR for row in rows)

    def method(row: Row) -> str:
        no_prior = told and "about" in row and not (row["method"] in (ORACLE, PRIOR) or _PRIOR_MEDIAN in row)
        return f"{row['method']} (no prior)" if no_prior else str(row["method"])

    def change(row: Row) -> str:
        found = row.get("change_median_translation_m")
        return "" if found is None or math.isnan(found) else f"{100 * found:+.0f} %"

    return {
        "method": method,
        "localizer median": _pose("localizer_median"),
        "localizer mean": _pose("localizer_mean"),
        **{_limits(pair): _within(pair) for pair in sorted({*RECALL_THRESHOLDS, *more})},
        "oracle": _pose("oracle_median"),
        "change": change,
        "against": lambda row: row.get("against", "") if row.get("change_median_translation_m") is not None else "",
    }


_PRIOR_MEDIAN = "prior_median_translation_m"


def _thirds(row: Row) -> str:
    nees = row["nees_localized"]
    if not nees["count"]:
        return ""
    if nees["constant"]:
        return f"sigma nearly constant ({nees['sigma_thirds_m'][1]:.2g} m): no information"
    return " / ".join(percent(share) or "-" for share in nees["thirds"])


def _descriptors(row: Row) -> str:
    if "descriptors" not in row:
        return ""
    share = row["regressed_share"]
    return f"{row['descriptors']:.0f}" + (f" ({100 * share:.1f} % regressed)" if share else "")


def _rank_correlation(row: Row) -> str:
    found = row["nees_localized"]["rank_correlation"]
    return "" if math.isnan(found) or row["nees_localized"]["constant"] else f"{found:.2f}"


def _awaiting(row: Row) -> str:
    """Of the frames that only a track could bear out: how many, the worst, how many inside, whether sigma tells."""
    if not row.get("awaiting_track"):
        return ""
    worst = pose_text(row["max_translation_awaiting_m"], row["max_rotation_awaiting_deg"])
    nees = row["nees_awaiting"]
    told = ", sigma nearly constant" if nees["constant"] else ""
    return f"{percent(row['awaiting_track'])}: largest {worst}, {percent(nees['share_in_95'])} in 95 %{told}"


#: What a row says of its own poses, and what its map weighs.
_CONFIDENCE_COLUMNS: Columns = {
    "method": _text("method"),
    "published median": _pose("median"),
    "LOCALIZED / DEGRADED / LOST": lambda row: " / ".join(
        percent(row["states"][state]) for state in ("LOCALIZED", "DEGRADED", "LOST")
    ),
    "largest LOCALIZED error": lambda row: pose_text(
        row["max_translation_localized_m"], row["max_rotation_localized_deg"]
    ),
    "LOCALIZED in 95 %": lambda row: percent(row["nees_localized"]["share_in_95"]),
    "by thirds of sigma": _thirds,
    "rank correlation": _rank_correlation,
    "awaits a track": _awaiting,
    "map": lambda row: f"{row['map_bytes'] / 1e6:.2f} MB" if "map_bytes" in row else "",
    "descriptors": _descriptors,
}
#: Times differ from run to run, so they are not in the table.
_TIMING_COLUMNS: Columns = {
    "split": _text("split"),
    "method": _text("method"),
    "all its steps": _number("train_seconds", ".0f", "s"),
    "its map": _number("map_seconds", ".0f", "s"),
    "a frame, median": _number("ms_p50", ".1f", "ms"),
    "a frame, 95 %": _number("ms_p95", ".1f", "ms"),
}
_STRAY_COLUMNS: Columns = {
    "map": _text("map"),
    "split": _text("split"),
    "queries": _text("queries"),
    "stray image chosen without": _share("stray_first_without"),
    "with the regressed descriptor": _share("stray_first_with"),
    "of the former, cured": _share("cured"),
    "regressed one chosen": _share("regressed_first"),
}
_HOLDS = {True: "yes", False: "NO", None: "not computed"}


def _limit(claim: Row) -> str:
    found = claim["limit"]
    return "" if found is None else f"{'at least ' if claim['at_least'] else ''}{found:.3g}"


_CLAIM_COLUMNS: Columns = {
    "claim": _text("text"),
    "split": _text("split"),
    "found": lambda claim: "" if claim["found"] is None else f"{claim['found']:.3g}",
    "limit": _limit,
    "holds": lambda claim: _HOLDS[claim["holds"]],
}


def _paper_columns(rows: Sequence[Row]) -> Columns:
    """What papers print for these rows, with the paper's own digits: the columns that at least one row fills."""
    given = [row["paper"] for row in rows if "paper" in row]
    limits = sorted({(r["translation_m"], r["rotation_deg"]) for paper in given for r in paper.get("recall", ())})
    possible: Columns = {
        "paper: median": lambda paper: _printed(paper, "median"),
        "paper: mean": lambda paper: _printed(paper, "mean"),
        **{f"paper: {_limits(pair)}": _paper_share(pair) for pair in limits},
        "paper: rank": lambda p: f"{p['rank_position']:g}, {p['rank_orientation']:g}" if "rank_position" in p else "",
        "paper: medians within": lambda p: f"{100 * p['medians_within']:.4g} %" if "medians_within" in p else "",
        "paper's table": _text("table"),
    }

    def of(cell: Callable[[Row], str]) -> Callable[[Row], str]:
        return lambda row: cell(row["paper"]) if "paper" in row else ""

    return {title: of(cell) for title, cell in possible.items() if any(cell(paper) for paper in given)}


def _printed(paper: Row, kind: str) -> str:
    parts = ((paper.get(f"{kind}_translation_m"), " m"), (paper.get(f"{kind}_rotation_deg"), "°"))
    return " ".join(f"{value:g}{unit}" for value, unit in parts if value is not None)


def _paper_share(limits: tuple[float, float]) -> Callable[[Row], str]:
    def cell(paper: Row) -> str:
        shares = {(r["translation_m"], r["rotation_deg"]): r["share"] for r in paper.get("recall", ())}
        return f"{100 * shares[limits]:.4g} %" if limits in shares else ""

    return cell


def _average(document: Document, name: str, average: Average, table: Table) -> None:
    """The means over some splits, as a section."""
    rows = [row for row in table.averages if row["average"] == name]
    printed = [row for row in table.published if row["split"] == name]
    if not rows:
        return
    columns: Columns = {
        "method": _text("method"),
        "mean of medians": _pose("localizer_median"),
        "mean of means": _pose("localizer_mean"),
    }
    for recall in rows[0]["localizer_recall"]:
        pair = (recall["translation_m"], recall["rotation_deg"])
        columns[_limits(pair)] = _within(pair)
    if average.medians_within is not None:
        columns["medians below {:g} m and {:g}°".format(*average.medians_within)] = _share("medians_within")
    if average.rank:
        columns["rank of position, of orientation, final"] = _ranks
    document.heading(f"{name}: average over {', '.join(average.over)}")
    document.paragraph(average.about)
    _add(document, columns | _paper_columns([*rows, *printed]), [*rows, *printed])


def _ranks(row: Row) -> str:
    if "final_rank" not in row:
        return ""
    means = f"{row['rank_position']:.3g}, {row['rank_orientation']:.3g}"
    return f"{means}, {row['final_rank']} of {row['ranked_among']}"


def _prior_in_words(prior: Row | None) -> str:
    """What the queries of a split are told."""
    if prior is None:
        return ""
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
    return f"Prior: {text}{times}; rows without one say so."


def plot(table: Table, split: str, path: Path) -> Path:
    """Bars of the localizer's median translation on one split, the oracle of each map inside the bar."""
    here = [row for row in table.rows if row["split"] == split]
    rows = [row for row in here if row["method"] not in (ORACLE, PRIOR)]
    figure = new_figure(8.0, 1.2 + 0.28 * max(len(rows), 1))
    axes = figure.subplots()
    values = [row["localizer_median_translation_m"] for row in rows]
    limit = max([v for v in values if math.isfinite(v)], default=1.0)
    places = list(range(len(rows)))
    axes.barh(places, [v if math.isfinite(v) else limit for v in values], color=BLUE, height=0.7)
    oracles = [row["oracle_median_translation_m"] for row in rows]
    axes.scatter(oracles, places, marker="|", s=120, color=ORANGE, label="oracle of the row's map", zorder=3)
    for row in here:
        metres = row["localizer_median_translation_m"]
        if row["method"] == ORACLE:
            axes.axvline(metres, color=GREY, lw=1, label="oracle of the split's images")
        elif row["method"] == PRIOR:
            axes.axvline(metres, color=GREEN, lw=1, ls="--", label="the priors")
    axes.set_yticks(places, [row["method"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("median translation error (m), every query")
    axes.set_title(split)
    axes.legend(fontsize=7)
    return save(figure, path)
