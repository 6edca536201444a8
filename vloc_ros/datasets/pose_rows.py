"""Rows of tables that hold a stamp and an image or a pose, as several layouts have them in other columns and units."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vloc_ros.datasets.image_files import IMAGE_SUFFIXES
from vloc_ros.datasets.problems import Problems
from vloc_ros.datasets.tables import Row, stamp_of, transform_from_quaternion
from vloc_ros.errors import DatasetError
from vloc_ros.types import Array

__all__ = ["images_in", "listed_frames", "pose_samples"]

_MISSING = "listed image that is missing"
_XYZW = {"xyzw": [0, 1, 2, 3], "wxyz": [1, 2, 3, 0]}


def pose_samples(
    rows: Iterable[Row],
    problems: Problems,
    unit: str,
    quaternion: Literal["xyzw", "wxyz"] = "xyzw",
    *,
    since_1970: bool = True,
) -> list[tuple[int, Array, str]]:
    """``(stamp_ns, T, where)`` of rows ``stamp tx ty tz`` and a quaternion, in file order; faulty rows are left out."""
    samples = []
    for row in rows:
        stamp = stamp_of(row, problems, unit, since_1970=since_1970)
        values = None if stamp is None else row.numbers(problems, 1, 8)
        if stamp is None or values is None:
            continue
        T = transform_from_quaternion(values[:3], values[3:][_XYZW[quaternion]], row.where, problems)
        if T is not None:
            samples.append((stamp, T, row.where))
    return samples


def listed_frames(
    rows: Iterable[Row],
    folder: Path,
    problems: Problems,
    unit: str,
    *,
    since_1970: bool = True,
    partial: bool = False,
) -> tuple[npt.NDArray[np.int64], list[Path]]:
    """Stamps (N,) ns, increasing, and image files of rows ``stamp file``, the files relative to ``folder``.

    A repeated stamp, one out of order and a file that is not there are faults.

    :param partial: such folders are often cut down: a missing file is told and counted, but no fault, and one that
        has been encoded anew (.jpg for .png) is taken.
    :raises DatasetError: as above, or not one file is there.
    """
    found: dict[int, Path] = {}
    missing: list[str] = []
    last, listed = -1, 0
    for row in rows:
        listed += 1
        stamp = stamp_of(row, problems, unit, since_1970=since_1970)
        if stamp is None:
            continue
        if stamp in found:
            problems.fault("repeated stamp", f"{row.where}: expected one image a stamp, found {stamp} ns twice")
            continue
        if stamp < last:
            problems.fault(
                "stamp out of order",
                f"{row.where}: expected increasing stamps, found {stamp} ns after {last} ns; sort it, or --keep-going",
            )
        last = max(last, stamp)
        path = folder / row.fields[1]
        if not path.is_file() and partial:
            path = next((p for s in IMAGE_SUFFIXES if (p := path.with_suffix(s)).is_file()), path)
        if path.is_file():
            found[stamp] = path
            continue
        missing.append(f"{row.where}: expected the image {path}, found no file")
        if not partial:
            problems.fault(_MISSING, f"{missing[-1]}; complete the data set, or --keep-going")
    if not found:
        raise DatasetError(f"{folder}: expected images, found none of {listed} that are listed")
    if partial and missing:
        problems.skip(_MISSING, f"{missing[0]}; {len(missing)} of {listed} listed images are not there", len(missing))
    stamps = sorted(found)
    return np.array(stamps, dtype=np.int64), [found[s] for s in stamps]


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name. :raises DatasetError: there are none."""
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DatasetError(f"{folder}: expected images, found none")
    return paths
