"""Recorded drives as sequences of images with poses: bags and data-set folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vloc_ros.datasets.formats import FORMATS, Source, detect, open_source
from vloc_ros.datasets.sequence import PosedSequence
from vloc_ros.errors import DatasetError

__all__ = ["PosedSequence", "is_bag", "open_sequence", "open_source"]


def is_bag(path: str | Path) -> bool:
    """Whether a path looks like a bag: a rosbag2 folder (finished or not), or an .mcap, .db3 or .bag file."""
    return bool(FORMATS["bag"].reader().matches(Path(path)))


def open_sequence(path: str | Path, truth: str | None = None, image: str | None = None) -> PosedSequence:
    """The one drive of a source (:mod:`vloc_ros.datasets.formats`).

    :param truth: topic of the reference poses (bags only).
    :param image: image topic of a bag, or folder of a data set.
    :raises BagError, DatasetError: what is wrong with it, or that it holds several drives.
    """
    source = Source.parse(str(path))
    bag = (source.format or detect(source.path)) == "bag"
    options: dict[str, Any] = {"truth": truth, "image": image} if bag else {"images": image}
    drives = open_source(source, **options)
    if len(drives) > 1:
        names = ", ".join(drive.name for drive in drives[:5])
        raise DatasetError(f"{path}: expected one drive, found {len(drives)} ({names}); name one of them")
    return drives[0]
