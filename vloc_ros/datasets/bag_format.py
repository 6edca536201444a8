"""Bags among the layouts of :mod:`vloc_ros.datasets.formats`."""

from __future__ import annotations

from pathlib import Path

from vloc_ros.datasets.bag import BagOptions
from vloc_ros.datasets.bag_sequence import open_bag_sequence
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.sequence import PosedSequence

__all__ = ["Options", "matches", "open_drives"]

Options = BagOptions


def matches(path: Path) -> bool:
    """Whether a path looks like a bag: a rosbag2 folder (finished or not), or an .mcap, .db3 or .bag file."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(p.suffix in (".mcap", ".db3", ".bag") for p in path.iterdir())
    return path.suffix in (".mcap", ".db3", ".bag")


def open_drives(path: Path, options: BagOptions, problems: Problems) -> list[PosedSequence]:
    """The one drive of a bag; an unfinished bag is a fault."""
    return [open_bag_sequence(path, options, allow_partial=problems.keep_going, report=problems)]
