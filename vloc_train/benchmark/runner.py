"""A whole protocol: every row on every split, its steps first, everything that was made kept for the next time."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.errors import DatasetError, TrainingError, VlocError
from vloc_ros.localizers.base import load_localizer
from vloc_ros.maps import MapBundle
from vloc_ros.settings import settings_to_mapping
from vloc_ros.types import Array
from vloc_train.benchmark.drives import Drives
from vloc_train.benchmark.maps import Made, Steps, map_figures, reference_cameras
from vloc_train.benchmark.papers import averages_of, check_claims, paper_figures
from vloc_train.benchmark.protocol import FEATURES, ORACLE, PRIOR, Protocol, Row
from vloc_train.benchmark.score import (
    Answers,
    Asked,
    answer,
    asked_of,
    figures,
    join_submissions,
    once_each,
    oracle_figures,
    posed_figures,
    records_of,
    submit,
    write_trajectories,
)
from vloc_train.benchmark.splits import Fold, Prior, folds_of
from vloc_train.training.run import RunOptions

__all__ = ["Table", "evaluate_protocol", "wanted"]

_log = logging.getLogger(__name__)
#: Of what is kept of answers; another number has every map asked again.
_GENERATION = 2


@dataclass
class Table:
    """What came out.

    ``rows``, ``splits``, ``claims``, ``strays`` and ``averages`` are plain values that two runs of one seed have equal;
    what a clock measured is in ``timings``. ``published``: rows of papers alone; ``failed``: why a row is missing.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)
    strays: list[dict[str, Any]] = field(default_factory=list)
    averages: list[dict[str, Any]] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)


def wanted(only: Sequence[str], split: str, row: Row) -> bool:
    """Whether a row is asked for: by the name of its method, ``split/method``, or such a pattern with ``*``."""
    names = (row.method, f"{split}/{row.method}")
    return not only or any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in only)


def evaluate_protocol(
    protocol: Protocol, root: Path | None, cache: Path, out: Path, options: RunOptions, only: Sequence[str] = ()
) -> Table:
    """Make what is missing and count every row.

    The baseline and what a row is compared with are computed with it, whatever ``only`` says. A step that fails costs
    the rows that need it and no others.

    :param root: of the protocol's folders. :param cache: of drives, maps and answers.
    :param out: for the trajectories; the tables are written by :func:`vloc_train.benchmark.table.write_table`.
    :param only: rows to compute, see :func:`wanted`; empty: all.
    :raises VlocError: the data is not there, which is found out before anything is computed, or the run was
        interrupted.
    """
    chosen = _chosen(protocol, only)
    on_disk = protocol.on_disk(chosen, strays=not only)
    drives = Drives(protocol.data, root, cache / "drives", lambda text: _log.info("%s", text))
    try:
        drives.require(on_disk)
    except DatasetError as problem:
        raise DatasetError(f"{protocol.name}: {problem}") from None
    for name in on_disk:
        drives.opened(name)
    steps = Steps(protocol, drives, cache / "maps", options)
    table = Table()
    splits: dict[str, list[Fold]] = {}
    for split, rows in chosen.items():
        splits[split] = folds_of(split, protocol.splits[split], drives)
        table.splits[split] = _about(protocol, split, splits[split])
        table.rows.append(_oracle_row(split, splits[split], protocol.recall))
        prior = protocol.splits[split].prior
        if prior is not None:
            table.rows.append(_prior_row(protocol, split, prior, splits[split]))
        for row in rows:
            try:
                counted, timing = _row(protocol, split, row, splits[split], steps, cache, out, options)
            except Exception as problem:  # an hour of other rows must not be lost to one
                table.failed.append(_failure(split, row.method, problem))
            else:
                table.rows.append(counted)
                table.timings.append(timing)
                _log.info(
                    "%s / %s: median %.2f m %.1f deg", split, row.method,
                    counted["localizer_median_translation_m"], counted["localizer_median_rotation_deg"],
                )  # fmt: skip
    _compare(protocol, table.rows)
    _beside_papers(protocol, table)
    join_submissions(out, [(row["split"], row["method"]) for row in table.rows])
    table.claims = check_claims(protocol.claims, table.rows)
    for stray in () if only else protocol.strays:
        from vloc_train.benchmark.stray_images import stray_test

        try:
            table.strays.append(stray_test(stray, folds_of(stray.split, protocol.splits[stray.split], drives), steps,
                                           drives, options.device))  # fmt: skip
        except Exception as problem:
            table.failed.append(_failure(stray.split, f"stray images, {stray.map}", problem))
    return table


def _beside_papers(protocol: Protocol, table: Table) -> None:
    """What papers print, and the means over splits with it."""
    own = {(place, row.method): row.paper for row in protocol.rows if row.paper for place in row.paper.figures}
    printed = {row.method: row.figures for row in protocol.published}
    for name, average in protocol.averages.items():
        table.averages += averages_of(name, average, table.rows, printed)
    for counted in (*table.rows, *table.averages):
        place = counted.get("average") or counted["split"]
        paper = own.get((place, counted["method"]))
        if paper is not None:
            counted["paper"] = paper_figures(paper.table, paper.figures[place])
    shown = {*table.splits, *(row["average"] for row in table.averages)}
    table.published = [
        {"split": place, "method": row.method, "paper": paper_figures(row.table, given)}
        for row in protocol.published
        for place, given in row.figures.items()
        if place in shown
    ]


def _failure(split: str, method: str, problem: Exception) -> dict[str, str]:
    """Why a row is missing. What is no error of ours is a bug, and logged with its trace.

    :raises TrainingError: the user ended the step, which is no failed one.
    """
    if isinstance(problem, TrainingError) and str(problem).startswith("interrupted"):
        raise problem
    known = isinstance(problem, (VlocError, ImportError))
    text = str(problem) if known else f"{type(problem).__name__}: {problem}"
    _log.warning("%s / %s: %s", split, method, text, exc_info=None if known else problem)
    return {"split": split, "method": method, "problem": text}


def _chosen(protocol: Protocol, only: Sequence[str]) -> dict[str, list[Row]]:
    """The rows to compute by split, with what stands beside them."""
    asked = {(split, row.method) for split, row in protocol.table() if wanted(only, split, row)}
    for split, row in protocol.table():
        if (split, row.method) in asked:
            asked |= {(split, protocol.baseline), (split, row.against or protocol.baseline), (split, FEATURES)}
    out: dict[str, list[Row]] = {}
    for split, row in protocol.table():
        if (split, row.method) in asked:
            out.setdefault(split, []).append(row)
    return out


def _about(protocol: Protocol, split: str, folds: Sequence[Fold]) -> dict[str, Any]:
    given = protocol.splits[split]
    return {
        "about": given.about,
        "map": list(given.map),
        "query": list(given.query),
        "folds": len(folds),
        "map_frames": [sum(len(p) for p in fold.map) for fold in folds],
        "queries": sum(len(p) for fold in folds for p in fold.query),
        "prior": None if given.prior is None else settings_to_mapping(given.prior),
    }


def _cameras(fold: Fold) -> Array:
    return np.concatenate([p.sequence.T_map_cam[p.rows] for p in fold.map])


def _oracle_row(split: str, folds: Sequence[Fold], recall: Sequence[tuple[float, float]]) -> dict[str, Any]:
    found = oracle_figures([(fold.query, _cameras(fold)) for fold in folds], recall)
    return {"method": ORACLE, "split": split, "about": "the map image nearest to the truth", **found}


def _prior_row(protocol: Protocol, split: str, prior: Prior, folds: Sequence[Fold]) -> dict[str, Any]:
    asked = [asked_of(fold, prior, protocol.seed, f"split {split}") for fold in folds]
    return {"method": PRIOR, "split": split, "about": "what the queries are told", **_told(asked, protocol.recall)}


def _told(asked: Sequence[Asked], recall: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The figures of the priors themselves."""
    priors = [a.priors for a in asked if a.priors is not None]
    return posed_figures([part for a in asked for part in a.queries], np.concatenate(priors), recall)


def _row(
    protocol: Protocol, split: str, row: Row, folds: Sequence[Fold], steps: Steps, cache: Path, out: Path,
    options: RunOptions,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    prior = row.asked(protocol.splits[split])
    asked = [asked_of(fold, prior, protocol.seed, f"split {split}, row {row.method!r}") for fold in folds]
    asked = [replace(one, scene=row.scene or None) for one in asked]
    made = [steps.make(row.map, fold) for fold in folds]
    bundles = [m.bundle() for m in made]
    answers = Answers.join([
        _answers(cache / "answers", m, row.settings, a, options.device) for m, a in zip(made, asked, strict=True)
    ])  # fmt: skip
    queries = [part for a in asked for part in a.queries]
    records = records_of(answers, queries)
    oracle = oracle_figures([
        (fold.query, _references(bundle, fold)) for bundle, fold in zip(bundles, folds, strict=True)
    ])  # fmt: skip
    told = _told(asked, protocol.recall) if prior is not None else {}
    counted = {
        "method": row.method,
        "split": split,
        "about": row.about,
        "backend": bundles[0].manifest.backend,
        "step": row.map,
        "settings": dict(row.settings),
        "against": row.against or protocol.baseline,
        **figures(records, protocol.recall),
        "oracle_median_translation_m": oracle["median_translation_m"],
        "oracle_median_rotation_deg": oracle["median_rotation_deg"],
        **{f"prior_{name}": told[name] for name in ("median_translation_m", "median_rotation_deg") if told},
        **map_figures(bundles),
    }
    write_trajectories(out, split, row.method, once_each(records, [part for a in asked for part in a.queries]))
    if protocol.splits[split].submission:
        submit(out, split, row.method, queries, answers)
    milliseconds = answers.milliseconds
    timing = {
        "method": row.method,
        "split": split,
        "train_seconds": sum({key: value for m in made for key, value in m.seconds.items()}.values()),
        "map_seconds": sum({m.key: m.seconds[m.key] for m in made}.values()),
        "ms_p50": float(np.percentile(milliseconds, 50)),
        "ms_p95": float(np.percentile(milliseconds, 95)),
    }
    return counted, timing


def _answers(cache: Path, made: Made, settings: Mapping[str, Any], asked: Asked, device: str) -> Answers:
    """What the map says to these queries, from the cache where it has been asked before."""
    what: list[Any] = [_GENERATION, made.key, made.bundle().id, dict(settings), [part.digest for part in asked.queries]]
    if asked.priors is not None and asked.covariance is not None:
        what.append(hashlib.sha256(asked.priors.tobytes() + asked.covariance.tobytes()).hexdigest())
    if asked.scene is not None:
        what.append(asked.scene)
    content = json.dumps(what, sort_keys=True, default=str)
    file = cache / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.npz"
    if not file.exists():
        with load_localizer(made.path, device, settings=dict(settings) or None) as localizer:
            localizer.warm_up()
            answer(localizer, asked).save(file)
    return Answers.load(file)


def _references(bundle: MapBundle, fold: Fold) -> Array:
    found = reference_cameras(bundle)
    return _cameras(fold) if found is None else found


def _compare(protocol: Protocol, rows: Sequence[dict[str, Any]]) -> None:
    """Every row beside the baseline of its split and what it is compared with, by the localizer alone."""
    table = {(row["split"], row["method"]): row for row in rows}
    for row in rows:
        baseline = table.get((row["split"], protocol.baseline))
        if baseline is not None:
            row["baseline_median_translation_m"] = baseline["localizer_median_translation_m"]
            row["baseline_median_rotation_deg"] = baseline["localizer_median_rotation_deg"]
        other = table.get((row["split"], row.get("against", protocol.baseline)))
        if other is not None and row["method"] not in (ORACLE, PRIOR) and other is not row:
            for kind in ("translation_m", "rotation_deg"):
                before, after = (x[f"localizer_median_{kind}"] for x in (other, row))
                row[f"change_median_{kind}"] = after / before - 1.0 if before > 0 else float("nan")
