"""KITTI odometry and flat folders to a bag (see :mod:`vloc_ros.datasets.kitti` for layouts and frames)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vloc_ros.convert.selection import select_frames
from vloc_ros.convert.sequence import ImageFormat, noisy_odometry, write_sequence
from vloc_ros.convert.writer import Storage
from vloc_ros.datasets.image_files import FolderImages
from vloc_ros.datasets.kitti import KittiOptions, open_kitti

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
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the chosen frames as a bag and return its path. Image files are copied as they are unless told otherwise.

    KITTI has no odometry, so none is written; ``odometry_noise`` (share of the distance, radians per square root
    of a metre) synthesises one with drift from the true poses, reproducibly by ``seed``.

    :raises DatasetError, ConfigError, BagError: see the readers and the writer.
    """
    sequence = open_kitti(source, options)
    assert isinstance(sequence.source, FolderImages)
    keep = select_frames(len(sequence), frames, hold_out, part)
    chosen = replace(sequence.select(keep), source=FolderImages(tuple(sequence.source.paths[i] for i in keep)))
    if odometry_noise is not None:
        chosen = replace(chosen, T_odom_base=noisy_odometry(chosen.T_map_base, *odometry_noise, seed))
    return write_sequence(
        chosen, out, image_format=image_format, storage=storage, overwrite=overwrite, progress=progress
    )
