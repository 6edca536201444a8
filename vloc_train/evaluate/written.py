"""What an evaluation leaves beside its table: trajectories for evo, and files for the benchmark's server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vloc_ros.errors import ConfigError
from vloc_ros.evaluation.metrics import FrameRecord
from vloc_ros.evaluation.submission import query_name, write_submission
from vloc_ros.evaluation.tum import write_tum
from vloc_ros.types import Array
from vloc_train.evaluate.drives import Part
from vloc_train.evaluate.score import Answers

__all__ = ["file_name", "join_submissions", "once_each", "submit", "write_trajectories"]


def file_name(text: str) -> str:
    """A name that every file system takes."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def once_each(records: Sequence[FrameRecord], queries: Sequence[Part]) -> dict[str, list[FrameRecord]]:
    """Every frame's first record by drive: trajectories have no room for another pose at the same moment."""
    out: dict[str, dict[int, FrameRecord]] = {}
    row = 0
    for part in queries:
        drive = out.setdefault(part.name, {})
        for record in records[row : row + len(part)]:
            drive.setdefault(record.stamp_ns, record)
        row += len(part)
    return {name: list(frames.values()) for name, frames in out.items()}


def write_trajectories(out: Path, split: str, method: str, drives: dict[str, list[FrameRecord]]) -> None:
    """``METHOD.tum`` and ``reference.tum``; drives that share moments have files of their own: ``METHOD.DRIVE.tum``."""
    folder = out / "trajectories" / file_name(split)
    folder.mkdir(parents=True, exist_ok=True)
    stamps = [record.stamp_ns for frames in drives.values() for record in frames]
    groups = {"": [r for frames in drives.values() for r in frames]}
    if len(set(stamps)) < len(stamps):
        groups = {f".{file_name(name)}": frames for name, frames in drives.items()}
    for end, frames in groups.items():
        posed = [(r.stamp_ns, r.T_estimated) for r in frames if r.T_estimated is not None]
        write_tum(folder / f"{file_name(method)}{end}.tum", sorted(posed, key=lambda item: item[0]))
        truth = [(r.stamp_ns, r.T_reference) for r in frames if r.T_reference is not None]
        write_tum(folder / f"reference{end}.tum", sorted(truth, key=lambda item: item[0]))


def submit(out: Path, split: str, method: str, queries: Sequence[Part], answers: Answers) -> Path:
    """``submissions/SPLIT/METHOD.txt``, every query that got a pose, in the world of the data set.

    :raises ConfigError: the images of a drive are no files, whose names the benchmark knows them by, or the drives have
        different worlds.
    """
    poses: list[tuple[str, Array]] = []
    row = 0
    for part in queries:
        paths = _paths(part.sequence.source)
        if paths is None:
            raise ConfigError(f"split {split}: submission: expected queries that are image files, {part.name} has none")
        T_world_map = np.eye(4) if part.sequence.T_world_map is None else part.sequence.T_world_map
        for index in part.rows:
            T_map_cam = answers.T_map_cam[row]
            if np.isfinite(T_map_cam).all():
                poses.append((query_name(paths[index]), T_world_map @ T_map_cam))
            row += 1
    path = out / "submissions" / file_name(split) / f"{file_name(method)}.txt"
    write_submission(path, poses)
    return path


def _paths(source: Any) -> Sequence[Path] | None:
    """The files of a source, through what is wrapped around it."""
    while not hasattr(source, "paths") and hasattr(source, "source"):
        source = source.source
    return getattr(source, "paths", None)


def join_submissions(out: Path, rows: Sequence[tuple[str, str]]) -> None:
    """``submissions/METHOD.txt``: all splits of a method one after the other, as the server takes them."""
    found: dict[str, list[Path]] = {}
    for split, method in rows:
        path = out / "submissions" / file_name(split) / f"{file_name(method)}.txt"
        if path.is_file():
            found.setdefault(method, []).append(path)
    for method, paths in found.items():
        text = "".join(path.read_text(encoding="utf-8") for path in paths)
        (out / "submissions" / f"{file_name(method)}.txt").write_text(text, encoding="utf-8")
