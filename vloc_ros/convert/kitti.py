"""KITTI odometry and flat folders to a bag (see :mod:`vloc_ros.datasets.kitti` for layouts and frames)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vloc_ros.convert.sequence import ImageFormat, Summary
from vloc_ros.convert.source import Conversion, convert_drives
from vloc_ros.convert.writer import Storage
from vloc_ros.datasets.kitti import KittiOptions, open_kitti
from vloc_ros.datasets.problems import Problems
from vloc_ros.settings import settings_to_mapping

__all__ = ["convert_kitti"]


def convert_kitti(
    source: str | Path,
    out: str | Path,
    options: KittiOptions | None = None,
    *,
    frames: str | None = None,
    hold_out: str | None = None,
    part: str = "train",
    odometry_noise: tuple[float, float] | None = None,
    seed: int = 0,
    image_format: ImageFormat | None = None,
    storage: Storage = "mcap",
    overwrite: bool = False,
    keep_going: bool = False,
    resume: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Write the chosen frames as a bag. Image files are copied as they are unless told otherwise.

    KITTI has no odometry, so none is written; ``odometry_noise`` (share of the distance, radians per square root
    of a metre) synthesises one with drift from the true poses, reproducibly by ``seed``.

    :raises DatasetError, ConfigError, BagError: see the readers and the writer.
    """
    options = options or KittiOptions()
    conversion = Conversion(frames, hold_out, part, odometry_noise, seed, image_format, storage)
    settings = {"format": "kitti", "path": str(Path(source).resolve()), "options": settings_to_mapping(options)}
    (summary,) = convert_drives(
        [open_kitti(source, options)], out, conversion, settings,
        overwrite=overwrite, problems=Problems(keep_going), resume=resume, progress=progress,
    )  # fmt: skip
    return summary
