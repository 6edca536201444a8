"""Recorded drives as sequences of images with poses: bags and data-set folders."""

from __future__ import annotations

from pathlib import Path

from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import DatasetError

__all__ = ["PosedSequence", "is_bag", "open_sequence"]


def is_bag(path: str | Path) -> bool:
    """Whether a path looks like a bag: a rosbag2 folder (finished or not), or an .mcap, .db3 or .bag file."""
    path = Path(path)
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(p.suffix in (".mcap", ".db3", ".bag") for p in path.iterdir())
    return path.suffix in (".mcap", ".db3", ".bag")


def open_sequence(path: str | Path, truth: str | None = None, image: str | None = None) -> PosedSequence:
    """Open a bag or a KITTI folder with its defaults; the readers themselves take every option.

    :param truth: topic of the reference poses (bags only); ``image``: image topic, or folder of a data set.
    :raises BagError, DatasetError: what is wrong with it.
    """
    path = Path(path)
    if is_bag(path):
        from vloc_ros.datasets.bag import BagOptions, open_bag_sequence

        return open_bag_sequence(path, BagOptions(truth=truth, image=image))
    if path.is_dir():
        from vloc_ros.datasets.kitti import KittiOptions, open_kitti

        return open_kitti(path, KittiOptions(images=image))
    raise DatasetError(f"{path}: expected a bag or a data-set folder, found {'a file' if path.exists() else 'nothing'}")
