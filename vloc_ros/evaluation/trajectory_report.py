"""The report of one trajectory against another: ``report.json`` for programs, a table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.evaluation.report import plain_json
from vloc_ros.evaluation.trajectory import Comparison, PairChoice, Statistics, statistics
from vloc_ros.evaluation.tum import write_tum
from vloc_ros.geometry.rotations import matrix_to_quaternion

__all__ = ["trajectory_report", "trajectory_rows", "write_trajectory_report"]


def trajectory_report(
    found: Comparison, choice: PairChoice, poses: tuple[int, int], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything as plain values.

    :param poses: how many the estimate and the reference have.
    :param about: what was compared, and how.
    """
    figures: dict[str, Statistics | None] = {
        "ate_translation_m": statistics(found.absolute_m),
        "ate_rotation_deg": statistics(found.absolute_deg),
        "rpe_translation_m": statistics(found.relative_m),
        "rpe_rotation_deg": statistics(found.relative_deg),
    }
    similarity = found.alignment
    return {
        **about,
        "poses_estimate": poses[0],
        "poses_reference": poses[1],
        "associated": len(found.association),
        "associated_share_of_reference": len(found.association) / poses[1],
        "contested": found.association.contested,
        "alignment": {
            "rotation_xyzw": matrix_to_quaternion(similarity.rotation).tolist(),
            "translation_m": similarity.translation.tolist(),
            "scale": similarity.scale,
        },
        "pairs": {**asdict(choice), "count": len(found.pairs)},
        **{name: None if value is None else asdict(value) for name, value in figures.items()},
    }


def trajectory_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report as ``(name, text)`` lines for a person."""
    share = 100 * report["associated_share_of_reference"]
    associated = (
        f"{report['associated']} of {report['poses_estimate']} estimated and {report['poses_reference']} reference "
        f"poses ({share:.1f} % of the reference)"
    )
    if report["contested"]:
        associated += f"; {report['contested']} left out because a nearer pose took theirs"
    pairs = report["pairs"]
    unit = "frames" if pairs["unit"] == "f" else "m"
    kind = "from every pose" if pairs["all_pairs"] else "one after the other"
    rows = [("associated", associated), ("alignment", _alignment(report))]
    rows += [
        ("ATE translation", _figures(report["ate_translation_m"], "m")),
        ("ATE rotation", _figures(report["ate_rotation_deg"], "deg")),
    ]
    if not pairs["count"]:
        return [*rows, ("RPE", f"no two poses are {pairs['delta']:g} {unit} apart")]
    over = f"over {pairs['delta']:g} {unit}, {pairs['count']} pairs {kind}"
    return [
        *rows,
        (f"RPE translation {over}", _figures(report["rpe_translation_m"], "m")),
        (f"RPE rotation {over}", _figures(report["rpe_rotation_deg"], "deg")),
    ]


def _alignment(report: Mapping[str, Any]) -> str:
    if report["align"] == "none":
        return "none"
    found = report["alignment"]
    x, y, z = found["translation_m"]
    degrees = 2 * np.degrees(np.arccos(min(1.0, abs(found["rotation_xyzw"][3]))))
    scale = f", scale {found['scale']:.6f}" if report["align"] == "sim3" else ""
    return f"{report['align']}: turned by {degrees:.3f} deg, moved by ({x:.3f}, {y:.3f}, {z:.3f}) m{scale}"


def _figures(found: Mapping[str, float], unit: str) -> str:
    return (
        f"rmse {found['rmse']:.4f} {unit}, mean {found['mean']:.4f}, median {found['median']:.4f}, "
        f"std {found['std']:.4f}, min {found['min']:.4f}, max {found['max']:.4f}, sse {found['sse']:.4g}"
    )


def write_trajectory_report(
    report: Mapping[str, Any], found: Comparison, folder: Path, plots: Sequence[Path] = ()
) -> Path:
    """Write ``report.json``, ``report.md``, and the associated poses (the estimate aligned) as ``estimate.tum`` and
    ``reference.tum`` with equal stamps; the path of ``report.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain_json(report), indent=2, sort_keys=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    stamps = found.stamps_ns.tolist()
    write_tum(folder / "estimate.tum", zip(stamps, found.estimate, strict=True))
    write_tum(folder / "reference.tum", zip(stamps, found.reference, strict=True))
    lines = [f"# `{report['estimate']}` against `{report['reference']}`", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in trajectory_rows(report)]
    lines += ["", "Errors are over associated poses only: a pose that was never given is no error here.", ""]
    lines += [f"![{p.stem}]({p.relative_to(folder).as_posix()})" for p in plots]
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
