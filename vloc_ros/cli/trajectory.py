"""``vloc trajectory``: one trajectory against another, whoever made them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vloc_ros.errors import ConfigError

__all__ = ["trajectory"]


class AlignName(str, Enum):
    """How the estimate is laid over the reference first."""

    none = "none"
    se3 = "se3"
    sim3 = "sim3"
    origin = "origin"


class DeltaUnit(str, Enum):
    """What the distance of relative errors is counted in."""

    f = "f"
    m = "m"


class PathName(str, Enum):
    """Whose way is measured."""

    estimate = "estimate"
    reference = "reference"


#: Seconds; stamps in nanoseconds have room for four times as much on either side of today.
_LONGEST_S = 2e9


def _nanoseconds(seconds: float, option: str) -> int:
    """:raises ConfigError: not a number, or more than stamps can hold."""
    if not abs(seconds) <= _LONGEST_S:
        raise ConfigError(f"{option}: expected seconds, at most {_LONGEST_S:g}, found {seconds}")
    return round(seconds * 1e9)


def trajectory(
    estimate: Annotated[Path, typer.Argument(metavar="ESTIMATE", help="TUM file, or bag.")],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="TUM file, or bag.")],
    topic: Annotated[
        str | None,
        typer.Option(
            "--topic",
            metavar="TOPIC",
            help="Of an estimate in a bag: poses, or /tf:map.base_link. Default: /vloc/pose.",
        ),
    ] = None,
    reference_topic: Annotated[
        str | None,
        typer.Option("--reference-topic", metavar="TOPIC", help="Of a reference in a bag. Default: /reference/pose."),
    ] = None,
    max_difference: Annotated[
        float, typer.Option("--max-difference", min=0.0, help="Seconds between stamps that belong together, at most.")
    ] = 0.01,
    time_offset: Annotated[float, typer.Option("--time-offset", help="Seconds added to the estimate's stamps.")] = 0.0,
    align: Annotated[
        AlignName,
        typer.Option(
            "--align", help="none, se3 or sim3 (least squares of the positions), origin (first on first pose)."
        ),
    ] = AlignName.none,
    delta: Annotated[float, typer.Option("--delta", help="Relative errors: over so many metres or frames.")] = 10.0,
    delta_unit: Annotated[DeltaUnit, typer.Option("--delta-unit", help="m (metres of the way) or f (frames).")] = (
        DeltaUnit.m
    ),
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Relative errors from every pose; default: one pair after the other.")
    ] = False,
    pairs_from: Annotated[
        PathName, typer.Option("--pairs-from", help="Whose way the metres are measured along.")
    ] = PathName.estimate,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for report.json, report.md, and the associated poses for evo.")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Skip and count faulty lines instead of stopping at the first.")
    ] = False,
) -> None:
    """Compare trajectories: absolute (ATE) and relative (RPE) errors, counted as evo counts them."""
    from vloc_ros.datasets.problems import Problems
    from vloc_ros.evaluation.document import require_jinja2
    from vloc_ros.evaluation.report import print_rows
    from vloc_ros.evaluation.trajectory import read_trajectory
    from vloc_ros.evaluation.trajectory_errors import (
        PairChoice,
        compare,
        trajectory_report,
        trajectory_rows,
        write_trajectory_report,
    )

    if out is not None:
        require_jinja2()
    limit_ns, offset_ns = _nanoseconds(max_difference, "--max-difference"), _nanoseconds(time_offset, "--time-offset")
    choice = PairChoice(delta=delta, unit=delta_unit.value, all_pairs=all_pairs, path=pairs_from.value)
    problems = Problems(keep_going)
    mine = read_trajectory(estimate, topic, problems, usual=("/vloc/pose",))
    truth = read_trajectory(reference, reference_topic, problems, usual=("/reference/pose",))
    found = compare(mine, truth, limit_ns, offset_ns, align.value, choice)
    about = {
        "estimate": str(estimate),
        "reference": str(reference),
        "align": align.value,
        "max_difference_s": max_difference,
        "time_offset_s": time_offset,
        "skipped": dict(problems.counts),
    }
    report = trajectory_report(found, choice, (len(mine), len(truth)), about)
    rows = trajectory_rows(report)
    if problems.counts:
        rows.append(("skipped", problems.summary()))
    print_rows(f"{estimate} against {reference}", rows)
    if out is not None:
        typer.echo(f"report {write_trajectory_report(report, found, out)}")
