"""The report of a run: ``report.json`` for programs, ``report.md`` and a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.evaluation.document import Document, write_json
from vloc_ros.evaluation.metrics import Consistency, FrameRecord, Metrics, total_ms
from vloc_ros.evaluation.plots import caption

__all__ = [
    "build_report",
    "figures_of",
    "latency",
    "print_rows",
    "print_table",
    "table_rows",
    "write_report",
]


#: What stands beside the published poses, by the prefix of its figures.
_BESIDE = {
    "localizer": "localizer alone, published or not",
    "oracle": "oracle: nearest map pose",
    "retrieval": "baseline: most similar map image",
}


def build_report(metrics: Metrics, records: Sequence[FrameRecord], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as plain values: figures, latencies, and what the run was (``about``: backend, map, device, ...)."""
    return {**about, **figures_of(metrics), "latency_ms": latency(records)}


def figures_of(metrics: Metrics) -> dict[str, Any]:
    """The figures of a run under their report names."""
    out = asdict(metrics)
    out["recall"] = [asdict(r) for r in metrics.recall]
    for name, value in (("nees", metrics.nees), ("nees_localized", metrics.nees_localized)):
        out[name] = _consistency(value)
    out["nees_mean"] = metrics.nees.mean
    out["nees_share_in_95"] = metrics.nees.share_in_95
    return out


def _consistency(value: Consistency) -> dict[str, Any]:
    return {**asdict(value), "thirds": list(value.thirds), "sigma_thirds_m": list(value.sigma_thirds_m)}


def latency(records: Sequence[FrameRecord]) -> dict[str, Any]:
    """p50, p95 and max of the whole frame, and of each stage under ``stages``, in milliseconds."""
    timed = [r.timings_ms for r in records if r.timings_ms]
    if not timed:
        return {"p50": math.nan, "p95": math.nan, "max": math.nan, "stages": {}}
    names = list(dict.fromkeys(name for t in timed for name in t if name != "total"))
    stages = {name: _spread([t[name] for t in timed if name in t]) for name in names}
    return {**_spread([total_ms(t) for t in timed]), "stages": stages}


def _spread(values: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": float(p50), "p95": float(p95), "max": float(max(values))}


def write_report(report: Mapping[str, Any], folder: Path, plots: Sequence[Path] = ()) -> Path:
    """Write ``report.json``, ``report.md`` and ``report.html``; the path of the second."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", report)
    document = Document(f"Replay of `{report.get('bag', '')}`")
    if report.get("problem"):
        document.paragraph(f"Incomplete: {report['problem']}", strong=True)
    document.facts(table_rows(report))
    document.paragraph(
        "Medians, recalls and states are over all frames with a reference pose; a frame without a published pose is an "
        "infinite error. Means and the ATE, which is not aligned, are over the frames with a pose."
    )
    stages = report.get("latency_ms", {}).get("stages", {})
    if stages:
        rows = [(name, *(f"{s[k]:.2f}" for k in ("p50", "p95", "max"))) for name, s in stages.items()]
        document.table(("stage", "p50 ms", "p95 ms", "max ms"), rows)
    for plot in plots:
        document.picture(plot, caption(plot))
    return document.write(folder)


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report as ``(name, text)`` lines for a person."""
    states = ", ".join(f"{k} {_percent(v)}" for k, v in report["states"].items() if v and not math.isnan(v))
    rows = [
        ("backend", str(report.get("backend", "?"))),
        ("map", f"{report.get('map', '?')} ({report.get('map_bytes', 0) / 1e6:.2f} MB)"),
        ("device", str(report.get("device", "?"))),
        (
            "frames",
            f"{report['frames']} ({report['frames_with_reference']} with reference), "
            f"{report['published']} poses published",
        ),
        ("states", states or "none"),
    ]
    if report["refused"]:
        rows.append(("refused", ", ".join(f"{k}: {v}" for k, v in report["refused"].items())))
    if report["frames_with_reference"]:
        rows += [
            ("median error", _both(report["median_translation_m"], report["median_rotation_deg"])),
            (
                "mean error",
                f"{_both(report['mean_translation_m'], report['mean_rotation_deg'])} "
                f"(over {report['mean_over']} frames with a pose)",
            ),
            ("ATE, root mean square", _both(report["ate_rmse_m"], report["ate_rmse_deg"])),
            (
                "largest error called LOCALIZED",
                _both(report["max_translation_localized_m"], report["max_rotation_localized_deg"]),
            ),
            (
                "recall",
                ", ".join(
                    f"({r['translation_m']:g} m, {r['rotation_deg']:g} deg) {_percent(r['share'])}"
                    for r in report["recall"]
                ),
            ),
            ("NEES", _nees_text(report["nees"])),
            ("NEES, LOCALIZED only", _nees_text(report["nees_localized"])),
        ]
        for prefix, name in _BESIDE.items():
            median = report[f"{prefix}_median_translation_m"], report[f"{prefix}_median_rotation_deg"]
            if not math.isnan(median[0]):
                rows.append((f"{name}, median", _both(*median)))
    rows += [("note", note) for note in report.get("notes", [])]
    time = report["latency_ms"]
    if not math.isnan(time["p50"]):
        rows.append(("time a frame", f"p50 {time['p50']:.1f} ms, p95 {time['p95']:.1f} ms, max {time['max']:.1f} ms"))
    return rows


def print_table(report: Mapping[str, Any]) -> None:
    """The report on the terminal."""
    print_rows(str(report.get("bag", "replay")), table_rows(report))


def print_rows(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """A table of names and texts on the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))  # file names are no markup
    Console().print(table)


def _nees_text(nees: Mapping[str, Any]) -> str:
    if not nees["count"]:
        return "no frame with pose and reference"
    text = f"mean {nees['mean']:.1f}, {_percent(nees['share_in_95'])} within 95 % ({nees['count']} frames)"
    if nees["constant"]:
        return f"{text}; sigma is nearly constant ({nees['sigma_thirds_m'][1]:.3g} m): it carries no information"
    thirds = ", ".join(_percent(v) for v in nees["thirds"])
    correlation = nees["rank_correlation"]
    ranked = "" if math.isnan(correlation) else f", rank correlation with the error {correlation:.2f}"
    return f"{text}, in the thirds of sigma {thirds}{ranked}"


def _metres(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.3f} m"


def _both(metres: float, degrees: float) -> str:
    return f"{_metres(metres)}, {_degrees(degrees)}"


def _degrees(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.3f} deg"


def _percent(share: float) -> str:
    return "unknown" if math.isnan(share) else f"{100 * share:.1f} %"
