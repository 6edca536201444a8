"""From drives to a map and its report: frames chosen, some held out, trained or built, calibrated, judged."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.cli.progress import progress_bar
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import DatasetError, TrainingError
from vloc_ros.evaluation.figure import require_matplotlib
from vloc_ros.maps import MapBundle
from vloc_ros.maps.writer import check_target
from vloc_train.frame_choice.measure import Measures, measure
from vloc_train.frame_choice.selection import Choice, choose
from vloc_train.frame_choice.settings import OwnDriveSettings, SelectionSettings
from vloc_train.map_report.agreement import compare
from vloc_train.map_report.report import write_report
from vloc_train.map_report.scene import scene_reports
from vloc_train.training.recipe import Trainer
from vloc_train.training.run import RunOptions
from vloc_train.training.scenes import common_datum

__all__ = ["make_map", "undamaged"]

_log = logging.getLogger(__name__)

Drives = Mapping[str, Sequence[PosedSequence]]

#: Where every good frame is kept, whatever it looks like and however close.
_EVERYTHING = SelectionSettings(spacing_m=0.0, blur=0.0, dark_grey=0.0, bright_share=1.0, flat=0.0)


def make_map(
    maker: Trainer[Any],
    scenes: Drives,
    out: Path,
    settings: Any,
    options: RunOptions,
    own: OwnDriveSettings,
    *,
    select: bool = True,
    report: Path | None = None,
    calibration: Drives | None = None,
    about: Mapping[str, Any] | None = None,
    extractor: Path | None = None,
    problems: Problems | None = None,
) -> MapBundle:
    """Choose frames, hold out, make the map, and judge it; what was looked at is kept in ``<out>.work``.

    :param maker: what trains or builds. :param settings: its own.
    :param select: choose frames; without it all are used, and looked at for the report alone.
    :param report: folder of the report; None: none is written.
    :param calibration: other drives for calibration, which are then held out as they are.
    :raises DatasetError: nothing to make a map of, drives of different origins, or damaged images.
    :raises ConfigError: a hold-out that these drives do not allow, or no matplotlib.
    :raises TrainingError: the map is there, its report is not.
    """
    problems = problems or Problems()
    check_target(out, overwrite=True)
    if report is not None:
        require_matplotlib()
    common_datum(scenes, calibration)  # before anything is looked at
    work = out.with_name(out.name + ".work")
    look = report is not None or problems.keep_going  # what is damaged is known only by looking
    scenes, others = _named(scenes, calibration)
    choices = {n: _chosen(drives, own, select, look, work, problems, options.progress) for n, drives in scenes.items()}
    if problems.keep_going:
        others = {name: [undamaged(drive, problems, work) for drive in drives] for name, drives in others.items()}
    used = {name: [choice.used for choice in mine] for name, mine in choices.items()}
    splits = maker.splits(used, others, own.hold_out)
    agreements = {name: [compare(choice.used) for choice in mine] for name, mine in choices.items()}
    for found in (one for mine in agreements.values() for one in mine):
        _log.log(logging.INFO if found.good else logging.WARNING, "%s", found.in_words())
    noted = {
        **(about or {}),
        "images_against_poses": {n: [a.figures() for a in mine] for n, mine in agreements.items()},
    }
    if select:
        noted["left_out"] = {n: {c.sequence.name: c.counts for c in cs} for n, cs in choices.items()}
    bundle = maker.run(
        used, out, settings, options, calibration=others, about=noted, extractor=extractor, hold_out=splits
    )  # fmt: skip
    if report is not None:
        try:
            held = {name: parts.held_out for name, parts in splits.items()}
            judged = scene_reports(bundle, choices, splits, held, agreements, own.report, work, options.device)
            points = out.with_name(out.name + ".report") / "report.md"
            of_this_map = bundle.manifest.backend == "pixloc" and getattr(settings, "report", True)
            written = write_report(report, bundle, judged, own.report, points if of_this_map else None)
        except Exception as problem:  # hours of training are not lost to a picture
            raise TrainingError(
                f"the map {bundle.path} is whole and can be used, but its report could not be written to {report}: "
                f"{type(problem).__name__}: {problem}"
            ) from problem
        for scene in judged:
            for text in scene.advice:
                _log.info("advice: %s", text)
        _log.info("report: %s", written)
    return bundle


def _named(*groups: Drives | None) -> list[dict[str, list[PosedSequence]]]:
    """Drives of one scene, in all groups, with names of their own: two bags may both be called ``rosbag2``."""
    out: list[dict[str, list[PosedSequence]]] = []
    seen: dict[tuple[str, str], int] = {}
    for group in groups:
        made: dict[str, list[PosedSequence]] = {}
        for name, drives in (group or {}).items():
            for drive in drives:
                again = seen[name, drive.name] = seen.get((name, drive.name), 0) + 1
                made.setdefault(name, []).append(drive if again == 1 else replace(drive, name=f"{drive.name} {again}"))
        out.append(made)
    return out


def _chosen(
    drives: Sequence[PosedSequence],
    own: OwnDriveSettings,
    select: bool,
    look: bool,
    work: Path,
    problems: Problems,
    progress: bool,
) -> list[Choice]:
    out = []
    for drive in drives:
        if not select and not look:
            measures = _unseen(len(drive))
        elif progress:
            with progress_bar(f"{drive.name}: looking at images") as update:
                measures = measure(drive, work, problems, update)
        else:
            measures = measure(drive, work, problems)
        choice = choose(drive, measures, own.selection if select else _EVERYTHING)
        _log.info("%s", choice.in_words())
        if not len(choice.kept):
            raise DatasetError(f"expected frames that can be used, found none: {choice.in_words()}")
        out.append(choice)
    return out


def undamaged(drive: PosedSequence, problems: Problems, work: Path | None = None) -> PosedSequence:
    """The drive without images that cannot be decoded or have another size, which are counted.

    :param work: where what was looked at is kept. :raises VlocError: the first of them, unless ``keep_going``.
    """
    return choose(drive, measure(drive, work, problems), _EVERYTHING).used


def _unseen(count: int) -> Measures:
    """Of images that nobody looked at."""
    ones = np.ones(count)
    return Measures(
        ones, 255 * ones, 0 * ones, 255 * ones, np.zeros((count, 1, 1), np.uint8), np.zeros(count, dtype=bool)
    )
